//! Decides by a node's count of failures of Redis whether the node reaches Redis. Pure: counts come in, a verdict
//! comes out.
//!
//! Each failure is a decision that Redis did not answer in time. If no decision was answered since the collection before,
//! one failure is enough. Otherwise more must have failed than were answered: a busy node has a timeout now and then. For the
//! same reason one is not enough where nothing counts what was answered. There, as many must fail as of checks, and a fault is
//! over once none has failed for that time, or once none failed since the collection before and the node's health covers Redis and
//! is good.

use jiff::Timestamp;

use crate::clock::elapsed;
use crate::observe::latency::histogram::increase;
use crate::observe::nodes::failing_checks::{ENOUGH, ErrorTimes, FIRST_SAMPLE, Outage, WITHIN};
use crate::observe::nodes::state::RedisEvidence;

/// Why a node that decides nothing after failures of Redis is unknown. Heartbeats outweigh it.
pub(in crate::observe) const NO_DECISIONS: &str = "no_decisions";

const BROKEN: RedisEvidence = RedisEvidence::Broken("decisions fail because Redis does not answer");

/// The counts of one node over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct RedisErrors {
    /// When the last reading was taken, and its failures and answers.
    last: Option<(Timestamp, f64, Option<f64>)>,
    /// The last failures, where nothing counts the answers.
    errors: ErrorTimes,
    /// Since when `errors` is complete.
    complete_since: Option<Timestamp>,
    /// Most of the last decisions failed.
    pub(in crate::observe) failing: bool,
    /// The node's health, read with the counts that are added next, covers Redis and is good.
    pub(in crate::observe) healthy: bool,
}

impl RedisErrors {
    /// Adds the counts of a reading. `answered` is `None` where nothing counts the answers. `outage` is an outage of Redis
    /// itself that just ended, and explains failures until now.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        failed: f64,
        answered: Option<f64>,
        outage: Option<Outage>,
    ) -> RedisEvidence {
        let last = self.last.replace((now, failed, answered));
        let Some((since, failed_before, answered_before)) = last else {
            self.complete_since = Some(now);
            return RedisEvidence::Unread(FIRST_SAMPLE);
        };
        let failed = increase(failed_before, failed);
        let found = if let Some((before, now)) = answered_before.zip(answered) {
            self.beside_answers(failed, increase(before, now))
        } else {
            self.errors.add(since, now, failed);
            self.alone(now)
        };
        if outage.is_none() && (!self.healthy || failed > 0.0 || !self.failing) {
            return found;
        }
        // What failed until now says nothing about what comes.
        (self.errors, self.failing) = (ErrorTimes::default(), false);
        match (found, outage) {
            (BROKEN | RedisEvidence::Inconclusive(_), Some(outage)) if failed > 0.0 => {
                RedisEvidence::Inconclusive(outage.reason())
            }
            (BROKEN | RedisEvidence::Inconclusive(_), _) => RedisEvidence::NoFailures,
            (found, _) => found,
        }
    }

    fn beside_answers(&mut self, failed: f64, answered: f64) -> RedisEvidence {
        if failed <= 0.0 && answered <= 0.0 {
            return if self.failing {
                // No decisions since then: Redis may be back, or not.
                RedisEvidence::Inconclusive(NO_DECISIONS)
            } else {
                RedisEvidence::NoFailures
            };
        }
        self.failing = failed > answered;
        if self.failing {
            BROKEN
        } else {
            RedisEvidence::Answered
        }
    }

    fn alone(&mut self, now: Timestamp) -> RedisEvidence {
        let recent = self.errors.recent(now);
        let complete = self
            .complete_since
            .is_some_and(|at| elapsed(at, now) >= WITHIN);
        self.failing = recent >= ENOUGH || self.failing && (recent > 0.0 || !complete);
        match self.failing {
            false => RedisEvidence::NoFailures,
            true if recent > 0.0 => BROKEN,
            true => RedisEvidence::Inconclusive(NO_DECISIONS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::UNIX_EPOCH + std::time::Duration::from_secs_f64(seconds)
    }

    /// The evidence after each pair of counts, read every 15 s.
    fn evidence(counts: &[(f64, f64)]) -> Vec<RedisEvidence> {
        let mut errors = RedisErrors::default();
        let mut second = 0.0;
        let counts = counts.iter();
        counts
            .map(|(failed, answered)| {
                second += 15.0;
                errors.add(at(second), *failed, Some(*answered), None)
            })
            .collect()
    }

    const FIRST: RedisEvidence = RedisEvidence::Unread(FIRST_SAMPLE);
    const QUIET: RedisEvidence = RedisEvidence::Inconclusive(NO_DECISIONS);

    #[test]
    fn failures_prove_a_lost_redis_if_hardly_any_decision_is_answered() {
        use RedisEvidence::{Answered, NoFailures};
        let first = evidence(&[(7.0, 0.0), (7.0, 0.0)]);
        assert_eq!(
            first,
            [FIRST, NoFailures],
            "counts from before the exporter started"
        );
        let lost = evidence(&[(0.0, 5.0), (1.0, 5.0), (1.0, 5.0), (1.0, 6.0), (1.0, 6.0)]);
        assert_eq!(lost, [FIRST, BROKEN, QUIET, Answered, NoFailures]);
        let some = evidence(&[(0.0, 0.0), (3.0, 900.0), (903.0, 1000.0)]);
        assert_eq!(some, [FIRST, Answered, BROKEN]);
    }

    #[test]
    fn a_restarted_node_counts_from_zero() {
        let counts = evidence(&[(900.0, 900.0), (0.0, 2.0)]);
        assert_eq!(counts[1], RedisEvidence::Answered);
    }

    /// The evidence where nothing counts the answers, by seconds since the reading before and failures in them.
    fn alone(errors: &mut RedisErrors, readings: &[(f64, f64)]) -> Vec<RedisEvidence> {
        let (mut second, mut failed) = (0.0, 0.0);
        let readings = readings.iter();
        readings
            .map(|(after, more)| {
                second += after;
                failed += more;
                errors.add(at(second), failed, None, None)
            })
            .collect()
    }

    #[test]
    fn single_failures_prove_nothing_where_answers_are_not_counted() {
        use RedisEvidence::NoFailures;
        let few = alone(
            &mut RedisErrors::default(),
            &[(0.0, 0.0), (15.0, 6.0), (15.0, 6.0), (60.0, 20.0)],
        );
        assert_eq!(few, [FIRST, NoFailures, NoFailures, NoFailures]);
    }

    #[test]
    fn failures_that_go_on_are_one_fault_however_scrapes_divide_them() {
        let mut readings = vec![(0.0, 0.0)];
        readings.extend([(13.0, 26.0), (2.0, 4.0)].repeat(5));
        let found = alone(&mut RedisErrors::default(), &readings);
        assert!(found[1..].iter().all(|it| *it == BROKEN), "{found:?}");
        let slow = [(13.0, 7.0), (2.0, 1.0)].repeat(5);
        let found = alone(
            &mut RedisErrors::default(),
            &[vec![(0.0, 0.0)], slow].concat(),
        );
        let proved = found.iter().position(|it| *it == BROKEN);
        assert_eq!(proved, Some(3), "{found:?}");
        assert!(found[3..].iter().all(|it| *it == BROKEN), "{found:?}");
    }

    #[test]
    fn a_fault_is_over_once_no_decision_failed_for_20_s() {
        let readings = [(0.0, 0.0), (15.0, 10.0), (15.0, 0.0), (2.0, 1.0)];
        let mut errors = RedisErrors::default();
        let found = alone(&mut errors, &[&readings[..], &[(19.0, 0.0)]].concat());
        assert_eq!(found, [FIRST, BROKEN, BROKEN, BROKEN, BROKEN]);
        assert_eq!(
            errors.add(at(52.0), 11.0, None, None),
            RedisEvidence::NoFailures
        );
    }

    #[test]
    fn a_fault_before_a_restart_is_not_over_before_20_s_were_read() {
        let resumed = || RedisErrors {
            failing: true,
            ..RedisErrors::default()
        };
        let readings = [(0.0, 5.0), (2.0, 0.0), (2.0, 4.0), (15.0, 0.0)];
        let found = alone(&mut resumed(), &readings);
        assert_eq!(found, [FIRST, QUIET, BROKEN, BROKEN]);
        let found = alone(&mut resumed(), &[(0.0, 5.0), (15.0, 0.0), (15.0, 0.0)]);
        assert_eq!(found, [FIRST, QUIET, RedisEvidence::NoFailures]);
    }

    #[test]
    fn a_health_that_covers_redis_ends_a_fault_once_no_decision_fails() {
        for answered in [Some(0.0), None] {
            let mut errors = RedisErrors::default();
            errors.add(at(0.0), 0.0, answered, None);
            errors.healthy = true;
            for (second, failed, expected) in [
                (2.0, 50.0, BROKEN),
                (4.0, 90.0, BROKEN),
                (6.0, 90.0, RedisEvidence::NoFailures),
                (8.0, 91.0, BROKEN),
            ] {
                // One failure beside no answer is enough only where answers are counted.
                let expected = match (second, answered) {
                    (8.0, None) => RedisEvidence::NoFailures,
                    _ => expected,
                };
                assert_eq!(errors.add(at(second), failed, answered, None), expected);
            }
        }
    }

    #[test]
    fn an_outage_of_redis_itself_explains_failures() {
        let away = RedisEvidence::Inconclusive("redis_just_returned");
        for answered in [Some(0.0), None] {
            for (more, explained) in [(1.0, away.clone()), (0.0, RedisEvidence::NoFailures)] {
                let mut errors = RedisErrors::default();
                errors.add(at(0.0), 0.0, answered, None);
                assert_eq!(errors.add(at(15.0), 90.0, answered, None), BROKEN);
                let returned = errors.add(at(17.0), 90.0 + more, answered, Some(Outage::Away));
                assert_eq!(returned, explained, "{answered:?}");
                // Without more failures, it is over.
                let after = errors.add(at(19.0), 90.0 + more, answered, None);
                assert_eq!(after, RedisEvidence::NoFailures, "{answered:?}");
            }
        }
    }
}
