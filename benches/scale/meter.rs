//! CPU time of Redis, the nodes and the exporter.

use anyhow::Context as _;
use lab::node::NodeProcess;
use lab::redis_server::RedisServer;

use super::exporter::Exporter;

/// Ticks of `/proc/PID/stat` in a second: the kernel's interface has a hundred, whatever its own clock has.
const TICKS: f64 = 100.0;

/// CPU seconds, used up to now or within some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Used {
    /// How much time went by.
    pub(crate) seconds: f64,
    pub(crate) redis: f64,
    pub(crate) nodes: Vec<f64>,
    pub(crate) exporter: f64,
}

impl Used {
    /// What was used since the start of the processes; its `seconds` say nothing.
    pub(crate) async fn now(
        redis: &RedisServer,
        nodes: &[NodeProcess],
        exporter: Option<&Exporter>,
    ) -> anyhow::Result<Self> {
        let nodes = nodes.iter().map(|node| of_process(node.process().pid()));
        Ok(Self {
            seconds: 0.0,
            redis: of_redis(redis).await?,
            nodes: nodes.collect::<anyhow::Result<_>>()?,
            exporter: exporter.map_or(Ok(0.0), |it| of_process(it.pid()))?,
        })
    }

    /// What was used from `before` to this, in `seconds`.
    pub(crate) fn since(&self, before: &Self, seconds: f64) -> Self {
        let nodes = self.nodes.iter().zip(&before.nodes);
        Self {
            seconds,
            redis: self.redis - before.redis,
            nodes: nodes.map(|(now, then)| now - then).collect(),
            exporter: self.exporter - before.exporter,
        }
    }

    /// Both together.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let nodes = self.nodes.iter().zip(&other.nodes);
        Self {
            seconds: self.seconds + other.seconds,
            redis: self.redis + other.redis,
            nodes: nodes.map(|(one, other)| one + other).collect(),
            exporter: self.exporter + other.exporter,
        }
    }

    /// The same, for a minute.
    pub(crate) fn a_minute(&self) -> Self {
        let factor = 60.0 / self.seconds;
        Self {
            seconds: 60.0,
            redis: self.redis * factor,
            nodes: self.nodes.iter().map(|used| used * factor).collect(),
            exporter: self.exporter * factor,
        }
    }

    /// All nodes together.
    pub(crate) fn all_nodes(&self) -> f64 {
        self.nodes.iter().sum()
    }

    /// The node that used most.
    pub(crate) fn node(&self) -> f64 {
        super::largest(&self.nodes)
    }
}

/// CPU seconds that Redis has used.
pub(crate) async fn of_redis(redis: &RedisServer) -> anyhow::Result<f64> {
    let info: String = redis::cmd("INFO")
        .arg("cpu")
        .query_async(&mut redis.connection().await?)
        .await?;
    let used = ["used_cpu_user:", "used_cpu_sys:"].map(|name| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|seconds| seconds.parse::<f64>().ok())
    });
    used.into_iter()
        .sum::<Option<f64>>()
        .context("INFO does not have the CPU time")
}

/// CPU seconds that a process has used, all its threads together.
fn of_process(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything. Behind it, utime and stime are the twelfth and thirteenth.
    let fields = stat.rsplit_once(')').map(|(_, behind)| behind);
    let fields = fields.unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<f64>);
    let ticks: Vec<f64> = ticks.collect::<Result<_, _>>()?;
    anyhow::ensure!(ticks.len() == 2, "no CPU time in /proc/{pid}/stat");
    Ok(ticks.iter().sum::<f64>() / TICKS)
}
