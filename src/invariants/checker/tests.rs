//! Grace periods and the four verdicts, by example and against a naive model.

mod corners;
mod elapsed;
mod keys;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::observation::{Condition, Node, NodeMetrics};
use crate::report::Decision;

fn wall(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
}

fn at(seconds: i64) -> Moment {
    Moment::from_wall(wall(seconds * 1000))
}

fn checker() -> Checker {
    Checker::new(CheckerConfig::default())
}

fn node(id: &str, state: Option<&str>) -> Node {
    Node {
        id: id.to_owned(),
        address: None,
        state: state.map(str::to_owned),
        reason: None,
        registered_at: None,
        heartbeat_ttl_seconds: None,
        probe_seconds: None,
        redis_connected: None,
        redis_reason: None,
        canary_refused: None,
        canary_reason: None,
    }
}

fn latency(p99_ms: Option<f64>) -> Observation {
    let metrics = NodeMetrics {
        latency_p99_ms: p99_ms,
        ..NodeMetrics::default()
    };
    Observation {
        nodes: vec![node("n", Some("Up"))],
        node_metrics: BTreeMap::from([("n".to_owned(), metrics)]),
        redis_connected: Some(true),
        ..Observation::default()
    }
}

/// A node whose latency could not be read.
fn unread() -> Observation {
    let mut observation = latency(None);
    for metrics in observation.node_metrics.values_mut() {
        metrics.latency_unknown = Some("first_sample".to_owned());
    }
    observation
}

/// `name subject` of what is reported, and of what is pending with a `?`.
fn shown(report: &Report) -> Vec<String> {
    let reported = report
        .violations
        .iter()
        .map(|v| format!("{} {}", v.name, v.subject));
    let pending = report
        .pending
        .iter()
        .map(|v| format!("{} {}?", v.name, v.subject));
    reported.chain(pending).collect()
}

fn count(
    checker: &mut Checker,
    now: Moment,
    counters: &[(&str, u64, u64)],
    read: CountersRead,
) -> Report {
    count_draining(checker, now, counters, read, None)
}

fn count_draining(
    checker: &mut Checker,
    now: Moment,
    counters: &[(&str, u64, u64)],
    read: CountersRead,
    fell_from: Option<crate::observation::FallenLimit>,
) -> Report {
    let views: Vec<CounterView<'_>> = counters
        .iter()
        .map(|(key, count, limit)| CounterView {
            key: key.as_bytes(),
            count: *count,
            limit: *limit,
            remaining: limit.saturating_sub(*count),
            window_ms: Some(60_000),
            fell_from,
            condition: Condition::default(),
        })
        .collect();
    checker.counters(now, &views);
    let observation = Observation {
        redis_connected: Some(true),
        counters_read: read,
        ..Observation::default()
    };
    checker.check(now, &observation)
}

/// Slow checks. The newest may be `seconds` old.
fn slow(seconds: f64) -> Observation {
    let mut observation = latency(Some(80.0));
    for metrics in observation.node_metrics.values_mut() {
        metrics.latency_newest = Some(crate::observation::NewestChecks {
            seconds,
            p99_ms: Some(80.0),
            ..Default::default()
        });
    }
    observation
}

#[test]
fn a_grace_period_does_not_pass_while_the_slow_checks_may_be_over() {
    let mut checker = checker();
    assert_eq!(
        shown(&checker.check(at(0), &slow(60.0))),
        ["high_latency n?"]
    );
    // Scraped once a minute: it is certain only that checks were slow until 20 s after the previous scrape.
    let report = checker.check(at(60), &slow(60.0));
    assert_eq!(shown(&report), ["high_latency n?"]);
    assert_eq!(report.pending[0].grace_left.as_secs(), 40);
    // The newest checks reach back beyond the collection before: there may have been a break.
    assert_eq!(
        shown(&checker.check(at(119), &slow(60.0))),
        ["high_latency n?"]
    );
    assert_eq!(
        shown(&checker.check(at(120), &slow(60.0))),
        ["high_latency n"]
    );
    // It stays reported while checks are slow.
    assert_eq!(
        shown(&checker.check(at(121), &slow(120.0))),
        ["high_latency n"]
    );
}

#[test]
fn a_p99_that_is_known_by_its_bucket_alone_is_not_shown_as_measured() {
    let bucket = |lower, upper| crate::observation::Bucket { lower, upper };
    let observed = |bucket| {
        let mut observation = latency(Some(99.0));
        for metrics in observation.node_metrics.values_mut() {
            metrics.latency_p99_bucket = Some(bucket);
        }
        observation
    };
    let coarse = observed(bucket(0.0, Some(0.1)));
    let mut checker = checker();
    let report = checker.check(at(0), &coarse);
    let mut shown = coarse.clone();
    report.withhold_imprecise_p99(&mut shown);
    let metrics = &shown.node_metrics["n"];
    assert_eq!(metrics.latency_p99_ms, None);
    assert_eq!(
        metrics.latency_unknown.as_deref(),
        Some("bucket_too_coarse")
    );
    // A replay of the recording says the same; with another threshold it can decide more.
    let again = checker.check(at(1), &shown);
    assert_eq!(
        again.invariants[2].inconclusive,
        report.invariants[2].inconclusive
    );
    let mut config = CheckerConfig::default();
    config.of_mut(InvariantName::HighLatency).threshold = 0.1;
    let lenient = Checker::new(config).check(at(0), &shown);
    assert!(lenient.invariants[2].evaluable);
    // A figure inside a bucket on one side of the threshold stays, as does a measured one.
    for fine in [
        observed(bucket(0.05, Some(0.1))),
        observed(bucket(0.01, Some(0.05))),
        latency(Some(99.0)),
    ] {
        let mut shown = fine.clone();
        checker
            .check(at(2), &fine)
            .withhold_imprecise_p99(&mut shown);
        assert_eq!(shown.node_metrics, fine.node_metrics);
    }
}

#[test]
fn a_node_that_left_and_came_back_begins_anew() {
    let mut checker = checker();
    checker.check(at(0), &latency(Some(80.0)));
    let mut without = latency(None);
    without.nodes.clear();
    without.node_metrics.clear();
    checker.check(at(30), &without);
    assert_eq!(
        shown(&checker.check(at(61), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
}

#[test]
fn a_node_that_is_down_is_neither_slow_nor_disconnected() {
    let mut checker = checker();
    let mut observation = latency(Some(80.0));
    observation.nodes[0].state = Some("Down".to_owned());
    observation.nodes[0].redis_connected = Some(false);
    assert_eq!(shown(&checker.check(at(0), &observation)), ["node_down n"]);
}

#[test]
fn counters_drift_after_their_grace_and_ghosts_at_once() {
    let mut checker = checker();
    let over = [("k", 12, 10), ("fine", 10, 10), ("little", 11, 10)];
    let report = count(&mut checker, at(0), &over, CountersRead::Full);
    assert_eq!(
        shown(&report),
        [
            "ghost_allowing k",
            "ghost_allowing little",
            "counter_drift k?"
        ]
    );
    let report = count(&mut checker, at(30), &over, CountersRead::Full);
    assert_eq!(
        shown(&report),
        [
            "counter_drift k",
            "ghost_allowing k",
            "ghost_allowing little"
        ]
    );
    let report = count(&mut checker, at(31), &[("k", 10, 10)], CountersRead::Full);
    assert_eq!(shown(&report), [""; 0]);
    assert_eq!(report.cleared.len(), 3);
    let report = count(&mut checker, at(31 + 600), &[], CountersRead::Full);
    assert_eq!(report.cleared.len(), 0);
}

#[test]
fn a_pass_that_did_not_finish_forgets_no_key() {
    let mut checker = checker();
    count(&mut checker, at(0), &[("k", 12, 10)], CountersRead::Full);
    let partial = |gone: &[&str]| CountersRead::Partial {
        gone: gone.iter().map(|key| (*key).to_owned()).collect(),
        reason: Reason::Timeout,
    };
    let report = count(&mut checker, at(10), &[], partial(&[]));
    assert_eq!(shown(&report), ["ghost_allowing k", "counter_drift k?"]);
    assert!(!report.invariants[3].evaluable);
    assert_eq!(
        shown(&count(&mut checker, at(11), &[], partial(&["k"]))),
        [""; 0]
    );
}

#[test]
fn a_key_that_cannot_be_judged_is_unknown_and_held() {
    let mut checker = checker();
    count(&mut checker, at(0), &[("k", 11, 10)], CountersRead::Full);
    let mut unjudged = |now: i64| {
        let observation = Observation {
            redis_connected: Some(true),
            unjudged: BTreeMap::from([
                ("k".to_owned(), Reason::InvalidLimit),
                ("in no violation".to_owned(), Reason::InvalidLimit),
            ]),
            ..Observation::default()
        };
        checker.check(at(now), &observation)
    };
    let report = unjudged(299);
    assert_eq!(shown(&report), ["ghost_allowing k"]);
    assert_eq!(report.violations[0].decision, Decision::HeldUnknown);
    assert!(!report.invariants[4].evaluable);
    let unknown = Unknown {
        subject: "k".to_owned(),
        reason: "invalid_limit".to_owned(),
    };
    assert_eq!(report.invariants[4].unknown, [unknown]);
    assert!(report.invariants[3].evaluable, "no drift was in progress");
    let report = unjudged(300);
    assert_eq!(shown(&report), [""; 0]);
    assert!(report.invariants[4].evaluable);
}

#[test]
fn a_lowered_limit_is_pending_for_one_window() {
    let mut checker = checker();
    let fell = Some(crate::observation::FallenLimit {
        limit: 100,
        at: wall(0),
        until: None,
    });
    let counters = [("k", 80, 50)];
    let report = count_draining(&mut checker, at(1), &counters, CountersRead::Full, fell);
    assert_eq!(shown(&report), ["counter_drift k?", "ghost_allowing k?"]);
    let report = count_draining(&mut checker, at(59), &counters, CountersRead::Full, fell);
    assert_eq!(shown(&report), ["counter_drift k?", "ghost_allowing k?"]);
    let report = count_draining(&mut checker, at(60), &counters, CountersRead::Full, fell);
    assert_eq!(shown(&report), ["counter_drift k", "ghost_allowing k"]);
    // A count that was not legal under the old limit either does not drain.
    let mut checker = self::checker();
    let report = count_draining(
        &mut checker,
        at(1),
        &[("k", 101, 50)],
        CountersRead::Full,
        fell,
    );
    assert_eq!(shown(&report), ["ghost_allowing k", "counter_drift k?"]);
}

#[test]
fn a_fall_that_drains_for_longer_than_a_window_is_pending_until_then() {
    let mut checker = checker();
    let fell = Some(crate::observation::FallenLimit {
        limit: 100,
        at: wall(0),
        until: Some(wall(300_000)),
    });
    let mut at_second = |seconds: i64, count: u64| {
        let counters = [("k", count, 50)];
        let report = count_draining(
            &mut checker,
            at(seconds),
            &counters,
            CountersRead::Full,
            fell,
        );
        shown(&report)
    };
    for seconds in [1, 60, 299] {
        let pending = ["counter_drift k?", "ghost_allowing k?"];
        assert_eq!(at_second(seconds, 80), pending, "{seconds}");
    }
    let reported = ["counter_drift k", "ghost_allowing k"];
    assert_eq!(at_second(300, 80), reported);
}

#[test]
fn lists_are_capped_and_totals_are_exact() {
    let config = CheckerConfig {
        max_listed: 2,
        ..CheckerConfig::default()
    };
    let mut checker = Checker::new(config);
    let counters = [("a", 11, 10), ("b", 30, 10), ("c", 20, 10), ("d", 5, 0)];
    let report = count(&mut checker, at(0), &counters, CountersRead::Full);
    let ghosts: Vec<&str> = report
        .violations
        .iter()
        .map(|v| v.subject.as_str())
        .collect();
    assert_eq!(ghosts, ["d", "b"]);
    assert_eq!(
        (
            report.invariants[4].violations,
            report.invariants[4].dropped
        ),
        (4, 2)
    );
}

#[test]
fn a_restart_neither_shortens_nor_restarts_a_grace_period() {
    let mut before = checker();
    before.check(at(0), &latency(Some(80.0)));
    count(
        &mut before,
        at(0),
        &[("\u{fffd}k", 12, 10)],
        CountersRead::Full,
    );
    before.check(at(0), &latency(Some(80.0)));
    let saved = serde_json::to_string(&before.save()).unwrap();
    let mut after = checker();
    after.restore(serde_json::from_str(&saved).unwrap());
    assert_eq!(
        shown(&after.check(at(59), &latency(Some(80.0))))[0],
        "high_latency n?"
    );
    assert_eq!(
        shown(&after.check(at(60), &latency(Some(80.0))))[0],
        "high_latency n"
    );
}

#[test]
fn clear_state_forgets_everything() {
    let mut checker = checker();
    checker.check(at(0), &latency(Some(80.0)));
    checker.clear_state();
    assert_eq!(
        shown(&checker.check(at(60), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
}

#[test]
fn an_invariant_that_is_switched_off_says_nothing() {
    let mut config = CheckerConfig::default();
    config.of_mut(InvariantName::GhostAllowing).enabled = false;
    let mut checker = Checker::new(config);
    let report = count(&mut checker, at(0), &[("k", 12, 10)], CountersRead::Full);
    assert_eq!(shown(&report), ["counter_drift k?"]);
    assert_eq!(report.invariants.len(), 4);
}

/// What a collection sees of the one subject.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Ok,
    Violated,
    Unknown,
    Inconclusive,
    Gone,
}

fn steps() -> impl Strategy<Value = Vec<(i64, i64, Seen)>> {
    let seen = prop_oneof![
        2 => Just(Seen::Ok),
        6 => Just(Seen::Violated),
        3 => Just(Seen::Unknown),
        1 => Just(Seen::Inconclusive),
        1 => Just(Seen::Gone),
    ];
    // Mostly small steps forward; duplicates, steps back, gaps; and wall clock steps of any size.
    let step = prop_oneof![6 => 0_i64..20_000, 1 => -60_000_i64..0, 1 => 0_i64..4_000_000];
    let jump = prop_oneof![8 => Just(0_i64), 1 => -4_000_000_i64..4_000_000];
    proptest::collection::vec((step, jump, seen), 1..60)
}

proptest! {
    /// Compares the checker with a model that is too simple to be wrong: it goes through the whole history each time.
    #[test]
    fn the_checker_does_what_a_naive_model_does(steps in steps()) {
        let (grace, hold) = (60_000, 300_000);
        let mut checker = checker();
        let (mut steady, mut latest, mut offset) = (0_i64, i64::MIN, 0_i64);
        // (elapsed time, what was seen) since the subject was last healthy or gone.
        let mut history: Vec<(i64, Seen)> = Vec::new();
        let mut reported = false;
        for (step, jump, seen) in steps {
            steady += step;
            offset += jump;
            latest = latest.max(steady);
            let moment = Moment { wall: wall(steady + offset), steady: wall(steady) };
            let observation = match seen {
                Seen::Ok => latency(Some(50.0)),
                Seen::Violated => latency(Some(50.1)),
                Seen::Unknown => unread(),
                Seen::Inconclusive => latency(None),
                Seen::Gone => Observation { redis_connected: Some(true), ..Observation::default() },
            };
            let report = checker.check(moment, &observation);

            let last_violated = |history: &[(i64, Seen)]| {
                history.iter().rev().find(|(_, s)| matches!(s, Seen::Violated)).map(|(t, _)| *t)
            };
            match seen {
                Seen::Ok | Seen::Inconclusive | Seen::Gone => { history.clear(); reported = false; }
                Seen::Violated => history.push((latest, seen)),
                Seen::Unknown => {
                    history.push((latest, seen));
                    if last_violated(&history).is_none_or(|at| latest - at >= hold) {
                        history.clear();
                        reported = false;
                    }
                }
            }
            let first = history.iter().find(|(_, s)| matches!(s, Seen::Violated)).map(|(t, _)| *t);
            if matches!(seen, Seen::Violated) && first.is_some_and(|first| latest - first >= grace) {
                reported = true;
            }
            let expected: Vec<String> = match (first, reported) {
                (None, _) => Vec::new(),
                (Some(_), true) => vec!["high_latency n".to_owned()],
                (Some(_), false) => vec!["high_latency n?".to_owned()],
            };
            prop_assert_eq!(shown(&report), expected);
        }
    }

    /// Any counters, in any batches: every key in violation is found, and no other.
    #[test]
    fn every_violating_key_is_found_and_no_other(
        counters in proptest::collection::btree_map("[a-e]{1,3}", (0_u64..30, 0_u64..20), 0..40),
        batch in 1_usize..7,
    ) {
        let mut checker = checker();
        let all: Vec<(&str, u64, u64)> =
            counters.iter().map(|(key, (count, limit))| (key.as_str(), *count, *limit)).collect();
        for some in all.chunks(batch) {
            let views: Vec<CounterView<'_>> = some.iter().map(|(key, count, limit)| CounterView {
                key: key.as_bytes(), count: *count, limit: *limit,
                remaining: limit.saturating_sub(*count), window_ms: None, fell_from: None,
                condition: Condition::default(),
            }).collect();
            checker.counters(at(0), &views);
        }
        let observation = Observation { redis_connected: Some(true), ..Observation::default() };
        let report = checker.check(at(0), &observation);
        let ghosts = all.iter().filter(|(_, count, limit)| count > limit).count() as u64;
        let drifted = all.iter().filter(|(_, count, limit)| count * 10 > limit * 11).count() as u64;
        prop_assert_eq!(report.invariants[4].violations, ghosts);
        prop_assert_eq!(report.invariants[3].pending, drifted);
    }
}
