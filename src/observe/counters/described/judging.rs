//! Converts findings to views of counters for the checker, or returns why a name cannot be judged. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::earlier;
use crate::limiters::{Called, CounterReading, Finding, Limits, Matched, Outcome, Unknown};
use crate::observation::{Condition, CounterView, FallenLimit, Lacks, Reason};

/// A counter that was read, with its label.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) label: Vec<u8>,
    /// The rest of its name, which distinguishes it from other counters with this label.
    pub(super) rest: Vec<u8>,
    pub(super) name: Vec<u8>,
    count: u64,
    limit: u64,
    window_ms: Option<u64>,
    fell_from: Option<FallenLimit>,
    /// The limits that are stored in Redis for this counter.
    pub(super) own: Option<Limits>,
    condition: Condition,
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
    let lacking = |lacks| Condition {
        lacks,
        ..Condition::default()
    };
    let seen = |called: Called, condition| Seen {
        label: called.label,
        rest: called.rest,
        name: matched.name.clone(),
        count: 0,
        limit: 0,
        window_ms: None,
        fell_from: None,
        own: None,
        condition,
    };
    match &finding.outcome {
        Outcome::Counted(reading) => {
            let condition = condition(reading);
            let limit = reading.limits.capacity().unwrap_or_default();
            Judged::Counter(Seen {
                count: reading.count,
                limit,
                window_ms: reading.limits.window_ms,
                fell_from: fell_from(reading, now),
                own: reading.own.then_some(reading.limits),
                ..seen(called(matched), condition)
            })
        }
        Outcome::Invalid(state) => {
            let mut condition = lacking(Lacks::Count);
            condition.invalid = Some(*state);
            Judged::Counter(seen(called(matched), condition))
        }
        Outcome::Unknown(why) => Judged::Unjudged(called(matched).label, reason_of(*why)),
        Outcome::Over(_) | Outcome::Gone if matched.has_span() => Judged::Passed,
        Outcome::Over(_) | Outcome::Gone | Outcome::Part | Outcome::Ignored | Outcome::Foreign => {
            Judged::Nothing
        }
    }
}

/// The previous limit, if it was higher, and when it fell.
fn fell_from(reading: &CounterReading, now: Timestamp) -> Option<FallenLimit> {
    let former = reading.former?;
    let limit = former.limits.capacity()?;
    let at = earlier(now, Duration::from_millis(former.ago_ms));
    (limit > reading.limits.capacity()?).then_some(FallenLimit { limit, at })
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
        CounterView {
            key: &self.label,
            count: self.count,
            limit: self.limit,
            remaining: self.limit.saturating_sub(self.count),
            window_ms: self.window_ms,
            fell_from: self.fell_from,
            condition: self.condition,
        }
    }

    /// Whether it is empty and in a valid state.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && !self.condition.stuck && self.condition.invalid.is_none()
    }

    /// Whether its limit is unknown.
    pub(super) fn lacks_limit(&self) -> bool {
        self.condition.lacks == Lacks::Limit
    }

    /// Whether every collection reads it: it is at or above its limit, or in a state that is reported.
    pub(super) fn is_remarkable(&self) -> bool {
        let full = self.condition.lacks == Lacks::Nothing && self.count >= self.limit;
        full || self.condition.stuck || self.condition.invalid.is_some()
    }
}
