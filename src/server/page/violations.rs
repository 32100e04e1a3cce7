//! What is violated or pending: message, since when, evidence, the runbook; and what could not be evaluated.

use std::time::Duration;

use super::Page;
use super::advice::advice;
use super::html::{At, Count, Escaped, Link, Long, Progress, Subject};
use super::put;
use crate::clock::elapsed;
use crate::invariants::{InvariantName, InvariantStatus, Unknown, Violation};
use crate::observation::hash_key;
use crate::snapshot::Snapshot;

/// How many are shown in each section; the JSON has all.
const MOST: usize = 50;

/// The violations that are reported, the gravest and oldest first.
pub(super) fn reported(out: &mut String, page: &Page<'_>, snapshot: &Snapshot) {
    let report = &snapshot.report;
    let total: u64 = report
        .invariants
        .iter()
        .map(|status| status.violations)
        .sum();
    list(
        out,
        page,
        snapshot,
        ("violated", "Violated"),
        &report.violations,
        total,
    );
}

/// The violations inside their grace period.
pub(super) fn pending(out: &mut String, page: &Page<'_>, snapshot: &Snapshot) {
    let report = &snapshot.report;
    let total: u64 = report.invariants.iter().map(|status| status.pending).sum();
    let title = ("pending", "Pending, not reported yet");
    list(out, page, snapshot, title, &report.pending, total);
}

fn list(
    out: &mut String,
    page: &Page<'_>,
    snapshot: &Snapshot,
    (id, title): (&str, &str),
    violations: &[Violation],
    total: u64,
) {
    put!(out, "<section id=\"{id}\">");
    if !violations.is_empty() {
        put!(
            out,
            "<h2>{title} <span class=\"count\">{total}</span></h2><ol class=\"violations\">"
        );
        let mut sorted: Vec<&Violation> = violations.iter().collect();
        sorted.sort_by_key(|violation| (violation.severity, violation.first_seen));
        for violation in sorted.into_iter().take(MOST) {
            one(out, page, snapshot, violation);
        }
        out.push_str("</ol>");
        let more = total.saturating_sub(violations.len().min(MOST) as u64);
        if more > 0 {
            put!(
                out,
                "<p class=\"more\">and {} more: <a href=\"api/v1/violations\">violations as JSON</a></p>",
                Count(more, "subject")
            );
        }
    }
    out.push_str("</section>");
}

fn one(out: &mut String, page: &Page<'_>, snapshot: &Snapshot, violation: &Violation) {
    let (name, severity) = (violation.name, violation.severity);
    let id = format!("{name}-{}", hash_key(violation.subject.as_bytes()));
    // Reported means that no grace is left; one without any grace period is never pending.
    let (class, sign, word) = if violation.grace_left.is_zero() {
        ("bad", "✕", "")
    } else {
        ("pending", "◔", "pending · ")
    };
    put!(
        out,
        "<li id=\"{id}\" class=\"{class}\"><p class=\"what\"><span class=\"badge\"><i aria-hidden=\"true\">{sign}</i> \
         {word}{severity}</span> <b>{name}</b> {}</p>",
        Subject(&violation.subject)
    );
    runbook(out, page, name, &id);
    put!(
        out,
        "<p class=\"why\"><span class=\"message\">{}</span> <span class=\"when\">",
        Escaped(&violation.message)
    );
    when(out, page, snapshot, violation);
    put!(
        out,
        "</span></p><details id=\"{id}-evidence\"><summary id=\"{id}-summary\">Evidence</summary><dl>"
    );
    evidence(out, violation);
    out.push_str("</dl></details></li>");
}

/// Since when, whether it was seen this time, and how much grace is left.
fn when(out: &mut String, page: &Page<'_>, snapshot: &Snapshot, violation: &Violation) {
    let now = page.now;
    let at = |at| At { at, now };
    put!(
        out,
        "Since {}, for {}.",
        at(violation.first_seen),
        Long(elapsed(violation.first_seen, now))
    );
    let ended = snapshot.report.at.wall;
    if elapsed(violation.last_seen, ended).as_secs_f64() > snapshot.seconds {
        put!(
            out,
            " <b>Held:</b> it could not be evaluated since {}.",
            at(violation.last_seen)
        );
    }
    if violation.grace_left.is_zero() {
        return;
    }
    let left = violation.grace_left.saturating_sub(elapsed(ended, now));
    let invariants = &snapshot.report.invariants;
    let status = invariants
        .iter()
        .find(|status| status.config.name == violation.name);
    let grace = status.map_or(Duration::ZERO, |status| status.config.grace_period);
    if left.is_zero() {
        out.push_str(" Its grace period is over: the next collection reports it unless it ended.");
    } else if left > grace {
        // A count under a limit that fell waits for its window, not for the grace period.
        put!(out, " {} left until it is reported.", Long(left));
    } else {
        put!(
            out,
            " {} of {} grace left. {}",
            Long(left),
            Long(grace),
            Progress(1.0 - left.as_secs_f64() / grace.as_secs_f64())
        );
    }
}

/// What the verdict rests on, field by field.
fn evidence(out: &mut String, violation: &Violation) {
    let value = serde_json::to_value(&violation.evidence).unwrap_or_default();
    for (field, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        put!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            Escaped(field),
            Escaped(&text)
        );
    }
    put!(
        out,
        "<div><dt>last_seen</dt><dd>{:.3}</dd></div>",
        violation.last_seen
    );
}

fn runbook(out: &mut String, page: &Page<'_>, name: InvariantName, id: &str) {
    let file = runbook_file(name);
    if let Some(base) = page.runbook_url {
        let base = base.trim_end_matches('/');
        put!(
            out,
            "<p class=\"runbook\"><a id=\"{id}-runbook\" href=\"{}/{file}\">Runbook</a></p>",
            Link(base)
        );
    } else {
        put!(
            out,
            "<p class=\"runbook\">Runbook: alerts/runbooks/{file}</p>"
        );
    }
}

/// The file of the runbook: named by the alert.
fn runbook_file(name: InvariantName) -> String {
    let words = name.name().split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    format!("Ratelimiter{}.md", words.collect::<String>())
}

/// What could not be evaluated, and why.
pub(super) fn unknown(out: &mut String, snapshot: &Snapshot) {
    let statuses = snapshot.report.invariants.iter();
    let unseen: Vec<&InvariantStatus> = statuses.filter(|status| !status.evaluable).collect();
    out.push_str("<section id=\"unknown\">");
    if !unseen.is_empty() {
        out.push_str(
            "<h2>Could not be evaluated</h2><table class=\"stack\"><thead><tr><th>Invariant</th><th>Subject</th>\
             <th>Reason</th><th>What it means</th></tr></thead><tbody>",
        );
        for status in unseen {
            let shown = status.unevaluated().take(MOST);
            for Unknown { subject, reason } in shown {
                put!(
                    out,
                    "<tr><td data-label=\"Invariant\"><i class=\"unknown\" aria-hidden=\"true\">?</i> {}</td>\
                     <td data-label=\"Subject\">{}</td><td data-label=\"Reason\"><code>{}</code></td>\
                     <td data-label=\"Means\">{}</td></tr>",
                    status.config.name,
                    Subject(subject),
                    Escaped(reason),
                    advice(reason)
                );
            }
            let more = status.unevaluated().count().saturating_sub(MOST);
            if more > 0 {
                let (name, more) = (status.config.name, Count(more as u64, "subject"));
                put!(
                    out,
                    "<tr><td colspan=\"4\">{name}: and {more} more</td></tr>"
                );
            }
        }
        out.push_str("</tbody></table>");
    }
    out.push_str("</section>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runbooks_are_named_by_their_alerts() {
        let files = InvariantName::ALL.map(runbook_file);
        assert_eq!(
            files,
            [
                "RatelimiterNodeDown.md",
                "RatelimiterRedisDisconnected.md",
                "RatelimiterHighLatency.md",
                "RatelimiterCounterDrift.md",
                "RatelimiterGhostAllowing.md",
            ]
        );
    }
}
