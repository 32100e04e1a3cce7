//! The invariants by name, how bad their violations are, and what is configurable about each.

use std::time::Duration;

closed_list! {
    /// The invariants, in the order in which they are shown. The names are public: alerts and dashboards point at them.
    pub enum InvariantName;

    /// A node's state is not `Up`.
    NodeDown => "node_down",
    /// Redis does not answer the exporter, or a node that is up cannot reach it.
    RedisDisconnected => "redis_disconnected",
    /// A node's p99 check latency is above the threshold.
    HighLatency => "high_latency",
    /// A counter is above its limit by more than the threshold.
    CounterDrift => "counter_drift",
    /// A counter is above its limit: more was admitted than allowed.
    GhostAllowing => "ghost_allowing",
    /// A counter that blocks its client never expires.
    StuckCounter => "stuck_counter",
    /// A counter is in a state that its limiter cannot make.
    InvalidCounter => "invalid_counter",
}

/// What a threshold is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// A share of the limit.
    Ratio,
}

impl InvariantName {
    /// What the `subject` label of its violations holds.
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
        match self {
            Self::NodeDown | Self::RedisDisconnected | Self::HighLatency => false,
            Self::CounterDrift
            | Self::GhostAllowing
            | Self::StuckCounter
            | Self::InvalidCounter => true,
        }
    }

    /// What its threshold is measured in; `None` where it has none.
    pub fn threshold_unit(self) -> Option<Unit> {
        match self {
            Self::HighLatency => Some(Unit::Seconds),
            Self::CounterDrift => Some(Unit::Ratio),
            Self::NodeDown
            | Self::RedisDisconnected
            | Self::GhostAllowing
            | Self::StuckCounter
            | Self::InvalidCounter => None,
        }
    }

    /// Whether it compares the count of a key with its limit.
    pub fn compares_counts(self) -> bool {
        match self {
            Self::CounterDrift | Self::GhostAllowing => true,
            Self::NodeDown
            | Self::RedisDisconnected
            | Self::HighLatency
            | Self::StuckCounter
            | Self::InvalidCounter => false,
        }
    }
}

closed_list! {
    /// How bad a violation is.
    pub enum Severity;

    /// Somebody is paged.
    Critical => "critical",
    /// Somebody looks at it during the day.
    Warning => "warning",
    /// Worth knowing.
    Info => "info",
}

/// One invariant's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct InvariantConfig {
    /// Which invariant.
    pub name: InvariantName,
    /// How long a violation must last before it is reported.
    pub grace_period: Duration,
    /// In the unit of [`InvariantName::threshold_unit`]; ignored where there is none.
    pub threshold: f64,
    /// The `severity` label of its violations.
    pub severity: Severity,
    /// Whether it is checked at all.
    pub enabled: bool,
}

impl InvariantConfig {
    /// The defaults for `name`.
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
                "count > limit; or limit = 0 although the limiter reports requests left; or a canary is admitted \
                 under a limit that it used up"
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
