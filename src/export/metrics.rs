//! Which values go into which families.

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};

use super::definitions as d;
use super::families::Families;
use crate::clock::unix_seconds;
use crate::observation::{Collector, LimiterKind, Observation, Reason as R, UTILIZATION_BOUNDS};
use crate::report::{Decision, Report, Unit};
use crate::snapshot::Snapshot;

/// What the exporter reports about itself, besides its collections.
#[derive(Clone, Copy, Debug)]
pub struct Exporter {
    /// The last load of the configuration.
    pub reload: Reload,
    /// How many requests were answered with 401 since the exporter started: those without credentials, such as the first
    /// request of a browser, and those whose user or password is wrong.
    pub unauthorized: [(&'static str, u64); 2],
}

/// When and whether the configuration was last loaded.
#[derive(Clone, Copy, Debug)]
pub struct Reload {
    /// Whether the last attempt succeeded.
    pub ok: bool,
    /// When one last succeeded.
    pub at: jiff::Timestamp,
}

/// The metrics in Prometheus's text format.
pub fn render(snapshot: &Snapshot, exporter: Exporter) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = of_target(snapshot);
    of_exporter(&mut families, exporter);
    let mut families = families.finish();
    families.extend(ProcessCollector::for_self().collect());
    encode(&families)
}

/// The metrics of one target of several. About the exporter itself they have only its version, by which dashboards
/// choose limiters, and its start time, which alerts use.
pub fn render_target(snapshot: &Snapshot) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = of_target(snapshot).finish();
    let process = ProcessCollector::for_self().collect().into_iter();
    families.extend(process.filter(|family| family.name() == "process_start_time_seconds"));
    encode(&families)
}

fn encode(families: &[MetricFamily]) -> Result<Vec<u8>, prometheus::Error> {
    let mut text = Vec::with_capacity(64 * 1024);
    TextEncoder::new().encode(families, &mut text)?;
    Ok(text)
}

fn of_target(snapshot: &Snapshot) -> Families {
    let mut families = Families::default();
    invariants(&mut families, &snapshot.report);
    nodes(&mut families, &snapshot.observation);
    if let Some(kind) = &snapshot.observation.limiter {
        limiter(&mut families, kind);
    }
    keys(&mut families, &snapshot.observation);
    redis(&mut families, &snapshot.observation);
    collection(&mut families, snapshot);
    let build = [
        env!("CARGO_PKG_VERSION"),
        option_env!("BUILD_REVISION").unwrap_or("unknown"),
        option_env!("BUILD_RUSTVERSION").unwrap_or("unknown"),
    ];
    families.add(&d::BUILD_INFO, &build, 1.0);
    families
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// A count as a sample value.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus's samples are floats"
)]
fn number(count: u64) -> f64 {
    count as f64
}

/// A count that a node reports as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole and not negative; any other value becomes the nearest count"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

fn invariants(families: &mut Families, report: &Report) {
    for status in &report.invariants {
        let config = &status.config;
        let (name, severity) = (config.name.name(), config.severity.name());
        families.add(&d::VIOLATIONS, &[name, severity], number(status.violations));
        families.add(&d::STARTED, &[name, severity], number(status.started_total));
        families.add(&d::DROPPED, &[name], number(status.dropped));
        families.add(&d::EVALUABLE, &[name], flag(status.evaluable));
        families.add(&d::GRACE, &[name], config.grace_period.as_secs_f64());
        match config.name.threshold_unit() {
            Some(Unit::Seconds) => {
                families.add(&d::THRESHOLD_SECONDS, &[name], config.threshold);
            }
            Some(Unit::Ratio) => families.add(&d::THRESHOLD_RATIO, &[name], config.threshold),
            None => {}
        }
    }
    for violation in &report.violations {
        let (name, severity) = (violation.name.name(), violation.severity.name());
        families.add(&d::VIOLATION, &[name, severity, &violation.subject], 1.0);
    }
    for violation in report.violations.iter().chain(&report.pending) {
        let labels = [violation.name.name(), &violation.subject];
        let since = unix_seconds(violation.first_seen);
        families.add(&d::ACTIVE_SINCE, &labels, since);
    }
    for violation in &report.pending {
        let labels = [violation.name.name(), &violation.subject];
        families.add(&d::PENDING, &labels, 1.0);
        let is_draining = violation.decision == Decision::Draining;
        let left = is_draining.then_some(violation.grace_left.as_secs_f64());
        families.add(&d::DRAINING, &labels, left);
    }
    // Subjects without a violation come last: a series that already exists stays at 1.
    for status in &report.invariants {
        let (name, severity) = (status.config.name, status.config.severity.name());
        let cleared = report.cleared.iter().filter(|(of, _)| *of == name);
        let cleared = cleared.map(|(_, subject)| subject);
        for subject in status.subjects.iter().chain(cleared) {
            families.add(&d::VIOLATION, &[name.name(), severity, subject], 0.0);
        }
    }
}

fn nodes(families: &mut Families, observation: &Observation) {
    families.add(&d::UP, &[], observation.api_up.map(flag));
    if observation.limiter.as_ref().is_none_or(|kind| kind.nodes) {
        families.add(&d::NODES, &[], number(observation.nodes.len() as u64));
    }
    for node in &observation.nodes {
        let id = node.id.as_str();
        let address = node.address.as_deref().unwrap_or_default();
        let up = node.state.as_ref().map(|_| flag(node.is_up()));
        families.add(&d::NODE_UP, &[id], up);
        families.add(&d::NODE_INFO, &[id, address], 1.0);
        families.add(&d::NODE_TTL, &[id], node.heartbeat_ttl_seconds);
        families.add(&d::NODE_PROBE, &[id], node.probe_seconds);
        families.add(&d::NODE_REDIS, &[id], node.redis_connected.map(flag));
    }
    for (id, metrics) in &observation.node_metrics {
        let p99 = metrics.latency_p99_ms.map(|ms| ms / 1e3);
        families.add(&d::NODE_P99, &[id], p99);
        if let Some(checks) = &metrics.check_duration {
            let buckets = checks.buckets.iter();
            let buckets = buckets.map(|(bound, count)| (*bound, whole(*count)));
            let (count, sum) = (whole(checks.count), checks.sum.unwrap_or(f64::NAN));
            families.add_histogram(&d::NODE_CHECKS, &[id], buckets, count, sum);
        }
        for (result, count) in &metrics.requests_checked {
            families.add(&d::NODE_CHECKED, &[id, result], *count);
        }
        families.add(&d::NODE_ERRORS, &[id], metrics.check_errors);
    }
}

fn limiter(families: &mut Families, kind: &LimiterKind) {
    for counter in &kind.counters {
        let labels = [
            &*kind.name,
            &counter.name,
            &counter.count,
            counter.refused.name(),
        ];
        families.add(&d::LIMITER_INFO, &labels, 1.0);
    }
}

fn keys(families: &mut Families, observation: &Observation) {
    for counter in &observation.counters {
        let key = counter.key.as_str();
        families.add(&d::KEY_REQUESTS, &[key], number(counter.count));
        families.add(&d::KEY_LIMIT, &[key], number(counter.limit));
        families.add(&d::KEY_REMAINING, &[key], number(counter.remaining));
        let window = counter.window_ms.map(|ms| number(ms) / 1e3);
        families.add(&d::KEY_WINDOW, &[key], window);
    }
    let exported = number(observation.counters.len() as u64);
    families.add(&d::KEYS_EXPORTED, &[], exported);
    let Some(totals) = &observation.totals else {
        return;
    };
    families.add(&d::SCAN_COMMANDS, &[], number(totals.commands_total));
    families.add(&d::SCAN_COVERAGE, &[], totals.coverage);
    if let Some(at) = totals.last_full_pass {
        families.add(&d::SCAN_LAST, &[], unix_seconds(at));
        families.add(&d::KEYS, &[], number(totals.keys));
        for (counter, keys) in &totals.without_expiry {
            families.add(&d::KEYS_WITHOUT_EXPIRY, &[counter], number(*keys));
        }
        if let Some(foreign) = totals.foreign {
            families.add(&d::KEYS_FOREIGN, &[], number(foreign));
        }
        let utilization = totals.utilization.iter().copied();
        let buckets = UTILIZATION_BOUNDS.into_iter().zip(utilization);
        let compared = totals.keys.saturating_sub(totals.without_limit);
        let sum = totals.utilization_sum;
        families.add_histogram(&d::UTILIZATION, &[], buckets, compared, sum);
    }
}

fn redis(families: &mut Families, observation: &Observation) {
    families.add(&d::REDIS_UP, &[], observation.redis_connected.map(flag));
    for shard in &observation.redis.shards {
        families.add(&d::REDIS_SHARD_UP, &[&shard.address], flag(shard.connected));
        if let Some(source) = &shard.swept_from {
            let role = if *source == shard.address {
                "primary"
            } else {
                "replica"
            };
            families.add(&d::SCAN_SOURCE, &[&shard.address, source, role], 1.0);
        }
    }
    families.add(&d::REDIS_PING, &[], observation.redis.ping_seconds);
    let Some(info) = &observation.redis.info else {
        return;
    };
    let labels = [&*info.version, &info.role, &info.mode];
    families.add(&d::REDIS_INFO, &labels, 1.0);
    families.add(&d::REDIS_EVICTED, &[], info.evicted_keys.map(number));
    families.add(&d::REDIS_MEMORY, &[], info.used_memory.map(number));
    families.add(&d::REDIS_MEMORY_MAX, &[], info.max_memory.map(number));
}

fn collection(families: &mut Families, snapshot: &Snapshot) {
    families.add(&d::SCRAPE_DURATION, &[], snapshot.seconds);
    for (collector, run) in &snapshot.observation.collectors {
        let name = collector.name();
        families.add(&d::COLLECTOR_SUCCESS, &[name], flag(run.success));
        families.add(&d::COLLECTOR_DURATION, &[name], run.seconds);
    }
    for (collector, at) in &snapshot.own.last_success {
        families.add(&d::LAST_SUCCESS, &[collector.name()], unix_seconds(*at));
    }
    for ((collector, reason), count) in &snapshot.own.errors {
        let labels = [collector.name(), reason.name()];
        families.add(&d::ERRORS, &labels, number(*count));
    }
    for collector in snapshot.observation.collectors.keys() {
        // With a series from the start, `increase` also sees the first failure.
        for reason in common_reasons(*collector) {
            families.add(&d::ERRORS, &[collector.name(), reason.name()], 0.0);
        }
    }
    families.add(&d::STATE_WRITTEN, &[], snapshot.own.state_written.map(flag));
    families.add(&d::COALESCED, &[], number(snapshot.own.coalesced));
}

fn of_exporter(families: &mut Families, exporter: Exporter) {
    let Reload { ok, at } = exporter.reload;
    families.add(&d::RELOAD_OK, &[], flag(ok));
    families.add(&d::RELOAD_AT, &[], unix_seconds(at));
    for (credentials, count) in exporter.unauthorized {
        families.add(&d::UNAUTHORIZED, &[credentials], number(count));
    }
}

/// The most likely reasons for a failure of a collector.
fn common_reasons(collector: Collector) -> &'static [R] {
    match collector {
        Collector::Counters => &[R::Timeout, R::WrongType, R::InvalidLimit, R::InvalidWindow],
        Collector::ManagementApi | Collector::Prometheus => {
            &[R::Timeout, R::Refused, R::HttpStatus]
        }
        Collector::Redis
        | Collector::Registry
        | Collector::Probes
        | Collector::NodeMetrics
        | Collector::Canary => &[R::Timeout, R::Refused],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::invariants::{Checker, CheckerConfig};
    use crate::subject::InvariantChecker as _;

    /// What an observation in its JSON form looks like on `/metrics`.
    fn rendered(observation: &str) -> String {
        let observation: Observation = serde_json::from_str(observation).unwrap();
        let now = Moment::from_wall("2026-01-27T02:06:57Z".parse().unwrap());
        let mut checker = Checker::new(CheckerConfig::default());
        let snapshot = Snapshot {
            report: checker.check(now, &observation),
            observation,
            seconds: 0.25,
            own: crate::snapshot::OwnCounters::default(),
        };
        let exporter = Exporter {
            reload: Reload {
                ok: true,
                at: now.wall,
            },
            unauthorized: [("missing", 0), ("wrong", 0)],
        };
        let text = String::from_utf8(render(&snapshot, exporter).unwrap()).unwrap();
        // HELP comes from the declarations. The version and the process differ from run to run.
        let others = ["#", "ratelimiter_exporter_build_info", "process_"];
        let lines = text
            .lines()
            .filter(|line| !others.iter().any(|other| line.starts_with(other)));
        lines.map(|line| line.to_owned() + "\n").collect()
    }

    #[test]
    fn the_minimal_observation_renders() {
        insta::assert_snapshot!(rendered(
            r#"{"nodes":[{"id":"node-1","address":"10.0.0.1:8000","state":"Up"}],
                "counters":[{"key":"user:1","count":5,"limit":10,"remaining":5}],
                "node_metrics":{"node-1":{"latency_p99_ms":10.0}},
                "redis_connected":true}"#
        ));
    }

    #[test]
    fn a_bound_given_twice_or_a_nul_does_not_cost_the_scrape() {
        let text = rendered(
            r#"{"nodes":[{"id":"a\u0000b","state":"Up"}],"counters":[],"redis_connected":true,
                "node_metrics":{"n":{"check_duration":{"buckets":[[0.1,1.0],[0.1,2.0],[0.05,1.0]],"count":3,"sum":1}}}}"#,
        );
        assert!(!text.contains('\0') && text.contains("a\\\\x00b"), "{text}");
        let buckets = text.matches("ratelimiter_node_check_duration_seconds_bucket");
        assert_eq!(buckets.count(), 2, "{text}");
    }

    #[test]
    fn what_is_violated_and_what_is_unknown_render() {
        insta::assert_snapshot!(rendered(
            r#"{"nodes":[{"id":"a \"quoted\" id","state":"Down"},{"id":"n2","state":null}],
                "counters":[],"node_metrics":{"n2":{"latency_p99_ms":80.0}},
                "redis_connected":false,"api_up":false,
                "counters_read":{"failed":{"reason":"redis_down"}}}"#
        ));
    }
}
