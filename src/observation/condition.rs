//! What a counter is besides its count and its limit, where its limiter is not the reference: what the count proves,
//! whether its key expires, and whether its limiter can have made it.

use serde::{Deserialize, Serialize};

/// Whether refused requests are in a count: what a count above the limit proves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// They are: a count above the limit is demand.
    Counted,
    /// They are not: a count above the limit is a request too many that was admitted.
    #[default]
    NotCounted,
    /// The first one is, or one for each process: a count above limit + 1 is a request too many that was admitted.
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

    /// The highest count that was admitted rightly under `limit`; none where no count proves anything.
    pub fn most_admitted(self, limit: u64) -> Option<u64> {
        match self {
            Self::Counted => None,
            Self::NotCounted => Some(limit),
            Self::Capped => Some(limit.saturating_add(1)),
        }
    }
}

closed_list! {
    /// What about a counter its limiter cannot make.
    pub enum Invalid;
    /// There should be a number, or a time, and is none.
    NotANumber => "not_a_number",
    /// The value has another form.
    Malformed => "malformed",
    /// A number is larger than 64 KiB.
    TooLarge => "too_large",
    /// It is below 0.
    Negative => "negative",
    /// It is more than the whole.
    AboveCapacity => "above_capacity",
    /// Its window, or a time in it, begins later than clocks may differ.
    InTheFuture => "in_the_future",
    /// It expires later than it can.
    ExpiresTooLate => "expires_too_late",
    /// A key or field beside it is missing.
    CompanionMissing => "companion_missing",
}

/// What of a counter is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lacks {
    /// Everything is known.
    #[default]
    Nothing,
    /// Its limit: count and limit are not compared, and it is not shown.
    Limit,
    /// Its count, because its value is no count.
    Count,
}

/// What a counter is besides its count and its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// Whether it is at its limit, or above, and never expires, so that its client is blocked for ever.
    pub stuck: bool,
    /// What about it its limiter cannot make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<Invalid>,
    /// What of it is not known.
    pub lacks: Lacks,
}

impl Condition {
    /// Whether there is nothing to say of it, as of a counter of the reference limiter that is well.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

fn yes() -> bool {
    true
}

/// The kind of limiter that is observed, and what its counters can prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimiterKind {
    /// Its name: of the description.
    pub name: String,
    /// Whether it has nodes of its own that are watched.
    pub nodes: bool,
    /// Whether these say how long decisions take.
    #[serde(default = "yes")]
    pub latency: bool,
    /// Whether the canary asks these to refuse a request.
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
    /// How it counts: the method's name.
    pub count: String,
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// Whether one that never expires blocks its client for ever, and is looked for.
    pub sticks: bool,
}
