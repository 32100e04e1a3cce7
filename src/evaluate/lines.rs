//! The plain replay: an observation in, what the checker says to it out.

use std::io::{self, BufWriter, Write};

use jiff::Timestamp;
use serde::Serialize;

use super::EvaluateError;
use super::judge::Judge;
use super::reading::{Event, ReplayInput, Tally};
use crate::invariants::CheckerConfig;
use crate::report::{InvariantName, Report, Severity, Violation};

/// What the checker says at one observation.
#[derive(Debug, Serialize)]
struct Said<'a> {
    observed_at: Timestamp,
    violations: Vec<Told<'a>>,
    pending: Vec<Told<'a>>,
}

/// A violation, without what it rests on: that is in the recording.
#[derive(Debug, Serialize)]
struct Told<'a> {
    name: InvariantName,
    severity: Severity,
    subject: &'a str,
    message: &'a str,
    first_seen: Timestamp,
    last_seen: Timestamp,
}

impl<'a> From<&'a Violation> for Told<'a> {
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

impl<'a> From<&'a Report> for Said<'a> {
    fn from(report: &'a Report) -> Self {
        Self {
            observed_at: report.at.wall,
            violations: report.violations.iter().map(Told::from).collect(),
            pending: report.pending.iter().map(Told::from).collect(),
        }
    }
}

/// Writes to `out` what the checker would have said at each observation of `reading`.
pub fn replay(
    reading: ReplayInput<'_>,
    config: &CheckerConfig,
    out: impl Write,
) -> Result<Tally, EvaluateError> {
    let mut judge = Judge::new(config);
    let mut out = BufWriter::new(out);
    reading.run(|event| match event {
        Event::Recorded(recorded) => {
            let report = judge.judge(recorded);
            serde_json::to_writer(&mut out, &Said::from(&report)).map_err(io::Error::from)?;
            out.write_all(b"\n")
        }
        // Whoever reads on the other side reads all that is known so far.
        Event::Pause => out.flush(),
    })
}
