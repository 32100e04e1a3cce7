//! One node's own metrics over time: its latency, and how its checks were answered.

use jiff::Timestamp;

use crate::observation::{LatencyWindow, NodeMetrics};
use crate::observe::latency::node_metrics::{LatencyHistory, ScrapedMetrics};
use crate::observe::latency::wanted::WantedSeries;
use crate::observe::nodes::failing_checks::{CheckCounts, CheckHistory, Checks};
use crate::observe::nodes::redis_errors::RedisErrors;

/// The history of one node.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct NodeHistory {
    latency: LatencyHistory,
    pub(in crate::observe) checks: CheckHistory,
    pub(in crate::observe) redis_errors: RedisErrors,
}

impl NodeHistory {
    /// The history of a node whose counters are read for the first time. `failing` says that they proved a fault before.
    pub(in crate::observe) fn new(failing: bool) -> Self {
        let mut history = Self::default();
        history.redis_errors.failing = failing;
        history
    }

    /// Adds a reading. Returns the node's metrics, and the answers to checks since the reading before.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        reading: &ScrapedMetrics,
        wanted: &WantedSeries,
        window: LatencyWindow,
    ) -> (NodeMetrics, Checks) {
        let checks = self.checks.add(now, counts_of(reading));
        let answered = checks.answers_rose;
        let metrics = self.latency.add(now, reading, wanted, window, answered);
        (metrics, checks)
    }
}

/// The answers to checks, in a reading.
pub(in crate::observe) fn counts_of(reading: &ScrapedMetrics) -> CheckCounts {
    CheckCounts {
        errors: reading.check_errors.unwrap_or(0.0),
        answers: reading.check_answers,
    }
}
