//! Everything that the demo of the reference limiter runs, and the faults that it injects. However the demo ends, its parts end
//! with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use redis::cmd;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::Watched;
use super::control::DemoCommand;
use crate::link::Link;
use crate::node::{NodeOptions, NodeProcess};
use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::seed;
use crate::temp::TempDir;
use crate::traffic::{Traffic, TrafficOptions};

const NODES: usize = 3;

/// The limit of every key. A hundred, so that 5 % and 15 % over it are whole numbers.
const LIMIT: i64 = 100;
const WINDOW_MS: i64 = 60_000;

/// Two checks a second and key are a little more than the limit, so that the limiter refuses some.
const CHECKS_PER_SECOND: f64 = 60.0;
const KEYS: usize = 30;

/// How often a counter over its limit is filled up again, as its oldest members leave the window.
const TOP_UP: Duration = Duration::from_secs(1);

/// For the demo's own commands: they must not wait long for a Redis that is paused.
const REDIS_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Cluster {
    // In the order in which they end where the demo does not shut down.
    traffic: Option<Traffic>,
    exporter: Process,
    exporter_address: SocketAddr,
    nodes: Vec<NodeProcess>,
    redis: RedisServer,
    _folder: TempDir,
    link: Arc<Link>,
    /// What is wrong at present, by what it is about.
    faults: BTreeMap<String, String>,
    /// By how many percent these keys are over their limits.
    over: BTreeMap<String, u32>,
}

/// The demo as its file describes it, for `lab fault` and for people.
#[derive(Debug, Serialize)]
pub(super) struct ClusterState {
    exporter: Part,
    redis: Part,
    nodes: BTreeMap<String, Part>,
    faults: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    address: String,
    pid: u32,
}

impl Watched for Cluster {
    fn faults_in_force(&self) -> String {
        if self.faults.is_empty() {
            return "no fault".to_owned();
        }
        let faults: Vec<&str> = self.faults.values().map(String::as_str).collect();
        faults.join(", ")
    }

    fn exporter(&mut self) -> &mut Process {
        &mut self.exporter
    }

    async fn shut_down(&mut self) {
        if let Some(traffic) = self.traffic.take() {
            traffic.stop().await;
        }
        let _ = self.exporter.terminate().await;
        for node in &mut self.nodes {
            let _ = node.terminate().await;
        }
        let _ = self.redis.stop().await;
    }
}

impl Cluster {
    pub(super) async fn start(
        dir: &Path,
        exporter: &Path,
        listen: SocketAddr,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(dir, "demo")?;
        let redis = RedisServer::start_in(folder.path(), &[]).await?;
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            let mut options = NodeOptions::new(format!("node-{number}"), redis.url());
            options.default_limit = LIMIT;
            options.default_window_ms = WINDOW_MS;
            nodes.push(NodeProcess::start_in(folder.path(), options).await?);
        }
        let traffic = Traffic::start(TrafficOptions {
            nodes: nodes.iter().map(NodeProcess::address).collect(),
            keys: KEYS,
            rate_per_second: CHECKS_PER_SECOND,
            key_prefix: "user:".to_owned(),
        })?;
        let urls: Vec<String> = nodes.iter().map(NodeProcess::url).collect();
        let args = [
            format!("--web.listen-address={listen}"),
            format!("--redis.url={}", redis.url()),
            format!("--ratelimiter.url={}", urls.join(",")),
        ];
        let log = folder.path().join("exporter.log");
        let exporter = Process::spawn(exporter, args, Some(&log))?;
        let link = Arc::new(Link::new(&redis.url(), REDIS_PATIENCE)?);
        Ok(Self {
            traffic: Some(traffic),
            exporter,
            exporter_address: listen,
            nodes,
            redis,
            _folder: folder,
            link,
            faults: BTreeMap::new(),
            over: BTreeMap::new(),
        })
    }

    /// The URLs of the nodes, by id, and of the Redis.
    pub(super) fn urls(&self) -> (Vec<(String, String)>, String) {
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|node| (node.id().to_owned(), node.url()));
        (nodes.collect(), self.redis.url())
    }

    pub(super) fn state(&self) -> ClusterState {
        let node = |node: &NodeProcess| {
            let part = Part {
                address: node.address(),
                pid: node.process().pid(),
            };
            (node.id().to_owned(), part)
        };
        ClusterState {
            exporter: Part {
                address: self.exporter_address.to_string(),
                pid: self.exporter.pid(),
            },
            redis: Part {
                address: format!("127.0.0.1:{}", self.redis.port()),
                pid: self.redis.pid(),
            },
            nodes: self.nodes.iter().map(node).collect(),
            faults: self.faults.values().cloned().collect(),
        }
    }

    /// Injects or ends a fault, and returns what was done.
    pub(super) async fn apply(&mut self, command: DemoCommand) -> anyhow::Result<String> {
        match command {
            DemoCommand::KillNode { id } => {
                self.node(&id)?.kill();
                self.note(&id, Some("killed"))
            }
            DemoCommand::StartNode { id } => {
                let node = self.node(&id)?;
                ensure!(!node.process_mut().is_running(), "{id} is running");
                node.restart().await?;
                // The new process is not slow.
                self.faults.remove(&format!("{id} checks"));
                self.note(&id, None)
            }
            DemoCommand::HangNode { id } => {
                self.node(&id)?.pause()?;
                self.note(&id, Some("hung"))
            }
            DemoCommand::ResumeNode { id } => {
                self.node(&id)?.resume()?;
                self.note(&id, None)
            }
            DemoCommand::StopNode { id } => {
                self.node(&id)?.terminate().await?;
                self.note(&id, Some("stopped cleanly"))
            }
            DemoCommand::StopRedis => {
                self.redis.stop().await?;
                self.note("redis", Some("stopped"))
            }
            DemoCommand::StartRedis => {
                ensure!(!self.redis.is_running(), "Redis is running");
                self.redis.restart().await?;
                self.note("redis", None)
            }
            DemoCommand::PauseRedis => {
                self.redis.pause()?;
                self.note("redis", Some("paused"))
            }
            DemoCommand::ResumeRedis => {
                self.redis.resume()?;
                self.note("redis", None)
            }
            DemoCommand::SlowChecks { id, ms } => {
                let node = self.node(&id)?;
                let mut faults = node.faults().await?;
                faults.check_delay_ms = ms;
                node.set_faults(&faults).await?;
                let words = format!("{ms} ms slower");
                let words = (ms > 0).then_some(words.as_str());
                self.note(&format!("{id} checks"), words)
            }
            DemoCommand::OverLimit { key, percent } => {
                let filled = top_up(&self.link, &key, percent).await;
                filled.context("Redis does not take the extra requests")?;
                self.over.insert(key.clone(), percent);
                let words = format!("{percent} % over its limit");
                self.note(&key, Some(&words))
            }
            DemoCommand::ClearOverLimit { key } => {
                self.over.remove(&key);
                let bytes = key.as_bytes();
                self.link
                    .run(|mut conn| async move {
                        Ok(seed::remove_extra(&mut conn, bytes).await.map(drop)?)
                    })
                    .await?;
                self.note(&key, None)
            }
        }
    }

    fn node(&mut self, id: &str) -> anyhow::Result<&mut NodeProcess> {
        let node = self.nodes.iter_mut().find(|node| node.id() == id);
        node.with_context(|| format!("there is no node {id:?}"))
    }

    /// Records that `what` has a fault, or none any more.
    #[expect(clippy::unnecessary_wraps, reason = "every arm of apply ends with it")]
    fn note(&mut self, what: &str, fault: Option<&str>) -> anyhow::Result<String> {
        let words = format!("{what} {}", fault.unwrap_or("as it should be"));
        if fault.is_some() {
            self.faults.insert(what.to_owned(), words.clone());
        } else {
            self.faults.remove(what);
        }
        Ok(words)
    }
}

/// Keeps counters over their limits until [`DemoCommand::ClearOverLimit`].
pub(super) async fn keep_over_limits(cluster: &Arc<Mutex<Cluster>>) -> AbortOnDropHandle<()> {
    let link = Arc::clone(&cluster.lock().await.link);
    let cluster = Arc::clone(cluster);
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(TOP_UP).await;
            let over = cluster.lock().await.over.clone();
            for (key, percent) in over {
                // Redis may be down: that is another fault.
                let _ = top_up(&link, &key, percent).await;
            }
        }
    }))
}

async fn top_up(link: &Link, key: &str, percent: u32) -> anyhow::Result<()> {
    link.run(|mut conn| async move {
        let stored: (Option<i64>, Option<i64>) = cmd("HMGET")
            .arg(format!("ratelimit:limit:{key}"))
            .arg("limit")
            .arg("window_ms")
            .query_async(&mut conn)
            .await?;
        let (limit, window_ms) = (stored.0.unwrap_or(LIMIT), stored.1.unwrap_or(WINDOW_MS));
        let total = over(limit, percent);
        seed::fill_to_in(&mut conn, key.as_bytes(), total, window_ms).await?;
        Ok(())
    })
    .await
}

/// `percent` over the limit, rounded up, so that it is over in any case.
fn over(limit: i64, percent: u32) -> u64 {
    let limit = u64::try_from(limit).unwrap_or(0);
    limit.saturating_add(limit.saturating_mul(percent.into()).div_ceil(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_up() {
        assert_eq!(over(100, 5), 105);
        assert_eq!(over(100, 15), 115);
        assert_eq!(over(10, 15), 12);
        assert_eq!(over(-1, 15), 0);
    }
}
