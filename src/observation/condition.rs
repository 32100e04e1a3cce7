//! The state of a counter besides its count and its limit: what the count proves, whether its key expires, and whether
//! its limiter can have made it.

use serde::{Deserialize, Serialize};

/// Whether a count includes refused requests. This decides what a count above the limit proves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// All refused requests: a count above the limit is demand.
    Counted,
    /// None: a count above the limit proves that a request too many was admitted.
    #[default]
    NotCounted,
    /// The first one, or one for each process: a count above limit + 1 proves that a request too many was admitted.
    Capped,
}

impl Refused {
    /// As the description writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::NotCounted => "not_counted",
            Self::Capped => "capped",
        }
    }

    /// The highest count that can be right under `limit`; `None` if no count proves anything.
    pub fn most_admitted(self, limit: u64) -> Option<u64> {
        match self {
            Self::Counted => None,
            Self::NotCounted => Some(limit),
            Self::Capped => Some(limit.saturating_add(1)),
        }
    }
}

closed_list! {
    /// A state of a counter that its limiter cannot make.
    pub enum Invalid;
    /// A number or a time is expected, and the value is neither.
    NotANumber => "not_a_number",
    /// The value has another form.
    Malformed => "malformed",
    /// The text of a number is longer than 64 KiB.
    TooLarge => "too_large",
    /// The value is below 0.
    Negative => "negative",
    /// The value is above the capacity.
    AboveCapacity => "above_capacity",
    /// Its window, or a time in it, is further in the future than clocks may differ.
    InTheFuture => "in_the_future",
    /// It expires later than its limiter can set.
    ExpiresTooLate => "expires_too_late",
    /// A key or field beside it is missing.
    CompanionMissing => "companion_missing",
}

/// What is unknown about a counter. A later one is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lacks {
    /// Everything is known.
    #[default]
    Nothing,
    /// Its limit: the count is not compared with it, and the counter is not shown.
    Limit,
    /// Its count: the value is not a count, or it was not read.
    Count,
}

/// What a counter is besides its count and its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// Whether it is at or above its limit and never expires, so that its client is blocked for ever.
    pub stuck: bool,
    /// The state that its limiter cannot make, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<Invalid>,
    /// What is unknown about it.
    pub lacks: Lacks,
    /// Whether its limit is from an answer of an API before this collection, and may have been raised since, or is a default limit
    /// that a node may exceed. Then nothing of the counter is reported before the API was asked again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

fn yes() -> bool {
    true
}

/// The kind of limiter that is observed, and what its counters can prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimiterKind {
    /// The name of its description.
    pub name: String,
    /// Whether it has nodes of its own that are watched.
    pub nodes: bool,
    /// Whether these nodes report how long decisions take.
    #[serde(default = "yes")]
    pub latency: bool,
    /// Whether the canary checks that these nodes refuse a request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary: bool,
    /// Its counters.
    pub counters: Vec<CounterKind>,
}

/// One kind of counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterKind {
    /// Its name in the description.
    pub name: String,
    /// The name of the method by which it counts.
    pub count: String,
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// Whether one that never expires blocks its client for ever. Only such kinds have `stuck_counter`.
    pub sticks: bool,
}
