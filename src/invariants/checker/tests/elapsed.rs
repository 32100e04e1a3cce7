//! Time: how grace periods and held violations follow the time that has elapsed.

use super::*;

#[test]
fn no_grace_means_at_once_and_ok_clears_at_once() {
    let mut checker = checker();
    let mut observation = latency(Some(1.0));
    observation.nodes = vec![node("n", Some("Down"))];
    observation.redis_connected = Some(false);
    let report = checker.check(at(0), &observation);
    assert_eq!(shown(&report), ["node_down n", "redis_disconnected redis"]);
    assert_eq!(shown(&checker.check(at(1), &latency(Some(1.0)))), [""; 0]);
}

#[test]
fn a_grace_period_is_elapsed_time() {
    let mut checker = checker();
    assert_eq!(
        shown(&checker.check(at(0), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
    assert_eq!(
        shown(&checker.check(at(59), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
    let report = checker.check(at(60), &latency(Some(80.0)));
    assert_eq!(shown(&report), ["high_latency n"]);
    assert_eq!(report.violations[0].first_seen, wall(0));
    assert_eq!(report.violations[0].last_seen, wall(60_000));
    assert_eq!(report.invariants[2].started_total, 1);
}

#[test]
fn many_scrapes_at_once_do_not_shorten_it() {
    let mut checker = checker();
    for _ in 0..1000 {
        assert_eq!(
            shown(&checker.check(at(0), &latency(Some(80.0)))),
            ["high_latency n?"]
        );
    }
}

#[test]
fn time_that_runs_backwards_does_not_count() {
    let mut checker = checker();
    checker.check(at(100), &latency(Some(80.0)));
    assert_eq!(
        shown(&checker.check(at(0), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
    assert_eq!(
        shown(&checker.check(at(101), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
    assert_eq!(
        shown(&checker.check(at(160), &latency(Some(80.0)))),
        ["high_latency n"]
    );
}

#[test]
fn a_wall_clock_that_steps_changes_the_times_shown_but_not_when_a_violation_is_reported() {
    let mut checker = checker();
    let moment = |wall_s: i64, steady_s: i64| Moment {
        wall: wall(wall_s * 1000),
        steady: wall(steady_s * 1000),
    };
    checker.check(moment(0, 0), &latency(Some(80.0)));
    let report = checker.check(moment(3600 + 10, 10), &latency(Some(80.0)));
    assert_eq!(shown(&report), ["high_latency n?"]);
    let report = checker.check(moment(-3600 + 60, 60), &latency(Some(80.0)));
    assert_eq!(shown(&report), ["high_latency n"]);
    assert_eq!(report.violations[0].first_seen, wall(-3_600_000));
}

#[test]
fn unknown_neither_starts_nor_clears_and_is_held_for_five_minutes() {
    let mut checker = checker();
    checker.check(at(0), &latency(Some(80.0)));
    let report = checker.check(at(30), &unread());
    assert_eq!(shown(&report), ["high_latency n?"]);
    assert!(!report.invariants[2].evaluable);
    assert_eq!(report.invariants[2].unknown[0].reason, "first_sample");
    assert_eq!(
        shown(&checker.check(at(60), &latency(Some(80.0)))),
        ["high_latency n"]
    );
    assert_eq!(
        shown(&checker.check(at(61 + 298), &unread())),
        ["high_latency n"]
    );
    assert_eq!(shown(&checker.check(at(60 + 300), &unread())), [""; 0]);
    assert_eq!(
        shown(&checker.check(at(60 + 301), &latency(Some(80.0)))),
        ["high_latency n?"]
    );
}

#[test]
fn what_proves_neither_ends_a_violation_and_is_not_evaluable() {
    let mut checker = checker();
    checker.check(at(0), &latency(Some(80.0)));
    let report = checker.check(at(30), &latency(None));
    assert_eq!(shown(&report), [""; 0]);
    let status = &report.invariants[2];
    assert!(!status.evaluable && status.unknown.is_empty());
    assert_eq!(status.inconclusive[0].reason, "no_samples");
    // A grace period that began before it does not continue.
    checker.check(at(40), &latency(Some(80.0)));
    let report = checker.check(at(99), &latency(Some(80.0)));
    assert_eq!(shown(&report), ["high_latency n?"]);
    let report = checker.check(at(100), &latency(Some(80.0)));
    assert_eq!(shown(&report), ["high_latency n"]);
    assert_eq!(shown(&checker.check(at(101), &latency(None))), [""; 0]);
}
