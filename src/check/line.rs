//! A collection as JSON: the observation with the report's findings beside it. A line of a recording is the same, with
//! the moment of its judgement, so that a replay says what was said then.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::observation::Observation;
use crate::report::{InvariantName, Violation};
use crate::snapshot::Snapshot;

#[derive(Debug, Serialize)]
struct Look<'a> {
    #[serde(flatten)]
    observation: &'a Observation,
    violations: &'a [Violation],
    pending: &'a [Violation],
    evaluable: BTreeMap<InvariantName, bool>,
}

impl<'a> Look<'a> {
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
    serde_json::to_string_pretty(&Look::new(snapshot, &snapshot.observation))
}

/// The collection as one line of a recording, without its end.
pub fn line(snapshot: &Snapshot) -> serde_json::Result<String> {
    // What was seen was judged at the end of the collection, not when it began.
    let at = snapshot.report.at;
    let observation = Observation {
        observed_at: Some(at.wall),
        steady_at: Some(at.steady),
        ..snapshot.observation.clone()
    };
    serde_json::to_string(&Look::new(snapshot, &observation))
}
