//! The only place that makes and checks families. The encoder validates nothing: with an empty family, a duplicate
//! series or a wrong number of labels, Prometheus would refuse the whole scrape.

use std::collections::{BTreeMap, HashSet};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::definitions::{Definition, Kind};
use crate::text::cut;

/// Families under construction, by name.
#[derive(Debug, Default)]
pub(super) struct Families {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    definition: &'static Definition,
    metrics: Vec<Metric>,
    seen: HashSet<Vec<String>>,
}

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
        let Some(mut metric) = self.metric(definition, labels) else {
            return;
        };
        match definition.kind {
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
            Kind::Histogram => return,
        }
        self.push(definition, metric);
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
        let Some(mut metric) = self.metric(definition, labels) else {
            return;
        };
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
        metric.set_histogram(histogram);
        self.push(definition, metric);
    }

    /// A metric with these labels; `None` if the series already exists.
    fn metric(&mut self, definition: &'static Definition, labels: &[&str]) -> Option<Metric> {
        debug_assert_eq!(labels.len(), definition.labels.len(), "{}", definition.name);
        let family = self
            .families
            .entry(definition.name)
            .or_insert_with(|| Family {
                definition,
                metrics: Vec::new(),
                seen: HashSet::new(),
            });
        let values: Vec<String> = labels.iter().map(|label| printable(label)).collect();
        if labels.len() != definition.labels.len() || !family.seen.insert(values.clone()) {
            return None;
        }
        let mut metric = Metric::default();
        let pairs = definition.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        });
        metric.set_label(pairs.collect());
        Some(metric)
    }

    fn push(&mut self, definition: &'static Definition, metric: Metric) {
        if let Some(family) = self.families.get_mut(definition.name) {
            family.metrics.push(metric);
        }
    }

    /// The finished families, in the order of their names; none is empty.
    pub(super) fn finish(self) -> Vec<MetricFamily> {
        let filled = self
            .families
            .into_values()
            .filter(|family| !family.metrics.is_empty());
        filled
            .map(|family| {
                let mut out = MetricFamily::default();
                out.set_name(family.definition.name.to_owned());
                out.set_help(family.definition.help.to_owned());
                out.set_field_type(match family.definition.kind {
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Counter => MetricType::COUNTER,
                    Kind::Histogram => MetricType::HISTOGRAM,
                });
                out.set_metric(family.metrics);
                out
            })
            .collect()
    }
}

/// A label value that every reader accepts. Some stop at a NUL, which is escaped as in keys, and some refuse long
/// values.
fn printable(value: &str) -> String {
    cut(&value.replace('\0', "\\x00")).into_owned()
}
