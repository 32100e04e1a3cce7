//! The violations, reported and pending, with message, time, evidence and runbook; and what could not be evaluated.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, html};

use super::advice::advice;
use super::format::{foreign, long, progress, subject, time};
use super::tables::head;
use super::{Page, query_of};
use crate::clock::elapsed;
use crate::observation::hash_key;
use crate::report::{InvariantName, Violation};
use crate::snapshot::Snapshot;
use crate::text::count;

/// Violations or subjects that each section shows; the JSON has more.
const MOST: usize = 50;

/// The reported violations, and those inside their grace period.
pub(super) fn violations(page: &Page<'_>, snapshot: &Snapshot) -> Markup {
    let report = &snapshot.report;
    let violated = report.total(|status| status.violations);
    let pending = report.total(|status| status.pending);
    html! {
        section id="violated" { (list(page, snapshot, "Violated", &report.violations, violated)) }
        section id="pending" {
            (list(page, snapshot, "Pending, not reported yet", &report.pending, pending))
        }
    }
}

/// The gravest and oldest first.
fn list(
    page: &Page<'_>,
    snapshot: &Snapshot,
    title: &str,
    violations: &[Violation],
    total: u64,
) -> Markup {
    let mut sorted: Vec<&Violation> = violations.iter().collect();
    sorted.sort_by_key(|violation| (violation.severity, violation.first_seen));
    sorted.truncate(MOST);
    let more = total.saturating_sub(sorted.len() as u64);
    html! {
        @if !sorted.is_empty() {
            h2 { (title) " " span class="count" { (total) } }
            ol class="violations" {
                @for violation in sorted { (one(page, snapshot, violation)) }
            }
            @if more > 0 {
                p class="more" {
                    "and " (count(more, "subject")) " more: "
                    a href={ "api/v1/violations" (query_of(page.target)) } { "violations as JSON" }
                }
            }
        }
    }
}

fn one(page: &Page<'_>, snapshot: &Snapshot, violation: &Violation) -> Markup {
    let name = violation.name;
    let id = format!("{name}-{}", hash_key(violation.subject.as_bytes()));
    // A reported violation has no grace left. One without a grace period is never pending.
    let (class, sign, word) = if violation.grace_left.is_zero() {
        ("bad", "✕", "")
    } else {
        ("pending", "◔", "pending · ")
    };
    let file = runbook_file(name);
    html! {
        li id=(id) class=(class) {
            p class="what" {
                span class="badge" { i aria-hidden="true" { (sign) } " " (word) (violation.severity) }
                " " b { (name) } " " (subject(&violation.subject))
            }
            p class="runbook" {
                @if let Some(base) = page.runbook_url {
                    a id={ (id) "-runbook" } href={ (base.trim_end_matches('/')) "/" (file) } { "Runbook" }
                } @else {
                    "Runbook: alerts/runbooks/" (file)
                }
            }
            p class="why" {
                span class="message" { (foreign(&violation.message)) }
                " " span class="when" { (when(page.now, snapshot, violation)) }
            }
            details id={ (id) "-evidence" } {
                summary id={ (id) "-summary" } { "Evidence" }
                dl { (evidence(violation)) }
            }
        }
    }
}

/// Since when the violation lasts, whether this collection saw it, and how much grace is left.
fn when(now: Timestamp, snapshot: &Snapshot, violation: &Violation) -> Markup {
    let ended = snapshot.report.at.wall;
    let held = elapsed(violation.last_seen, ended).as_secs_f64() > snapshot.seconds;
    let left = violation.grace_left.saturating_sub(elapsed(ended, now));
    let status = snapshot.report.status(violation.name);
    let grace = status.map_or(Duration::ZERO, |status| status.config.grace_period);
    html! {
        "Since " (time(violation.first_seen, now)) ", for " (long(elapsed(violation.first_seen, now))) "."
        @if held {
            " " b { "Held:" } " it could not be evaluated since " (time(violation.last_seen, now)) "."
        }
        @if violation.grace_left.is_zero() {
        } @else if left.is_zero() {
            " Its grace period is over: the next collection reports it unless it ended."
        } @else if left > grace {
            // A count above a limit that fell has until the end of its window, not of the grace period.
            " " (long(left)) " left until it is reported."
        } @else {
            " " (long(left)) " of " (long(grace)) " grace left. "
            (progress(1.0 - left.as_secs_f64() / grace.as_secs_f64()))
        }
    }
}

/// The evidence, field by field.
fn evidence(violation: &Violation) -> Markup {
    let value = serde_json::to_value(&violation.evidence).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    html! {
        @for (field, value) in fields.filter(|(_, value)| !value.is_null()) {
            div {
                dt { (foreign(field)) }
                dd { (foreign(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))) }
            }
        }
        div { dt { "last_seen" } dd { (format!("{:.3}", violation.last_seen)) } }
    }
}

/// The file of the runbook, named for the alert.
fn runbook_file(name: InvariantName) -> String {
    let words = name.name().split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    format!("Ratelimiter{}.md", words.collect::<String>())
}

/// What could not be evaluated, and the reasons.
pub(super) fn unknown(snapshot: &Snapshot) -> Markup {
    let statuses = snapshot.report.invariants.iter();
    let mut unseen = statuses.filter(|status| !status.evaluable).peekable();
    html! {
        section id="unknown" {
            @if unseen.peek().is_some() {
                h2 { "Could not be evaluated" }
                table class="stack" {
                    (head(&["Invariant", "Subject", "Reason", "What it means"]))
                    tbody {
                        @for status in unseen {
                            @for unknown in status.unevaluated().take(MOST) {
                                tr {
                                    td data-label="Invariant" {
                                        i class="unknown" aria-hidden="true" { "?" } " " (status.config.name)
                                    }
                                    td data-label="Subject" { (subject(&unknown.subject)) }
                                    td data-label="Reason" { code { (foreign(&unknown.reason)) } }
                                    td data-label="Means" { (advice(&unknown.reason)) }
                                }
                            }
                            @let more = status.unevaluated().count().saturating_sub(MOST) as u64;
                            @if more > 0 {
                                tr { td colspan="4" { (status.config.name) ": and " (count(more, "subject")) " more" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runbooks_are_named_for_their_alerts() {
        let files = InvariantName::ALL.map(runbook_file);
        assert_eq!(
            files,
            [
                "RatelimiterNodeDown.md",
                "RatelimiterRedisDisconnected.md",
                "RatelimiterHighLatency.md",
                "RatelimiterCounterDrift.md",
                "RatelimiterGhostAllowing.md",
                "RatelimiterStuckCounter.md",
                "RatelimiterInvalidCounter.md",
            ]
        );
    }
}
