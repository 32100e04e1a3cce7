//! The only place that makes and checks families. The encoder validates nothing: with an empty family, a duplicate
//! series or a wrong number of labels, Prometheus would refuse the whole scrape.

use std::collections::{BTreeMap, HashSet};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::definitions::{Definition, Kind};
use crate::text::cut;

/// Families under construction, by name, each with the label values that it has.
#[derive(Debug, Default)]
pub(super) struct Families(BTreeMap<&'static str, (MetricFamily, HashSet<Vec<String>>)>);

impl Families {
    /// Adds a gauge or counter sample. A value that is unknown or not a number adds nothing.
    pub(super) fn add(
        &mut self,
        definition: &'static Definition,
        labels: &[&str],
        value: impl Into<Option<f64>>,
    ) {
        let Some(value) = value.into().filter(|value| !value.is_nan()) else {
            return;
        };
        self.push(definition, labels, |metric| match definition.kind {
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Histogram => debug_assert!(false, "{} has no value", definition.name),
        });
    }

    /// Adds a histogram sample: cumulative counts at or below finite bounds, then the totals.
    pub(super) fn add_histogram(
        &mut self,
        definition: &'static Definition,
        labels: &[&str],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let mut histogram = Histogram::default();
        let mut highest = f64::NEG_INFINITY;
        // The same bound twice would be a duplicate series. The encoder adds +Inf.
        let rising = buckets.into_iter().filter(move |(bound, _)| {
            let rises = bound.is_finite() && *bound > highest;
            highest = if rises { *bound } else { highest };
            rises
        });
        let buckets = rising.map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        self.push(definition, labels, |metric| metric.set_histogram(histogram));
    }

    /// Adds a series with these labels, which `fill` gives its value, unless it already exists.
    fn push(
        &mut self,
        definition: &'static Definition,
        labels: &[&str],
        fill: impl FnOnce(&mut Metric),
    ) {
        debug_assert_eq!(labels.len(), definition.labels.len(), "{}", definition.name);
        let values: Vec<String> = labels.iter().map(|label| printable(label)).collect();
        let family = self.0.entry(definition.name);
        let (family, seen) = family.or_insert_with(|| (family_of(definition), HashSet::new()));
        if !seen.insert(values.clone()) {
            return;
        }
        let pairs = definition.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        fill(&mut metric);
        family.mut_metric().push(metric);
    }

    /// The finished families, in the order of their names; none is empty.
    pub(super) fn finish(self) -> Vec<MetricFamily> {
        self.0.into_values().map(|(family, _)| family).collect()
    }
}

fn family_of(definition: &Definition) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(match definition.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family
}

/// A label value that every reader accepts. Some stop at a NUL, which is escaped as in keys, and some refuse long
/// values.
fn printable(value: &str) -> String {
    cut(&value.replace('\0', "\\x00")).into_owned()
}
