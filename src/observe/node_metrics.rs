//! What the nodes' own metrics say: latency over the last 60 s, and whether checks fail. Remembers what is needed
//! to see increases. Pure: the text comes in, the metrics come out.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::exposition::{Sample, Selector, parse};
use super::latency::{History, quantile};
use super::nodes::RedisEvidence;
use crate::observation::NodeMetrics;

/// The histograms that are tried by default, the finest first.
pub(super) fn default_selectors() -> Vec<Selector> {
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
pub(super) struct Reading {
    samples: Vec<Sample>,
    /// `ratelimiter_requests_checked_total` by result.
    pub(super) requests_checked: BTreeMap<String, f64>,
    /// 5xx answers to `/check`.
    pub(super) check_errors: Option<f64>,
    /// Other answers to `/check`: each proves that the node reached Redis.
    pub(super) check_answers: f64,
}

impl Reading {
    /// Reads the text; an error names the line.
    pub(super) fn parse(text: &str, selectors: &[Selector]) -> Result<Self, String> {
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
                        let status = sample.label("status").unwrap_or_default();
                        if status.starts_with('5') {
                            *errors += sample.value;
                        } else {
                            reading.check_answers += sample.value;
                        }
                    }
                }
                _ => {}
            }
        }
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

/// One node over time.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeHistory {
    histories: Vec<History>,
    last: Option<(f64, f64)>,
}

/// How `/check` answered since the reading before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checks {
    pub(super) errors_rose: bool,
    pub(super) answers_rose: bool,
}

impl NodeHistory {
    /// Takes a reading in and tells the node's metrics by it.
    pub(super) fn add(
        &mut self,
        now: Timestamp,
        reading: &Reading,
        selectors: &[Selector],
    ) -> (NodeMetrics, Checks) {
        self.histories
            .resize_with(selectors.len(), History::default);
        let mut metrics = NodeMetrics {
            requests_checked: reading.requests_checked.clone(),
            check_errors: reading.check_errors,
            ..NodeMetrics::default()
        };
        let mut found = false;
        let mut compared = false;
        for (selector, history) in selectors.iter().zip(&mut self.histories) {
            let Some(histogram) = selector.histogram(&reading.samples) else {
                continue;
            };
            found = true;
            metrics
                .check_duration
                .get_or_insert_with(|| histogram.clone());
            history.add(now, histogram);
            let Some(recent) = history.recent(now) else {
                continue;
            };
            compared = true;
            if metrics.latency_p99_ms.is_none()
                && let Some(p99) = quantile(&recent, 0.99)
            {
                metrics.latency_p99_ms = Some(p99.seconds * 1e3);
                metrics.latency_p99_bucket = Some(p99.bucket);
                metrics.latency_source = Some(selector.to_string());
            }
        }
        let checks = self.checks(reading);
        if metrics.latency_p99_ms.is_none() {
            let reason = match (found, compared) {
                (false, _) => "no_histogram",
                (true, false) => "first_sample",
                (true, true) if checks.answers_rose => "histogram_never_counts",
                (true, true) => "no_samples",
            };
            metrics.latency_unknown = Some(reason.to_owned());
        }
        (metrics, checks)
    }

    fn checks(&mut self, reading: &Reading) -> Checks {
        let errors = reading.check_errors.unwrap_or(0.0);
        let before = self.last.replace((errors, reading.check_answers));
        let Some((errors_before, answers_before)) = before else {
            return Checks::default();
        };
        Checks {
            errors_rose: rose(errors_before, errors),
            answers_rose: rose(answers_before, reading.check_answers),
        }
    }
}

/// Whether a counter rose, a restart included: a counter that fell counts from zero.
pub(super) fn rose(before: f64, now: f64) -> bool {
    now > before || (now < before && now > 0.0)
}

/// What failing checks say of the node's way to Redis. `outage` names an outage that explains errors since the last
/// reading; `later` is a second reading shortly after, taken where errors are no proof by themselves.
pub(super) fn way_to_redis(
    checks: Checks,
    first: &Reading,
    outage: Option<&'static str>,
    later: Option<&Reading>,
) -> RedisEvidence {
    if !checks.errors_rose {
        return if checks.answers_rose {
            RedisEvidence::Answered
        } else {
            RedisEvidence::None
        };
    }
    // Some checks fail by themselves: one malformed key makes its own checks answer 500 for ever, on a node that
    // reaches Redis very well. So where both rose, or an outage is just over, what happened last decides.
    let answers_still = later.is_some_and(|later| rose(first.check_answers, later.check_answers));
    if answers_still {
        RedisEvidence::Answered
    } else if let Some(outage) = outage {
        RedisEvidence::Inconclusive(outage)
    } else {
        RedisEvidence::Broken("/check answers 5xx")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(check_answers: f64) -> Reading {
        Reading {
            check_answers,
            ..Reading::default()
        }
    }

    fn evidence(
        errors_rose: bool,
        answers_rose: bool,
        outage: Option<&'static str>,
        later: Option<f64>,
    ) -> RedisEvidence {
        let checks = Checks {
            errors_rose,
            answers_rose,
        };
        let later = later.map(answers);
        way_to_redis(checks, &answers(10.0), outage, later.as_ref())
    }

    #[test]
    fn results_without_end_do_not_become_series() {
        let one = |n| format!("ratelimiter_requests_checked_total{{result=\"{n}\"}} 1\n");
        let text: String = (0..=MOST_RESULTS).map(one).collect();
        let error = Reading::parse(&text, &default_selectors()).unwrap_err();
        assert!(error.contains("101 results"), "{error}");
    }

    #[test]
    fn errors_alone_are_a_broken_way_and_errors_beside_answers_depend_on_what_is_next() {
        let broken = RedisEvidence::Broken("/check answers 5xx");
        assert_eq!(evidence(true, false, None, None), broken);
        assert_eq!(evidence(true, true, None, Some(10.0)), broken);
        assert_eq!(
            evidence(true, true, None, Some(11.0)),
            RedisEvidence::Answered
        );
        assert_eq!(evidence(false, true, None, None), RedisEvidence::Answered);
        assert_eq!(evidence(false, false, None, None), RedisEvidence::None);
    }

    #[test]
    fn a_node_that_answers_again_after_an_outage_is_cleared_at_once() {
        let outage = Some("redis_just_returned");
        assert_eq!(
            evidence(true, false, outage, Some(11.0)),
            RedisEvidence::Answered
        );
        let open = RedisEvidence::Inconclusive("redis_just_returned");
        assert_eq!(evidence(true, false, outage, Some(10.0)), open);
        assert_eq!(evidence(true, false, outage, None), open);
    }
}
