//! The evidence of a verdict. It is kept as data with the violation, and becomes text only when it is shown.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observation::{Bucket, Invalid, LatencyWindow, is_default};

/// The evidence that an invariant is violated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Evidence {
    /// A node's state.
    NodeState {
        /// The state instead of `Up`.
        state: String,
        /// Which evidence decided it.
        reason: Option<String>,
    },
    /// Redis did not answer the exporter's PING, or answered with an error.
    RedisPing {
        /// Why.
        reason: Option<String>,
    },
    /// A node's own way to Redis is broken.
    NodeRedis {
        /// Which evidence shows it.
        reason: Option<String>,
    },
    /// A node's p99 latency.
    Latency {
        /// The exported figure in seconds; `None` where only its bucket is known.
        p99_seconds: Option<f64>,
        /// The bucket it lies in.
        bucket: Option<Bucket>,
        /// The threshold in seconds.
        threshold_seconds: f64,
        /// Which source.
        source: Option<String>,
        /// The greatest possible age of the newest checks that are this slow, in seconds.
        #[serde(default)]
        age_seconds: f64,
        /// The time span that the p99 covers, in seconds; 60 if absent.
        #[serde(default, skip_serializing_if = "is_default")]
        window_seconds: LatencyWindow,
    },
    /// A counter above its limit.
    Count {
        /// Requests admitted inside the window.
        count: u64,
        /// Requests allowed per window.
        limit: u64,
        /// Requests left, as the limiter reports it.
        remaining: u64,
        /// The limit before it fell, while the count is legal under it.
        draining_from: Option<u64>,
    },
    /// A node admitted what its limit forbids.
    FailOpen,
    /// A counter at its limit has no expiry.
    NeverExpires {
        /// What is counted.
        count: u64,
        /// Requests allowed per window.
        limit: u64,
    },
    /// A counter in a state that its limiter cannot make.
    InvalidState {
        /// The state.
        state: Invalid,
    },
}

impl Evidence {
    /// How long before the collection the violation may have ended. Slow checks within the newest part of the window
    /// count as still coming.
    pub(crate) fn age(&self) -> Duration {
        let (reach, newest) = self.reach_and_newest();
        reach.saturating_sub(newest)
    }

    /// How old the evidence may be.
    pub(crate) fn reach(&self) -> Duration {
        self.reach_and_newest().0
    }

    /// Whether the evidence is newer than the previous collection, `interval` ago, or new enough to count as now.
    pub(crate) fn is_of_now(&self, interval: Duration) -> bool {
        let (reach, newest) = self.reach_and_newest();
        reach <= newest.max(interval)
    }

    /// How old the evidence may be, and the age that counts as now.
    fn reach_and_newest(&self) -> (Duration, Duration) {
        let Self::Latency {
            age_seconds,
            window_seconds,
            ..
        } = self
        else {
            return (Duration::ZERO, Duration::ZERO);
        };
        let reach = Duration::try_from_secs_f64(*age_seconds);
        (reach.unwrap_or_default(), window_seconds.newest())
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |reason: &Option<String>| match reason {
            Some(reason) => format!(": {reason}"),
            None => String::new(),
        };
        match self {
            Self::NodeState { state, reason } => {
                write!(f, "state is {state}, expected Up{}", because(reason))
            }
            Self::RedisPing { reason } => {
                write!(f, "Redis does not answer the exporter{}", because(reason))
            }
            Self::NodeRedis { reason } => {
                let because = because(reason);
                write!(f, "the node answers but does not reach Redis{because}")
            }
            Self::Latency {
                p99_seconds,
                bucket,
                threshold_seconds,
                source,
                ..
            } => {
                match (p99_seconds, bucket) {
                    (Some(seconds), _) => write!(f, "p99 latency {:.1} ms", seconds * 1e3)?,
                    (None, Some(bucket)) => {
                        write!(f, "p99 latency above {:.1} ms", bucket.lower * 1e3)?;
                    }
                    (None, None) => f.write_str("p99 latency above the threshold")?,
                }
                write!(f, ", allowed {:.1} ms", threshold_seconds * 1e3)?;
                match source {
                    Some(source) => write!(f, " (from {source})"),
                    None => Ok(()),
                }
            }
            Self::Count {
                count,
                limit,
                remaining,
                draining_from,
            } => {
                write!(f, "{count} admitted, limit {limit}")?;
                if *limit == 0 && *remaining > 0 {
                    write!(f, ", the limiter reports {remaining} left")?;
                }
                match draining_from {
                    Some(old) => write!(f, ", draining since the limit fell from {old}"),
                    None => Ok(()),
                }
            }
            Self::NeverExpires { count, limit } => write!(
                f,
                "{count} counted, limit {limit}, and the key never expires: the client is refused for ever"
            ),
            Self::InvalidState { state } => {
                write!(f, "{state}: {}", state.meaning().trim_end_matches('.'))
            }
            Self::FailOpen => {
                f.write_str("the node admitted three canary requests under a limit of 1")
            }
        }
    }
}
