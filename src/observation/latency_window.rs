//! The time span that a node's p99 covers, and the part of it that counts as now.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The time span that a node's p99 covers (`--latency.window`); in JSON, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct LatencyWindow(Duration);

impl LatencyWindow {
    /// The window of this length.
    pub const fn new(span: Duration) -> Self {
        Self(span)
    }

    /// Its length.
    pub fn span(self) -> Duration {
        self.0
    }

    /// How far back the newest checks reach at most, unless collections are further apart: a third of the window. Slow
    /// checks since then count as still coming. If it were shorter, a node with little traffic would show none between
    /// two slow ones; if it were longer, an outage that is over would be reported.
    pub fn newest(self) -> Duration {
        self.0 / 3
    }
}

impl Default for LatencyWindow {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

impl TryFrom<f64> for LatencyWindow {
    type Error = &'static str;

    fn try_from(seconds: f64) -> Result<Self, Self::Error> {
        let span = Duration::try_from_secs_f64(seconds).ok();
        let span = span.filter(|span| !span.is_zero());
        span.map(Self).ok_or("expected seconds above zero")
    }
}

impl From<LatencyWindow> for f64 {
    fn from(window: LatencyWindow) -> Self {
        window.0.as_secs_f64()
    }
}
