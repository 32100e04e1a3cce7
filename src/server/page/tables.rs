//! What was read: invariants, nodes, Redis, the fullest keys, and what could not be read.

use jiff::Timestamp;
use maud::{Markup, Render, html};

use super::format::{bar, bytes, foreign, long, millis, short, subject, time, window};
use super::headline::look;
use crate::clock::elapsed;
use crate::observation::{Counter, CountersRead, Node, Observation, Refused};
use crate::overall_status::OverallStatus;
use crate::report::{InvariantName, InvariantStatus, Unit};
use crate::snapshot::Snapshot;
use crate::text::count;

/// The keys that the page shows; the metrics and the JSON have more.
const MOST_KEYS: usize = 20;

/// The first row of a table.
pub(super) fn head(columns: &[&str]) -> Markup {
    html! { thead { tr { @for column in columns { th { (column) } } } } }
}

/// A sign and its text: shape and words say what the colour says.
fn sign(overall: OverallStatus, text: impl Render) -> Markup {
    let (class, sign, _) = look(overall);
    html! { span class=(class) { i aria-hidden="true" { (sign) } " " (text) } }
}

/// A source or way that works, does not, or is unknown, with the text for each.
fn works(state: Option<bool>, [works, fails, unknown]: [&str; 3]) -> Markup {
    match state {
        Some(true) => sign(OverallStatus::Holds, works),
        Some(false) => sign(OverallStatus::Violated, fails),
        None => sign(OverallStatus::Unknown, unknown),
    }
}

/// One line for each invariant: its state and its settings.
pub(super) fn invariants(snapshot: &Snapshot) -> Markup {
    html! {
        section id="invariants" {
            h2 { "Invariants" }
            table class="stack" {
                (head(&["Invariant", "State", "Severity", "Threshold", "Grace"]))
                tbody {
                    @for status in &snapshot.report.invariants {
                        tr {
                            td data-label="Invariant" { b { (status.config.name) } }
                            td data-label="State" { (state_of(status)) }
                            td data-label="Severity" { (status.config.severity) }
                            td data-label="Threshold" { (threshold_of(status)) }
                            td data-label="Grace" { (long(status.config.grace_period)) }
                        }
                    }
                    @for it in snapshot.report.not_applicable.iter().filter(|_| snapshot.observation.is_described()) {
                        tr {
                            td data-label="Invariant" { b { (it.name) } }
                            td data-label="State" colspan="4" { "not applicable: " (it.why) }
                        }
                    }
                }
            }
        }
    }
}

fn threshold_of(status: &InvariantStatus) -> String {
    let threshold = status.config.threshold;
    match (status.config.name.threshold_unit(), status.config.name) {
        (Some(Unit::Seconds), _) => format!("p99 above {} ms", short(threshold * 1e3)),
        (Some(Unit::Ratio), _) => format!("{} % above the limit", short(threshold * 1e2)),
        (None, InvariantName::GhostAllowing) => "above the limit".to_owned(),
        (None, _) => "none".to_owned(),
    }
}

fn state_of(status: &InvariantStatus) -> Markup {
    match (status.violations, status.pending) {
        (0, 0) if status.evaluable => sign(OverallStatus::Holds, "holds"),
        (0, 0) => sign(OverallStatus::Unknown, "holds, not fully evaluated"),
        (0, pending) => sign(OverallStatus::Pending, format!("{pending} pending")),
        (violated, 0) => sign(OverallStatus::Violated, format!("{violated} violated")),
        (violated, pending) => {
            let text = format!("{violated} violated, {pending} pending");
            sign(OverallStatus::Violated, text)
        }
    }
}

/// The title of the column of latencies, with the span of time that they cover.
fn p99_title(observation: &Observation) -> String {
    let span = observation.latency_window_seconds.span();
    format!("p99 of {} s", span.as_secs_f64())
}

/// The nodes.
pub(super) fn nodes(snapshot: &Snapshot) -> Markup {
    let nodes = &snapshot.observation.nodes;
    let up = nodes.iter().filter(|node| node.is_up()).count();
    let latency = snapshot.report.status(InvariantName::HighLatency);
    let threshold_ms = latency.map(|status| status.config.threshold * 1e3);
    let p99 = p99_title(&snapshot.observation);
    html! {
        section id="nodes" {
            h2 { "Nodes " span class="count" { (up) " of " (nodes.len()) " up" } }
            @if nodes.is_empty() {
                p class="faint" { "No node is known." }
            } @else {
                table class="stack" {
                    (head(&["Node", "State", "Way to Redis", &p99, "Registration", "Health"]))
                    tbody {
                        @for node in nodes { (node_row(node, &snapshot.observation, threshold_ms)) }
                    }
                }
            }
        }
    }
}

fn because(reason: Option<&str>) -> Markup {
    html! { @if let Some(reason) = reason { " " span class="faint" { (foreign(reason)) } } }
}

fn node_row(node: &Node, observation: &Observation, threshold_ms: Option<f64>) -> Markup {
    let state = match node.state.as_deref() {
        Some("Up") => sign(OverallStatus::Holds, "Up"),
        Some(other) => sign(OverallStatus::Violated, foreign(other)),
        None => sign(OverallStatus::Unknown, "unknown"),
    };
    let redis = works(node.redis_connected, ["reached", "not reached", "unknown"]);
    let metrics = observation.node_metrics.get(&node.id);
    let p99 = p99_title(observation);
    let ttl = node.heartbeat_ttl_seconds;
    let probe = node.probe_seconds;
    let bucket = metrics.and_then(|metrics| metrics.latency_p99_bucket);
    html! {
        tr {
            td data-label="Node" {
                (subject(&node.id)) " "
                span class="faint" { (foreign(node.address.as_deref().unwrap_or("no address"))) }
            }
            td data-label="State" { (state) (because(node.reason.as_deref())) }
            td data-label="Way to Redis" { (redis) (because(node.redis_reason.as_deref())) }
            td data-label=(p99) {
                @if let Some(ms) = metrics.and_then(|metrics| metrics.latency_p99_ms) {
                    span class="figure" { (millis(ms)) } " "
                    @if let Some(threshold) = threshold_ms.filter(|threshold| *threshold > 0.0) {
                        (bar(ms / threshold))
                    }
                } @else {
                    (bucket.map_or("unknown".to_owned(), |bucket| bucket.in_millis()))
                    (because(metrics.and_then(|metrics| metrics.latency_unknown.as_deref())))
                }
            }
            td data-label="Registration" {
                (ttl.map_or("none with a TTL".to_owned(), |left| format!("{left:.0} s left")))
            }
            td data-label="Health" {
                (probe.map_or("no answer".to_owned(), |seconds| millis(seconds * 1e3)))
            }
        }
    }
}

fn fact(name: &str, value: impl Render) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// Redis and the management API.
pub(super) fn redis(now: Timestamp, snapshot: &Snapshot) -> Markup {
    let observation = &snapshot.observation;
    let redis = &observation.redis;
    let why = foreign(redis.reason.as_deref().unwrap_or("no answer"));
    let fails = format!("does not answer: {why}");
    let unknown = "the collection ended before PING was answered";
    let answers = works(observation.redis_connected, ["answers", &fails, unknown]);
    let states = ["answers", "does not answer properly", "no request was made"];
    let api = works(observation.api_up, states);
    html! {
        section id="redis" {
            h2 { "Redis and the management API" }
            dl class="facts" {
                (fact("Redis", answers))
                @if let Some(seconds) = redis.ping_seconds { (fact("PING", millis(seconds * 1e3))) }
                @if let Some(info) = &redis.info {
                    @let kind = [&info.version, &info.mode, &info.role].map(|text| foreign(text));
                    (fact("Version", kind.join(" ")))
                    @if let Some(used) = info.used_memory {
                        @let most = info.max_memory.filter(|most| *most > 0);
                        @let of = most.map_or(String::new(), |most| format!(" of {}", bytes(most)));
                        (fact("Memory", bytes(used) + &of))
                    }
                    @if let Some(evicted) = info.evicted_keys { (fact("Evicted", count(evicted, "key"))) }
                }
                (fact("Management API", api))
                @if let Some(limit) = observation.default_limit {
                    (fact("Default limit", format!("{} in {}", limit.limit, window(limit.window_ms))))
                }
                @if let Some(totals) = &observation.totals {
                    (fact("Live keys", html! {
                        @if let Some(at) = totals.last_full_pass {
                            (totals.keys) " at " (time(at, now)) ", " (long(elapsed(at, now))) " ago"
                        } @else {
                            "not all counted yet"
                        }
                    }))
                }
            }
        }
    }
}

/// The fullest keys, with bars.
pub(super) fn keys(snapshot: &Snapshot) -> Markup {
    let observation = &snapshot.observation;
    let shown = &observation.counters[..observation.counters.len().min(MOST_KEYS)];
    let keys = observation.totals.as_ref().map_or(0, |totals| totals.keys);
    let more = keys.saturating_sub(shown.len() as u64);
    let unread = match &observation.counters_read {
        CountersRead::Failed { reason } => Some(("The counters could not be read: ", reason)),
        CountersRead::Partial { reason, .. } => Some(("Not all counters were read: ", reason)),
        CountersRead::Full => None,
    };
    html! {
        section id="keys" {
            h2 { "Top keys" }
            @if let Some((what, reason)) = unread {
                p class="unknown" { i aria-hidden="true" { "?" } " " (what) code { (reason) } }
            } @else if shown.is_empty() {
                p class="faint" { "No key has a request inside its window." }
            }
            @if !shown.is_empty() {
                table class="keys" {
                    thead {
                        tr {
                            th { "Key" }
                            th { span class="hidden" { "Share of the limit" } }
                            @for column in ["Count", "Limit", "Left", "Window"] { th class="number" { (column) } }
                        }
                    }
                    tbody { @for counter in shown { (key_row(counter)) } }
                }
                @if more > 0 { p class="more" { "and " (count(more, "emptier key")) } }
            }
        }
    }
}

/// Whether the count is above the limit because refused requests are in it.
fn is_demand(counter: &Counter) -> bool {
    counter.condition.refused == Refused::Counted && counter.count > counter.limit
}

fn key_row(counter: &Counter) -> Markup {
    let used = counter.utilization();
    let share = if used.is_finite() {
        format!("{:.0} %", used * 1e2)
    } else {
        "over 0".to_owned()
    };
    html! {
        tr {
            td { (subject(&counter.key)) }
            td class="share" {
                (bar(used))
                span class="figure" { @if used > 1.0 { (sign(OverallStatus::Violated, share)) } @else { (share) } }
            }
            td class="number" data-label="count" {
                (counter.count)
                @if is_demand(counter) { " demand" }
            }
            td class="number" data-label="limit" { (counter.limit) }
            td class="number" data-label="left" { (counter.remaining) }
            td class="number" data-label="in" { (counter.window_ms.map_or("unknown".to_owned(), window)) }
        }
    }
}

/// What could not be read.
pub(super) fn unread(snapshot: &Snapshot) -> Markup {
    let failures = &snapshot.observation.failures;
    html! {
        section id="unread" {
            @if !failures.is_empty() {
                h2 { "Not read" }
                table class="stack" {
                    (head(&["Source", "Reason", "What happened"]))
                    tbody {
                        @for failure in failures {
                            tr {
                                td data-label="Source" { (failure.collector.name()) }
                                td data-label="Reason" { code { (failure.reason) } }
                                td data-label="What" { (foreign(&failure.message)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Whether each source was read, and how long that took.
pub(super) fn sources(snapshot: &Snapshot) -> Markup {
    html! {
        section id="sources" {
            h2 { "Sources" }
            dl class="facts" {
                @for (collector, run) in &snapshot.observation.collectors {
                    @let (overall, word) = if run.success { (OverallStatus::Holds, "read") } else { (OverallStatus::Unknown, "failed") };
                    (fact(collector.name(), html! { (sign(overall, word)) " in " (millis(run.seconds * 1e3)) }))
                }
            }
        }
    }
}
