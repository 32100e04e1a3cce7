//! The JSON answers about violations. `docs/API.md` describes them, `docs/schemas/` has their schemas.

use jiff::Timestamp;
use serde::Serialize;

use crate::observation::names_of;
use crate::report::{Explained, InvariantName, InvariantStatus, Rule, Terms, Violation, source};
use crate::snapshot::Snapshot;

/// `GET /api/v1/violations`.
#[derive(Debug, Serialize)]
pub(super) struct Findings<'a> {
    /// When the collection began, by the wall clock.
    observed_at: Option<Timestamp>,
    /// When it was judged, by the wall clock.
    judged_at: Timestamp,
    violations: Vec<Listed<'a>>,
    pending: Vec<Listed<'a>>,
    invariants: Vec<Invariant<'a>>,
}

/// A violation with the rule of its invariant.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    violation: &'a Violation,
    /// Where the evidence comes from.
    source: &'a str,
    #[serde(flatten)]
    terms: Terms,
    grace_left_seconds: f64,
}

/// An invariant with its rule and its state.
#[derive(Debug, Serialize)]
struct Invariant<'a> {
    name: InvariantName,
    #[serde(flatten)]
    rule: Rule,
    #[serde(flatten)]
    status: &'a InvariantStatus,
}

impl<'a> From<&'a Snapshot> for Findings<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let (report, observation) = (&snapshot.report, &snapshot.observation);
        let listed = |violations: &'a [Violation]| {
            // An invariant that is not checked has no violations.
            let listed = violations.iter().filter_map(|violation| {
                let status = report.status(violation.name)?;
                Some(Listed {
                    violation,
                    source: source(&violation.evidence, observation),
                    terms: Rule::from(&status.config).terms,
                    grace_left_seconds: violation.grace_left.as_secs_f64(),
                })
            });
            listed.collect()
        };
        let invariants = report.invariants.iter().map(|status| Invariant {
            name: status.config.name,
            rule: Rule::from(&status.config),
            status,
        });
        Self {
            observed_at: observation.observed_at,
            judged_at: report.at.wall,
            violations: listed(&report.violations),
            pending: listed(&report.pending),
            invariants: invariants.collect(),
        }
    }
}

/// The subject of `GET /api/v1/violations?subject=…`, if the query has one.
pub(super) fn subject(query: Option<&str>) -> Option<String> {
    let pairs = url::form_urlencoded::parse(query?.as_bytes());
    let mut subjects = pairs.filter(|(name, _)| name == "subject");
    subjects.next().map(|(_, subject)| subject.into_owned())
}

/// `GET /api/v1/violations?subject=…`: everything that the collection found out about one subject.
pub(super) fn explained(snapshot: &Snapshot, subject: &str) -> Explained {
    snapshot
        .report
        .explain(&snapshot.observation, &names_of(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_may_be_any_text() {
        assert_eq!(subject(None), None);
        assert_eq!(subject(Some("a=b")), None);
        assert_eq!(
            subject(Some("x=1&subject=user%3A1+%22&subject=2")).as_deref(),
            Some("user:1 \"")
        );
    }
}
