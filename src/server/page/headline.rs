//! The headline: the state in one line, and how old and complete it is.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

use super::format::{long, millis, time};
use crate::clock::elapsed;
use crate::overall_status::{OverallStatus, summary};
use crate::snapshot::Snapshot;

/// A collection of this age no longer shows the present state: three times Prometheus's default scrape interval.
const STALE_AFTER: Duration = Duration::from_secs(180);

/// The class for colours, the sign, and the word.
pub(super) fn look(overall: OverallStatus) -> (&'static str, char, &'static str) {
    let (class, word) = match overall {
        OverallStatus::Violated => ("bad", "violated"),
        OverallStatus::Unknown => ("unknown", "unknown"),
        OverallStatus::Pending => ("pending", "pending"),
        OverallStatus::Holds => ("ok", "ok"),
    };
    (class, overall.sign(), word)
}

/// The line at the top and what is below it.
#[derive(Debug)]
pub(super) struct Headline {
    pub(super) overall: OverallStatus,
    pub(super) line: String,
    pub(super) below: Markup,
}

impl Headline {
    pub(super) fn of(snapshot: Option<&Snapshot>, now: Timestamp) -> Self {
        let Some(snapshot) = snapshot else {
            return Self {
                overall: OverallStatus::Unknown,
                line: "Not known yet".to_owned(),
                below: html! { "No collection has finished yet: a scrape starts one." },
            };
        };
        let report = &snapshot.report;
        let pending = report.total(|status| status.pending);
        let age = elapsed(report.at.wall, now);
        let stale = age >= STALE_AFTER;
        let mut overall = OverallStatus::of(report);
        if stale {
            // Only a violation is worse.
            overall = overall.min(OverallStatus::Unknown);
        }
        let line = match overall {
            OverallStatus::Unknown if stale => {
                format!("Not known: nothing was collected for {}", long(age))
            }
            OverallStatus::Pending => format!("{}; {pending} pending", summary(report, overall)),
            overall => summary(report, overall),
        };
        let below = html! {
            @if stale {
                strong { "Nothing scrapes the exporter: this page shows its last collection." } " "
            }
            "Observed at " (time(report.at.wall, now)) ", " (long(age)) " ago, in " (millis(snapshot.seconds * 1e3)) "."
            @if pending > 0 && overall != OverallStatus::Pending {
                " " (pending) " more pending, inside the grace period."
            }
        };
        Self {
            overall,
            line,
            below,
        }
    }
}
