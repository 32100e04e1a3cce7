//! A collection as JSON: the observation, and what was reported. A line of a recording also has the time at which the
//! checker judged it, so that a replay reports the same.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::observation::Observation;
use crate::report::{InvariantName, Violation};
use crate::snapshot::Snapshot;

#[derive(Debug, Serialize)]
struct Collection<'a> {
    #[serde(flatten)]
    observation: &'a Observation,
    violations: &'a [Violation],
    pending: &'a [Violation],
    evaluable: BTreeMap<InvariantName, bool>,
}

impl<'a> Collection<'a> {
    fn new(snapshot: &'a Snapshot, observation: &'a Observation) -> Self {
        let report = &snapshot.report;
        let evaluable = report.invariants.iter();
        Self {
            observation,
            violations: &report.violations,
            pending: &report.pending,
            evaluable: evaluable
                .map(|status| (status.config.name, status.evaluable))
                .collect(),
        }
    }
}

/// The collection as JSON for people and scripts.
pub fn json(snapshot: &Snapshot) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Collection::new(snapshot, &snapshot.observation))
}

/// The collection as one line of a recording, without its end.
pub fn line(snapshot: &Snapshot) -> serde_json::Result<String> {
    // The collection was judged when it ended, not when it began.
    let at = snapshot.report.at;
    let observation = Observation {
        observed_at: Some(at.wall),
        steady_at: Some(at.steady),
        ..snapshot.observation.clone()
    };
    serde_json::to_string(&Collection::new(snapshot, &observation))
}
