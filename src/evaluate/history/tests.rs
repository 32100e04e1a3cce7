//! The figures of a backtest, by example.

use super::*;
use crate::clock::Moment;
use crate::invariants::Checker;
use crate::observation::{Node, Observation};
use crate::report::InvariantName;
use crate::subject::InvariantChecker as _;

/// Nodes by id, with their states.
type Nodes = [(&'static str, Option<&'static str>)];

/// The history of `node_down` for these states of nodes, each so many seconds after the start.
fn node_down(observations: &[(i64, &Nodes)]) -> InvariantHistory {
    let mut config = CheckerConfig::default();
    config.of_mut(InvariantName::NodeDown).grace_period = Duration::from_secs(30);
    let mut checker = Checker::new(config.clone());
    let mut history = History::new(&config, true);
    for (seconds, nodes) in observations {
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
    let history = history.finished();
    assert!(!history.undrawn());
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
    let observations = [
        (0, UP),
        (10, DOWN),
        (40, DOWN),
        (50, DOWN),
        (60, UP),
        (70, UP),
    ];
    let history = node_down(&observations);
    let node = &history.subjects[0];
    assert_eq!((node.violations, node.flaps, node.pending_only), (1, 0, 0));
    assert_eq!((node.first, node.last), (Some(time(40)), Some(time(50))));
    assert_eq!(node.reported_for, Duration::from_secs(20));
    assert_eq!(history.reported_for, Duration::from_secs(20));
    let span = |state, from, to| Span {
        state,
        from: time(from),
        to: time(to),
    };
    let expected = [span(State::Pending, 10, 40), span(State::Reported, 40, 60)];
    assert_eq!(node.spans, expected);
}

#[test]
fn a_violation_that_returns_within_ten_minutes_is_a_flap() {
    let observations = [
        (0, DOWN),
        (30, DOWN),
        (40, UP),
        (50, DOWN),
        (80, DOWN),
        (90, UP),
        (660, DOWN),
        (690, DOWN),
    ];
    let node = &node_down(&observations).subjects[0];
    assert_eq!((node.violations, node.flaps), (3, 1));
}

#[test]
fn a_violation_that_ends_before_its_grace_period_is_pending_only() {
    let history = node_down(&[(0, DOWN), (29, DOWN), (30, UP), (40, DOWN)]);
    let node = &history.subjects[0];
    // The last one lasts to the end of the recording.
    assert_eq!((node.violations, node.pending_only), (0, 1));
    assert_eq!((node.first, node.last), (None, None));
    assert_eq!(history.most_at_once, 0);
}

#[test]
fn a_gap_counts_no_longer_than_an_unknown_state_is_held() {
    let history = node_down(&[(0, DOWN), (30, DOWN), (4_000, DOWN), (4_010, UP)]);
    assert_eq!(
        history.subjects[0].reported_for,
        Duration::from_secs(300 + 10)
    );
}

#[test]
fn the_time_of_two_subjects_at_once_counts_once() {
    let both: &Nodes = &[("n", Some("Down")), ("m", Some("Down"))];
    let history = node_down(&[(0, both), (30, both), (40, both), (50, UP)]);
    assert_eq!(history.most_at_once, 2);
    assert_eq!(history.reported_for, Duration::from_secs(20));
    let each = history.subjects.iter().map(|it| it.reported_for.as_secs());
    assert_eq!(each.collect::<Vec<_>>(), [20, 20]);
}

#[test]
fn the_time_that_could_not_be_evaluated_is_counted_separately() {
    let observations = [(0, DOWN), (30, DOWN), (40, UNKNOWN), (60, DOWN), (70, UP)];
    let history = node_down(&observations);
    assert_eq!(history.unknown_for, Duration::from_secs(20));
    assert_eq!(history.whole.spans.len(), 1);
    // Held meanwhile.
    assert_eq!(history.subjects[0].violations, 1);
    assert_eq!(history.subjects[0].reported_for, Duration::from_secs(40));
}

#[test]
fn time_that_runs_backwards_does_not_count() {
    let observations = [(0, DOWN), (30, DOWN), (10, DOWN), (40, UP)];
    let node = &node_down(&observations).subjects[0];
    assert_eq!(node.reported_for, Duration::from_secs(10));
}

#[test]
fn more_subjects_than_fit_make_the_history_incomplete() {
    let mut history = History::new(&CheckerConfig::default(), false);
    let mut room = Room {
        left: 0,
        exceeded: false,
    };
    let invariant = &mut history.invariants[0];
    for n in 0..=MOST_SUBJECTS {
        assert!(!invariant.incomplete);
        invariant.seen(&n.to_string(), State::Reported, time(0), 1, &mut room);
    }
    assert!(invariant.incomplete);
    assert_eq!(invariant.subjects.len(), MOST_SUBJECTS);
}
