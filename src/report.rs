//! What the checker says after a collection: a neutral result that export, the page and `check` each translate.

mod decision;
mod evidence;
mod explain;
mod invariant;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::observation::{Observation, TOO_COARSE};

pub use decision::Decision;
pub use evidence::Evidence;
pub use explain::{Explained, Explanation, Rule, Terms, source};
pub use invariant::{InvariantConfig, InvariantName, Severity, Unit};

/// The subject of Redis itself, as the exporter sees it.
pub(crate) const REDIS: &str = "redis";

/// The state of all invariants after one collection.
#[derive(Clone, Debug)]
pub struct Report {
    /// When.
    pub at: Moment,
    /// Reported violations: all of the nodes', and the worst keys up to the cap.
    pub violations: Vec<Violation>,
    /// Violations inside their grace period, capped likewise.
    pub pending: Vec<Violation>,
    /// Subjects that were reported and no longer are, for a while after.
    pub cleared: Vec<(InvariantName, String)>,
    /// One status for each invariant that is switched on and applies.
    pub invariants: Vec<InvariantStatus>,
    /// The invariants that say nothing about this kind of limiter, and why.
    pub not_applicable: Vec<NotApplicable>,
}

/// An invariant that says nothing about a kind of limiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotApplicable {
    /// Which.
    pub name: InvariantName,
    /// Why, for people.
    pub why: &'static str,
}

impl Report {
    /// Takes figures out of the observation that look measured and are not: a p99 of which no more is known than that it
    /// lies in a bucket that holds the threshold. The bucket stays, and the canary's figure stands in if there is one.
    pub fn withhold_made_up(&self, observation: &mut Observation) {
        let mut statuses = self.invariants.iter();
        let latency = statuses.find(|status| status.config.name == InvariantName::HighLatency);
        let Some(latency) = latency else {
            return;
        };
        let metrics = observation.node_metrics.values_mut();
        for metrics in metrics.filter(|it| it.p99_is_too_coarse(latency.config.threshold)) {
            metrics.latency_p99_ms = None;
            metrics.latency_unknown = Some(TOO_COARSE.to_owned());
            metrics.take_canary();
        }
    }
}

/// One violation, pending or reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// Which invariant.
    pub name: InvariantName,
    /// How bad.
    pub severity: Severity,
    /// The node, `redis`, or the key.
    pub subject: String,
    /// What is wrong, for people.
    pub message: String,
    /// When it was first seen, by the wall clock.
    pub first_seen: Timestamp,
    /// When it was last seen, by the wall clock.
    pub last_seen: Timestamp,
    /// What it rests on.
    pub evidence: Evidence,
    /// Why it is reported, or is not.
    pub decision: Decision,
    /// How long it must still last before it is reported; zero once it is.
    #[serde(skip)]
    pub grace_left: Duration,
}

/// How one invariant stands.
#[derive(Clone, Debug)]
pub struct InvariantStatus {
    /// Its settings.
    pub config: InvariantConfig,
    /// Whether every subject could be evaluated this time.
    pub evaluable: bool,
    /// The subjects whose data could not be read, with the reason.
    pub unknown: Vec<Unknown>,
    /// The subjects whose data was read and proves neither, with the reason.
    pub inconclusive: Vec<Unknown>,
    /// Nodes and `redis`, as evaluated this time: each has a series, violated or not.
    pub subjects: Vec<String>,
    /// Subjects in reported violation, exact.
    pub violations: u64,
    /// Subjects inside their grace period, exact.
    pub pending: u64,
    /// Reported violations that are not listed.
    pub dropped: u64,
    /// Violations reported since the start.
    pub started_total: u64,
}

impl InvariantStatus {
    /// Every subject that could not be evaluated, whichever way.
    pub fn unevaluated(&self) -> impl Iterator<Item = &Unknown> {
        self.unknown.iter().chain(&self.inconclusive)
    }
}

/// A subject that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// The subject; empty for the invariant as a whole.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// A violation in progress as it survives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedEntry {
    /// The subject: a node id, `redis`, or a key as escaped text.
    pub subject: String,
    /// When the violation was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// Since when it is reported.
    pub reported_since: Option<Timestamp>,
    /// Since when nothing proves that it goes on, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproved_since: Option<Timestamp>,
    /// For how long nothing proved that it went on, until something did again.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub unproved: Duration,
    /// What it rests on.
    pub evidence: Evidence,
}
