//! The three states that the page distinguishes, with real servers.

use lab::faults::Faults;
use lab::seed::fill_to;
use lab::temp::TempDir;
use lab::traffic::Traffic;

use crate::harness::{Cluster, Exporter, base_flags};

/// A key that wants to be more than text.
pub(super) const EVIL_KEY: &str = "<script>owned=1</script><img src=x onerror=owned=1>";

/// A threshold that a busy machine does not reach by itself.
const CONFIG: &str = "invariants: {high_latency: {threshold: 250ms}}\n";

/// A limiter in some state, and an exporter with a collection of it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) cluster: Cluster,
    _traffic: Option<Traffic>,
}

impl State {
    /// Three nodes under traffic, all invariants evaluated.
    pub(super) async fn healthy() -> anyhow::Result<Self> {
        Self::with_traffic().await
    }

    async fn with_traffic() -> anyhow::Result<Self> {
        let folder = TempDir::new("page")?;
        let config = folder.path().join("exporter.yml");
        std::fs::write(&config, CONFIG)?;
        let config = format!("--config.file={}", config.display());
        let runbooks = "--web.runbook-url=https://runbooks.example/ratelimiter";
        let cluster = Cluster::start(3, &[&config, runbooks]).await?;
        let traffic = cluster.traffic(100.0)?;
        let all_seen = cluster.exporter.until("everything is evaluated", |scrape| {
            ["node_down", "high_latency", "ghost_allowing"]
                .iter()
                .all(|name| scrape.is("ratelimiter_invariant_evaluable", &[("name", name)], 1))
        });
        all_seen.await?;
        Ok(Self {
            cluster,
            _traffic: Some(traffic),
        })
    }

    /// A killed node, four keys over their limits, one of them far over, and a slow node: the last two are still pending.
    pub(super) async fn violated() -> anyhow::Result<Self> {
        let mut state = Self::with_traffic().await?;
        let cluster = &mut state.cluster;
        let mut redis = cluster.redis.connection().await?;
        fill_to(&mut redis, b"tenant:42:login", 15).await?;
        for key in [EVIL_KEY, "search:eu", "checkout"] {
            fill_to(&mut redis, key.as_bytes(), 11).await?;
        }
        let slow = Faults {
            check_delay_ms: 600,
            ..Faults::default()
        };
        cluster.nodes[1].set_faults(&slow).await?;
        cluster.nodes[2].kill();
        let pending = cluster.exporter.until("both are pending", |scrape| {
            ["high_latency", "counter_drift"]
                .iter()
                .all(|name| scrape.is("ratelimiter_invariant_pending", &[("name", name)], 1))
        });
        assert_eq!(pending.await?.reported().len(), 5);
        Ok(state)
    }

    /// An exporter that Redis lets PING and nothing else, at nodes that answer nothing but `/health`.
    pub(super) async fn blind() -> anyhow::Result<Self> {
        let mut cluster = Cluster::start(2, &[]).await?;
        let mut redis = cluster.redis.connection().await?;
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER")
            .arg("blind")
            .arg("on")
            .arg(">blind")
            .arg("~*")
            .arg("+ping");
        acl.query_async::<()>(&mut redis).await?;
        let broken = Faults {
            api_status: Some(500),
            metrics_status: Some(500),
            ..Faults::default()
        };
        for node in &cluster.nodes {
            node.set_faults(&broken).await?;
        }
        let url = cluster
            .redis
            .url()
            .replace("redis://", "redis://blind:blind@");
        cluster.exporter = Exporter::start(&base_flags(&url, &cluster.nodes)).await?;
        cluster.exporter.scrape().await?;
        Ok(Self {
            cluster,
            _traffic: None,
        })
    }

    /// One more key over its limit, and another look.
    pub(super) async fn one_more(&mut self) -> anyhow::Result<()> {
        let mut redis = self.cluster.redis.connection().await?;
        fill_to(&mut redis, b"another", 11).await?;
        self.cluster.exporter.scrape().await.map(drop)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.cluster.exporter.address)
    }
}
