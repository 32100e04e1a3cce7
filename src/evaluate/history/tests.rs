//! The figures of a backtest, by example.

use super::*;
use crate::clock::Moment;
use crate::invariants::Checker;
use crate::observation::{Node, Observation};
use crate::report::InvariantName;
use crate::subject::InvariantChecker as _;

/// Nodes by id, with their states.
type Nodes = [(&'static str, Option<&'static str>)];

/// What became of `node_down` when the states of nodes were these, each so many seconds after the start.
fn node_down(looks: &[(i64, &Nodes)]) -> InvariantHistory {
    let mut config = CheckerConfig::default();
    config.of_mut(InvariantName::NodeDown).grace_period = Duration::from_secs(30);
    let mut checker = Checker::new(config.clone());
    let mut history = History::new(&config, true);
    for (seconds, nodes) in looks {
        let node = |(id, state): &(&str, Option<&str>)| -> Node {
            serde_json::from_value(serde_json::json!({"id": id, "state": state})).unwrap()
        };
        let observation = Observation {
            nodes: nodes.iter().map(node).collect(),
            redis_connected: Some(true),
            ..Observation::default()
        };
        let at = Moment::from_wall(time(*seconds));
        history.take(&checker.check(at, &observation));
    }
    history.finish();
    assert!(!history.undrawn);
    history.invariants[0].clone()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

const UP: &Nodes = &[("n", Some("Up"))];
const DOWN: &Nodes = &[("n", Some("Down"))];
const UNKNOWN: &Nodes = &[("n", None)];

#[test]
fn a_violation_is_counted_from_its_report_to_its_end() {
    let looks = [
        (0, UP),
        (10, DOWN),
        (40, DOWN),
        (50, DOWN),
        (60, UP),
        (70, UP),
    ];
    let history = node_down(&looks);
    let node = &history.subjects[0];
    assert_eq!((node.violations, node.flaps, node.pending_only), (1, 0, 0));
    assert_eq!((node.first, node.last), (Some(time(40)), Some(time(50))));
    assert_eq!(node.reported, Duration::from_secs(20));
    assert_eq!(history.reported, Duration::from_secs(20));
    let span = |state, from, to| Span {
        state,
        from: time(from),
        to: time(to),
    };
    let expected = [span(State::Pending, 10, 40), span(State::Reported, 40, 60)];
    assert_eq!(node.spans, expected);
}

#[test]
fn soon_again_is_a_flap_and_later_is_not() {
    let looks = [
        (0, DOWN),
        (30, DOWN),
        (40, UP),
        (50, DOWN),
        (80, DOWN),
        (90, UP),
        (660, DOWN),
        (690, DOWN),
    ];
    let node = &node_down(&looks).subjects[0];
    assert_eq!((node.violations, node.flaps), (3, 1));
}

#[test]
fn what_is_over_before_its_grace_period_was_only_pending() {
    let history = node_down(&[(0, DOWN), (29, DOWN), (30, UP), (40, DOWN)]);
    let node = &history.subjects[0];
    // The last one is not over.
    assert_eq!((node.violations, node.pending_only), (0, 1));
    assert_eq!((node.first, node.last), (None, None));
    assert_eq!(history.most_at_once, 0);
}

#[test]
fn a_gap_counts_no_longer_than_the_unknown_is_held() {
    let history = node_down(&[(0, DOWN), (30, DOWN), (4_000, DOWN), (4_010, UP)]);
    assert_eq!(history.subjects[0].reported, Duration::from_secs(300 + 10));
}

#[test]
fn two_subjects_at_once_are_in_violation_once() {
    let both: &Nodes = &[("n", Some("Down")), ("m", Some("Down"))];
    let history = node_down(&[(0, both), (30, both), (40, both), (50, UP)]);
    assert_eq!(history.most_at_once, 2);
    assert_eq!(history.reported, Duration::from_secs(20));
    let each = history.subjects.iter().map(|it| it.reported.as_secs());
    assert_eq!(each.collect::<Vec<_>>(), [20, 20]);
}

#[test]
fn what_could_not_be_evaluated_is_counted_apart() {
    let looks = [(0, DOWN), (30, DOWN), (40, UNKNOWN), (60, DOWN), (70, UP)];
    let history = node_down(&looks);
    assert_eq!(history.unknown, Duration::from_secs(20));
    assert_eq!(history.unknown_spans.len(), 1);
    // Held meanwhile.
    assert_eq!(history.subjects[0].violations, 1);
    assert_eq!(history.subjects[0].reported, Duration::from_secs(40));
}

#[test]
fn time_that_runs_backwards_takes_no_time() {
    let looks = [(0, DOWN), (30, DOWN), (10, DOWN), (40, UP)];
    let node = &node_down(&looks).subjects[0];
    assert_eq!(node.reported, Duration::from_secs(10));
}

#[test]
fn more_subjects_than_are_told_apart_are_told_to_be_missing() {
    let mut history = History::new(&CheckerConfig::default(), false);
    let mut room = Room {
        left: 0,
        missed: false,
    };
    let invariant = &mut history.invariants[0];
    for n in 0..=MOST_SUBJECTS {
        assert!(!invariant.incomplete);
        invariant.seen(&n.to_string(), State::Reported, time(0), 1, &mut room);
    }
    assert!(invariant.incomplete);
    assert_eq!(invariant.subjects.len(), MOST_SUBJECTS);
}
