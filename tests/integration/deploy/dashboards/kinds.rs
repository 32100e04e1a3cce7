//! The overview and the key over limiters without nodes: libraries inside applications, whose refused requests are counted. Every
//! query brings data, or its panel says in words why there is none; demand above the limit does not look like a violation.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use redis::AsyncCommands as _;
use tokio::time::Instant;

use super::answers;
use super::board::{Board, Values, boards, label_values};
use super::expected::{Answers, above, is, row};
use super::limiter::KEY;
use crate::harness::{Exporter, PATIENCE};

/// A key whose client asks for twice its limit.
const BUSY: &str = "busy";

/// The first counts some refused requests, the second all of them.
const KINDS: [&str; 2] = ["limits", "express-rate-limit"];

/// Queries without data where there are no nodes, and nothing is wrong.
const EMPTY: &[(&str, &str, &str)] = &[
    ("overview", "Violations by name and subject", "B"),
    ("overview", "Active violations", "A"),
    ("overview", "Check latency p50 and p99 by node", "A"),
    ("overview", "Check latency p50 and p99 by node", "B"),
    ("overview", "Check latency p50 and p99 by node", "C"),
    ("overview", "Checks by result", "A"),
    ("overview", "Checks by result", "B"),
    // maxmemory is 0.
    ("overview", "Memory", "B"),
    ("key", "Violations", "A"),
];

/// What is not asked of express-rate-limit: a count above its limit proves nothing.
const EMPTY_IF_COUNTED: &[(&str, &str, &str)] = &[("key", "Count against limit", "C")];

/// Whether a panel shows what it must.
type Shows = fn(&Answers) -> bool;

/// A Redis with the keys of both kinds, an exporter for each, and their Prometheus. The job is the kind.
struct Libraries {
    prometheus: Prometheus,
    redis: RedisServer,
    _exporters: Vec<Exporter>,
    _folder: TempDir,
}

/// The name of a counter of the kind `limits` in Redis: ten an hour.
fn of_limits(client: &str) -> String {
    format!("LIMITS:LIMITER/{client}/10/1/hour")
}

impl Libraries {
    async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new("dashboards-kinds")?;
        let redis = RedisServer::start(&[]).await?;
        let mut connection = redis.connection().await?;
        for (client, count) in [(BUSY, 20), (KEY, 10)] {
            for name in [of_limits(client), format!("rl:{client}")] {
                connection.set_ex::<_, _, ()>(name, count, 3_000).await?;
            }
        }
        let config = folder.path().join("exporter.yml");
        let text = "limits: [{match: '*', limit: 10, window: 1h}]\n\
                    invariants: {stuck_counter: {grace_period: 2s}}\n";
        std::fs::write(&config, text)?;
        let (mut exporters, mut targets) = (Vec::new(), Vec::new());
        for kind in KINDS {
            let exporter = Exporter::start(&[
                format!("--redis.url={}", redis.url()),
                format!("--limiter.kind={kind}"),
                format!("--config.file={}", config.display()),
            ])
            .await?;
            targets.push(Target {
                job: kind.to_owned(),
                address: exporter.address.clone(),
                labels: vec![("cluster".to_owned(), "lab".to_owned())],
            });
            exporters.push(exporter);
        }
        let options = PrometheusOptions {
            interval: Duration::from_secs(1),
            targets,
            rule_files: Vec::new(),
            alertmanager: None,
        };
        Ok(Self {
            prometheus: Prometheus::start_in(folder.path(), &options).await?,
            redis,
            _exporters: exporters,
            _folder: folder,
        })
    }

    /// What the panel brings for the kind.
    async fn panel(
        &self,
        boards: &[Board],
        at: (&str, &str),
        kind: &str,
    ) -> anyhow::Result<Answers> {
        let board = boards.iter().find(|board| board.name == at.0);
        let panel = board.and_then(|board| board.panels.iter().find(|panel| panel.title == at.1));
        let panel = panel.with_context(|| format!("no panel {at:?}"))?;
        answers(&self.prometheus, panel, &values(kind)).await
    }

    /// Every query of the two dashboards has data, but for those that cannot.
    async fn complete(&self, boards: &[Board], kind: &str) -> anyhow::Result<()> {
        let values = values(kind);
        for board in boards.iter().filter(|board| board.name != "node") {
            for panel in &board.panels {
                let answers = answers(&self.prometheus, panel, &values).await?;
                for (query, series) in &answers.0 {
                    let at = (board.name.as_str(), panel.title.as_str(), query.as_str());
                    let counted = kind != "limits" && EMPTY_IF_COUNTED.contains(&at);
                    let excepted = counted || EMPTY.contains(&at);
                    anyhow::ensure!(series.is_empty() == excepted, "{kind}: {at:?}: {series:?}");
                }
                let empty = answers.0.values().all(Vec::is_empty);
                anyhow::ensure!(
                    !empty || panel.no_value.is_some(),
                    "{}: {} is empty and does not say why",
                    board.name,
                    panel.title
                );
            }
        }
        Ok(())
    }
}

fn values(kind: &str) -> Values {
    let mut values = Values::new();
    let chosen = [
        ("cluster", "lab"),
        ("namespace", ""),
        ("job", kind),
        ("instance", ".+"),
        ("key", KEY),
    ];
    for (name, value) in chosen {
        values.set(name, value);
    }
    values
}

/// Waits until `ready` is true of it; the last problem otherwise.
async fn until<F: Future<Output = anyhow::Result<()>>>(
    ready: impl Fn() -> F,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ready().await {
            Err(problem) if Instant::now() > deadline => return Err(problem),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(()) => return Ok(()),
        }
    }
}

#[tokio::test]
async fn limiters_without_nodes_leave_no_panel_empty_and_demand_is_no_violation()
-> anyhow::Result<()> {
    let boards = boards()?;
    let libraries = Libraries::start().await?;
    for kind in KINDS {
        until(|| libraries.complete(&boards, kind)).await?;
        let keys = boards.iter().flat_map(|board| &board.variables);
        let (_, keys) = keys
            .clone()
            .find(|(name, _)| name == "key")
            .context("no key")?;
        let keys = label_values(&libraries.prometheus, keys, &values(kind)).await?;
        assert_eq!(
            keys.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            BTreeSet::from([BUSY, KEY])
        );
        let nodes = libraries
            .panel(&boards, ("overview", "Nodes"), kind)
            .await?;
        assert!(nodes.any("A", is(-2.0)), "{kind}: {nodes:?}");
        let verdict = libraries
            .panel(&boards, ("overview", "Limiter"), kind)
            .await?;
        let expected = if kind == "limits" { 0.0 } else { -1.0 };
        assert!(verdict.any("A", is(expected)), "{kind}: {verdict:?}");
        let top = libraries
            .panel(&boards, ("overview", "Top keys by utilization"), kind)
            .await?;
        let busy = &[("key", BUSY)];
        assert!(top.with("A", busy, is(2.0)), "{kind}: {top:?}");
        assert!(top.with("F", busy, is(0.0)), "{kind}: {top:?}");
    }

    let kind = "limits";
    let mut redis = libraries.redis.connection().await?;
    redis.persist::<_, ()>(of_limits(KEY)).await?;
    let shown: [(&str, &str, Shows); 8] = [
        ("overview", "Top keys by utilization", |a| {
            a.with("F", &[("key", KEY)], is(3.0)) && a.with("F", &[("key", BUSY)], is(0.0))
        }),
        ("overview", "Active violations", |a| {
            row(
                a,
                "stuck_counter",
                KEY,
                "violated",
                "critical",
                "ratelimiter-key",
            )
        }),
        ("overview", "Violations by name and subject", |a| {
            a.with("B", &[("name", "stuck_counter"), ("subject", KEY)], is(3.0))
        }),
        ("overview", "Keys without expiry", |a| {
            a.with("A", &[("counter", "fixed-window")], is(1.0))
        }),
        ("overview", "Counters of the limiter", |a| {
            a.with("B", &[("counter", "fixed-window")], is(1.0))
                && a.with(
                    "A",
                    &[("counter", "fixed-window"), ("refused", "counted")],
                    is(1.0),
                )
        }),
        ("key", "State", |a| a.any("A", is(3.0))),
        ("key", "In violation for", |a| a.any("A", above(1.0))),
        ("key", "Violations", |a| {
            a.with("A", &[("name", "stuck_counter")], is(3.0))
        }),
    ];
    for (board, panel, shows) in shown {
        until(async || {
            let answers = libraries.panel(&boards, (board, panel), kind).await?;
            anyhow::ensure!(shows(&answers), "{board}: {panel}: {answers:?}");
            Ok(())
        })
        .await?;
    }
    // What is wrong with the one is not said of the other.
    let state = libraries
        .panel(&boards, ("key", "State"), "express-rate-limit")
        .await?;
    assert!(state.any("A", is(0.0)), "{state:?}");
    Ok(())
}
