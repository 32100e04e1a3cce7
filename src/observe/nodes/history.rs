//! One node's own metrics over time: its latency, and how its checks were answered.

use jiff::Timestamp;

use crate::observation::{LatencyWindow, NodeMetrics};
use crate::observe::latency::exposition::Selector;
use crate::observe::latency::node_metrics::{LatencyHistory, ScrapedMetrics};
use crate::observe::nodes::failing_checks::{CheckCounts, CheckHistory, Checks};

/// One node over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct NodeHistory {
    latency: LatencyHistory,
    pub(in crate::observe) checks: CheckHistory,
}

impl NodeHistory {
    /// Takes a reading in; returns the node's metrics by it, and how checks were answered since the one before.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        reading: &ScrapedMetrics,
        selectors: &[Selector],
        window: LatencyWindow,
    ) -> (NodeMetrics, Checks) {
        let checks = self.checks.add(now, counts_of(reading));
        let answered = checks.answers_rose;
        let metrics = self.latency.add(now, reading, selectors, window, answered);
        (metrics, checks)
    }
}

/// How checks were answered, by a reading.
pub(in crate::observe) fn counts_of(reading: &ScrapedMetrics) -> CheckCounts {
    CheckCounts {
        errors: reading.check_errors.unwrap_or(0.0),
        answers: reading.check_answers,
    }
}
