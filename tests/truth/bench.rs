//! A limiter with its exporter: real processes, each ended with its handle.

use std::time::Duration;

use hyper::Method;
use lab::faults::Faults;
use lab::http::request;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
pub(crate) use lab::redis_server::redis_do;
use lab::temp::TempDir;
use lab::traffic::{Traffic, TrafficOptions};
use redis::aio::MultiplexedConnection;

use crate::exporter::Exporter;

/// So many failed checks, one after the other, prove that a node does not reach Redis.
pub(crate) const PROOF: u64 = 10;

/// For one request of a scenario's own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A limiter and its exporter. Dropped in this order, so that none notices the end of another.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) exporter: Exporter,
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) redis: RedisServer,
    /// The logs; last, so that it is there until all others have ended.
    _folder: TempDir,
}

impl Bench {
    /// Redis, `count` nodes named `node-1` and so on, and an exporter that knows the first one, with further
    /// flags. It has been scraped, and nothing is wrong.
    pub(crate) async fn start(count: usize, flags: &[&str]) -> anyhow::Result<Self> {
        let redis = RedisServer::start(&[]).await?;
        let nodes = start_nodes(&redis, count).await?;
        let url = redis.url();
        Self::around(redis, nodes, &url, flags).await
    }

    /// An exporter for nodes and a Redis that run already; `redis_url` is where the exporter sees it.
    pub(crate) async fn around(
        redis: RedisServer,
        nodes: Vec<NodeProcess>,
        redis_url: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let bench = Self::unscraped(redis, nodes, redis_url, flags).await?;
        bench.settle().await?;
        Ok(bench)
    }

    /// [`Bench::around`] without a first look.
    pub(crate) async fn unscraped(
        redis: RedisServer,
        nodes: Vec<NodeProcess>,
        redis_url: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let told = nodes.first().map(NodeProcess::url);
        Self::launch(told.as_deref(), redis, nodes, redis_url, flags).await
    }

    /// [`Bench::around`] with an exporter that knows only the nodes in `flags`.
    pub(crate) async fn untold(
        redis: RedisServer,
        nodes: Vec<NodeProcess>,
        redis_url: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let bench = Self::launch(None, redis, nodes, redis_url, flags).await?;
        bench.settle().await?;
        Ok(bench)
    }

    async fn launch(
        told: Option<&str>,
        redis: RedisServer,
        nodes: Vec<NodeProcess>,
        redis_url: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new("truth")?;
        let mut args = vec![format!("--redis.url={redis_url}")];
        args.extend(told.map(|url| format!("--ratelimiter.url={url}")));
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        let exporter = Exporter::start(folder.path(), args).await?;
        Ok(Self {
            exporter,
            nodes,
            redis,
            _folder: folder,
        })
    }

    /// Scrapes until the exporter has seen everything twice.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        for _ in 0..3 {
            self.exporter.recovers().await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }

    /// Steady traffic over all nodes.
    pub(crate) fn traffic(&self, keys: usize, rate: f64) -> anyhow::Result<Traffic> {
        traffic(&self.nodes, keys, rate)
    }

    /// A connection to Redis.
    pub(crate) async fn redis(&self) -> anyhow::Result<MultiplexedConnection> {
        self.redis.connection().await
    }

    /// Makes every node do these things wrong.
    pub(crate) async fn set_faults(&self, faults: &Faults) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.set_faults(faults).await?;
        }
        Ok(())
    }
}

/// Healthy nodes, `node-1` and so on.
pub(crate) async fn start_nodes(
    redis: &RedisServer,
    count: usize,
) -> anyhow::Result<Vec<NodeProcess>> {
    start_faulty_nodes(redis, count, &Faults::default()).await
}

/// Nodes, `node-1` and so on, that do these things wrong from the start.
pub(crate) async fn start_faulty_nodes(
    redis: &RedisServer,
    count: usize,
    faults: &Faults,
) -> anyhow::Result<Vec<NodeProcess>> {
    let mut nodes = Vec::new();
    for number in 1..=count {
        let mut options = NodeOptions::new(format!("node-{number}"), redis.url());
        options.faults = faults.clone();
        nodes.push(NodeProcess::start(options).await?);
    }
    Ok(nodes)
}

/// Steady traffic over `nodes`.
pub(crate) fn traffic(nodes: &[NodeProcess], keys: usize, rate: f64) -> anyhow::Result<Traffic> {
    Traffic::start(TrafficOptions {
        nodes: nodes.iter().map(NodeProcess::address).collect(),
        keys,
        rate_per_second: rate,
        key_prefix: "user:".to_owned(),
    })
}

/// One check of `key`; its status.
pub(crate) async fn check(node: &NodeProcess, key: &str) -> anyhow::Result<u16> {
    let body = serde_json::json!({ "key": key }).to_string();
    let address = node.address();
    let answer = request(&address, Method::POST, "/check", body, REQUEST_TIMEOUT).await?;
    Ok(answer.status)
}

/// Sets the limit of `key` as an operator does.
pub(crate) async fn put_limit(
    node: &NodeProcess,
    key: &str,
    limit: u64,
    window_ms: u64,
) -> anyhow::Result<()> {
    let body = serde_json::json!({ "limit": limit, "window_ms": window_ms }).to_string();
    let path = format!("/api/limits/{key}");
    let answer = request(&node.address(), Method::PUT, &path, body, REQUEST_TIMEOUT).await?;
    anyhow::ensure!(answer.status == 200, "PUT {path}: {}", answer.status);
    Ok(())
}

/// Waits for an event that is part of the fault, such as the first failed check.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    lab::wait_for(Duration::from_secs(10), || {
        let holds = condition();
        async move { holds }
    })
    .await
}

/// Shorthand.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
