//! The invariants about keys: `counter_drift` and `ghost_allowing` compare a count with its limit, `stuck_counter` and
//! `invalid_counter` use the state of the key.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::later;
use crate::observation::{CounterView, Lacks};
use crate::report::{Evidence, InvariantName};

/// Whether `counter` can be judged for `name`. Without a limit, only the state of the key can be judged.
pub(super) fn is_judged(name: InvariantName, counter: &CounterView<'_>) -> bool {
    name == InvariantName::InvalidCounter || counter.condition.lacks != Lacks::Limit
}

/// The evidence that `counter` violates `name`; `None` if it does not. `threshold` is that of `counter_drift`.
pub(super) fn evidence(
    name: InvariantName,
    counter: &CounterView<'_>,
    threshold: f64,
    draining_from: Option<u64>,
) -> Option<Evidence> {
    let (count, limit) = (counter.count, counter.limit);
    let above = || Evidence::Count {
        count,
        limit,
        remaining: counter.remaining,
        draining_from,
    };
    match name {
        InvariantName::CounterDrift => {
            (counter.is_above_limit() && drifted(count, limit, threshold)).then(above)
        }
        InvariantName::GhostAllowing => counter.is_above_limit().then(above),
        InvariantName::StuckCounter => counter
            .condition
            .stuck
            .then_some(Evidence::NeverExpires { count, limit }),
        InvariantName::InvalidCounter => counter
            .condition
            .invalid
            .map(|state| Evidence::InvalidState { state }),
        InvariantName::NodeDown | InvariantName::RedisDisconnected | InvariantName::HighLatency => {
            None
        }
    }
}

/// `counter_drift`: count above limit × (1 + threshold).
#[expect(
    clippy::cast_precision_loss,
    reason = "counts above 2^53 are decided exactly by the margin's sign long before precision matters"
)]
pub(super) fn drifted(count: u64, limit: u64, threshold: f64) -> bool {
    // Compares the excess, not the product: limit × 1.1 is not exact in binary, so chance would decide whether 11 is
    // above 10 × 1.1. Exactly at the threshold is healthy.
    count > limit && (count - limit) as f64 > round_half_ulp(limit as f64 * threshold)
}

/// Removes the rounding error that a decimal threshold causes in the product (10 × 0.1 = 1.0000000000000002).
fn round_half_ulp(value: f64) -> f64 {
    let nearest = value.round();
    if (value - nearest).abs() <= nearest.abs() * 1e-12 {
        nearest
    } else {
        value
    }
}

/// The limit that `counter` is draining from, and until when. Its count was legal under the limit before it fell, and
/// it may still be left over. Only invariants that compare the count with its limit wait for that.
pub(super) fn draining_from(
    name: InvariantName,
    counter: &CounterView<'_>,
    now: Timestamp,
) -> Option<(u64, Timestamp)> {
    let fell = counter.fell_from.filter(|_| name.compares_counts())?;
    let window = counter.window_ms.map(Duration::from_millis);
    let until = fell.until.or(window.map(|window| later(fell.at, window)))?;
    let legal = counter.condition.refused.most_admitted(fell.limit)?;
    (now < until && counter.count <= legal).then_some((fell.limit, until))
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
