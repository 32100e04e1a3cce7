//! Series of readings, and the verdicts on them.

use super::*;

const BROKEN: RedisEvidence = RedisEvidence::Broken("its checks fail");
const NONE: RedisEvidence = RedisEvidence::None;
const ANSWERED: RedisEvidence = RedisEvidence::Answered;

fn counts(errors: f64, answers: f64) -> CheckCounts {
    CheckCounts { errors, answers }
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

type Rise = (f64, f64);

/// A node's checks over time.
#[derive(Default)]
struct Node {
    history: CheckHistory,
    seconds: f64,
    errors: f64,
    answers: f64,
}

impl Node {
    fn new() -> Self {
        let mut node = Self::default();
        let long_ago = Timestamp::UNIX_EPOCH - WITHIN;
        for begin in [long_ago, at(0.0)] {
            node.history.add(begin, counts(0.0, 0.0));
        }
        node
    }

    /// A collection `seconds` after the last one, with the increases of errors and answers in it and in a later reading.
    fn collect(&mut self, seconds: f64, rise: Rise, later: Option<Rise>) -> RedisEvidence {
        self.collect_after(None, seconds, rise, later)
    }

    fn collect_after(
        &mut self,
        outage: Option<Outage>,
        seconds: f64,
        (errors, answers): Rise,
        later: Option<Rise>,
    ) -> RedisEvidence {
        self.seconds += seconds;
        self.errors += errors;
        self.answers += answers;
        let now = at(self.seconds);
        let first = counts(self.errors, self.answers);
        let later = later.map(|(e, a)| counts(self.errors + e, self.answers + a));
        let checks = self.history.add(now, first);
        self.history.conclude(now, checks, first, outage, later)
    }
}

/// The verdicts on collections 15 s apart: the errors and answers in each, and in a later reading if there is one.
fn verdicts(collections: &[(f64, f64, Option<Rise>)]) -> Vec<RedisEvidence> {
    let mut node = Node::new();
    let collections = collections.iter();
    collections
        .map(|(errors, answers, later)| node.collect(15.0, (*errors, *answers), *later))
        .collect()
}

#[test]
fn many_errors_alone_prove_a_lost_redis_and_errors_beside_answers_depend_on_the_next_reading() {
    assert_eq!(verdicts(&[(10.0, 0.0, None)]), [BROKEN]);
    assert_eq!(verdicts(&[(3.0, 3.0, Some((10.0, 0.0)))]), [BROKEN]);
    assert_eq!(verdicts(&[(9.0, 3.0, Some((9.0, 0.0)))]), [NONE]);
    assert_eq!(verdicts(&[(30.0, 1.0, Some((30.0, 1.0)))]), [ANSWERED]);
    assert_eq!(verdicts(&[(0.0, 1.0, None)]), [ANSWERED]);
    assert_eq!(verdicts(&[(0.0, 0.0, None)]), [NONE]);
}

#[test]
fn one_failing_check_on_a_quiet_node_is_no_proof() {
    assert_eq!(verdicts(&[(1.0, 0.0, None)]), [NONE]);
    assert_eq!(verdicts(&[(9.0, 0.0, None)]), [NONE]);
    // A malformed key and a good one, each every 6 s, 3 s apart, scraped once a second.
    let mut node = Node::new();
    for second in 0..72 {
        let rise = match second % 6 {
            0 => (1.0, 0.0),
            3 => (0.0, 1.0),
            _ => (0.0, 0.0),
        };
        let seen = node.collect(1.0, rise, None);
        assert!(!matches!(seen, RedisEvidence::Broken(_)), "{second}");
    }
}

#[test]
fn errors_that_come_slower_than_heartbeats_are_left_to_the_heartbeats() {
    let mut node = Node::new();
    for _ in 0..60 {
        assert_eq!(node.collect(3.0, (1.0, 0.0), None), NONE);
    }
    let mut node = Node::new();
    assert_eq!(node.collect(60.0, (20.0, 0.0), None), NONE);
    assert_eq!(node.collect(60.0, (60.0, 0.0), None), BROKEN);
}

#[test]
fn a_run_that_ended_by_itself_counts_as_usual_although_it_proved_a_fault() {
    let mut node = Node::new();
    let mut broken = 0;
    // Twelve malformed checks in two seconds, then twelve others, every half a minute.
    for _ in 0..6 {
        for rise in [(6.0, 0.0), (6.0, 0.0), (0.0, 12.0), (0.0, 0.0)] {
            let seen = node.collect(7.5, rise, None);
            broken += usize::from(seen == BROKEN);
        }
    }
    assert_eq!(broken, 1);
}

#[test]
fn a_lost_connection_to_redis_does_not_count_as_usual() {
    let mut node = Node::new();
    node.collect(15.0, (0.0, 50.0), None);
    for _ in 0..3 {
        assert_eq!(node.collect(15.0, (50.0, 0.0), None), BROKEN);
        node.history.heartbeat_overdue();
    }
    node.collect(15.0, (0.0, 50.0), None);
    assert_eq!(node.collect(15.0, (12.0, 0.0), None), BROKEN);
}

#[test]
fn a_node_that_answers_again_after_an_outage_is_cleared_at_once() {
    let after = |rise, later| {
        let mut node = Node::new();
        node.collect(15.0, (0.0, 5.0), None);
        node.collect_after(Some(Outage::Away), 15.0, rise, later)
    };
    assert_eq!(
        after((5.0, 0.0), Some((0.0, 1.0))),
        RedisEvidence::Returned(at(15.0))
    );
    let open = RedisEvidence::Inconclusive("redis_just_returned");
    assert_eq!(after((5.0, 0.0), Some((0.0, 0.0))), open);
    assert_eq!(after((5.0, 0.0), None), open);
    assert_eq!(after((0.0, 1.0), None), ANSWERED);
}

/// The answers may be older than the end of the outage: the limiter's script trims before it adds, so it answers even then.
#[test]
fn answers_of_a_redis_that_was_out_of_memory_do_not_prove_that_it_recovered() {
    let after = |later| {
        let mut node = Node::new();
        node.collect_after(Some(Outage::OutOfMemory), 15.0, (0.0, 50.0), later)
    };
    assert_eq!(after(None), NONE);
    assert_eq!(after(Some((0.0, 0.0))), NONE);
    assert_eq!(after(Some((0.0, 1.0))), ANSWERED);
}

#[test]
fn checks_that_succeed_after_nothing_but_failures_prove_that_redis_is_reached_again() {
    let failing = |node: &mut Node| {
        node.collect(15.0, (0.0, 50.0), None);
        node.collect(15.0, (50.0, 0.0), None);
        node.collect(15.0, (50.0, 0.0), None);
    };
    let back = RedisEvidence::Returned(at(15.0));
    let mut node = Node::new();
    failing(&mut node);
    assert_eq!(node.collect(15.0, (0.0, 9.0), None), back);
    assert_eq!(node.collect(15.0, (0.0, 9.0), None), ANSWERED);
    // If one collection has both failures and answers, the later reading decides.
    let mut node = Node::new();
    failing(&mut node);
    assert_eq!(node.collect(15.0, (9.0, 9.0), Some((0.0, 1.0))), back);
    // Without answers in the later reading, the next collection decides.
    let mut node = Node::new();
    failing(&mut node);
    assert_eq!(node.collect(15.0, (1.0, 1.0), Some((0.0, 0.0))), NONE);
    assert_eq!(node.collect(15.0, (0.0, 1.0), None), back);
    // Few failures are enough if failures were not usual.
    let mut node = Node::new();
    node.collect(15.0, (0.0, 3.0), None);
    node.collect(15.0, (2.0, 0.0), None);
    assert_eq!(node.collect(15.0, (0.0, 1.0), None), back);
}

#[test]
fn a_malformed_key_between_other_answers_does_not_prove_a_return() {
    let mut node = Node::new();
    node.collect(15.0, (24.0, 15.0), Some((1.0, 1.0)));
    for _ in 0..3 {
        node.collect(15.0, (2.0, 0.0), Some((0.0, 0.0)));
        assert_eq!(node.collect(15.0, (0.0, 1.0), None), ANSWERED);
        assert_eq!(node.collect(15.0, (5.0, 5.0), Some((0.0, 1.0))), ANSWERED);
    }
}

/// With little traffic, a later reading contains no checks, or the malformed key alone.
#[test]
fn a_malformed_key_beside_little_traffic_is_usual() {
    let mixed = (24.0, 15.0, Some((1.0, 0.0)));
    let quiet = (2.0, 0.0, None);
    let seen = verdicts(&[(0.0, 15.0, None), mixed, mixed, quiet, mixed, quiet]);
    assert!(!seen.contains(&BROKEN), "{seen:?}");
}

#[test]
fn a_lost_redis_is_found_despite_a_malformed_key_once_the_run_is_long() {
    let mixed = (24.0, 15.0, Some((1.0, 0.0)));
    let broken = (39.0, 0.0, None);
    let seen = verdicts(&[(0.0, 15.0, None), mixed, mixed, broken, broken]);
    assert_eq!(seen[3..], [BROKEN, BROKEN]);
}

#[test]
fn a_lost_redis_stays_reported_after_the_collection_in_which_it_was_lost() {
    let breaking = (5.0, 5.0, Some((10.0, 0.0)));
    let broken = (10.0, 0.0, None);
    let seen = verdicts(&[(0.0, 50.0, None), breaking, broken, broken]);
    assert_eq!(seen[1..], [BROKEN, BROKEN, BROKEN]);
}

#[test]
fn a_proof_stays_valid_for_seconds_without_checks_and_until_contradicted() {
    let outage = Some(Outage::Away);
    for (millis, evidence, outage, errors, expected) in [
        (300, NONE, None, 3.0, BROKEN),
        (4_900, NONE, None, 3.0, BROKEN),
        (5_000, NONE, None, 3.0, NONE),
        (300, ANSWERED, None, 3.0, ANSWERED),
        (300, NONE, outage, 3.0, NONE),
        // Errors, too few for proof.
        (300, NONE, None, 4.0, NONE),
        // A new process.
        (300, NONE, None, 0.0, NONE),
    ] {
        let mut history = CheckHistory::default();
        let start = Timestamp::UNIX_EPOCH;
        history.add(start, counts(3.0, 10.0));
        assert_eq!(history.believe(start, BROKEN, None), BROKEN);
        let now = start + Duration::from_millis(millis);
        history.add(now, counts(errors, 10.0));
        assert_eq!(history.believe(now, evidence, outage), expected);
        // Using the proof does not prolong it.
        let later = start + PROOF_VALID_FOR;
        assert_eq!(history.believe(later, NONE, None), NONE);
    }
}

#[test]
fn a_counter_that_fell_counts_from_zero() {
    assert!((increase(5.0, 7.0) - 2.0).abs() < f64::EPSILON);
    assert!((increase(5.0, 3.0) - 3.0).abs() < f64::EPSILON);
}

#[test]
fn one_reading_or_a_few_seconds_of_them_do_not_prove_that_checks_stopped_failing() {
    let mut history = CheckHistory::default();
    let mut found = |seconds, errors, answers| {
        let (now, counts) = (at(seconds), counts(errors, answers));
        let checks = history.add(now, counts);
        history.conclude(now, checks, counts, None, None)
    };
    let first = RedisEvidence::Unread(FIRST_SAMPLE);
    assert_eq!(found(0.0, 70.0, 9.0), first);
    assert_eq!(found(2.0, 74.0, 9.0), first);
    assert_eq!(found(4.0, 74.0, 9.0), first);
    assert_eq!(found(19.0, 84.0, 9.0), BROKEN);
    assert_eq!(found(25.0, 84.0, 9.0), NONE);
    let mut history = CheckHistory::default();
    history.add(at(0.0), counts(70.0, 9.0));
    let (now, counts) = (at(2.0), counts(70.0, 10.0));
    let checks = history.add(now, counts);
    let found = history.conclude(now, checks, counts, None, None);
    assert!(matches!(found, ANSWERED | RedisEvidence::Returned(_)));
}

#[test]
fn an_outage_soon_after_the_start_is_over_with_the_first_reading_after_it() {
    for (errors, answers) in [(0.0, 0.0), (2.0, 5.0)] {
        let mut node = Node::default();
        node.collect(0.0, (0.0, 9.0), None);
        assert_eq!(node.collect(2.0, (20.0, 0.0), None), BROKEN);
        let after = match node.collect_after(Some(Outage::Away), 1.0, (errors, answers), None) {
            RedisEvidence::Inconclusive(_) => node.collect(1.0, (0.0, 0.0), None),
            after => after,
        };
        assert_eq!(after, NONE, "{errors} errors, {answers} answers");
    }
}

#[test]
fn errors_within_20_s_are_counted_alike_however_often_they_are_read() {
    for every in [1.0, 2.0, 13.0, 15.0, 60.0] {
        let mut node = Node::new();
        let mut proved = false;
        for _ in 0..20 {
            proved |= node.collect(every, (every * 0.45, 0.0), None) == BROKEN;
        }
        assert!(!proved, "every {every} s");
        for _ in 0..20 {
            proved |= node.collect(every, (every * 0.55, 0.0), None) == BROKEN;
        }
        assert!(proved, "every {every} s");
    }
}
