//! The result of the checker after a collection, in a neutral form that export, the page and `check` translate.

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
    /// Subjects whose reported violation has ended. They stay here for a while.
    pub cleared: Vec<(InvariantName, String)>,
    /// One status for each invariant that is switched on and applies.
    pub invariants: Vec<InvariantStatus>,
    /// The invariants that do not apply to this kind of limiter, and why.
    pub not_applicable: Vec<NotApplicable>,
}

/// An invariant that does not apply to a kind of limiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotApplicable {
    /// Which.
    pub name: InvariantName,
    /// Why, for people.
    pub why: &'static str,
}

impl Report {
    /// The status of an invariant; `None` if it is switched off or does not apply.
    pub fn status(&self, name: InvariantName) -> Option<&InvariantStatus> {
        let mut statuses = self.invariants.iter();
        statuses.find(|status| status.config.name == name)
    }

    /// The sum of a figure of all invariants.
    pub fn total(&self, of: fn(&InvariantStatus) -> u64) -> u64 {
        self.invariants.iter().map(of).sum()
    }

    /// Removes p99 figures that look measured and are not: only the bucket of the p99 is known, and the threshold lies
    /// inside it. The bucket stays. The canary's figure, if there is one, replaces the p99.
    pub fn withhold_imprecise_p99(&self, observation: &mut Observation) {
        let Some(latency) = self.status(InvariantName::HighLatency) else {
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
    /// The evidence.
    pub evidence: Evidence,
    /// Why it is reported, or is not.
    pub decision: Decision,
    /// How much longer it must last before it is reported; zero once it is reported.
    #[serde(skip)]
    pub grace_left: Duration,
}

/// The status of one invariant. Its settings are shown as a [`Rule`].
#[derive(Clone, Debug, Serialize)]
pub struct InvariantStatus {
    /// Its settings.
    #[serde(skip)]
    pub config: InvariantConfig,
    /// Whether every subject could be evaluated this time.
    pub evaluable: bool,
    /// The subjects whose data could not be read, with the reason.
    pub unknown: Vec<Unknown>,
    /// The subjects whose data was read and proves neither, with the reason.
    pub inconclusive: Vec<Unknown>,
    /// The nodes and `redis` of this collection. Each has a series, violated or not.
    #[serde(skip)]
    pub subjects: Vec<String>,
    /// The exact number of subjects whose violation is reported.
    pub violations: u64,
    /// The exact number of subjects inside their grace period.
    pub pending: u64,
    /// Reported violations beyond `--keys.max-series`, which are not listed.
    pub dropped: u64,
    /// Violations reported since the start.
    #[serde(skip)]
    pub started_total: u64,
}

impl InvariantStatus {
    /// Every subject that could not be evaluated, unknown or inconclusive.
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

/// A violation in progress, as it is saved for a restart.
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
    /// Up to when it is proved; `first_seen` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_until: Option<Timestamp>,
    /// Whether there was a collection that did not prove that it still continued.
    #[serde(default)]
    pub interrupted: bool,
    /// The evidence.
    pub evidence: Evidence,
}
