//! What one collection brought: plain data, for whoever shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::observation::{Collector, Observation, Reason};
use crate::report::Report;

/// Everything one collection brought, for whoever shows it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What was seen.
    pub observation: Observation,
    /// What it means.
    pub report: Report,
    /// How long the collection took, in seconds.
    pub seconds: f64,
    /// The exporter's own counters, as of this collection.
    pub own: OwnCounters,
}

/// What the exporter counts about itself. It lives on between collections.
#[derive(Clone, Debug, Default)]
pub struct OwnCounters {
    /// Failures by collector and reason.
    pub errors: BTreeMap<(Collector, Reason), u64>,
    /// When each collector last succeeded, by the wall clock.
    pub last_success: BTreeMap<Collector, Timestamp>,
    /// Whether the state of the collection before was written; `None` without a file for it, and before the first.
    pub state_written: Option<bool>,
    /// Scrapes that shared another one's collection.
    pub coalesced: u64,
}
