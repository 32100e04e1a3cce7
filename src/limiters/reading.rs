//! The result of reading one name.

use super::expiry::WithoutExpiry;
use super::limits::{Former, Limits};
use super::matched::Matched;
use crate::observation::{Invalid, Refused};

/// The result of reading one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The counter, where the name is one.
    pub matched: Option<Matched>,
    /// What was read.
    pub outcome: Outcome,
}

/// What was read of one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A counter.
    Counted(CounterReading),
    /// A window that is over: it counts nothing. Whether the key has no expiry, if that was read.
    Over(Option<bool>),
    /// A part of a counter that is counted under another name.
    Part,
    /// The key is gone.
    Gone,
    /// The name is the limiter's and counts nothing.
    Ignored,
    /// The name is something else's.
    Foreign,
    /// It could not be read.
    Unknown(Unknown),
    /// It is in a state that its limiter cannot make, and has no count.
    Invalid(Invalid),
}

/// A counter as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct CounterReading {
    /// How many requests count.
    pub count: u64,
    /// Its limit, as far as it is known.
    pub limits: Limits,
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// A state that its limiter cannot make.
    pub invalid: Option<Invalid>,
    /// Its expiry, where it was asked for.
    pub expiry: Option<Expires>,
    /// What its limits were before they fell.
    pub former: Option<Former>,
    /// Whether its limit is stored in Redis for it alone.
    pub own: bool,
}

impl CounterReading {
    /// Whether the count proves that more was admitted than the limit: none where the limit is unknown.
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
    /// In so many milliseconds.
    In(u64),
    /// In longer than it can be.
    TooLate {
        /// Milliseconds.
        in_ms: u64,
        /// The longest that it can be.
        most_ms: u64,
    },
    /// Never; what that does, unless it is normal.
    Never(Option<WithoutExpiry>),
}

closed_list! {
    /// Why a counter could not be read.
    pub enum Unknown;
    /// Its limit is not known, and the count follows from it.
    NoLimit => "no_limit",
    /// Its window is not known, and the count follows from it.
    NoWindow => "no_window",
    /// It has more entries than are read.
    TooLarge => "too_large",
    /// Its value is compressed or in a form that is not read.
    Unreadable => "unreadable",
}
