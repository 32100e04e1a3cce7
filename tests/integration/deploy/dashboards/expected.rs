//! What each panel must show, and in which fault it must show it.

use std::collections::BTreeMap;

use super::board::Series;
use super::limiter::{Fault, KEY};

/// What the queries of a panel brought, by their names.
#[derive(Debug, Default)]
pub(super) struct Answers(pub(super) BTreeMap<String, Vec<Series>>);

impl Answers {
    /// Whether the present value of some series is like that.
    pub(super) fn any(&self, query: &str, like: impl Fn(f64) -> bool) -> bool {
        self.with(query, &[], like)
    }

    /// Whether the present value of some series with these labels is like that.
    pub(super) fn with(
        &self,
        query: &str,
        labels: &[(&str, &str)],
        like: impl Fn(f64) -> bool,
    ) -> bool {
        let has = |series: &&Series| {
            let mut wanted = labels.iter();
            wanted.all(|(name, value)| series.labels.get(*name).is_some_and(|is| is == value))
        };
        let mut series = self.0.get(query).into_iter().flatten().filter(has);
        series.any(|series| like(series.last()))
    }

    /// How much a histogram's bucket has more than a lower one.
    fn between(&self, query: &str, lower: &str, upper: &str) -> f64 {
        let bucket = |bound: &str| {
            let mut series = self.0.get(query).into_iter().flatten();
            let series =
                series.find(|series| series.labels.get("le").is_some_and(|le| le == bound));
            series.map_or(f64::NAN, Series::last)
        };
        bucket(upper) - bucket(lower)
    }
}

/// A panel, a fault, and what its answers show at some moment of the fault, and never while all is well.
type Shows = (&'static str, Fault, fn(&Answers) -> bool);

/// One panel in one fault.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) board: &'static str,
    pub(super) panel: &'static str,
    pub(super) fault: Fault,
    pub(super) shows: fn(&Answers) -> bool,
}

/// Panels that are for no fault: they say what is, and must always have data.
pub(super) const CONTEXT: &[(&str, &str, &str)] = &[
    ("node", "Address", "where a node is does not change"),
    (
        "overview",
        "Exporter memory and CPU",
        "what the exporter uses is no fault of the limiter's",
    ),
    (
        "overview",
        "Counters of the limiter",
        "how a kind counts does not change",
    ),
    (
        "overview",
        "Keys without expiry",
        "0 for these counters: kinds.rs shows others",
    ),
];

/// Queries that rightly bring nothing while all is well: board, panel, query, why.
pub(super) const EMPTY_IN_HEALTH: &[(&str, &str, &str, &str)] = &[
    (
        "overview",
        "Violations by name and subject",
        "B",
        "no subject was in violation",
    ),
    (
        "overview",
        "Active violations",
        "A",
        "there is no violation",
    ),
    (
        "key",
        "Violations",
        "A",
        "a key has a series from its first violation on",
    ),
];

pub(super) fn above(floor: f64) -> impl Fn(f64) -> bool {
    move |value| value > floor
}

pub(super) fn is(number: f64) -> impl Fn(f64) -> bool {
    move |value| (value - number).abs() < 1e-9
}

/// Every panel but those of [`CONTEXT`], in each fault that it is for.
pub(super) fn expectations() -> impl Iterator<Item = Expected> {
    let boards = [("overview", OVERVIEW), ("node", NODE), ("key", OF_KEY)];
    boards.into_iter().flat_map(|(board, panels)| {
        let panels = panels.iter();
        panels.map(move |&(panel, fault, shows)| Expected {
            board,
            panel,
            fault,
            shows,
        })
    })
}

const OVERVIEW: &[Shows] = &[
    // Right now.
    ("Limiter", Fault::KeysOver, |a| a.any("A", is(3.0))),
    ("Limiter", Fault::RedisHangs, |a| a.any("A", above(1.5))),
    ("Violations by severity", Fault::KeysOver, |a| {
        a.with("A", &[("severity", "critical")], above(10.5))
    }),
    ("Violations by severity", Fault::KeysOver, |a| {
        a.with("A", &[("severity", "warning")], above(0.5))
    }),
    ("Violations by severity", Fault::KeysOver, |a| {
        a.any("B", above(0.5))
    }),
    ("Nodes", Fault::NodeKilled, |a| {
        a.with("A", &[("node_id", "node-3")], is(0.0))
    }),
    ("Redis", Fault::RedisHangs, |a| a.any("A", is(0.0))),
    ("Age of the oldest reading", Fault::RedisHangs, |a| {
        a.any("A", above(5.0))
    }),
    ("Exporter", Fault::ExporterHangs, |a| a.any("A", is(0.0))),
    // Violations.
    ("Violations by name and subject", Fault::KeysOver, |a| {
        let drift = &[("name", "counter_drift")];
        a.with("A", drift, is(2.0))
    }),
    ("Violations by name and subject", Fault::KeysOver, |a| {
        let drift = &[("name", "counter_drift")];
        a.with("A", drift, is(3.0))
    }),
    ("Violations by name and subject", Fault::KeysOver, |a| {
        a.with("B", &[("name", "counter_drift"), ("subject", KEY)], is(2.0))
    }),
    ("Violations by name and subject", Fault::KeysOver, |a| {
        a.with(
            "B",
            &[("name", "ghost_allowing"), ("subject", KEY)],
            is(3.0),
        )
    }),
    ("Violations by name and subject", Fault::RedisHangs, |a| {
        a.with("A", &[("name", "ghost_allowing")], is(3.0))
            && a.with("B", &[("subject", "redis")], is(3.0))
    }),
    ("Active violations", Fault::KeysOver, |a| {
        row(
            a,
            "counter_drift",
            KEY,
            "pending",
            "warning",
            "ratelimiter-key",
        )
    }),
    ("Active violations", Fault::KeysOver, |a| {
        row(
            a,
            "counter_drift",
            KEY,
            "violated",
            "warning",
            "ratelimiter-key",
        ) && row(
            a,
            "ghost_allowing",
            KEY,
            "violated",
            "critical",
            "ratelimiter-key",
        )
    }),
    ("Active violations", Fault::NodeKilled, |a| {
        row(
            a,
            "node_down",
            "node-3",
            "violated",
            "critical",
            "ratelimiter-node",
        )
    }),
    ("Active violations", Fault::RedisHangs, |a| {
        let redis = "redis_disconnected";
        row(
            a,
            redis,
            "redis",
            "violated",
            "critical",
            "ratelimiter-overview",
        )
    }),
    // Latency and traffic.
    ("Check latency p50 and p99 by node", Fault::SlowNode, |a| {
        let node = &[("node_id", "node-2")];
        a.with("A", node, above(0.25)) && a.with("B", node, above(0.25)) && a.any("C", is(0.25))
    }),
    ("Checks by result", Fault::ChecksFail, |a| {
        a.any("B", above(0.0))
    }),
    // Redis.
    ("PING", Fault::KeyStorm, |a| a.any("A", above(0.04))),
    ("Memory", Fault::RedisFull, |a| {
        a.any("A", above(10e6)) && a.any("B", is(f64::from(15 << 20)))
    }),
    ("Evicted keys", Fault::RedisFull, |a| a.any("A", above(0.0))),
    // Keys.
    ("Top keys by utilization", Fault::KeysOver, |a| {
        let key = &[("key", KEY)];
        a.with("A", key, is(2.0)) && a.with("B", key, is(20.0)) && a.with("D", key, is(0.0))
    }),
    ("Top keys by utilization", Fault::LimitChanged, |a| {
        let key = &[("key", KEY)];
        a.with("A", key, is(5.0)) && a.with("C", key, is(4.0)) && a.with("E", key, is(500.0))
    }),
    ("Utilization of all keys", Fault::KeysOver, |a| {
        a.between("A", "1", "2") > 10.5 && a.between("A", "1.5", "2") > 0.5
    }),
    // The monitoring itself.
    ("Collection time by source", Fault::SlowAnswers, |a| {
        a.with("A", &[("collector", "probes")], above(0.25)) && a.any("B", above(0.25))
    }),
    ("Sources", Fault::ApiBroken, |a| {
        a.with("A", &[("collector", "management_api")], is(0.0))
    }),
    ("Errors by source and reason", Fault::ApiBroken, |a| {
        let reason = &[("collector", "management_api"), ("reason", "http_status")];
        a.with("A", reason, above(0.0))
    }),
    ("Coverage of the key space", Fault::KeyStorm, |a| {
        a.any("A", |value| value < 0.99)
    }),
    ("Age of the last full pass", Fault::RedisHangs, |a| {
        a.any("A", above(5.0))
    }),
    ("Keys and series", Fault::KeysOver, |a| a.any("C", is(3.0))),
    (
        "Redis commands for counters",
        Fault::KeyStorm,
        // With a scrape a second, a few keys take up to 70, and a part of many keys behind a delay 160.
        |a| a.any("A", above(100.0)),
    ),
];

const NODE: &[Shows] = &[
    ("State", Fault::NodeKilled, |a| a.any("A", is(0.0))),
    ("Its way to Redis", Fault::ChecksFail, |a| {
        a.any("A", is(0.0))
    }),
    ("p99 against the threshold", Fault::SlowNode, |a| {
        a.any("A", above(1.0))
    }),
    ("Registration runs out in", Fault::NoHeartbeat, |a| {
        a.any("A", |ttl| ttl < 19.0)
    }),
    ("Checks", Fault::ChecksFail, |a| a.any("A", is(0.0))),
    ("State over time", Fault::NodeKilled, |a| {
        a.any("A", is(0.0))
    }),
    ("State over time", Fault::ChecksFail, |a| {
        a.any("B", is(0.0))
    }),
    ("Violations", Fault::SlowNode, |a| {
        a.with("A", &[("name", "high_latency")], is(2.0))
    }),
    ("Violations", Fault::SlowNode, |a| {
        a.with("A", &[("name", "high_latency")], is(3.0))
    }),
    ("Violations", Fault::NodeKilled, |a| {
        a.with("A", &[("name", "node_down")], is(3.0))
    }),
    ("Check latency", Fault::SlowNode, |a| {
        a.between("A", "0.5", "1") > 1.0
    }),
    ("Check latency quantiles", Fault::SlowNode, |a| {
        let queries = ["A", "B", "C", "D"];
        queries.iter().all(|query| a.any(query, above(0.25))) && a.any("E", is(0.25))
    }),
    (
        "Heartbeat: TTL of the registration",
        Fault::NoHeartbeat,
        |a| a.any("A", |ttl| ttl < 19.0),
    ),
    ("GET /health", Fault::SlowAnswers, |a| {
        a.any("A", above(0.25))
    }),
    ("Checks by result", Fault::ChecksFail, |a| {
        a.any("B", above(0.0))
    }),
];

const OF_KEY: &[Shows] = &[
    ("State", Fault::KeysOver, |a| a.any("A", is(3.0))),
    ("In violation for", Fault::KeysOver, |a| {
        a.any("A", above(1.0))
    }),
    ("Utilization", Fault::KeysOver, |a| a.any("A", is(2.0))),
    ("Count", Fault::KeysOver, |a| a.any("A", is(20.0))),
    ("Limit", Fault::LimitChanged, |a| a.any("A", is(4.0))),
    ("Remaining", Fault::KeysOver, |a| a.any("A", is(0.0))),
    ("Window", Fault::LimitChanged, |a| a.any("A", is(500.0))),
    ("Count against limit", Fault::KeysOver, |a| {
        a.any("A", is(20.0)) && a.any("B", is(10.0)) && a.any("C", is(11.0))
    }),
    ("Remaining over time", Fault::KeysOver, |a| {
        a.any("A", is(0.0))
    }),
    ("Violations", Fault::KeysOver, |a| {
        a.with("A", &[("name", "counter_drift")], is(2.0))
    }),
    ("Violations", Fault::KeysOver, |a| {
        a.with("A", &[("name", "counter_drift")], is(3.0))
            && a.with("A", &[("name", "ghost_allowing")], is(3.0))
    }),
    ("Window over time", Fault::LimitChanged, |a| {
        a.any("A", is(500.0))
    }),
];

/// A row of the table of active violations; its value is when it began, in ms.
pub(super) fn row(
    answers: &Answers,
    name: &str,
    subject: &str,
    state: &str,
    severity: &str,
    drilldown: &str,
) -> bool {
    let labels = [
        ("name", name),
        ("subject", subject),
        ("target", subject),
        ("state", state),
        ("severity", severity),
        ("drilldown", drilldown),
    ];
    answers.with("A", &labels, above(1.7e12))
}
