//! Reads the nodes' own metrics: latency over a window, and how checks were answered. Keeps the samples that increases
//! need. Pure: the text comes in, the metrics come out. `nodes` decides what failing checks mean.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::observation::{Histogram, LatencyWindow, NodeMetrics};
use crate::observe::latency::durations::Measured;
use crate::observe::latency::exposition::{Sample, parse, sane};
use crate::observe::latency::histogram::{History, quantile};
use crate::observe::latency::wanted::{WantedSeries, is_named, is_one_of};

/// How many results are accepted. Two are usual. Hundreds are a mistake that would cost a series each.
const MOST_RESULTS: usize = 100;

/// One reading of a node's metrics.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct ScrapedMetrics {
    samples: Vec<Sample>,
    /// The number of decisions by result.
    pub(in crate::observe) requests_checked: BTreeMap<String, f64>,
    /// The number of failed decisions.
    pub(in crate::observe) check_errors: Option<f64>,
    /// The number of answered decisions. Each proves that the node reached Redis.
    pub(in crate::observe) check_answers: f64,
    /// The number of Redis's failures.
    pub(in crate::observe) redis_errors: f64,
}

impl ScrapedMetrics {
    /// Reads the text. An error names the line.
    pub(in crate::observe) fn parse(text: &str, wanted: &WantedSeries) -> Result<Self, String> {
        let samples = parse(text, |name| wanted.wants(name))?;
        let mut reading = Self::default();
        for sample in &samples {
            let label = |name: &str| sample.label(name);
            for results in &wanted.results {
                if results.metric.selects(&sample.name, label) {
                    let result = results.name(label);
                    *reading.requests_checked.entry(result).or_default() += sample.value;
                }
            }
            // An error, because without this value the counter would look as if it had been reset, and verdicts depend on
            // it.
            let count = || {
                sample.count().ok_or_else(|| {
                    let (line, name, value) = (sample.line, &sample.name, sample.value);
                    format!("line {line}: {name} is {value}, expected a count")
                })
            };
            if is_named(&wanted.errors, sample) {
                // The metric exists, so a missing series means no errors so far.
                let errors = reading.check_errors.get_or_insert(0.0);
                if is_one_of(&wanted.errors, sample) {
                    *errors += count()?;
                }
            }
            if is_one_of(&wanted.answers, sample) {
                reading.check_answers += count()?;
            }
            if is_one_of(&wanted.redis_errors, sample) {
                reading.redis_errors += count()?;
            }
        }
        reading.requests_checked.retain(|_, count| sane(*count));
        if reading.requests_checked.len() > MOST_RESULTS {
            return Err(format!(
                "line 1: {} results, expected at most {MOST_RESULTS}",
                reading.requests_checked.len()
            ));
        }
        reading.samples = samples;
        Ok(reading)
    }
}

/// One node's latency over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct LatencyHistory {
    histories: Vec<History>,
}

impl LatencyHistory {
    /// Adds a reading, and returns the node's metrics over `window`. `answered` says whether checks were answered since the
    /// reading before, whatever the histograms count.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        reading: &ScrapedMetrics,
        wanted: &WantedSeries,
        window: LatencyWindow,
        answered: bool,
    ) -> NodeMetrics {
        self.histories
            .resize_with(wanted.latency.len(), History::default);
        let mut metrics = NodeMetrics {
            requests_checked: reading.requests_checked.clone(),
            check_errors: reading.check_errors,
            ..NodeMetrics::default()
        };
        let (mut found, mut broken) = (false, false);
        let mut compared = false;
        for (durations, history) in wanted.latency.iter().zip(&mut self.histories) {
            let (histogram, measured) = match durations.read(&reading.samples) {
                Measured::Missing => continue,
                Measured::Broken => {
                    broken = true;
                    continue;
                }
                Measured::Histogram(histogram) => {
                    metrics
                        .check_duration
                        .get_or_insert_with(|| histogram.clone());
                    (histogram, None)
                }
                Measured::Summary { p99, count } => {
                    let counted = Histogram {
                        count,
                        ..Histogram::default()
                    };
                    (counted, p99)
                }
            };
            found = true;
            history.add(now, histogram, window);
            let Some(recent) = history.recent(now, window) else {
                continue;
            };
            compared = true;
            if metrics.latency_p99_ms.is_some() {
                continue;
            }
            if let Some(p99) = measured.filter(|_| recent.count > 0.0) {
                metrics.latency_p99_ms = Some(p99 * 1e3);
            } else if let Some(p99) = quantile(&recent, 0.99) {
                metrics.latency_p99_ms = Some(p99.seconds * 1e3);
                metrics.latency_p99_bucket = Some(p99.bucket);
                metrics.latency_newest = history.newest(now, &recent, p99, window);
            }
            let source = metrics.latency_p99_ms.map(|_| durations.metric.to_string());
            metrics.latency_source = source;
        }
        if metrics.latency_p99_ms.is_none() {
            let reason = match (found, compared) {
                (false, _) if broken => "invalid_histogram",
                (false, _) => "no_histogram",
                (true, false) => "first_sample",
                (true, true) if answered => "histogram_never_counts",
                (true, true) => "no_samples",
            };
            metrics.latency_unknown = Some(reason.to_owned());
        }
        metrics
    }
}

#[cfg(test)]
mod tests;
