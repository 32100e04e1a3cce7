//! Corners: restarts, limits that fell or are no longer known, and subjects that share a name.

use super::*;
use crate::observation::{
    Collector, CounterKind, Failure, FallenLimit, Invalid, Lacks, LimiterKind, Refused,
};

/// A kind of limiter to which every invariant applies.
fn kind() -> LimiterKind {
    LimiterKind {
        name: "own".to_owned(),
        nodes: true,
        latency: true,
        canary: false,
        counters: vec![CounterKind {
            name: "window".to_owned(),
            count: "value".to_owned(),
            refused: Refused::Capped,
            sticks: true,
        }],
    }
}

fn view(key: &str, count: u64, condition: Condition) -> CounterView<'_> {
    CounterView {
        key: key.as_bytes(),
        count,
        limit: 5,
        remaining: 5_u64.saturating_sub(count),
        window_ms: Some(3_600_000),
        fell_from: None,
        condition,
    }
}

fn stuck() -> Condition {
    Condition {
        stuck: true,
        ..Condition::default()
    }
}

fn invalid() -> Condition {
    Condition {
        invalid: Some(Invalid::InTheFuture),
        ..Condition::default()
    }
}

/// The report after a pass over everything that saw these counters.
fn pass(checker: &mut Checker, seconds: i64, counters: &[CounterView<'_>]) -> Report {
    checker.counters(at(seconds), counters);
    let observation = Observation {
        redis_connected: Some(true),
        limiter: Some(kind()),
        ..Observation::default()
    };
    checker.check(at(seconds), &observation)
}

#[test]
fn a_key_in_violation_of_any_invariant_is_counted_again() {
    let mut checker = checker();
    let counters = [
        view("above", 6, Condition::default()),
        view("invalid", 1, invalid()),
        view("stuck", 5, stuck()),
    ];
    pass(&mut checker, 0, &counters);
    let watched = checker.watched_keys().into_iter();
    let watched: Vec<String> = watched.map(|key| encode_key(&key)).collect();
    assert_eq!(watched, ["above", "invalid", "stuck"]);
}

#[test]
fn a_lowered_limit_delays_no_report_of_a_stuck_or_an_invalid_counter() {
    let mut checker = checker();
    let fell_from = Some(FallenLimit {
        limit: 100,
        at: wall(0),
        until: None,
    });
    let counters = [view("invalid", 1, invalid()), view("stuck", 9, stuck())]
        .map(|view| CounterView { fell_from, ..view });
    let draining = "ghost_allowing stuck?";
    let report = pass(&mut checker, 1, &counters);
    assert!(shown(&report).contains(&draining.to_owned()));
    let report = pass(&mut checker, 61, &counters);
    let expected = [
        "stuck_counter stuck",
        "invalid_counter invalid",
        "counter_drift stuck?",
        draining,
    ];
    assert_eq!(shown(&report), expected);
}

#[test]
fn a_counted_refusal_drains_with_the_limit_that_fell() {
    let condition = Condition {
        refused: Refused::Capped,
        ..Condition::default()
    };
    // Under the limit of 10, the eleventh is the refused request.
    for (count, ghost) in [(11, "ghost_allowing k?"), (12, "ghost_allowing k")] {
        let fell = CounterView {
            fell_from: Some(FallenLimit {
                limit: 10,
                at: wall(0),
                until: None,
            }),
            ..view("k", count, condition)
        };
        let report = pass(&mut checker(), 1, &[fell]);
        assert!(shown(&report).contains(&ghost.to_owned()), "{count}");
    }
}

#[test]
fn what_an_api_has_not_confirmed_is_pending_and_what_was_reported_stays() {
    let unconfirmed = |condition| Condition {
        unconfirmed: true,
        ..condition
    };
    let mut checker = checker();
    let counters = [("above", 6, Condition::default()), ("stuck", 5, stuck())];
    let of = |seen: fn(Condition) -> Condition| {
        counters.map(|(key, count, condition)| view(key, count, seen(condition)))
    };
    for seconds in [0, 90] {
        let report = pass(&mut checker, seconds, &of(unconfirmed));
        let pending = [
            "counter_drift above?",
            "ghost_allowing above?",
            "stuck_counter stuck?",
        ];
        assert_eq!(shown(&report), pending, "{seconds}");
    }
    let reported = [
        "counter_drift above",
        "ghost_allowing above",
        "stuck_counter stuck",
    ];
    assert_eq!(shown(&pass(&mut checker, 91, &of(|it| it))), reported);
    assert_eq!(shown(&pass(&mut checker, 92, &of(unconfirmed))), reported);
}

#[test]
fn a_violation_stays_while_the_limit_of_its_key_is_unknown() {
    let mut checker = checker();
    pass(&mut checker, 0, &[view("k", 6, Condition::default())]);
    let lacks_limit = Condition {
        lacks: Lacks::Limit,
        ..Condition::default()
    };
    let unknown = |checker: &mut Checker, seconds: i64| {
        checker.counters(at(seconds), &[view("k", 6, lacks_limit)]);
        let observation = Observation {
            redis_connected: Some(true),
            unjudged: BTreeMap::from([("k".to_owned(), Reason::LimitsUnread)]),
            limiter: Some(kind()),
            ..Observation::default()
        };
        checker.check(at(seconds), &observation)
    };
    let report = unknown(&mut checker, 299);
    assert_eq!(shown(&report), ["ghost_allowing k", "counter_drift k?"]);
    assert_eq!(report.violations[0].decision, Decision::HeldUnknown);
    assert_eq!(report.pending[0].decision, Decision::PendingUnknown);
    assert!(!report.invariants[4].evaluable);
    assert_eq!(shown(&unknown(&mut checker, 300)), [""; 0]);
}

#[test]
fn a_restart_adds_nothing_to_a_grace_period_for_which_nothing_was_proved() {
    // Slow for a moment, then nothing proves that it is slow, then slow again.
    let collections = [(0, 0.0), (15, 60.0), (45, 60.0), (60, 20.0), (75, 20.0)];
    let reported = |restart_after: Option<i64>| {
        let mut checker = checker();
        let reported = collections.map(|(seconds, age)| {
            let report = checker.check(at(seconds), &slow(age));
            if restart_after == Some(seconds) {
                let saved = serde_json::to_string(&checker.save()).unwrap();
                checker = self::checker();
                checker.restore(serde_json::from_str(&saved).unwrap());
            }
            shown(&report)
        });
        reported.concat()
    };
    let pending = vec!["high_latency n?".to_owned(); collections.len()];
    assert_eq!(reported(None), pending);
    assert_eq!(reported(Some(45)), pending);
}

#[test]
fn the_grace_that_is_left_is_what_a_violation_must_still_last() {
    let mut checker = checker();
    for (seconds, left) in [(0, 60), (60, 40), (99, 21)] {
        let report = checker.check(at(seconds), &slow(60.0));
        let grace_left = report.pending[0].grace_left.as_secs();
        assert_eq!(grace_left, left, "after {seconds} s");
    }
    // It is not evaluated, and may continue.
    let mut checker = self::checker();
    checker.check(at(0), &slow(0.0));
    let report = checker.check(at(50), &unread());
    assert_eq!(report.pending[0].grace_left.as_secs(), 10);
}

#[test]
fn two_nodes_of_one_name_do_not_hide_each_others_faults() {
    for states in [["Down", "Up"], ["Up", "Down"]] {
        let observation = Observation {
            nodes: states.map(|state| node("n", Some(state))).into(),
            redis_connected: Some(true),
            ..Observation::default()
        };
        let mut checker = checker();
        for seconds in 0..3 {
            let report = checker.check(at(seconds), &observation);
            assert_eq!(shown(&report), ["node_down n"], "{states:?}");
            assert_eq!(report.invariants[0].started_total, 1);
        }
    }
}

#[test]
fn a_node_called_redis_does_not_hide_that_redis_is_down() {
    for state in ["Up", "Down"] {
        let observation = Observation {
            nodes: vec![Node {
                redis_connected: Some(true),
                ..node("redis", Some(state))
            }],
            redis_connected: Some(false),
            ..Observation::default()
        };
        let report = checker().check(at(0), &observation);
        assert!(shown(&report).contains(&"redis_disconnected redis".to_owned()));
    }
}

#[test]
fn a_violation_begins_anew_if_its_invariant_did_not_apply_meanwhile() {
    let mut checker = checker();
    checker.check(at(0), &latency(Some(80.0)));
    let mut other = latency(Some(80.0));
    other.limiter = Some(LimiterKind {
        nodes: false,
        ..kind()
    });
    checker.check(at(30), &other);
    let report = checker.check(at(60), &latency(Some(80.0)));
    assert_eq!(shown(&report), ["high_latency n?"]);
}

#[test]
fn nodes_that_came_and_went_leave_nothing_behind() {
    let mut checker = checker();
    for number in 0..100 {
        let mut observation = latency(None);
        observation.nodes = vec![node(&format!("pod-{number}"), Some("Down"))];
        checker.check(at(number), &observation);
    }
    checker.check(at(100), &latency(None));
    let node_down = &checker.named[InvariantName::NodeDown as usize];
    assert_eq!((node_down.entries.len(), node_down.cleared.len()), (0, 0));
}

#[test]
fn counters_that_could_not_be_read_are_not_healthy_whatever_the_reason() {
    let faulty = Condition {
        stuck: true,
        invalid: Some(Invalid::Negative),
        ..Condition::default()
    };
    for reason in Reason::ALL {
        for (lacks, expected) in [
            (Lacks::Nothing, [true, true, true, true]),
            (Lacks::Limit, [false, false, false, true]),
            (Lacks::Count, [false, false, false, false]),
        ] {
            let unread = |checker: &mut Checker, seconds: i64| {
                let failure = Failure::new(Collector::Counters, "k", reason, "");
                let observation = Observation {
                    redis_connected: Some(true),
                    limiter: Some(kind()),
                    unjudged: BTreeMap::from([("k".to_owned(), reason)]),
                    failures: vec![Failure {
                        lacks: Some(lacks),
                        ..failure
                    }],
                    ..Observation::default()
                };
                let report = checker.check(at(seconds), &observation);
                let of_keys = report.invariants.iter();
                let of_keys = of_keys.filter(|status| status.config.name.about_keys());
                let evaluable: Vec<bool> = of_keys.map(|status| status.evaluable).collect();
                (report.violations.len(), evaluable)
            };
            let mut checker = checker();
            let case = format!("{reason} {lacks:?}");
            assert_eq!(unread(&mut checker, 0), (0, expected.to_vec()), "{case}");
            // Reported, and then unreadable for longer than a violation is held.
            for seconds in [100, 200] {
                pass(&mut checker, seconds, &[view("k", 20, faulty)]);
            }
            assert_eq!(unread(&mut checker, 499), (4, vec![false; 4]), "{case}");
            assert_eq!(unread(&mut checker, 500), (0, expected.to_vec()), "{case}");
        }
    }
}

#[test]
fn an_older_recording_of_counters_without_a_limit_is_not_evaluable() {
    let evaluable = |lacks: &str| {
        let text = format!(
            r#"{{"nodes":[],"counters":[],"node_metrics":{{}},"redis_connected":true,
                "failures":[{{"collector":"counters","reason":"no_limit","message":""{lacks}}}]}}"#
        );
        let observation = Observation {
            limiter: Some(kind()),
            ..serde_json::from_str(&text).unwrap()
        };
        let report = checker().check(at(0), &observation);
        let of_keys = report.invariants.iter();
        let of_keys = of_keys.filter(|status| status.config.name.about_keys());
        of_keys.map(|status| status.evaluable).collect::<Vec<_>>()
    };
    assert_eq!(evaluable(""), [false, false, false, true]);
    assert_eq!(evaluable(r#","lacks":"nothing""#), [true; 4]);
}
