//! The page for people at `/`: what is violated, what could not be seen, and what to do about that. Shows the last
//! finished collection and never starts one: looking at it costs the limiter nothing.

use std::fmt::Write as _;

use crate::invariants::{InvariantStatus, Unknown, Violation};
use crate::snapshot::Snapshot;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;\
color:#1b1f24;background:#fff}table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d9dde2;vertical-align:top}\
td{overflow-wrap:anywhere}.bad{color:#b3261e;font-weight:600}.warn{color:#8a5300;font-weight:600}\
.ok{color:#1a7f37;font-weight:600}code{background:#f1f3f5;padding:.1rem .3rem}";

/// The page.
pub(super) fn render(snapshot: Option<&Snapshot>, telemetry_path: &str) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>ratelimiter-exporter</title><style>{STYLE}</style></head><body>\
         <h1>ratelimiter-exporter</h1><p>Version {}. <a href=\"{path}\">Metrics</a> · \
         <a href=\"/api/v1/violations\">violations as JSON</a> · \
         <a href=\"/api/v1/observation\">observation as JSON</a> · \
         <a href=\"/api/v1/actions\">actions</a></p>",
        env!("CARGO_PKG_VERSION"),
        path = escape(telemetry_path),
    );
    match snapshot {
        None => {
            out.push_str(
                "<p>No collection has finished yet: they happen when this is scraped.</p>",
            );
        }
        Some(snapshot) => body(&mut out, snapshot),
    }
    out.push_str("</body></html>\n");
    out
}

fn body(out: &mut String, snapshot: &Snapshot) {
    let observation = &snapshot.observation;
    if let Some(at) = observation.observed_at {
        put(
            out,
            format_args!(
                "<p>Observed at {at}, in {:.0} ms.</p>",
                snapshot.seconds * 1e3
            ),
        );
    }
    out.push_str("<h2>Invariants</h2><table><tr><th>Invariant</th><th>State</th><th>Could not be evaluated</th></tr>");
    for status in &snapshot.report.invariants {
        invariant(out, status);
    }
    out.push_str("</table>");
    violations(out, "Violated", &snapshot.report.violations);
    violations(
        out,
        "Pending (inside the grace period)",
        &snapshot.report.pending,
    );

    out.push_str("<h2>Nodes</h2><table><tr><th>Node</th><th>Address</th><th>State</th><th>Redis</th><th>p99</th></tr>");
    for node in &observation.nodes {
        let metrics = observation.node_metrics.get(&node.id);
        let p99 = metrics.and_then(|metrics| metrics.latency_p99_ms);
        let redis = match node.redis_connected {
            Some(true) => "reached",
            Some(false) => "not reached",
            None => "not known",
        };
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td class=\"{}\">{} ({})</td><td>{redis} ({})</td><td>{}</td></tr>",
                escape(&node.id),
                escape(node.address.as_deref().unwrap_or("none")),
                if node.is_up() { "ok" } else { "bad" },
                escape(node.state.as_deref().unwrap_or("not known")),
                escape(node.reason.as_deref().unwrap_or_default()),
                escape(node.redis_reason.as_deref().unwrap_or("no evidence")),
                p99.map_or_else(|| "not known".to_owned(), |ms| format!("{ms:.1} ms")),
            ),
        );
    }
    out.push_str("</table><h2>Not read</h2>");
    if observation.failures.is_empty() {
        out.push_str("<p class=\"ok\">Everything that was asked for was read.</p>");
        return;
    }
    out.push_str("<table><tr><th>Source</th><th>Reason</th><th>What happened</th></tr>");
    for failure in &observation.failures {
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                failure.collector.name(),
                failure.reason,
                escape(&failure.message)
            ),
        );
    }
    out.push_str("</table>");
}

fn invariant(out: &mut String, status: &InvariantStatus) {
    let (class, state) = match (status.violations, status.pending) {
        (0, 0) if status.evaluable => ("ok", "holds".to_owned()),
        (0, 0) => ("warn", "holds as far as it could be evaluated".to_owned()),
        (0, pending) => ("warn", format!("{pending} pending")),
        (violated, 0) => ("bad", format!("{violated} violated")),
        (violated, pending) => ("bad", format!("{violated} violated, {pending} pending")),
    };
    put(
        out,
        format_args!(
            "<tr><td>{}</td><td class=\"{class}\">{state}</td><td>",
            status.config.name
        ),
    );
    for unknown in &status.unknown {
        let Unknown { subject, reason } = unknown;
        put(
            out,
            format_args!(
                "{} <code>{}</code>: {}<br>",
                escape(subject),
                escape(reason),
                advice(reason)
            ),
        );
    }
    out.push_str("</td></tr>");
}

/// What to do about something that could not be evaluated.
fn advice(reason: &str) -> &'static str {
    match reason {
        "first_sample" => "the next collection can compare",
        "no_samples" => "the node checked nothing in the last 60 s",
        "histogram_never_counts" => {
            "the node exports a latency histogram but never counts in it: name another with --latency.metric"
        }
        "no_histogram" => {
            "the node exports no latency histogram that is known: name it with --latency.metric"
        }
        "bucket_too_coarse" => {
            "the threshold lies inside the histogram bucket that holds the p99: name a finer histogram with \
             --latency.metric, or move the threshold to a bucket's edge"
        }
        "no_default_limit" => {
            "GET /api/limits did not answer yet: keys without a limit of their own cannot be judged"
        }
        "redis_down" => "Redis does not answer the exporter",
        "redis_just_returned" | "redis_restarted" => {
            "nodes get the time of two heartbeats to return"
        }
        "no_metrics" => "the node's /metrics was not read: see the sources below",
        "never_reached" => {
            "the node is known by its registration alone: let the exporter reach the nodes' addresses"
        }
        "not_registered" | "deregistered" => "the node answers but has no registration: ask it",
        "registration_without_ttl" => "nothing renews this registration: find out who wrote it",
        "registry_unreadable" => "Redis could not be asked for the registrations",
        "deadline" | "not_probed" => "the collection ended first: give the scrape more time",
        _ => "see the sources below",
    }
}

fn violations(out: &mut String, title: &str, violations: &[Violation]) {
    if violations.is_empty() {
        return;
    }
    put(
        out,
        format_args!(
            "<h2>{title}</h2><table><tr><th>Invariant</th><th>Severity</th><th>Subject</th><th>What</th><th>Since</th></tr>"
        ),
    );
    for violation in violations {
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0}</td></tr>",
                violation.name,
                violation.severity,
                escape(&violation.subject),
                escape(&violation.message),
                violation.first_seen,
            ),
        );
    }
    out.push_str("</table>");
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(text);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_escaped() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }

    #[test]
    fn before_the_first_collection_it_says_so() {
        assert!(render(None, "/metrics").contains("No collection has finished yet"));
    }
}
