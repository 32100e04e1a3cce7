//! What was seen: invariants, nodes, Redis, the fullest keys, and what was not read.

use super::Page;
use super::html::{At, Bar, Bytes, Count, Escaped, Long, Millis, Short, Subject};
use super::put;
use super::verdict::look;
use crate::clock::elapsed;
use crate::invariants::{InvariantName, InvariantStatus};
use crate::observation::{Counter, CountersRead, Node, Observation};
use crate::snapshot::Snapshot;
use crate::standing::Standing;

/// The keys that are shown; the metrics and the JSON have more.
const MOST_KEYS: usize = 20;

/// One line for each invariant: how it stands, and by which settings.
pub(super) fn invariants(out: &mut String, snapshot: &Snapshot) {
    out.push_str(
        "<section id=\"invariants\"><h2>Invariants</h2><table class=\"stack\"><thead><tr><th>Invariant</th><th>State</th>\
         <th>Severity</th><th>Threshold</th><th>Grace</th></tr></thead><tbody>",
    );
    for status in &snapshot.report.invariants {
        let config = &status.config;
        let threshold = match config.name {
            InvariantName::HighLatency => format!("p99 above {} ms", Short(config.threshold * 1e3)),
            InvariantName::CounterDrift => {
                format!("{} % above the limit", Short(config.threshold * 1e2))
            }
            InvariantName::GhostAllowing => "above the limit".to_owned(),
            InvariantName::NodeDown | InvariantName::RedisDisconnected => "none".to_owned(),
        };
        put!(
            out,
            "<tr><td data-label=\"Invariant\"><b>{}</b></td><td data-label=\"State\">{}</td>\
             <td data-label=\"Severity\">{}</td><td data-label=\"Threshold\">{threshold}</td>\
             <td data-label=\"Grace\">{}</td></tr>",
            config.name,
            state_of(status),
            config.severity,
            Long(config.grace_period)
        );
    }
    out.push_str("</tbody></table></section>");
}

fn state_of(status: &InvariantStatus) -> String {
    let (standing, text) = match (status.violations, status.pending) {
        (0, 0) if status.evaluable => (Standing::Holds, "holds".to_owned()),
        (0, 0) => (Standing::Unknown, "holds as far as it was seen".to_owned()),
        (0, pending) => (Standing::Pending, format!("{pending} pending")),
        (violated, 0) => (Standing::Violated, format!("{violated} violated")),
        (violated, pending) => (
            Standing::Violated,
            format!("{violated} violated, {pending} pending"),
        ),
    };
    sign(standing, &text)
}

/// A sign and its text: the sign's shape and the words say what the colour says.
fn sign(standing: Standing, text: &str) -> String {
    let (class, sign, _) = look(standing);
    format!("<span class=\"{class}\"><i aria-hidden=\"true\">{sign}</i> {text}</span>")
}

/// The nodes.
pub(super) fn nodes(out: &mut String, snapshot: &Snapshot) {
    let nodes = &snapshot.observation.nodes;
    let up = nodes.iter().filter(|node| node.is_up()).count();
    put!(
        out,
        "<section id=\"nodes\"><h2>Nodes <span class=\"count\">{up} of {} up</span></h2>",
        nodes.len()
    );
    if nodes.is_empty() {
        out.push_str("<p class=\"faint\">No node is known.</p></section>");
        return;
    }
    out.push_str(
        "<table class=\"stack\"><thead><tr><th>Node</th><th>State</th><th>Way to Redis</th><th>p99 of 60 s</th>\
         <th>Registration</th><th>Health</th></tr></thead><tbody>",
    );
    let invariants = &snapshot.report.invariants;
    let latency = invariants
        .iter()
        .find(|status| status.config.name == InvariantName::HighLatency);
    let threshold_ms = latency.map(|status| status.config.threshold * 1e3);
    for node in nodes {
        node_row(out, node, &snapshot.observation, threshold_ms);
    }
    out.push_str("</tbody></table></section>");
}

fn node_row(out: &mut String, node: &Node, observation: &Observation, threshold_ms: Option<f64>) {
    let because = |reason: &Option<String>| match reason {
        Some(reason) => format!(" <span class=\"faint\">{}</span>", Escaped(reason)),
        None => String::new(),
    };
    let state = match node.state.as_deref() {
        Some("Up") => sign(Standing::Holds, "Up"),
        Some(other) => sign(Standing::Violated, &Escaped(other).to_string()),
        None => sign(Standing::Unknown, "unknown"),
    };
    let redis = match node.redis_connected {
        Some(true) => sign(Standing::Holds, "reached"),
        Some(false) => sign(Standing::Violated, "not reached"),
        None => sign(Standing::Unknown, "unknown"),
    };
    let metrics = observation.node_metrics.get(&node.id);
    let p99 = if let Some(ms) = metrics.and_then(|metrics| metrics.latency_p99_ms) {
        let bar = threshold_ms.filter(|threshold| *threshold > 0.0);
        let bar = bar.map_or(String::new(), |threshold| Bar(ms / threshold).to_string());
        format!("<span class=\"figure\">{}</span> {bar}", Millis(ms))
    } else {
        let why = metrics.and_then(|metrics| metrics.latency_unknown.clone());
        let bucket = metrics.and_then(|metrics| metrics.latency_p99_bucket);
        let known = bucket.map_or("unknown".to_owned(), |bucket| bucket.in_millis());
        format!("{known}{}", because(&why))
    };
    let registration = match node.heartbeat_ttl_seconds {
        Some(left) => format!("{left:.0} s left"),
        None => "none with a TTL".to_owned(),
    };
    let health = match node.probe_seconds {
        Some(seconds) => Millis(seconds * 1e3).to_string(),
        None => "no answer".to_owned(),
    };
    put!(
        out,
        "<tr><td data-label=\"Node\">{} <span class=\"faint\">{}</span></td><td data-label=\"State\">{state}{}</td>\
         <td data-label=\"Way to Redis\">{redis}{}</td><td data-label=\"p99 of 60 s\">{p99}</td>\
         <td data-label=\"Registration\">{registration}</td><td data-label=\"Health\">{health}</td></tr>",
        Subject(&node.id),
        Escaped(node.address.as_deref().unwrap_or("no address")),
        because(&node.reason),
        because(&node.redis_reason),
    );
}

/// Redis and how far its keys were read.
pub(super) fn redis(out: &mut String, page: &Page<'_>, snapshot: &Snapshot) {
    let observation = &snapshot.observation;
    let redis = &observation.redis;
    out.push_str("<section id=\"redis\"><h2>Redis and the management API</h2><dl class=\"facts\">");
    let mut fact =
        |name: &str, value: String| put!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    fact(
        "Redis",
        match observation.redis_connected {
            Some(true) => sign(Standing::Holds, "answers"),
            Some(false) => {
                let why = redis.reason.as_deref().unwrap_or("no answer");
                sign(
                    Standing::Violated,
                    &format!("does not answer: {}", Escaped(why)),
                )
            }
            None => sign(
                Standing::Unknown,
                "the collection ended before PING was answered",
            ),
        },
    );
    if let Some(seconds) = redis.ping_seconds {
        fact("PING", Millis(seconds * 1e3).to_string());
    }
    if let Some(info) = &redis.info {
        let version = Escaped(&info.version);
        fact(
            "Version",
            format!("{version} {} {}", Escaped(&info.mode), Escaped(&info.role)),
        );
        if let Some(used) = info.used_memory {
            let most = match info.max_memory {
                Some(most) if most > 0 => format!(" of {}", Bytes(most)),
                _ => String::new(),
            };
            fact("Memory", format!("{}{most}", Bytes(used)));
        }
        if let Some(evicted) = info.evicted_keys {
            let text = Count(evicted, "key").to_string();
            fact("Evicted", text);
        }
    }
    fact(
        "Management API",
        match observation.api_up {
            Some(true) => sign(Standing::Holds, "answers"),
            Some(false) => sign(Standing::Violated, "does not answer properly"),
            None => sign(Standing::Unknown, "was not asked"),
        },
    );
    if let Some(limit) = observation.default_limit {
        let window = Millis::window(limit.window_ms);
        fact("Default limit", format!("{} in {window}", limit.limit));
    }
    if let Some(totals) = &observation.totals {
        match totals.last_full_pass {
            Some(at) => {
                let ago = Long(elapsed(at, page.now));
                let when = At { at, now: page.now };
                fact("Live keys", format!("{} at {when}, {ago} ago", totals.keys));
            }
            None => fact("Live keys", "not all counted yet".to_owned()),
        }
    }
    out.push_str("</dl></section>");
}

/// The fullest keys, with bars.
pub(super) fn keys(out: &mut String, snapshot: &Snapshot) {
    let counters = &snapshot.observation.counters;
    out.push_str("<section id=\"keys\"><h2>Top keys</h2>");
    match &snapshot.observation.counters_read {
        CountersRead::Failed { reason } => put!(
            out,
            "<p class=\"unknown\"><i aria-hidden=\"true\">?</i> The counters could not be read: <code>{reason}</code></p>"
        ),
        CountersRead::Partial { reason, .. } => put!(
            out,
            "<p class=\"unknown\"><i aria-hidden=\"true\">?</i> Not all counters were read: <code>{reason}</code></p>"
        ),
        CountersRead::Full if counters.is_empty() => {
            out.push_str("<p class=\"faint\">No key has a request inside its window.</p>");
        }
        CountersRead::Full => {}
    }
    if counters.is_empty() {
        out.push_str("</section>");
        return;
    }
    out.push_str(
        "<table class=\"keys\"><thead><tr><th>Key</th><th><span class=\"hidden\">Share of the limit</span></th>\
         <th class=\"number\">Count</th><th class=\"number\">Limit</th><th class=\"number\">Left</th>\
         <th class=\"number\">Window</th></tr></thead><tbody>",
    );
    for counter in counters.iter().take(MOST_KEYS) {
        key_row(out, counter);
    }
    out.push_str("</tbody></table>");
    let keys = snapshot
        .observation
        .totals
        .as_ref()
        .map_or(0, |totals| totals.keys);
    let more = keys.saturating_sub(counters.len().min(MOST_KEYS) as u64);
    if more > 0 {
        put!(
            out,
            "<p class=\"more\">and {}</p>",
            Count(more, "emptier key")
        );
    }
    out.push_str("</section>");
}

fn key_row(out: &mut String, counter: &Counter) {
    let used = counter.utilization();
    let share = if used.is_finite() {
        format!("{:.0} %", used * 1e2)
    } else {
        "over 0".to_owned()
    };
    let share = if used > 1.0 {
        sign(Standing::Violated, &share)
    } else {
        share
    };
    let window = counter
        .window_ms
        .map_or("unknown".to_owned(), Millis::window);
    put!(
        out,
        "<tr><td>{}</td><td class=\"share\">{}<span class=\"figure\">{share}</span></td>\
         <td class=\"number\" data-label=\"count\">{}</td><td class=\"number\" data-label=\"limit\">{}</td>\
         <td class=\"number\" data-label=\"left\">{}</td><td class=\"number\" data-label=\"in\">{window}</td></tr>",
        Subject(&counter.key),
        Bar(used),
        counter.count,
        counter.limit,
        counter.remaining
    );
}

/// What was asked for and not read.
pub(super) fn unread(out: &mut String, snapshot: &Snapshot) {
    let failures = &snapshot.observation.failures;
    out.push_str("<section id=\"unread\">");
    if !failures.is_empty() {
        out.push_str(
            "<h2>Not read</h2><table class=\"stack\"><thead><tr><th>Source</th><th>Reason</th><th>What happened</th></tr>\
             </thead><tbody>",
        );
        for failure in failures {
            put!(
                out,
                "<tr><td data-label=\"Source\">{}</td><td data-label=\"Reason\"><code>{}</code></td>\
                 <td data-label=\"What\">{}</td></tr>",
                failure.collector.name(),
                failure.reason,
                Escaped(&failure.message)
            );
        }
        out.push_str("</tbody></table>");
    }
    out.push_str("</section>");
}

/// How each source did.
pub(super) fn sources(out: &mut String, snapshot: &Snapshot) {
    out.push_str("<section id=\"sources\"><h2>Sources</h2><dl class=\"facts\">");
    for (collector, run) in &snapshot.observation.collectors {
        let standing = if run.success {
            Standing::Holds
        } else {
            Standing::Unknown
        };
        let word = if run.success { "read" } else { "failed" };
        put!(
            out,
            "<div><dt>{}</dt><dd>{} in {}</dd></div>",
            collector.name(),
            sign(standing, word),
            Millis(run.seconds * 1e3)
        );
    }
    out.push_str("</dl></section>");
}
