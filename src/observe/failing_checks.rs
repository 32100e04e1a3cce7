//! What a node's failing checks say of its way to Redis. Pure: readings come in, a verdict comes out.
//!
//! Some checks fail by themselves: one malformed key makes its own checks answer 500 for ever, on a node that reaches
//! Redis very well. So errors are proof where no other answers are, and where both are to be expected, only a run of
//! errors too long for the usual mix is. Without any other traffic the two cannot be told apart; the canary can.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use super::node_metrics::Reading;
use super::nodes::RedisEvidence;
use crate::clock::elapsed;

/// How long a mix of errors and answers is remembered as usual: some collections, also with little traffic.
const USUAL_FOR: Duration = Duration::from_secs(300);

/// How long a proof stands while nothing is heard of checks: between the scrapes of two Prometheus servers there may be
/// none. Well below the time that an alert waits for, so that one failed check on a quiet node is no page.
const PROOF_STANDS: Duration = Duration::from_secs(5);

/// A run of errors is proof if the usual mix would bring it less often than this. At four looks a minute it happens
/// once in hours, and it does not last.
const UNLIKELY: f64 = 0.001;

/// How `/check` answered since the reading before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Checks {
    pub(super) errors_rose: bool,
    pub(super) answers_rose: bool,
    /// Errors since there were other answers; 0 where both rose, for then the order is not known.
    run: f64,
    /// The share of errors among the answers of collections before in which there were both.
    usual: f64,
}

impl Checks {
    /// Whether `more` errors on top of the run, and no other answer, are more than the usual mix explains.
    fn prove_a_fault(&self, more: f64) -> bool {
        self.usual <= 0.0 || self.usual.powf(self.run + more) < UNLIKELY
    }
}

/// The checks of one node over time.
#[derive(Clone, Debug, Default)]
pub(super) struct CheckHistory {
    last: Option<(f64, f64)>,
    run: f64,
    /// When there were answers other than errors, the errors beside them, and these answers.
    mixes: VecDeque<(Timestamp, f64, f64)>,
    /// When a fault was proved last, and by what; `None` once checks said something else.
    proof: Option<(Timestamp, &'static str)>,
    /// Whether the last reading told of any checks.
    heard: bool,
}

impl CheckHistory {
    /// Takes a reading in.
    pub(super) fn add(&mut self, now: Timestamp, reading: &Reading) -> Checks {
        let errors = reading.check_errors.unwrap_or(0.0);
        let before = self.last.replace((errors, reading.check_answers));
        let Some((errors_before, answers_before)) = before else {
            return Checks::default();
        };
        self.mixes.retain(|(at, ..)| elapsed(*at, now) < USUAL_FOR);
        if errors < errors_before || reading.check_answers < answers_before {
            // Another process, which has done nothing yet.
            self.proof = None;
        }
        let errors = increase(errors_before, errors);
        let answers = increase(answers_before, reading.check_answers);
        let mut checks = Checks {
            errors_rose: errors > 0.0,
            answers_rose: answers > 0.0,
            run: 0.0,
            usual: self.usual(),
        };
        self.heard = checks.errors_rose || checks.answers_rose;
        if checks.answers_rose {
            // A run that was proof of a fault was no part of a mix.
            let earlier = Checks {
                run: self.run,
                ..checks
            };
            let of_the_mix = !earlier.prove_a_fault(0.0);
            let run = if of_the_mix { self.run } else { 0.0 };
            self.mixes.push_back((now, errors + run, answers));
            self.run = 0.0;
        } else {
            self.run += errors;
            checks.run = self.run;
        }
        checks
    }

    /// What is to be believed at `now`, when the last reading brought `evidence`. `outage` names one that just ended.
    pub(super) fn believe(
        &mut self,
        now: Timestamp,
        evidence: RedisEvidence,
        outage: Option<&'static str>,
    ) -> RedisEvidence {
        match (&evidence, self.proof) {
            (RedisEvidence::Broken(why), _) => self.proof = Some((now, why)),
            (RedisEvidence::None, Some((at, why)))
                if !self.heard && outage.is_none() && elapsed(at, now) < PROOF_STANDS =>
            {
                return RedisEvidence::Broken(why);
            }
            _ => self.proof = None,
        }
        evidence
    }

    fn usual(&self) -> f64 {
        let errors: f64 = self.mixes.iter().map(|(_, errors, _)| errors).sum();
        let answers: f64 = self.mixes.iter().map(|(.., answers)| answers).sum();
        if errors > 0.0 {
            errors / (errors + answers)
        } else {
            0.0
        }
    }
}

/// By how much a counter rose, a restart included: a counter that fell counts from zero.
fn increase(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

/// What failing checks say of the node's way to Redis. `outage` names an outage that explains errors since the last
/// reading; `later` is a second reading shortly after, taken where errors are no proof by themselves.
pub(super) fn way_to_redis(
    checks: Checks,
    first: &Reading,
    outage: Option<&'static str>,
    later: Option<&Reading>,
) -> RedisEvidence {
    if !checks.errors_rose {
        return if checks.answers_rose {
            RedisEvidence::Answered
        } else {
            RedisEvidence::None
        };
    }
    // Where both rose, or an outage is just over, what happened last decides.
    let (errors, answers) = later.map_or((0.0, 0.0), |later| {
        let errors = |reading: &Reading| reading.check_errors.unwrap_or(0.0);
        (
            increase(errors(first), errors(later)),
            increase(first.check_answers, later.check_answers),
        )
    });
    if answers > 0.0 {
        RedisEvidence::Answered
    } else if let Some(outage) = outage {
        RedisEvidence::Inconclusive(outage)
    } else if checks.prove_a_fault(errors) {
        RedisEvidence::Broken("/check answers 5xx")
    } else {
        RedisEvidence::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: RedisEvidence = RedisEvidence::Broken("/check answers 5xx");

    fn reading(check_errors: f64, check_answers: f64) -> Reading {
        let counted = |status, n| {
            format!("http_requests_total{{handler=\"/check\",status=\"{status}\"}} {n}\n")
        };
        let text = counted("5xx", check_errors) + &counted("2xx", check_answers);
        Reading::parse(&text, &[]).unwrap()
    }

    type Rise = (f64, f64);

    /// The verdicts over readings 15 s apart: errors and answers in each, and in a second look where there was one.
    fn verdicts(looks: &[(f64, f64, Option<Rise>)]) -> Vec<RedisEvidence> {
        let mut history = CheckHistory::default();
        let mut now = Timestamp::UNIX_EPOCH;
        history.add(now, &reading(0.0, 0.0));
        let (mut errors, mut answers) = (0.0, 0.0);
        looks
            .iter()
            .map(|(more_errors, more_answers, second)| {
                now += Duration::from_secs(15);
                errors += more_errors;
                answers += more_answers;
                let first = reading(errors, answers);
                let second = second.map(|(e, a)| reading(errors + e, answers + a));
                way_to_redis(history.add(now, &first), &first, None, second.as_ref())
            })
            .collect()
    }

    #[test]
    fn errors_alone_are_a_broken_way_and_errors_beside_answers_depend_on_what_is_next() {
        assert_eq!(verdicts(&[(1.0, 0.0, None)]), [BROKEN]);
        assert_eq!(verdicts(&[(1.0, 1.0, Some((0.0, 0.0)))]), [BROKEN]);
        let answered = [RedisEvidence::Answered];
        assert_eq!(verdicts(&[(1.0, 1.0, Some((0.0, 1.0)))]), answered);
        assert_eq!(verdicts(&[(0.0, 1.0, None)]), answered);
        assert_eq!(verdicts(&[(0.0, 0.0, None)]), [RedisEvidence::None]);
    }

    #[test]
    fn a_node_that_answers_again_after_an_outage_is_cleared_at_once() {
        let outage = Some("redis_just_returned");
        let checks = Checks {
            errors_rose: true,
            ..Checks::default()
        };
        let first = reading(5.0, 10.0);
        let after = |later: Option<Reading>| way_to_redis(checks, &first, outage, later.as_ref());
        assert_eq!(after(Some(reading(5.0, 11.0))), RedisEvidence::Answered);
        let open = RedisEvidence::Inconclusive("redis_just_returned");
        assert_eq!(after(Some(reading(5.0, 10.0))), open);
        assert_eq!(after(None), open);
    }

    /// Second looks into little traffic see nothing, or the malformed key alone.
    #[test]
    fn a_malformed_key_beside_little_traffic_is_usual_from_the_second_collection_on() {
        let mixed = (24.0, 15.0, Some((1.0, 0.0)));
        let quiet = (2.0, 0.0, None);
        let seen = verdicts(&[(0.0, 15.0, None), mixed, mixed, quiet, mixed, quiet]);
        assert!(!seen[2..].contains(&BROKEN), "{seen:?}");
    }

    #[test]
    fn a_broken_way_shows_behind_a_malformed_key_once_the_run_is_long() {
        let mixed = (24.0, 15.0, Some((1.0, 0.0)));
        let broken = (39.0, 0.0, None);
        let seen = verdicts(&[(0.0, 15.0, None), mixed, mixed, broken, broken]);
        assert_eq!(seen[3..], [BROKEN, BROKEN]);
    }

    #[test]
    fn a_broken_way_stays_broken_after_the_collection_in_which_it_broke() {
        let breaking = (5.0, 5.0, Some((2.0, 0.0)));
        let broken = (10.0, 0.0, None);
        let seen = verdicts(&[(0.0, 50.0, None), breaking, broken, broken]);
        assert_eq!(seen[1..], [BROKEN, BROKEN, BROKEN]);
    }

    #[test]
    fn a_proof_stands_for_seconds_in_which_nothing_is_heard_and_until_something_speaks_against_it()
    {
        let none = RedisEvidence::None;
        let answered = RedisEvidence::Answered;
        let outage = Some("redis_just_returned");
        for (millis, evidence, outage, errors, expected) in [
            (300, none.clone(), None, 3.0, BROKEN),
            (4_900, none.clone(), None, 3.0, BROKEN),
            (5_000, none.clone(), None, 3.0, none.clone()),
            (300, answered.clone(), None, 3.0, answered),
            (300, none.clone(), outage, 3.0, none.clone()),
            // Errors that are no proof.
            (300, none.clone(), None, 4.0, none.clone()),
            // Another process.
            (300, none.clone(), None, 0.0, none.clone()),
        ] {
            let mut history = CheckHistory::default();
            let start = Timestamp::UNIX_EPOCH;
            history.add(start, &reading(3.0, 10.0));
            assert_eq!(history.believe(start, BROKEN, None), BROKEN);
            let now = start + Duration::from_millis(millis);
            history.add(now, &reading(errors, 10.0));
            assert_eq!(history.believe(now, evidence, outage), expected);
            // It is not made longer by being believed.
            let later = start + PROOF_STANDS;
            assert_eq!(history.believe(later, none.clone(), None), none);
        }
    }

    #[test]
    fn a_counter_that_fell_counts_from_zero() {
        assert!((increase(5.0, 7.0) - 2.0).abs() < f64::EPSILON);
        assert!((increase(5.0, 3.0) - 3.0).abs() < f64::EPSILON);
    }
}
