//! The verdict in one line: how things stand, and how much of that was really seen.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::html::{At, Long, Millis};
use crate::clock::elapsed;
use crate::invariants::Severity;
use crate::snapshot::Snapshot;

/// From here on the last collection says what was, not what is: three times Prometheus's default scrape interval.
const STALE_AFTER: Duration = Duration::from_secs(180);

/// How things stand: the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Something is reported.
    Violated,
    /// Nothing is reported, but something could not be seen; or it was seen too long ago, or never.
    Unknown,
    /// Something is inside its grace period.
    Pending,
    /// All is well, and all of it was seen.
    Holds,
}

impl Standing {
    /// The class for colours, a sign of its own shape, and the word.
    pub(super) fn look(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Violated => ("bad", "✕", "violated"),
            Self::Unknown => ("unknown", "?", "unknown"),
            Self::Pending => ("pending", "◔", "pending"),
            Self::Holds => ("ok", "✓", "ok"),
        }
    }
}

/// The line at the top and what stands under it, as HTML without markup in the line.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) standing: Standing,
    pub(super) line: String,
    pub(super) below: String,
}

impl Verdict {
    pub(super) fn of(snapshot: Option<&Snapshot>, now: Timestamp) -> Self {
        let Some(snapshot) = snapshot else {
            return Self {
                standing: Standing::Unknown,
                line: "Not known yet".to_owned(),
                below: "No collection has finished yet: they happen when this is scraped."
                    .to_owned(),
            };
        };
        let invariants = &snapshot.report.invariants;
        let violated: u64 = invariants.iter().map(|status| status.violations).sum();
        let pending: u64 = invariants.iter().map(|status| status.pending).sum();
        let unseen = invariants.iter().filter(|status| !status.evaluable).count();
        let age = elapsed(snapshot.report.at.wall, now);
        let stale = age >= STALE_AFTER;
        let of = invariants.len();
        let standing = match (violated, pending) {
            (1.., _) => Standing::Violated,
            _ if stale || unseen > 0 => Standing::Unknown,
            (_, 1..) => Standing::Pending,
            _ => Standing::Holds,
        };
        let mut line = match standing {
            Standing::Violated => format!("{}: {}", by_severity(snapshot), by_name(snapshot)),
            Standing::Unknown if stale => {
                format!("Not known: nothing was collected for {}", Long(age))
            }
            Standing::Unknown => {
                format!("Not known: {unseen} of {of} invariants could not be evaluated")
            }
            Standing::Pending => format!("No violation; {pending} pending"),
            Standing::Holds => format!("All {of} invariants hold"),
        };
        let mut below = String::new();
        if standing == Standing::Violated && unseen > 0 {
            // Writing into a String cannot fail.
            let _ = write!(line, "; {unseen} of {of} invariants not fully seen");
        }
        if stale {
            below.push_str(
                "<strong>Nothing scrapes the exporter: what stands here was true then.</strong> ",
            );
        }
        let _ = write!(
            below,
            "Observed at {}, {} ago, in {}.",
            At {
                at: snapshot.report.at.wall,
                now
            },
            Long(age),
            Millis(snapshot.seconds * 1e3)
        );
        if pending > 0 && standing != Standing::Pending {
            let _ = write!(below, " {pending} more pending, inside the grace period.");
        }
        Self {
            standing,
            line,
            below,
        }
    }
}

/// `node_down, ghost_allowing ×4`.
fn by_name(snapshot: &Snapshot) -> String {
    let violated = snapshot
        .report
        .invariants
        .iter()
        .filter(|status| status.violations > 0);
    let names: Vec<String> = violated
        .map(|status| match status.violations {
            1 => status.config.name.to_string(),
            several => format!("{} ×{several}", status.config.name),
        })
        .collect();
    names.join(", ")
}

/// `2 critical, 1 warning`.
fn by_severity(snapshot: &Snapshot) -> String {
    let severities = [Severity::Critical, Severity::Warning, Severity::Info];
    let counts = severities.map(|severity| {
        let invariants = snapshot.report.invariants.iter();
        let of_it = invariants.filter(|status| status.config.severity == severity);
        (of_it.map(|status| status.violations).sum::<u64>(), severity)
    });
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, severity)| format!("{count} {severity}"))
        .collect();
    counts.join(", ")
}
