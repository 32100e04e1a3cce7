//! What the nodes' own metrics say: latency over a window, and how checks were answered. Remembers what is needed
//! to see increases. Pure: the text comes in, the metrics come out. What failing checks mean is decided in `nodes`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::observation::{LatencyWindow, NodeMetrics};
use crate::observe::latency::exposition::{Sample, Selector, parse, sane};
use crate::observe::latency::histogram::{History, quantile};

/// The histograms that are tried by default, the finest first.
pub(in crate::observe) fn default_selectors() -> Vec<Selector> {
    [
        "ratelimiter_check_duration_seconds",
        "http_request_duration_seconds{handler=\"/check\"}",
    ]
    .into_iter()
    .filter_map(Selector::parse)
    .collect()
}

/// The most values of `result` that are taken. There are two: more is a mistake that would cost a series each.
const MOST_RESULTS: usize = 100;

/// What one reading of a node's `/metrics` holds that matters here.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct ScrapedMetrics {
    samples: Vec<Sample>,
    /// `ratelimiter_requests_checked_total` by result.
    pub(in crate::observe) requests_checked: BTreeMap<String, f64>,
    /// 5xx answers to `/check`.
    pub(in crate::observe) check_errors: Option<f64>,
    /// Other answers to `/check`: each proves that the node reached Redis.
    pub(in crate::observe) check_answers: f64,
}

impl ScrapedMetrics {
    /// Reads the text; an error names the line.
    pub(in crate::observe) fn parse(text: &str, selectors: &[Selector]) -> Result<Self, String> {
        let samples = parse(text, |name| {
            name == "ratelimiter_requests_checked_total"
                || name == "http_requests_total"
                || selectors.iter().any(|selector| selector.wants(name))
        })?;
        let mut reading = Self::default();
        for sample in &samples {
            match sample.name.as_str() {
                "ratelimiter_requests_checked_total" => {
                    let result = sample.label("result").unwrap_or_default().to_owned();
                    *reading.requests_checked.entry(result).or_default() += sample.value;
                }
                "http_requests_total" => {
                    // The framework's counters exist, so that no 5xx series means none so far.
                    let errors = reading.check_errors.get_or_insert(0.0);
                    if sample.label("handler") == Some("/check") {
                        // Left out, it would look like a counter that began anew: a verdict rests on it.
                        let value = sample.count().ok_or_else(|| {
                            let (line, name, value) = (sample.line, &sample.name, sample.value);
                            format!("line {line}: {name} of /check is {value}, expected a count")
                        })?;
                        let status = sample.label("status").unwrap_or_default();
                        if status.starts_with('5') {
                            *errors += value;
                        } else {
                            reading.check_answers += value;
                        }
                    }
                }
                _ => {}
            }
        }
        reading.requests_checked.retain(|_, count| sane(*count));
        if reading.requests_checked.len() > MOST_RESULTS {
            return Err(format!(
                "line 1: {} results of ratelimiter_requests_checked_total, expected at most {MOST_RESULTS}",
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
    /// Takes a reading in and returns the node's metrics by it, over `window`. `answered` says whether checks were answered since the one
    /// before, whatever the histograms count.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        reading: &ScrapedMetrics,
        selectors: &[Selector],
        window: LatencyWindow,
        answered: bool,
    ) -> NodeMetrics {
        self.histories
            .resize_with(selectors.len(), History::default);
        let mut metrics = NodeMetrics {
            requests_checked: reading.requests_checked.clone(),
            check_errors: reading.check_errors,
            ..NodeMetrics::default()
        };
        let (mut found, mut broken) = (false, false);
        let mut compared = false;
        for (selector, history) in selectors.iter().zip(&mut self.histories) {
            let Some(histogram) = selector.histogram(&reading.samples) else {
                broken |= selector.is_among(&reading.samples);
                continue;
            };
            found = true;
            metrics
                .check_duration
                .get_or_insert_with(|| histogram.clone());
            history.add(now, histogram, window);
            let Some(recent) = history.recent(now, window) else {
                continue;
            };
            compared = true;
            if metrics.latency_p99_ms.is_none()
                && let Some(p99) = quantile(&recent, 0.99)
            {
                metrics.latency_p99_ms = Some(p99.seconds * 1e3);
                metrics.latency_p99_bucket = Some(p99.bucket);
                metrics.latency_source = Some(selector.to_string());
                metrics.latency_newest = history.newest(now, &recent, p99, window);
            }
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
