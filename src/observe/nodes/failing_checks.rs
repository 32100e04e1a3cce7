//! Decides by a node's failing checks whether the node reaches Redis. Pure: readings come in, a verdict comes out.
//!
//! Some checks fail although the node reaches Redis: every check of a malformed key answers 500, for ever. So few errors
//! prove nothing, and the heartbeats and the canary decide. Many errors within a short time without any other answer are
//! proof, unless the node lately had such runs while it worked. Checks that succeed after a time in which all failed prove
//! that the node reaches Redis again. If all requests are for a malformed key, the node looks broken here. Only the canary
//! can distinguish these cases.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::elapsed;
use crate::observe::latency::histogram::increase;
use crate::observe::nodes::state::RedisEvidence;

/// So many errors without another answer within [`WITHIN`] are proof. With fewer errors the heartbeats decide, which prove
/// the same in that time.
pub(in crate::observe) const ENOUGH: f64 = 10.0;

/// The time after which overdue heartbeats are noticed. With fewer errors than [`ENOUGH`] in it, checks prove
/// nothing sooner than heartbeats.
pub(in crate::observe) const WITHIN: Duration = Duration::from_secs(20);

/// How long a mix of errors and answers counts as usual: several collections, even with little traffic.
const USUAL_FOR: Duration = Duration::from_secs(300);

/// How long a proof stays valid without new checks: between the scrapes of two Prometheus servers there may be none. Well
/// below the `for` of the alerts.
const PROOF_VALID_FOR: Duration = Duration::from_secs(5);

/// A run of errors is proof if its probability in the usual mix is below this. At four collections a minute, a false proof
/// comes once in hours, and does not last.
const UNLIKELY: f64 = 0.001;

/// A run of errors is proof only if it is so many times as long as the longest run that ended by itself.
const LONGER: f64 = 2.0;

/// Why a node whose counters were read for the first time is unknown: one reading shows no increase.
pub(in crate::observe) const FIRST_SAMPLE: &str = "first_sample";

/// Errors over time, by reading.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct ErrorTimes {
    /// The times of the reading before and of the reading itself, and the errors between them.
    readings: VecDeque<(Timestamp, Timestamp, f64)>,
    /// The errors of readings that are older than [`WITHIN`].
    older: f64,
}

impl ErrorTimes {
    /// Adds the errors that came after `since`.
    pub(in crate::observe) fn add(&mut self, since: Timestamp, now: Timestamp, errors: f64) {
        while let Some((_, at, errors)) = self.readings.front().copied() {
            if elapsed(at, now) < WITHIN {
                break;
            }
            self.readings.pop_front();
            self.older += errors;
        }
        if errors > 0.0 {
            self.readings.push_back((since, now, errors));
        }
    }

    fn is_empty(&self) -> bool {
        self.readings.is_empty() && self.older <= 0.0
    }

    fn total(&self) -> f64 {
        let recent: f64 = self.readings.iter().map(|(.., errors)| errors).sum();
        self.older + recent
    }

    /// The errors within [`WITHIN`] before `now`. Those of one reading count as if they had come evenly.
    pub(in crate::observe) fn recent(&self, now: Timestamp) -> f64 {
        let readings = self.readings.iter();
        let recent = readings.map(|(since, at, errors)| {
            let left = WITHIN.saturating_sub(elapsed(*at, now)).as_secs_f64();
            let took = elapsed(*since, *at).as_secs_f64();
            if took <= left {
                *errors
            } else {
                errors * left / took
            }
        });
        recent.sum()
    }
}

/// An outage of Redis itself that ended since the last collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) enum Outage {
    /// Redis did not answer, or was restarted. Meanwhile checks failed.
    Away,
    /// Redis refused writes that need memory. Meanwhile heartbeats failed, although checks were answered.
    OutOfMemory,
}

impl Outage {
    /// The reason why a node's connection to Redis is unknown just after the outage.
    pub(in crate::observe) fn reason(self) -> &'static str {
        match self {
            Self::Away => "redis_just_returned",
            Self::OutOfMemory => "redis_was_out_of_memory",
        }
    }
}

/// All answers of `/check` so far, by a node's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::observe) struct CheckCounts {
    /// 5xx answers.
    pub(in crate::observe) errors: f64,
    /// Other answers.
    pub(in crate::observe) answers: f64,
}

/// The answers of `/check` since the reading before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::observe) struct Checks {
    pub(in crate::observe) errors_rose: bool,
    pub(in crate::observe) answers_rose: bool,
    /// The errors since the last other answer. 0 if both rose, because then their order is unknown.
    run: f64,
    /// The errors of the run that are not older than [`WITHIN`].
    recent: f64,
    /// The share of errors in earlier collections that had both errors and answers.
    usual: f64,
    /// The longest recent run of errors that ended by itself: checks were answered again, and no heartbeat was overdue.
    longest: f64,
    /// When the reading before this one was taken.
    since: Option<Timestamp>,
}

impl Checks {
    /// Whether the run with `more` errors, and no other answer, is longer than the usual mix explains.
    fn prove_a_fault(&self, more: f64) -> bool {
        let run = self.run + more;
        self.recent + more >= ENOUGH && unusual(self.usual, run) && run > LONGER * self.longest
    }
}

/// Whether so long a run of errors is improbable if `share` of the answers are errors.
fn unusual(share: f64, run: f64) -> bool {
    run > 0.0 && share.powf(run) < UNLIKELY
}

/// A time in which all checks failed.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// When the last reading before it was taken. Other answers may have come until then.
    since: Timestamp,
    errors: f64,
    /// The usual share of errors before it.
    usual: f64,
}

/// A collection with other answers, and the errors beside them.
#[derive(Clone, Copy, Debug)]
struct Mix {
    at: Timestamp,
    errors: f64,
    answers: f64,
    /// The errors of the run that these answers ended.
    run: f64,
}

/// The checks of one node over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct CheckHistory {
    /// When the first reading was taken, until these readings prove a fault.
    began: Option<Timestamp>,
    last: Option<(Timestamp, CheckCounts)>,
    /// The errors since the last other answer.
    run: ErrorTimes,
    /// A heartbeat was overdue during the run, so the run is not part of the usual mix.
    without_heartbeat: bool,
    failing: Option<Failing>,
    mixes: VecDeque<Mix>,
    /// When a fault was last proved, and by what. `None` once checks contradict it.
    proof: Option<(Timestamp, &'static str)>,
    /// Whether the last reading contained new checks.
    any_checks: bool,
}

impl CheckHistory {
    /// Adds a reading.
    pub(in crate::observe) fn add(&mut self, now: Timestamp, counts: CheckCounts) -> Checks {
        let Some((since, before)) = self.last.replace((now, counts)) else {
            self.began = Some(now);
            return Checks::default();
        };
        self.mixes.retain(|mix| elapsed(mix.at, now) < USUAL_FOR);
        if counts.errors < before.errors || counts.answers < before.answers {
            // A new process: earlier checks say nothing about it.
            self.proof = None;
            self.failing = None;
            self.run = ErrorTimes::default();
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
            let run = std::mem::take(&mut self.run).total();
            let run = if self.without_heartbeat { 0.0 } else { run };
            self.without_heartbeat = false;
            self.mixes.push_back(Mix {
                at: now,
                errors: errors + run,
                answers,
                run,
            });
        } else if checks.errors_rose {
            self.run.add(since, now, errors);
            let failing = self.failing.get_or_insert(Failing {
                since,
                errors: 0.0,
                usual: checks.usual,
            });
            failing.errors += errors;
        }
        checks.run = self.run.total();
        checks.recent = self.run.recent(now);
        checks
    }

    /// Notes that the node's heartbeat is overdue or cannot be read. A run of errors in this time does not count as usual.
    pub(in crate::observe) fn heartbeat_overdue(&mut self) {
        self.without_heartbeat = !self.run.is_empty();
    }

    /// The verdict on the connection to Redis after the last reading, whose `checks` are given. `outage` just ended, and
    /// explains errors since the reading before. `later` is a reading shortly after `first`, and takes precedence.
    pub(in crate::observe) fn conclude(
        &mut self,
        now: Timestamp,
        checks: Checks,
        first: CheckCounts,
        outage: Option<Outage>,
        later: Option<CheckCounts>,
    ) -> RedisEvidence {
        let evidence = evidence_of(checks, first, outage, later);
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
        match self.believe(now, evidence, outage) {
            // So short a history does not prove that checks stopped failing that failed before it.
            RedisEvidence::None if self.began.is_some_and(|at| elapsed(at, now) < WITHIN) => {
                RedisEvidence::Unread(FIRST_SAMPLE)
            }
            evidence => evidence,
        }
    }

    /// Keeps a proof valid for [`PROOF_VALID_FOR`] without new checks. `evidence` is that of the last reading.
    fn believe(
        &mut self,
        now: Timestamp,
        evidence: RedisEvidence,
        outage: Option<Outage>,
    ) -> RedisEvidence {
        match (&evidence, self.proof) {
            (RedisEvidence::Broken(why), _) => (self.proof, self.began) = (Some((now, *why)), None),
            (RedisEvidence::None, Some((at, why)))
                if !self.any_checks && outage.is_none() && elapsed(at, now) < PROOF_VALID_FOR =>
            {
                return RedisEvidence::Broken(why);
            }
            (
                RedisEvidence::None
                | RedisEvidence::Unread(_)
                | RedisEvidence::NoFailures
                | RedisEvidence::Works
                | RedisEvidence::Healthy
                | RedisEvidence::Answered
                | RedisEvidence::Returned(_)
                | RedisEvidence::Inconclusive(_),
                _,
            ) => self.proof = None,
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
}

/// The increases of errors and answers from `first` to `later`, if there is one.
fn since(first: CheckCounts, later: Option<CheckCounts>) -> (f64, f64) {
    later.map_or((0.0, 0.0), |later| {
        (
            increase(first.errors, later.errors),
            increase(first.answers, later.answers),
        )
    })
}

/// The verdict of checks on the node's connection to Redis, including `later`.
fn evidence_of(
    checks: Checks,
    first: CheckCounts,
    outage: Option<Outage>,
    later: Option<CheckCounts>,
) -> RedisEvidence {
    let (errors, answers) = since(first, later);
    // If both rose, or an outage is just over, the later reading decides.
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
        RedisEvidence::Broken("its checks fail")
    } else {
        RedisEvidence::None
    }
}

/// Whether the readings so far, up to `later`, leave a doubt that one more reading may resolve.
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
        // If the first later reading has no new errors, the next ones will hardly have enough.
        None => {
            checks.errors_rose && !checks.prove_a_fault(errors) && (later.is_none() || errors > 0.0)
        }
    }
}

#[cfg(test)]
mod tests;
