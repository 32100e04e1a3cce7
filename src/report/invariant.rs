//! The invariants by name, how bad their violations are, and what is configurable about each.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The invariants. The names are public: alerts and dashboards point at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvariantName {
    /// A node's state is not `Up`.
    NodeDown,
    /// Redis does not answer the exporter, or a node that is up cannot reach it.
    RedisDisconnected,
    /// A node's p99 check latency is above the threshold.
    HighLatency,
    /// A counter is above its limit by more than the threshold.
    CounterDrift,
    /// A counter is above its limit: more was admitted than allowed.
    GhostAllowing,
    /// A counter that blocks its client never expires.
    StuckCounter,
    /// A counter is in a state that its limiter cannot make.
    InvalidCounter,
}

impl InvariantName {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::NodeDown,
        Self::RedisDisconnected,
        Self::HighLatency,
        Self::CounterDrift,
        Self::GhostAllowing,
        Self::StuckCounter,
        Self::InvalidCounter,
    ];

    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeDown => "node_down",
            Self::RedisDisconnected => "redis_disconnected",
            Self::HighLatency => "high_latency",
            Self::CounterDrift => "counter_drift",
            Self::GhostAllowing => "ghost_allowing",
            Self::StuckCounter => "stuck_counter",
            Self::InvalidCounter => "invalid_counter",
        }
    }

    /// What its subjects are called by.
    pub fn subject(self) -> &'static str {
        match self {
            Self::NodeDown | Self::HighLatency => "node id",
            Self::RedisDisconnected => "`redis` or node id",
            Self::CounterDrift | Self::StuckCounter | Self::InvalidCounter => "key",
            Self::GhostAllowing => "key, or `canary:` and node id",
        }
    }

    /// Whether its subjects are keys (many, streamed) rather than nodes (few).
    pub fn about_keys(self) -> bool {
        matches!(
            self,
            Self::CounterDrift | Self::GhostAllowing | Self::StuckCounter | Self::InvalidCounter
        )
    }
}

impl fmt::Display for InvariantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How bad a violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody is paged.
    Critical,
    /// Somebody looks at it during the day.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One invariant's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct InvariantConfig {
    /// Which invariant.
    pub name: InvariantName,
    /// How long a violation must last before it is reported.
    pub grace_period: Duration,
    /// `high_latency`: seconds; `counter_drift`: share of the limit; the others have none and ignore it.
    pub threshold: f64,
    /// The `severity` label of its violations.
    pub severity: Severity,
    /// Whether it is checked at all.
    pub enabled: bool,
}

impl InvariantConfig {
    /// The contract's defaults for `name`.
    pub fn default_for(name: InvariantName) -> Self {
        let (grace, threshold, severity) = match name {
            InvariantName::NodeDown | InvariantName::RedisDisconnected => {
                (0, 0.0, Severity::Critical)
            }
            InvariantName::HighLatency => (60, 0.050, Severity::Warning),
            InvariantName::CounterDrift => (30, 0.1, Severity::Warning),
            InvariantName::GhostAllowing => (0, 0.0, Severity::Critical),
            InvariantName::StuckCounter => (60, 0.0, Severity::Critical),
            InvariantName::InvalidCounter => (60, 0.0, Severity::Warning),
        };
        Self {
            name,
            grace_period: Duration::from_secs(grace),
            threshold,
            severity,
            enabled: true,
        }
    }
}

impl InvariantConfig {
    /// When it is violated, in words, with its threshold.
    pub fn violated_when(&self) -> String {
        match self.name {
            InvariantName::NodeDown => "a node's state is not Up".to_owned(),
            InvariantName::RedisDisconnected => {
                "Redis does not answer the exporter's PING, or a node that is up does not reach Redis"
                    .to_owned()
            }
            InvariantName::HighLatency => {
                let threshold = Duration::try_from_secs_f64(self.threshold).unwrap_or(Duration::MAX);
                format!("a node's p99 check latency over --latency.window > {threshold:?}")
            }
            InvariantName::CounterDrift => format!("count > limit × (1 + {})", self.threshold),
            InvariantName::GhostAllowing => {
                "count > limit; or limit = 0 with something said to remain; or a canary is admitted under a limit \
                 it has used up"
                    .to_owned()
            }
            InvariantName::StuckCounter => {
                "a counter at its limit never expires, which blocks its client for ever".to_owned()
            }
            InvariantName::InvalidCounter => {
                "a counter is in a state that its limiter cannot make".to_owned()
            }
        }
    }
}
