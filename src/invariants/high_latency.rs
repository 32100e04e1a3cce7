//! `high_latency`: a node's p99 check latency is above the threshold. The verdict is taken only where the
//! histogram's buckets can carry it.

use super::{Evidence, Verdict};
use crate::observation::{Node, NodeMetrics};

pub(super) fn verdict(
    node: Option<&Node>,
    metrics: Option<&NodeMetrics>,
    threshold_seconds: f64,
) -> Verdict {
    if node.is_some_and(|node| node.state.is_some() && !node.is_up()) {
        // Nothing is served, so nothing is served slowly.
        return Verdict::Ok;
    }
    let Some(metrics) = metrics else {
        return Verdict::Unknown("no_metrics".to_owned());
    };
    let Some(p99_ms) = metrics.latency_p99_ms else {
        return unmeasured(metrics.latency_unknown.as_deref());
    };
    let p99_seconds = p99_ms / 1e3;
    let violated = match metrics.latency_p99_bucket {
        // A value without a bucket is taken as measured.
        None if p99_ms.is_nan() => return unmeasured(None),
        None => above(p99_ms, threshold_seconds),
        Some(bucket) if bucket.lower >= threshold_seconds => true,
        Some(bucket) if bucket.upper.is_some_and(|upper| upper <= threshold_seconds) => false,
        // The coarse histogram counts the canaries, too, so without this it would always stand before them.
        Some(_) => match metrics.canary_p99_ms {
            Some(canary_ms) => return of_canary(canary_ms, threshold_seconds),
            None => return Verdict::Inconclusive("bucket_too_coarse".to_owned()),
        },
    };
    if violated {
        Verdict::Violated(Evidence::Latency {
            p99_seconds,
            bucket: metrics.latency_p99_bucket,
            threshold_seconds,
            source: metrics.latency_source.clone(),
        })
    } else {
        Verdict::Ok
    }
}

/// Why there is no latency: the source was read and counted nothing, or it could not be read.
fn unmeasured(reason: Option<&str>) -> Verdict {
    let reason = reason.unwrap_or("no_samples");
    match reason {
        "no_samples" | "histogram_never_counts" => Verdict::Inconclusive(reason.to_owned()),
        _ => Verdict::Unknown(reason.to_owned()),
    }
}

/// Whether `ms` is above the threshold, exactly at which is healthy: 4.9 ms is no more than 0.0049 s, although the
/// product of the latter with 1000 is a little less than the former.
fn above(ms: f64, threshold_seconds: f64) -> bool {
    let allowed = threshold_seconds * 1e3;
    ms - allowed > allowed * 1e-12
}

/// A canary is a single check, taken as measured.
fn of_canary(canary_ms: f64, threshold_seconds: f64) -> Verdict {
    if canary_ms.is_nan() || !above(canary_ms, threshold_seconds) {
        return Verdict::Ok;
    }
    Verdict::Violated(Evidence::Latency {
        p99_seconds: canary_ms / 1e3,
        bucket: None,
        threshold_seconds,
        source: Some("canary".to_owned()),
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
        match verdict(None, Some(&metrics), 0.05) {
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
            verdict(None, Some(&metrics), 0.05)
        };
        assert!(matches!(of(2.0), Verdict::Ok));
        assert!(matches!(of(50.0), Verdict::Ok));
        let Verdict::Violated(Evidence::Latency { source, .. }) = of(70.0) else {
            panic!("a canary of 70 ms is above 50 ms");
        };
        assert_eq!(source.as_deref(), Some("canary"));
    }
}
