//! Which invariants do not apply to a kind of limiter, and why. They have no series and no alert, and are never
//! unknown.

use crate::observation::{CounterKind, LimiterKind, Refused};
use crate::report::InvariantName;

/// Why `name` does not apply to `limiter`; `None` if it does. Without a kind, those invariants apply for which the
/// minimal observation has data.
pub(super) fn not_applicable(
    name: InvariantName,
    limiter: Option<&LimiterKind>,
) -> Option<&'static str> {
    let any = |is: fn(&CounterKind) -> bool| {
        limiter.is_none_or(|limiter| limiter.counters.iter().any(is))
    };
    let nodes = limiter.is_none_or(|limiter| limiter.nodes);
    let latency = limiter.is_none_or(|limiter| limiter.latency);
    let unless = |applies: bool, why| (!applies).then_some(why);
    let no_nodes = "this kind of limiter has no nodes that are watched";
    match name {
        InvariantName::NodeDown => unless(nodes, no_nodes),
        InvariantName::HighLatency => unless(nodes, no_nodes).or(unless(
            latency,
            "the nodes of this kind do not say how long their decisions take",
        )),
        // The canary needs no counts.
        InvariantName::GhostAllowing if limiter.is_some_and(|limiter| limiter.canary) => None,
        InvariantName::CounterDrift | InvariantName::GhostAllowing => unless(
            any(|counter| counter.refused != Refused::Counted),
            "the counts of this kind include refused requests: a count above the limit is demand",
        ),
        InvariantName::StuckCounter | InvariantName::InvalidCounter if limiter.is_none() => {
            Some("the observation does not say which states its counters can have")
        }
        InvariantName::StuckCounter => unless(
            any(|counter| counter.sticks),
            "a counter of this kind that never expires blocks no client for ever",
        ),
        InvariantName::RedisDisconnected | InvariantName::InvalidCounter => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(nodes: bool, refused: &[Refused], sticks: bool) -> LimiterKind {
        let counters = refused.iter().map(|refused| CounterKind {
            name: "window".to_owned(),
            count: "value".to_owned(),
            refused: *refused,
            sticks,
        });
        LimiterKind {
            name: "own".to_owned(),
            nodes,
            latency: nodes,
            canary: false,
            counters: counters.collect(),
        }
    }

    fn applicable(limiter: Option<&LimiterKind>) -> Vec<&'static str> {
        let all = InvariantName::ALL.into_iter();
        let applies = all.filter(|name| not_applicable(*name, limiter).is_none());
        applies.map(InvariantName::name).collect()
    }

    #[test]
    fn a_minimal_observation_has_the_first_five() {
        let five = [
            "node_down",
            "redis_disconnected",
            "high_latency",
            "counter_drift",
            "ghost_allowing",
        ];
        assert_eq!(applicable(None), five);
    }

    #[test]
    fn counts_with_refused_requests_prove_no_request_too_many() {
        let counted = kind(false, &[Refused::Counted], true);
        let expected = ["redis_disconnected", "stuck_counter", "invalid_counter"];
        assert_eq!(applicable(Some(&counted)), expected);
        let one_of_two = kind(false, &[Refused::Counted, Refused::Capped], false);
        let expected = [
            "redis_disconnected",
            "counter_drift",
            "ghost_allowing",
            "invalid_counter",
        ];
        assert_eq!(applicable(Some(&one_of_two)), expected);
    }

    #[test]
    fn a_canary_proves_that_a_node_admits_too_much_whatever_the_counts_say() {
        let counted = LimiterKind {
            canary: true,
            ..kind(true, &[Refused::Counted], false)
        };
        let applicable = applicable(Some(&counted));
        assert!(applicable.contains(&"ghost_allowing"), "{applicable:?}");
        assert!(!applicable.contains(&"counter_drift"), "{applicable:?}");
    }
}
