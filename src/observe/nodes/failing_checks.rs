//! What a node's failing checks say of its way to Redis. Pure: readings come in, a verdict comes out.
//!
//! Some checks fail by themselves: one malformed key makes its own checks answer 500 for ever, on a node that reaches
//! Redis very well. So few errors prove nothing: they leave the verdict to the heartbeats and the canary. Many errors
//! within a short time and no other answer are proof, unless the node was lately seen to have such runs and to work.
//! Checks that succeed after a time in which all failed prove that the way is back. A node that is asked for nothing
//! but a malformed key cannot be distinguished from a broken one here; the canary can.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::elapsed;
use crate::observe::nodes::state::RedisEvidence;

/// So many errors, and no other answer, within [`WITHIN`] are proof. Fewer are left to the heartbeats, which need no
/// longer than that to prove the same.
const ENOUGH: f64 = 10.0;

/// The time that overdue heartbeats take to show: at fewer errors than [`ENOUGH`] in it, failing checks are no quicker.
const WITHIN: Duration = Duration::from_secs(20);

/// How long a mix of errors and answers is remembered as usual: some collections, also with little traffic.
const USUAL_FOR: Duration = Duration::from_secs(300);

/// How long a proof stands while no checks are reported: between the scrapes of two Prometheus servers there may be
/// none. Well below the time that an alert waits for.
const PROOF_STANDS: Duration = Duration::from_secs(5);

/// A run of errors is proof if the usual mix would bring it less often than this. At four collections a minute it
/// happens once in hours, and it does not last.
const UNLIKELY: f64 = 0.001;

/// A run of errors is proof only if it is so many times as long as the longest that ended by itself.
const LONGER: f64 = 2.0;

/// What kept the nodes from Redis, or from writing to it, and is over since the last collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) enum Outage {
    /// Redis did not answer, or was restarted: checks failed meanwhile.
    Away,
    /// Redis took no writes that need memory: heartbeats failed meanwhile, and checks were answered all the same.
    OutOfMemory,
}

impl Outage {
    /// Why a node's way to Redis is unknown just after it.
    pub(in crate::observe) fn reason(self) -> &'static str {
        match self {
            Self::Away => "redis_just_returned",
            Self::OutOfMemory => "redis_was_out_of_memory",
        }
    }
}

/// How `/check` has answered so far, by a node's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::observe) struct CheckCounts {
    /// 5xx answers.
    pub(in crate::observe) errors: f64,
    /// Other answers.
    pub(in crate::observe) answers: f64,
}

/// How `/check` answered since the reading before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::observe) struct Checks {
    pub(in crate::observe) errors_rose: bool,
    pub(in crate::observe) answers_rose: bool,
    /// Errors since there were other answers; 0 where both rose, for then the order is not known.
    run: f64,
    /// Those of the run that are not older than [`WITHIN`].
    recent: f64,
    /// The share of errors among the answers of collections before in which there were both.
    usual: f64,
    /// The longest run of errors that ended by itself lately.
    longest: f64,
    /// When the reading before was taken.
    since: Option<Timestamp>,
}

impl Checks {
    /// Whether `more` errors on top of the run, and no other answer, are more than the usual mix explains.
    fn prove_a_fault(&self, more: f64) -> bool {
        let run = self.run + more;
        self.recent + more >= ENOUGH && unusual(self.usual, run) && run > LONGER * self.longest
    }
}

/// Whether a run of so many errors is not to be expected where this share of the answers is errors.
fn unusual(share: f64, run: f64) -> bool {
    run > 0.0 && share.powf(run) < UNLIKELY
}

/// A time in which checks failed and none was answered otherwise.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// The last reading before it: other answers may have come until then.
    since: Timestamp,
    errors: f64,
    /// The share of errors that was usual before it.
    usual: f64,
}

/// Errors beside other answers.
#[derive(Clone, Copy, Debug)]
struct Mix {
    at: Timestamp,
    errors: f64,
    answers: f64,
    /// The errors that came in a run before the answers.
    run: f64,
}

/// The checks of one node over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct CheckHistory {
    last: Option<(Timestamp, CheckCounts)>,
    /// The errors since there were other answers, by reading.
    run: VecDeque<(Timestamp, f64)>,
    /// A heartbeat was overdue during the run, so it is no part of any mix.
    without_heartbeat: bool,
    failing: Option<Failing>,
    mixes: VecDeque<Mix>,
    /// When a fault was proved last, and by what; `None` once checks said something else.
    proof: Option<(Timestamp, &'static str)>,
    /// Whether the last reading told of any checks.
    any_checks: bool,
}

impl CheckHistory {
    /// Takes a reading in.
    pub(in crate::observe) fn add(&mut self, now: Timestamp, counts: CheckCounts) -> Checks {
        let Some((since, before)) = self.last.replace((now, counts)) else {
            return Checks::default();
        };
        self.mixes.retain(|mix| elapsed(mix.at, now) < USUAL_FOR);
        if counts.errors < before.errors || counts.answers < before.answers {
            // Another process, which has done nothing yet.
            self.proof = None;
            self.failing = None;
            self.run.clear();
        }
        let errors = increase(before.errors, counts.errors);
        let answers = increase(before.answers, counts.answers);
        let mut checks = Checks {
            errors_rose: errors > 0.0,
            answers_rose: answers > 0.0,
            usual: self.usual(),
            longest: self.mixes.iter().map(|mix| mix.run).fold(0.0, f64::max),
            since: Some(since),
            ..Checks::default()
        };
        self.any_checks = checks.errors_rose || checks.answers_rose;
        if checks.answers_rose {
            let run: f64 = self.run.drain(..).map(|(_, errors)| errors).sum();
            let run = if self.without_heartbeat { 0.0 } else { run };
            self.without_heartbeat = false;
            self.mixes.push_back(Mix {
                at: now,
                errors: errors + run,
                answers,
                run,
            });
        } else if checks.errors_rose {
            self.run.push_back((now, errors));
            let failing = self.failing.get_or_insert(Failing {
                since,
                errors: 0.0,
                usual: checks.usual,
            });
            failing.errors += errors;
        }
        checks.run = self.run.iter().map(|(_, errors)| errors).sum();
        checks.recent = self.recent(since, now);
        checks
    }

    /// A heartbeat of the node is overdue, or cannot be read: a run of errors at this time is not how it usually works.
    pub(in crate::observe) fn heartbeat_overdue(&mut self) {
        self.without_heartbeat = !self.run.is_empty();
    }

    /// What the last reading, which brought `checks`, says of the way to Redis. `outage` just ended and explains errors
    /// since the reading before; `later` is a reading shortly after `first`, where what happened last decides.
    pub(in crate::observe) fn conclude(
        &mut self,
        now: Timestamp,
        checks: Checks,
        first: CheckCounts,
        outage: Option<Outage>,
        later: Option<CheckCounts>,
    ) -> RedisEvidence {
        let evidence = way_to_redis(checks, first, outage, later);
        let (errors, answers) = since(first, later);
        let evidence = match (evidence, checks.since) {
            (RedisEvidence::Answered, _) => match self.failing.take() {
                Some(failing) if unusual(failing.usual, failing.errors) => {
                    RedisEvidence::Returned(failing.since)
                }
                _ => RedisEvidence::Answered,
            },
            (evidence, Some(before)) if checks.errors_rose && errors > 0.0 && answers <= 0.0 => {
                self.failing.get_or_insert(Failing {
                    since: before,
                    errors,
                    usual: checks.usual,
                });
                evidence
            }
            (evidence, _) => evidence,
        };
        self.believe(now, evidence, outage)
    }

    /// What is to be believed at `now`, when the last reading brought `evidence`, and `outage` just ended.
    fn believe(
        &mut self,
        now: Timestamp,
        evidence: RedisEvidence,
        outage: Option<Outage>,
    ) -> RedisEvidence {
        match (&evidence, self.proof) {
            (RedisEvidence::Broken(why), _) => self.proof = Some((now, why)),
            (RedisEvidence::None, Some((at, why)))
                if !self.any_checks && outage.is_none() && elapsed(at, now) < PROOF_STANDS =>
            {
                return RedisEvidence::Broken(why);
            }
            _ => self.proof = None,
        }
        evidence
    }

    fn usual(&self) -> f64 {
        let errors: f64 = self.mixes.iter().map(|mix| mix.errors).sum();
        let answers: f64 = self.mixes.iter().map(|mix| mix.answers).sum();
        if errors > 0.0 {
            errors / (errors + answers)
        } else {
            0.0
        }
    }

    /// The errors of the run within [`WITHIN`] before `now`. Those of a longer stretch, which began at `since`, count as
    /// if they had come evenly.
    fn recent(&self, since: Timestamp, now: Timestamp) -> f64 {
        let recent = self
            .run
            .iter()
            .filter(|(at, _)| elapsed(*at, now) < WITHIN)
            .map(|(_, errors)| errors)
            .sum::<f64>();
        let stretch = elapsed(since, now).max(WITHIN);
        recent * (WITHIN.as_secs_f64() / stretch.as_secs_f64())
    }
}

/// By how much a counter rose, a restart included: a counter that fell counts from zero.
pub(in crate::observe) fn increase(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

/// By how much errors and answers rose from `first` to `later`, if there is one.
fn since(first: CheckCounts, later: Option<CheckCounts>) -> (f64, f64) {
    later.map_or((0.0, 0.0), |later| {
        (
            increase(first.errors, later.errors),
            increase(first.answers, later.answers),
        )
    })
}

/// What failing checks say of the node's way to Redis, `later` included.
fn way_to_redis(
    checks: Checks,
    first: CheckCounts,
    outage: Option<Outage>,
    later: Option<CheckCounts>,
) -> RedisEvidence {
    let (errors, answers) = since(first, later);
    // Where both rose, or an outage is just over, what happened last decides.
    if answers > 0.0 {
        return RedisEvidence::Answered;
    }
    if !checks.errors_rose {
        return if checks.answers_rose && outage != Some(Outage::OutOfMemory) {
            RedisEvidence::Answered
        } else {
            RedisEvidence::None
        };
    }
    if let Some(outage) = outage {
        RedisEvidence::Inconclusive(outage.reason())
    } else if checks.prove_a_fault(errors) {
        RedisEvidence::Broken("/check answers 5xx")
    } else {
        RedisEvidence::None
    }
}

/// Whether one more reading of the node's counters may decide what those so far, up to `later`, do not.
pub(in crate::observe) fn is_doubtful(
    checks: Checks,
    first: CheckCounts,
    outage: Option<Outage>,
    later: Option<CheckCounts>,
) -> bool {
    let (errors, answers) = since(first, later);
    if answers > 0.0 {
        return false;
    }
    match outage {
        Some(Outage::OutOfMemory) => true,
        Some(Outage::Away) => checks.errors_rose,
        // Where nothing came in the first reading after, hardly enough will in the next ones.
        None => {
            checks.errors_rose && !checks.prove_a_fault(errors) && (later.is_none() || errors > 0.0)
        }
    }
}

#[cfg(test)]
mod tests;
