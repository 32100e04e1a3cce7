//! Decides by the failures of Redis that a node counts whether the node reaches Redis. Pure: counts come in, a verdict
//! comes out.
//!
//! Each failure is a decision that Redis did not answer in time. If no decision was answered since the collection before,
//! one failure is enough. Otherwise more must have failed than were answered: a busy node has a timeout now and then. For the
//! same reason one is not enough where nothing counts what was answered.

use crate::observe::latency::histogram::increase;
use crate::observe::nodes::failing_checks::Outage;
use crate::observe::nodes::state::RedisEvidence;

/// Why a node that decides nothing after failures of Redis is unknown. Heartbeats outweigh it.
pub(in crate::observe) const NO_DECISIONS: &str = "no_decisions";

/// So many failures since the collection before are proof where nothing counts the answers.
const ENOUGH: f64 = 10.0;

/// The counts of one node over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct RedisErrors {
    /// Failures and answers in the last reading.
    last: Option<(f64, Option<f64>)>,
    /// Most of the last decisions failed.
    failing: bool,
}

impl RedisErrors {
    /// Adds the counts of a reading. `answered` is `None` where nothing counts the answers. `outage` is an outage of Redis itself that just ended, and explains failures.
    pub(in crate::observe) fn add(
        &mut self,
        failed: f64,
        answered: Option<f64>,
        outage: Option<Outage>,
    ) -> RedisEvidence {
        let Some((failed_before, answered_before)) = self.last.replace((failed, answered)) else {
            return RedisEvidence::None;
        };
        let failed = increase(failed_before, failed);
        let answers = answered_before.zip(answered);
        let answered = answers.map(|(before, now)| increase(before, now));
        if failed <= 0.0 && answered.unwrap_or_default() <= 0.0 {
            return if self.failing {
                // No decisions since then: Redis may be back, or not.
                RedisEvidence::Inconclusive(NO_DECISIONS)
            } else {
                RedisEvidence::None
            };
        }
        self.failing = match answered {
            Some(answered) => failed > answered,
            None => failed >= ENOUGH,
        };
        match (self.failing, outage) {
            (true, Some(outage)) => RedisEvidence::Inconclusive(outage.reason()),
            (true, None) => RedisEvidence::Broken("decisions fail because Redis does not answer"),
            (false, _) if answered.is_none() => RedisEvidence::None,
            (false, _) => RedisEvidence::Answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The evidence after each pair of counts.
    fn evidence(counts: &[(f64, f64)]) -> Vec<RedisEvidence> {
        let mut errors = RedisErrors::default();
        let counts = counts.iter();
        counts
            .map(|(failed, answered)| errors.add(*failed, Some(*answered), None))
            .collect()
    }

    const BROKEN: RedisEvidence =
        RedisEvidence::Broken("decisions fail because Redis does not answer");

    #[test]
    fn failures_prove_a_lost_redis_if_hardly_any_decision_is_answered() {
        use RedisEvidence::{Answered, Inconclusive, None};
        let first = evidence(&[(7.0, 0.0), (7.0, 0.0)]);
        assert_eq!(
            first,
            [None, None],
            "counts from before the exporter started"
        );
        let lost = evidence(&[(0.0, 5.0), (1.0, 5.0), (1.0, 5.0), (1.0, 6.0), (1.0, 6.0)]);
        let quiet = Inconclusive("no_decisions");
        assert_eq!(lost, [None, BROKEN, quiet, Answered, None]);
        let some = evidence(&[(0.0, 0.0), (3.0, 900.0), (903.0, 1000.0)]);
        assert_eq!(some, [None, Answered, BROKEN]);
    }

    #[test]
    fn a_restarted_node_counts_from_zero() {
        let counts = evidence(&[(900.0, 900.0), (0.0, 2.0)]);
        assert_eq!(counts[1], RedisEvidence::Answered);
    }

    #[test]
    fn single_failures_prove_nothing_where_answers_are_not_counted() {
        use RedisEvidence::{Inconclusive, None};
        let mut errors = RedisErrors::default();
        let counts = [0.0, 1.0, 10.0, 20.0, 20.0, 21.0, 21.0];
        let evidence = counts.map(|failed| errors.add(failed, Option::None, Option::None));
        let quiet = Inconclusive(NO_DECISIONS);
        assert_eq!(evidence, [None, None, None, BROKEN, quiet, None, None]);
    }

    #[test]
    fn an_outage_of_redis_itself_explains_failures() {
        let mut errors = RedisErrors::default();
        errors.add(0.0, Some(0.0), None);
        let evidence = errors.add(9.0, Some(0.0), Some(Outage::Away));
        assert_eq!(evidence, RedisEvidence::Inconclusive("redis_just_returned"));
    }
}
