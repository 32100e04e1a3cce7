//! The headline: the state in one line, and how old and complete it is.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

use super::format::{long, millis, time};
use crate::clock::elapsed;
use crate::snapshot::Snapshot;
use crate::standing::{Standing, summary};

/// A collection of this age no longer shows the present state: three times Prometheus's default scrape interval.
const STALE_AFTER: Duration = Duration::from_secs(180);

/// The class for colours, the sign, and the word.
pub(super) fn look(standing: Standing) -> (&'static str, char, &'static str) {
    let (class, word) = match standing {
        Standing::Violated => ("bad", "violated"),
        Standing::Unknown => ("unknown", "unknown"),
        Standing::Pending => ("pending", "pending"),
        Standing::Holds => ("ok", "ok"),
    };
    (class, standing.sign(), word)
}

/// The line at the top and what is below it.
#[derive(Debug)]
pub(super) struct Headline {
    pub(super) standing: Standing,
    pub(super) line: String,
    pub(super) below: Markup,
}

impl Headline {
    pub(super) fn of(snapshot: Option<&Snapshot>, now: Timestamp) -> Self {
        let Some(snapshot) = snapshot else {
            return Self {
                standing: Standing::Unknown,
                line: "Not known yet".to_owned(),
                below: html! { "No collection has finished yet: a scrape starts one." },
            };
        };
        let report = &snapshot.report;
        let pending = report.total(|status| status.pending);
        let age = elapsed(report.at.wall, now);
        let stale = age >= STALE_AFTER;
        let standing = match Standing::of(report) {
            Standing::Violated => Standing::Violated,
            Standing::Unknown | Standing::Pending | Standing::Holds if stale => Standing::Unknown,
            standing => standing,
        };
        let line = match standing {
            Standing::Unknown if stale => {
                format!("Not known: nothing was collected for {}", long(age))
            }
            Standing::Pending => format!("{}; {pending} pending", summary(report, standing)),
            Standing::Violated | Standing::Unknown | Standing::Holds => summary(report, standing),
        };
        let below = html! {
            @if stale {
                strong { "Nothing scrapes the exporter: this page shows its last collection." } " "
            }
            "Observed at " (time(report.at.wall, now)) ", " (long(age)) " ago, in " (millis(snapshot.seconds * 1e3)) "."
            @if pending > 0 && standing != Standing::Pending {
                " " (pending) " more pending, inside the grace period."
            }
        };
        Self {
            standing,
            line,
            below,
        }
    }
}
