//! `high_latency`: a node's p99 check latency is above the threshold, and slow checks are still coming. There is a
//! verdict only if the histogram's buckets are fine enough for one.

use super::Verdict;
use crate::observation::{
    Bucket, LatencyWindow, NewestChecks, Node, NodeMetrics, Side, TOO_COARSE,
};
use crate::report::Evidence;

/// The slow checks are over if the newest checks have fewer slow ones than chance explains: if slow checks still came
/// as often as in the whole window, so few would have a probability below this. At four collections a minute, a
/// violation ends wrongly once in hours.
const UNLIKELY: f64 = 0.001;

/// On which side of the threshold the p99 lies, by its bucket or, without one, as measured; `None` without a p99.
fn side(p99_ms: Option<f64>, bucket: Option<Bucket>, threshold_seconds: f64) -> Option<Side> {
    if let Some(bucket) = bucket {
        return Some(bucket.side(threshold_seconds));
    }
    let ms = p99_ms.filter(|ms| !ms.is_nan())?;
    Some(if above(ms, threshold_seconds) {
        Side::Above
    } else {
        Side::Below
    })
}

pub(super) fn verdict(
    node: Option<&Node>,
    metrics: Option<&NodeMetrics>,
    window: LatencyWindow,
    threshold_seconds: f64,
) -> Verdict {
    if node.is_some_and(|node| node.state.is_some() && !node.is_up()) {
        // A node that is down serves nothing, so it is not slow.
        return Verdict::Ok;
    }
    let Some(metrics) = metrics else {
        return Verdict::Unknown("no_metrics".to_owned());
    };
    let bucket = metrics.latency_p99_bucket;
    match side(metrics.latency_p99_ms, bucket, threshold_seconds) {
        None => unmeasured(metrics.latency_unknown.as_deref()),
        Some(Side::Below) => Verdict::Ok,
        Some(Side::Above) => {
            still_coming(metrics.latency_newest, window, threshold_seconds, |age| {
                Evidence::Latency {
                    p99_seconds: metrics.latency_p99_ms.map(|ms| ms / 1e3),
                    bucket,
                    threshold_seconds,
                    source: metrics.latency_source.clone(),
                    age_seconds: age,
                    window_seconds: window,
                }
            })
        }
        // The coarse histogram counts the canaries, too, but they were also measured one by one.
        Some(Side::Around) => match metrics.canary_p99_ms {
            Some(canary_ms) => of_canary(
                canary_ms,
                metrics.canary_newest_ms,
                window,
                threshold_seconds,
            ),
            None => too_coarse(),
        },
    }
}

/// The p99 of the whole window is above the threshold. The newest checks show whether checks are still slow.
fn still_coming(
    newest: Option<NewestChecks>,
    window: LatencyWindow,
    threshold_seconds: f64,
    evidence: impl Fn(f64) -> Evidence,
) -> Verdict {
    let Some(newest) = newest else {
        return Verdict::Violated(evidence(0.0));
    };
    match side(newest.p99_ms, newest.bucket, threshold_seconds) {
        Some(Side::Above) => Verdict::Violated(evidence(newest.seconds)),
        Some(Side::Below) if is_over(newest) => Verdict::Ok,
        Some(Side::Around) if is_over(newest) => too_coarse(),
        // Too few to decide: the slow checks are somewhere in the window.
        Some(Side::Below | Side::Around) | None => {
            let oldest = window.span().as_secs_f64().max(newest.seconds);
            Verdict::Violated(evidence(oldest))
        }
    }
}

/// Whether the slow checks are over, by their number among the newest checks.
fn is_over(newest: NewestChecks) -> bool {
    at_most(newest.slow, newest.slow_expected) < UNLIKELY
}

/// The probability that at most `many` come where `expected` are expected (Poisson).
fn at_most(many: f64, expected: f64) -> f64 {
    if expected.is_nan() || many >= expected {
        return 1.0;
    }
    if expected > 500.0 {
        // An approximation is enough here: three standard deviations are about one in a thousand.
        let deviations = (expected - many) / expected.sqrt();
        return if deviations > 3.1 { 0.0 } else { 1.0 };
    }
    let mut term = (-expected).exp();
    let mut sum = term;
    let mut counted = 0.0;
    while counted + 1.0 <= many {
        counted += 1.0;
        term *= expected / counted;
        sum += term;
    }
    sum
}

fn too_coarse() -> Verdict {
    Verdict::Inconclusive(TOO_COARSE.to_owned())
}

/// The verdict without a latency: the source was read and counted nothing, or it could not be read.
fn unmeasured(reason: Option<&str>) -> Verdict {
    let reason = reason.unwrap_or("no_samples");
    match reason {
        "no_samples" | "histogram_never_counts" | TOO_COARSE => {
            Verdict::Inconclusive(reason.to_owned())
        }
        _ => Verdict::Unknown(reason.to_owned()),
    }
}

/// Whether `ms` is above the threshold. Exactly at the threshold is healthy: 4.9 ms is not above 0.0049 s, although
/// 0.0049 × 1000 is a little less than 4.9 in floating point.
fn above(ms: f64, threshold_seconds: f64) -> bool {
    let allowed = threshold_seconds * 1e3;
    ms - allowed > allowed * 1e-12
}

/// The verdict by the canaries, each of which is measured.
fn of_canary(
    canary_ms: f64,
    newest_ms: Option<f64>,
    window: LatencyWindow,
    threshold_seconds: f64,
) -> Verdict {
    if !above(canary_ms, threshold_seconds) {
        return Verdict::Ok;
    }
    let newest = newest_ms.map(NewestChecks::measured);
    still_coming(newest, window, threshold_seconds, |age| Evidence::Latency {
        p99_seconds: Some(canary_ms / 1e3),
        bucket: None,
        threshold_seconds,
        source: Some("canary".to_owned()),
        age_seconds: age,
        window_seconds: window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Bucket;

    fn of(p99_ms: f64, bucket: Option<(f64, Option<f64>)>) -> &'static str {
        let metrics = NodeMetrics {
            latency_p99_ms: Some(p99_ms),
            latency_p99_bucket: bucket.map(|(lower, upper)| Bucket { lower, upper }),
            ..NodeMetrics::default()
        };
        match verdict(None, Some(&metrics), LatencyWindow::default(), 0.05) {
            Verdict::Ok => "ok",
            Verdict::Violated(_) => "violated",
            Verdict::Unknown(_) => "unknown",
            Verdict::Inconclusive(_) => "inconclusive",
        }
    }

    #[test]
    fn exactly_at_the_threshold_is_healthy() {
        assert_eq!(of(50.0, None), "ok");
        assert_eq!(of(50.1, None), "violated");
        for tenths in 1..20_000 {
            let ms = f64::from(tenths) / 10.0;
            assert!(!above(ms, f64::from(tenths) / 10_000.0), "{ms}");
            assert!(above(ms + 0.001, f64::from(tenths) / 10_000.0), "{ms}");
        }
    }

    #[test]
    fn the_verdict_needs_a_bucket_on_one_side_of_the_threshold() {
        assert_eq!(of(49.0, Some((0.025, Some(0.05)))), "ok");
        assert_eq!(of(51.0, Some((0.05, Some(0.1)))), "violated");
        assert_eq!(of(99.0, Some((0.0, Some(0.1)))), "inconclusive");
        assert_eq!(of(1000.0, Some((1.0, None))), "violated");
        assert_eq!(of(10.0, Some((0.01, None))), "inconclusive");
    }

    /// The verdict on a window with its p99 in the bucket above 100 ms, by its newest checks.
    fn by_newest(newest: NewestChecks) -> Verdict {
        let metrics = NodeMetrics {
            latency_p99_ms: Some(264.0),
            latency_p99_bucket: Some(Bucket {
                lower: 0.1,
                upper: Some(1.0),
            }),
            latency_newest: Some(newest),
            ..NodeMetrics::default()
        };
        verdict(None, Some(&metrics), LatencyWindow::default(), 0.05)
    }

    fn newest(bucket: Option<(f64, f64)>, slow: f64, slow_expected: f64) -> NewestChecks {
        NewestChecks {
            seconds: 30.0,
            p99_ms: None,
            bucket: bucket.map(|(lower, upper)| Bucket {
                lower,
                upper: Some(upper),
            }),
            slow,
            slow_expected,
        }
    }

    #[test]
    fn a_slow_minute_is_over_when_its_newest_checks_are_fast() {
        let age = |verdict: Verdict| match verdict {
            Verdict::Violated(Evidence::Latency { age_seconds, .. }) => Some(age_seconds),
            _ => None,
        };
        let slow = by_newest(newest(Some((0.1, 1.0)), 20.0, 20.0));
        assert_eq!(age(slow), Some(30.0));
        assert_eq!(
            by_newest(newest(Some((0.001, 0.005)), 0.0, 20.0)),
            Verdict::Ok
        );
        assert_eq!(
            by_newest(newest(Some((0.0, 0.1)), 0.0, 20.0)),
            Verdict::Inconclusive("bucket_too_coarse".to_owned())
        );
        // Too few to decide, or none: some time within the window.
        let few = by_newest(newest(Some((0.001, 0.005)), 0.0, 3.0));
        assert_eq!(age(few), Some(60.0));
        assert_eq!(age(by_newest(newest(None, 0.0, 0.0))), Some(60.0));
    }

    #[test]
    fn slow_checks_are_as_old_as_the_window_where_the_newest_are_too_few() {
        let window = LatencyWindow::new(std::time::Duration::from_secs(15));
        let metrics = NodeMetrics {
            latency_p99_ms: Some(264.0),
            latency_newest: Some(NewestChecks {
                seconds: 5.0,
                ..NewestChecks::default()
            }),
            ..NodeMetrics::default()
        };
        let Verdict::Violated(evidence) = verdict(None, Some(&metrics), window, 0.05) else {
            panic!("not violated");
        };
        // A third of the window counts as now.
        assert_eq!(evidence.age().as_secs(), 10);
        let json = serde_json::to_value(&evidence).unwrap();
        assert_eq!(json["window_seconds"], 15.0);
    }

    #[test]
    fn few_slow_checks_where_many_were_expected_are_a_rare_chance() {
        assert!((at_most(0.0, 6.9) - 0.001).abs() < 1e-4);
        assert!((at_most(1.0, 2.0) - 0.406).abs() < 1e-3);
        assert!((at_most(60.0, 100.0) - 1.1e-5).abs() < 1e-6);
        for (many, expected, over) in [
            (0.0, 0.0, false),
            (0.0, f64::NAN, false),
            (5.0, 5.0, false),
            (460.0, 500.0, false),
            (430.0, 500.0, true),
            (960.0, 1000.0, false),
            (890.0, 1000.0, true),
            (0.0, 1e18, true),
        ] {
            let it = at_most(many, expected) < UNLIKELY;
            assert_eq!(it, over, "{many} of {expected}");
        }
    }

    #[test]
    fn a_slow_canary_that_was_the_last_one_proves_nothing_of_now() {
        let metrics = |newest| NodeMetrics {
            latency_p99_ms: Some(99.0),
            latency_p99_bucket: Some(Bucket {
                lower: 0.0,
                upper: Some(0.1),
            }),
            canary_p99_ms: Some(800.0),
            canary_newest_ms: Some(newest),
            ..NodeMetrics::default()
        };
        for (newest, age) in [(800.0, 0.0), (2.0, 60.0)] {
            let mut metrics = metrics(newest);
            let before = verdict(None, Some(&metrics), LatencyWindow::default(), 0.05);
            let Verdict::Violated(Evidence::Latency { age_seconds, .. }) = &before else {
                panic!("{before:?}");
            };
            assert_eq!(age_seconds.to_bits(), f64::to_bits(age));
            // The same, where the canaries are the only checks.
            metrics.take_canary();
            assert_eq!(
                verdict(None, Some(&metrics), LatencyWindow::default(), 0.05),
                before
            );
        }
    }

    #[test]
    fn a_coarse_bucket_does_not_hide_what_the_canary_saw() {
        let of = |canary_ms| {
            let metrics = NodeMetrics {
                latency_p99_ms: Some(99.0),
                latency_p99_bucket: Some(Bucket {
                    lower: 0.0,
                    upper: Some(0.1),
                }),
                canary_p99_ms: Some(canary_ms),
                ..NodeMetrics::default()
            };
            verdict(None, Some(&metrics), LatencyWindow::default(), 0.05)
        };
        assert!(matches!(of(2.0), Verdict::Ok));
        assert!(matches!(of(50.0), Verdict::Ok));
        let Verdict::Violated(Evidence::Latency { source, .. }) = of(70.0) else {
            panic!("a canary of 70 ms is above 50 ms");
        };
        assert_eq!(source.as_deref(), Some("canary"));
    }
}
