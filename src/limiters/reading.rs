//! The result of reading one name.

use super::expiry::WithoutExpiry;
use super::limits::{Draining, Limits};
use super::matched::Matched;
use crate::observation::{Invalid, Refused};

/// The result of reading one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The counter, if the name is one.
    pub matched: Option<Matched>,
    /// What was read.
    pub outcome: Outcome,
}

/// What was read of one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A counter.
    Counted(CounterReading),
    /// A window that is over counts nothing. The value is whether the key has no expiry, if that was read.
    Over(Option<bool>),
    /// A part of a counter that is counted under another name.
    Part,
    /// The key is gone.
    Gone,
    /// The name belongs to the limiter and counts nothing.
    Ignored,
    /// The name belongs to something else.
    Foreign,
    /// It could not be read.
    Unknown(Unknown),
    /// It is in a state that its limiter cannot make and that has no count.
    Invalid(Invalid),
}

/// A counter as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct CounterReading {
    /// The count of requests.
    pub count: u64,
    /// Its limits, as far as they are known.
    pub limits: Limits,
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// The invalid state that it is in: one that its limiter cannot make.
    pub invalid: Option<Invalid>,
    /// Its expiry, if it was read.
    pub expiry: Option<Expires>,
    /// The counts that may be left over from limits before they fell.
    pub draining: Option<Draining>,
    /// How long after its limits fell anything may be left over, in milliseconds; 0 if they did not fall.
    pub outlasts_ms: u64,
    /// Whether its limit is stored in Redis for this counter alone.
    pub own: bool,
}

impl CounterReading {
    /// Whether the count proves that more requests were admitted than the limit. `None` if the limit is unknown.
    pub fn is_over_limit(&self) -> Option<bool> {
        let limit = self.limits.capacity()?;
        Some(match self.refused {
            Refused::Counted => false,
            Refused::NotCounted => self.count > limit,
            Refused::Capped => self.count > limit.saturating_add(1),
        })
    }

    /// Whether it blocks its client for ever.
    pub fn is_stuck(&self) -> bool {
        let full = self
            .limits
            .capacity()
            .is_some_and(|limit| self.count >= limit);
        full && self.expiry == Some(Expires::Never(Some(WithoutExpiry::Blocks)))
    }
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// In this many milliseconds.
    In(u64),
    /// Later than the limiter can set it.
    TooLate {
        /// The expiry, in milliseconds.
        in_ms: u64,
        /// The longest possible expiry, in milliseconds.
        most_ms: u64,
    },
    /// Never, with the consequence, unless that is normal.
    Never(Option<WithoutExpiry>),
}

closed_list! {
    /// Why a counter could not be read.
    pub enum Unknown;
    /// The limit is unknown, and the count depends on it.
    NoLimit => "no_limit",
    /// The window is unknown, and the count depends on it.
    NoWindow => "no_window",
    /// It is longer, or has more entries, than the exporter reads.
    TooLarge => "too_large",
    /// The value is compressed or in an unsupported format.
    Unreadable => "unreadable",
}
