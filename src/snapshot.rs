//! The result of one collection: plain data, for everything that shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::observation::{Collector, Observation, Reason};
use crate::report::Report;

/// The result of one collection.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What was read.
    pub observation: Observation,
    /// The verdicts on it.
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
    /// Whether the state of the previous collection was written; `None` without `--state.file`, and before the first
    /// write.
    pub state_written: Option<bool>,
    /// Scrapes that shared another one's collection.
    pub coalesced: u64,
}
