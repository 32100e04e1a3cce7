//! Converts findings to views of counters for the checker, or returns why a name cannot be judged. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{earlier, later};
use crate::limiters::{Called, CounterReading, Finding, Limits, Matched, Outcome, Unknown};
use crate::observation::{Condition, CounterView, FallenLimit, Lacks, Reason};
use crate::observe::counters::sink::CounterValues;

/// A counter that was read, with its label.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) label: Vec<u8>,
    /// The rest of its name, which distinguishes it from other counters with this label.
    pub(super) rest: Vec<u8>,
    pub(super) name: Vec<u8>,
    values: CounterValues,
    /// The limits that are stored in Redis for this counter.
    pub(super) own: Option<Limits>,
    /// How long anything of it may matter: its window, or what is left over from limits that fell. 0 if it is unknown.
    pub(super) longest_ms: u64,
}

/// The judgement of a name.
#[derive(Debug)]
pub(super) enum Judged {
    Counter(Seen),
    /// The counter with this label could not be judged, and why.
    Unjudged(Vec<u8>, Reason),
    /// A counter that is gone, or whose window is over, and whose next window has another name.
    Passed,
    /// The name counts nothing.
    Nothing,
}

/// Judges a finding made at `now`, on the steady timeline. `called` returns the label of a counter.
pub(super) fn judge(
    finding: &Finding,
    now: Timestamp,
    called: impl FnOnce(&Matched) -> Called,
) -> Judged {
    let Some(matched) = &finding.matched else {
        return Judged::Nothing;
    };
    let seen = |called: Called, values| Seen {
        label: called.label,
        rest: called.rest,
        name: matched.name.clone(),
        values,
        own: None,
        longest_ms: 0,
    };
    match &finding.outcome {
        Outcome::Counted(reading) => {
            let limit = reading.limits.capacity().unwrap_or_default();
            let mut values = CounterValues::new(reading.count, limit, condition(reading));
            values.window_ms = reading.limits.window_ms;
            values.fell_from = fell_from(reading, now);
            Judged::Counter(Seen {
                own: reading.own.then_some(reading.limits),
                longest_ms: reading.outlasts_ms.max(values.window_ms.unwrap_or(0)),
                ..seen(called(matched), values)
            })
        }
        Outcome::Invalid(state) => {
            let condition = Condition {
                lacks: Lacks::Count,
                invalid: Some(*state),
                ..Condition::default()
            };
            Judged::Counter(seen(called(matched), CounterValues::new(0, 0, condition)))
        }
        Outcome::Unknown(why) => Judged::Unjudged(called(matched).label, reason_of(*why)),
        Outcome::Over(_) | Outcome::Gone if matched.has_span() => Judged::Passed,
        Outcome::Over(_) | Outcome::Gone | Outcome::Part | Outcome::Ignored | Outcome::Foreign => {
            Judged::Nothing
        }
    }
}

/// The previous limit, if it was higher, when it fell, and until when that matters.
fn fell_from(reading: &CounterReading, now: Timestamp) -> Option<FallenLimit> {
    let draining = reading.draining?;
    let at = earlier(now, Duration::from_millis(draining.ago_ms));
    let until = Some(later(at, Duration::from_millis(draining.lasts_ms)));
    let limit = draining.limit;
    Some(FallenLimit { limit, at, until })
}

fn condition(reading: &CounterReading) -> Condition {
    Condition {
        refused: reading.refused,
        stuck: reading.is_stuck(),
        invalid: reading.invalid,
        lacks: match reading.limits.capacity() {
            Some(_) => Lacks::Nothing,
            None => Lacks::Limit,
        },
        unconfirmed: false,
    }
}

fn reason_of(why: Unknown) -> Reason {
    match why {
        Unknown::NoLimit => Reason::NoLimit,
        Unknown::NoWindow => Reason::NoWindow,
        Unknown::TooLarge => Reason::TooLarge,
        Unknown::Unreadable => Reason::Unreadable,
    }
}

impl Seen {
    pub(super) fn view(&self) -> CounterView<'_> {
        self.values.view(&self.label)
    }

    /// Notes it as unconfirmed if it would be reported by limits that `doubts` says may have been raised since they were read.
    pub(super) fn confirm(
        &mut self,
        finding: &Finding,
        doubts: impl FnOnce(&Matched, &Limits) -> bool,
    ) {
        let (Outcome::Counted(reading), Some(matched)) = (&finding.outcome, &finding.matched)
        else {
            return;
        };
        let condition = &mut self.values.condition;
        let is_reported =
            reading.is_over_limit() == Some(true) || condition.stuck || condition.invalid.is_some();
        condition.unconfirmed = is_reported && doubts(matched, &reading.limits);
    }

    /// Whether it is empty and in a valid state.
    pub(super) fn is_empty(&self) -> bool {
        self.values.count == 0
            && !self.values.condition.stuck
            && self.values.condition.invalid.is_none()
    }

    /// Whether its limit is unknown.
    pub(super) fn lacks_limit(&self) -> bool {
        self.values.condition.lacks == Lacks::Limit
    }

    /// Whether every collection reads it: it is at or above its limit, or in a state that is reported.
    pub(super) fn is_remarkable(&self) -> bool {
        let full =
            self.values.condition.lacks == Lacks::Nothing && self.values.count >= self.values.limit;
        full || self.values.condition.stuck || self.values.condition.invalid.is_some()
    }
}
