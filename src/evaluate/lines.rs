//! The plain replay: for each observation, one JSON line with what the checker reports at that time.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::EvaluateError;
use super::judge::Judge;
use super::reading::{ReplayInput, Tally};
use crate::invariants::CheckerConfig;
use crate::report::{InvariantName, Severity, Violation};

/// A line of the output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    observed_at: Timestamp,
    violations: Vec<Listed<'a>>,
    pending: Vec<Listed<'a>>,
}

/// A violation without its evidence, which the recording has.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: InvariantName,
    severity: Severity,
    subject: &'a str,
    message: &'a str,
    first_seen: Timestamp,
    last_seen: Timestamp,
}

impl<'a> From<&'a Violation> for Listed<'a> {
    fn from(violation: &'a Violation) -> Self {
        Self {
            name: violation.name,
            severity: violation.severity,
            subject: &violation.subject,
            message: &violation.message,
            first_seen: violation.first_seen,
            last_seen: violation.last_seen,
        }
    }
}

/// Writes to `out` what the checker would have reported at each observation of `input`.
pub fn replay(
    input: ReplayInput<'_>,
    config: &CheckerConfig,
    mut out: impl Write,
) -> Result<Tally, EvaluateError> {
    let mut judge = Judge::new(config);
    input.run(|at, observation| {
        let report = judge.judge(at, observation);
        let line = Line {
            observed_at: at.wall,
            violations: report.violations.iter().map(Listed::from).collect(),
            pending: report.pending.iter().map(Listed::from).collect(),
        };
        let mut text = serde_json::to_vec(&line).map_err(io::Error::from)?;
        text.push(b'\n');
        // Unbuffered: the line is out before the next observation is read, which may not exist yet.
        out.write_all(&text)
    })
}
