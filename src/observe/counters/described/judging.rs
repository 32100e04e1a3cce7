//! What findings mean: views of counters for the checker, and what could not be judged. Pure.

use crate::limiters::{CounterReading, Description, Finding, Labels, Outcome, Unknown};
use crate::observation::{Condition, CounterView, Lacks, Reason};

/// A counter as it was read, under its label.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) label: Vec<u8>,
    pub(super) name: Vec<u8>,
    count: u64,
    limit: u64,
    window_ms: Option<u64>,
    condition: Condition,
}

/// What became of a name.
#[derive(Debug)]
pub(super) enum Judged {
    Counter(Seen),
    /// It could not be judged, by its label and why.
    Unjudged(Vec<u8>, Reason),
    /// A counter whose window is over, or that is gone, where its next window has another name.
    Passed,
    /// There is nothing that counts.
    Nothing,
}

/// Judges a finding.
pub(super) fn judge(description: &Description, labels: &mut Labels, finding: &Finding) -> Judged {
    let Some(matched) = &finding.matched else {
        return Judged::Nothing;
    };
    let lacking = |lacks| Condition {
        lacks,
        ..Condition::default()
    };
    let seen = |label, condition| Seen {
        label,
        name: matched.name.clone(),
        count: 0,
        limit: 0,
        window_ms: None,
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
                ..seen(labels.of(description, matched), condition)
            })
        }
        Outcome::Invalid(state) => {
            let mut condition = lacking(Lacks::Count);
            condition.invalid = Some(*state);
            Judged::Counter(seen(labels.of(description, matched), condition))
        }
        Outcome::Unknown(why) => Judged::Unjudged(labels.of(description, matched), reason_of(*why)),
        Outcome::Over(_) | Outcome::Gone if matched.has_span() => Judged::Passed,
        Outcome::Over(_) | Outcome::Gone | Outcome::Part | Outcome::Ignored | Outcome::Foreign => {
            Judged::Nothing
        }
    }
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
            fell_from: None,
            condition: self.condition,
        }
    }

    /// Whether nothing is to be said of it but that it is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && !self.condition.stuck && self.condition.invalid.is_none()
    }

    /// Whether its limit is not known.
    pub(super) fn lacks_limit(&self) -> bool {
        self.condition.lacks == Lacks::Limit
    }

    /// Whether it is at its limit or above, or in a state that is reported: it is read in every collection then.
    pub(super) fn is_remarkable(&self) -> bool {
        let full = self.condition.lacks == Lacks::Nothing && self.count >= self.limit;
        full || self.condition.stuck || self.condition.invalid.is_some()
    }
}
