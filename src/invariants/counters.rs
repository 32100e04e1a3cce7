//! The invariants about keys: `counter_drift` and `ghost_allowing` compare a count with its limit, `stuck_counter` and
//! `invalid_counter` take what was read of the key besides.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{elapsed, later};
use crate::observation::CounterView;
use crate::report::{Evidence, InvariantName};

/// Whether `counter` violates `name`; `threshold` is that of `counter_drift`.
pub(super) fn is_violated(name: InvariantName, counter: &CounterView<'_>, threshold: f64) -> bool {
    match name {
        InvariantName::CounterDrift => {
            counter.is_above_limit() && drifted(counter.count, counter.limit, threshold)
        }
        InvariantName::GhostAllowing => counter.is_above_limit(),
        InvariantName::StuckCounter => counter.condition.stuck,
        InvariantName::InvalidCounter => counter.condition.invalid.is_some(),
        InvariantName::NodeDown | InvariantName::RedisDisconnected | InvariantName::HighLatency => {
            false
        }
    }
}

/// What shows that `counter` violates `name`.
pub(super) fn evidence(
    name: InvariantName,
    counter: &CounterView<'_>,
    draining_from: Option<u64>,
) -> Evidence {
    let CounterView { count, limit, .. } = *counter;
    match (name, counter.condition.invalid) {
        (InvariantName::StuckCounter, _) => Evidence::NeverExpires { count, limit },
        (InvariantName::InvalidCounter, Some(state)) => Evidence::InvalidState { state },
        (
            InvariantName::CounterDrift
            | InvariantName::GhostAllowing
            | InvariantName::NodeDown
            | InvariantName::RedisDisconnected
            | InvariantName::HighLatency,
            _,
        )
        | (InvariantName::InvalidCounter, None) => Evidence::Count {
            count,
            limit,
            remaining: counter.remaining,
            draining_from,
        },
    }
}

/// `counter_drift`: count above limit × (1 + threshold).
#[expect(
    clippy::cast_precision_loss,
    reason = "counts above 2^53 are decided exactly by the margin's sign long before precision matters"
)]
pub(super) fn drifted(count: u64, limit: u64, threshold: f64) -> bool {
    // The excess is compared, not the product: limit × 1.1 is not exact in binary (11 of 10 would count as above
    // 10 × 1.1 or not by luck), and exactly at the threshold is healthy.
    count > limit && (count - limit) as f64 > round_half_ulp(limit as f64 * threshold)
}

/// Takes away the noise that a decimal threshold brings into the product (10 × 0.1 = 1.0000000000000002).
fn round_half_ulp(value: f64) -> f64 {
    let nearest = value.round();
    if (value - nearest).abs() <= nearest.abs() * 1e-12 {
        nearest
    } else {
        value
    }
}

/// The limit that `counter` is draining from, and until when: its count is above the limit but was legal under the one
/// before, and the window since the fall has not passed.
pub(super) fn draining_from(counter: &CounterView<'_>, now: Timestamp) -> Option<(u64, Timestamp)> {
    let fell = counter.fell_from?;
    let window = Duration::from_millis(counter.window_ms?);
    let inside = elapsed(fell.at, now) < window;
    (inside && counter.count <= fell.limit).then_some((fell.limit, later(fell.at, window)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_strict_at_the_decimal_threshold() {
        assert!(!drifted(11, 10, 0.1));
        assert!(drifted(12, 10, 0.1));
        assert!(!drifted(110, 100, 0.1));
        assert!(drifted(111, 100, 0.1));
        assert!(!drifted(33, 30, 0.1));
        assert!(!drifted(77, 70, 0.1));
        assert!(!drifted(1_100_000, 1_000_000, 0.1));
        assert!(drifted(1, 0, 0.1));
        assert!(!drifted(0, 0, 0.1));
    }
}
