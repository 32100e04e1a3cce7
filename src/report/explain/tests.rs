//! Each decision, by a situation that leads to it.

use std::collections::BTreeMap;

use super::*;
use crate::clock::Moment;
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{Condition, CounterView, FallenLimit};
use crate::subject::InvariantChecker as _;

fn at(seconds: i64) -> Moment {
    Moment::from_wall(Timestamp::from_second(1_700_000_000 + seconds).unwrap())
}

fn checker(change: impl FnOnce(&mut CheckerConfig)) -> Checker {
    let mut config = CheckerConfig::default();
    change(&mut config);
    Checker::new(config)
}

/// One node, Redis, and a key with a count against a limit of 10 that may have fallen from 100.
fn collected(
    checker: &mut Checker,
    now: i64,
    state: Option<&str>,
    key: Option<(u64, Option<i64>)>,
    read: CountersRead,
) -> (Report, Observation) {
    let mut node: Node =
        serde_json::from_str("{\"id\":\"n\",\"state\":null,\"reason\":\"not_probed\"}").unwrap();
    node.state = state.map(str::to_owned);
    let mut counters = Vec::new();
    if let Some((count, fell)) = key {
        let view = CounterView {
            key: b"k",
            count,
            limit: 10,
            remaining: 10_u64.saturating_sub(count),
            window_ms: Some(60_000),
            fell_from: fell.map(|fell| FallenLimit {
                limit: 100,
                at: at(fell).steady,
                until: None,
            }),
            condition: Condition::default(),
        };
        checker.counters(at(now), &[view]);
        counters.push(Counter {
            key: "k".to_owned(),
            count,
            limit: 10,
            remaining: view.remaining,
            window_ms: view.window_ms,
            fell_from: view.fell_from,
            condition: Condition::default(),
            counted_at: None,
            counted_from: None,
        });
    }
    let observation = Observation {
        nodes: vec![node],
        node_metrics: BTreeMap::new(),
        redis_connected: Some(true),
        counters,
        counters_read: read,
        ..Observation::default()
    };
    (checker.check(at(now), &observation), observation)
}

fn decisions(seen: &(Report, Observation), subject: &str) -> Vec<String> {
    let explained = seen.0.explain(&seen.1, &[subject.to_owned()]);
    let decisions = explained.invariants.iter();
    decisions
        .map(|it| format!("{} {}", it.name, it.decision))
        .collect()
}

const FULL: CountersRead = CountersRead::Full;
const FAILED: CountersRead = CountersRead::Failed {
    reason: Reason::Timeout,
};

#[test]
fn a_node_is_explained_from_grace_to_report_and_back() {
    let mut checker = checker(|config| {
        config.of_mut(InvariantName::NodeDown).grace_period = Duration::from_secs(30);
    });
    let up = collected(&mut checker, 0, Some("Up"), None, FULL);
    assert_eq!(
        decisions(&up, "n"),
        ["node_down holds", "high_latency unknown"]
    );
    let down = collected(&mut checker, 10, Some("Down"), None, FULL);
    assert_eq!(decisions(&down, "n")[0], "node_down in_grace");
    let explained = down.0.explain(&down.1, &["n".to_owned()]);
    let node_down = &explained.invariants[0];
    assert_eq!(
        node_down.why,
        "violated; reported if that lasts another 30s"
    );
    assert_eq!(node_down.grace_left_seconds, Some(30.0));
    assert_eq!(node_down.source.as_deref(), Some("not_probed"));
    let unknown = collected(&mut checker, 20, None, None, FULL);
    assert_eq!(decisions(&unknown, "n")[0], "node_down pending_unknown");
    let down = collected(&mut checker, 40, Some("Down"), None, FULL);
    assert_eq!(decisions(&down, "n")[0], "node_down reported");
    let unknown = collected(&mut checker, 50, None, None, FULL);
    assert_eq!(decisions(&unknown, "n")[0], "node_down held_unknown");
    let explained = unknown.0.explain(&unknown.1, &["n".to_owned()]);
    assert_eq!(
        explained.invariants[0].why,
        "was reported; could not be evaluated this time: not_probed"
    );
    let up = collected(&mut checker, 60, Some("Up"), None, FULL);
    assert_eq!(decisions(&up, "n")[0], "node_down holds");
    let unknown = collected(&mut checker, 70, None, None, FULL);
    assert_eq!(decisions(&unknown, "n")[0], "node_down unknown");
}

#[test]
fn a_key_is_explained_from_its_drain_on() {
    let mut checker = checker(|_| {});
    let over = collected(&mut checker, 0, Some("Up"), Some((20, Some(0))), FULL);
    let both = ["counter_drift draining", "ghost_allowing draining"];
    assert_eq!(decisions(&over, "k"), both);
    let explained = over.0.explain(&over.1, &["k".to_owned()]);
    assert_eq!(explained.invariants[1].grace_left_seconds, Some(60.0));
    assert_eq!(explained.invariants[1].source.as_deref(), Some("ZCOUNT"));
    let over = collected(&mut checker, 60, Some("Up"), Some((20, Some(0))), FULL);
    let both = ["counter_drift reported", "ghost_allowing reported"];
    assert_eq!(decisions(&over, "k"), both);
    let failed = collected(&mut checker, 70, Some("Up"), None, FAILED);
    let both = ["counter_drift held_unknown", "ghost_allowing held_unknown"];
    assert_eq!(decisions(&failed, "k"), both);
    assert_eq!(
        decisions(&failed, "other"),
        ["counter_drift unknown", "ghost_allowing unknown"]
    );
    let well = collected(&mut checker, 80, Some("Up"), Some((5, None)), FULL);
    let both = ["counter_drift cleared", "ghost_allowing cleared"];
    assert_eq!(decisions(&well, "k"), both);
    let well = collected(&mut checker, 680, Some("Up"), Some((5, None)), FULL);
    let both = ["counter_drift holds", "ghost_allowing holds"];
    assert_eq!(decisions(&well, "k"), both);
}

#[test]
fn a_subject_that_is_missing_and_an_invariant_that_is_switched_off_are_explained() {
    let mut checker = checker(|config| {
        config.of_mut(InvariantName::GhostAllowing).enabled = false;
    });
    let seen = collected(&mut checker, 0, Some("Up"), Some((5, None)), FULL);
    assert_eq!(
        decisions(&seen, "k"),
        ["counter_drift holds", "ghost_allowing switched_off"]
    );
    assert_eq!(decisions(&seen, "redis"), ["redis_disconnected holds"]);
    let nobody = decisions(&seen, "nobody");
    assert_eq!(nobody.len(), 7, "{nobody:?}");
    assert!(nobody[..4].iter().all(|it| it.ends_with(" not_seen")));
    assert!(nobody[5..].iter().all(|it| it.ends_with(" not_applicable")));
}
