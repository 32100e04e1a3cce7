//! A limiter with its exporter and a Prometheus that scrapes it each second, and the faults that the panels are for.

use std::time::Duration;

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::seed::{Scale, fill_to_in};
use lab::temp::TempDir;
use lab::traffic::{Traffic, TrafficOptions};

use crate::harness::{Exporter, Scrape, base_flags};

/// A key that is hard to write down.
pub(super) const KEY: &str = "tenant \"7\" \\d <b>'$1'</b> (a|b).*";

/// Longer than everything here takes: no counter runs out by itself.
const WINDOW_MS: i64 = 600_000;

/// What Redis may use.
const MAX_MEMORY: u64 = 64 << 20;

/// Short grace periods, so that pending phases are seen and end; a threshold that a busy machine does not reach by itself.
const CONFIG: &str = "\
invariants:
  high_latency: {grace_period: 4s, threshold: 250ms}
  counter_drift: {grace_period: 4s}
";

/// One rule of the kind that alerts/ has, without its waiting times.
const RULES: &str = "\
groups:
- name: dashboards
  rules:
  - alert: RatelimiterGhostAllowing
    expr: max without (instance) (invariant_violation{name=\"ghost_allowing\"}) == 1
";

/// What is done to the limiter, in the order in which it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// [`KEY`] at twice its limit, and more keys over theirs than have series.
    KeysOver,
    /// [`KEY`] gets a limit and a window of its own.
    LimitChanged,
    /// All checks of node-2 take 600 ms.
    SlowNode,
    /// `/api/*` and `/health` answer late.
    SlowAnswers,
    /// `/api/*` answers 500 everywhere.
    ApiBroken,
    /// `/check` answers 500 on node-1.
    ChecksFail,
    /// node-1 no longer renews its registration.
    NoHeartbeat,
    /// Redis fills up, then evicts.
    RedisFull,
    /// Everything in Redis is written anew, over a slow network.
    KeyStorm,
    /// node-3 is killed.
    NodeKilled,
    /// Redis hangs.
    RedisHangs,
    /// The exporter hangs.
    ExporterHangs,
}

impl Fault {
    pub(super) const ALL: [Self; 12] = [
        Self::KeysOver,
        Self::LimitChanged,
        Self::SlowNode,
        Self::SlowAnswers,
        Self::ApiBroken,
        Self::ChecksFail,
        Self::NoHeartbeat,
        Self::RedisFull,
        Self::KeyStorm,
        Self::NodeKilled,
        Self::RedisHangs,
        Self::ExporterHangs,
    ];

    /// The node that the node dashboard is about meanwhile.
    pub(super) fn node(self) -> &'static str {
        match self {
            Self::SlowNode => "node-2",
            Self::NodeKilled => "node-3",
            _ => "node-1",
        }
    }
}

/// All of it, ended when it is dropped.
#[derive(Debug)]
pub(super) struct Limiter {
    pub(super) prometheus: Prometheus,
    pub(super) exporter: Exporter,
    _traffic: Traffic,
    network: Proxy,
    nodes: Vec<NodeProcess>,
    redis: RedisServer,
    _folder: TempDir,
}

impl Limiter {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new("dashboards")?;
        let max_memory = MAX_MEMORY.to_string();
        let redis = RedisServer::start(&["--maxmemory", &max_memory]).await?;
        let network = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
        let mut nodes = Vec::new();
        for number in 1..=3 {
            let options = NodeOptions {
                default_window_ms: WINDOW_MS,
                ..NodeOptions::new(format!("node-{number}"), redis.url())
            };
            nodes.push(NodeProcess::start(options).await?);
        }
        let traffic = Traffic::start(TrafficOptions {
            nodes: nodes.iter().map(NodeProcess::address).collect(),
            keys: 5,
            rate_per_second: 100.0,
            key_prefix: "user:".to_owned(),
        })?;
        let mut connection = redis.connection().await?;
        fill_to_in(&mut connection, KEY.as_bytes(), 5, WINDOW_MS).await?;
        let config = folder.path().join("exporter.yml");
        std::fs::write(&config, CONFIG)?;
        let mut flags = base_flags(&network.url("redis"), &nodes);
        flags.push(format!("--config.file={}", config.display()));
        let further = [
            "--keys.max-series=8",
            "--scan.budget=200ms",
            "--web.timeout-offset=0.1s",
            "--redis.timeout=0.4s",
            "--ratelimiter.timeout=0.5s",
        ];
        flags.extend(further.map(str::to_owned));
        let exporter = Exporter::start(&flags).await?;
        let rules = folder.path().join("rules.yml");
        std::fs::write(&rules, RULES)?;
        let prometheus = Prometheus::start_in(
            folder.path(),
            &PrometheusOptions {
                interval: Duration::from_secs(1),
                targets: vec![Target {
                    job: "ratelimiter".to_owned(),
                    address: exporter.address.clone(),
                    labels: vec![
                        ("cluster".to_owned(), "lab".to_owned()),
                        ("namespace".to_owned(), "demo".to_owned()),
                    ],
                }],
                rule_files: vec![rules],
                alertmanager: None,
            },
        )
        .await?;
        Ok(Self {
            prometheus,
            exporter,
            _traffic: traffic,
            network,
            nodes,
            redis,
            _folder: folder,
        })
    }

    pub(super) async fn bring_about(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KeysOver => {
                let mut redis = self.redis.connection().await?;
                fill_to_in(&mut redis, KEY.as_bytes(), 20, WINDOW_MS).await?;
                for number in 0..10 {
                    let key = format!("over:{number}");
                    fill_to_in(&mut redis, key.as_bytes(), 11, WINDOW_MS).await?;
                }
                Ok(())
            }
            Fault::LimitChanged => {
                let mut redis = self.redis.connection().await?;
                let mut command = redis::cmd("HSET");
                command.arg(format!("ratelimit:limit:{KEY}"));
                command.arg("limit").arg(4).arg("window_ms").arg(500_000);
                Ok(command.query_async(&mut redis).await?)
            }
            Fault::SlowNode => {
                let faults = Faults {
                    check_delay_ms: 600,
                    ..Faults::default()
                };
                self.nodes[1].set_faults(&faults).await
            }
            Fault::SlowAnswers => {
                self.everywhere(&Faults {
                    api_delay_ms: 300,
                    health_delay_ms: 300,
                    ..Faults::default()
                })
                .await
            }
            Fault::ApiBroken => {
                self.everywhere(&Faults {
                    api_status: Some(500),
                    ..Faults::default()
                })
                .await
            }
            Fault::ChecksFail => {
                let faults = Faults {
                    check_status: Some(500),
                    ..Faults::default()
                };
                self.nodes[0].set_faults(&faults).await
            }
            Fault::NoHeartbeat => {
                let faults = Faults {
                    no_heartbeat: true,
                    ..Faults::default()
                };
                self.nodes[0].set_faults(&faults).await
            }
            Fault::RedisFull => self.fill_redis().await,
            Fault::KeyStorm => {
                let mut redis = self.redis.connection().await?;
                let scale = Scale {
                    keys: 30_000,
                    ..Scale::default()
                };
                scale.write(&mut redis).await?;
                self.network
                    .set(Mode::Delay(Duration::from_millis(25)))
                    .await
            }
            Fault::NodeKilled => {
                // When it was full, Redis may have evicted the registration. A node that dies before it registers again seems to have
                // stopped.
                let node = [("node_id", "node-3")];
                let ttl = "ratelimiter_node_heartbeat_ttl_seconds";
                let is_registered = |scrape: &Scrape| scrape.value(ttl, &node).is_some();
                self.exporter
                    .until("node-3 is registered", is_registered)
                    .await?;
                self.nodes[2].kill();
                Ok(())
            }
            Fault::RedisHangs => self.redis.pause(),
            Fault::ExporterHangs => self.exporter.process.pause(),
        }
    }

    /// As it was before the fault, as far as later ones need it.
    pub(super) async fn undo(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KeysOver | Fault::LimitChanged | Fault::NodeKilled => Ok(()),
            Fault::SlowNode
            | Fault::SlowAnswers
            | Fault::ApiBroken
            | Fault::ChecksFail
            | Fault::NoHeartbeat => self.everywhere(&Faults::default()).await,
            Fault::RedisFull => self.config("maxmemory", &MAX_MEMORY.to_string()).await,
            Fault::KeyStorm => self.network.set(Mode::Pass).await,
            Fault::RedisHangs => self.redis.resume(),
            Fault::ExporterHangs => self.exporter.process.resume(),
        }
    }

    async fn everywhere(&self, faults: &Faults) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.set_faults(faults).await?;
        }
        Ok(())
    }

    /// 20 MiB of useless keys, which may be evicted first, and no room for all of them.
    async fn fill_redis(&self) -> anyhow::Result<()> {
        let mut redis = self.redis.connection().await?;
        self.config("maxmemory-policy", "volatile-ttl").await?;
        let junk = "x".repeat(1 << 20);
        for number in 0..20 {
            let mut set = redis::cmd("SET");
            set.arg(format!("junk:{number}"))
                .arg(&junk)
                .arg("EX")
                .arg(5);
            set.query_async::<()>(&mut redis).await?;
        }
        self.config("maxmemory", &(15 << 20).to_string()).await
    }

    async fn config(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let mut redis = self.redis.connection().await?;
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg(name).arg(value);
        Ok(set.query_async(&mut redis).await?)
    }
}
