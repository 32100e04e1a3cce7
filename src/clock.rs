//! The only place that reads the clock. All other code gets a [`Moment`], so that tests of grace periods and windows do
//! not sleep. Network deadlines use tokio's clock and are not here.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A point in time, by the wall clock and on a timeline that never steps.
///
/// Grace periods are elapsed time, so they are measured on `steady`; people and Prometheus get `wall`. A replay has
/// only recorded wall times, so there both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the wall clock says. It can be stepped in both directions.
    pub wall: Timestamp,
    /// The wall time at which the process started plus the time elapsed since, whatever the wall clock did.
    pub steady: Timestamp,
}

impl Moment {
    /// A moment of which only the wall time is known, as in a replay.
    pub fn from_wall(wall: Timestamp) -> Self {
        Self { wall, steady: wall }
    }

    /// The elapsed time since `earlier` on the steady timeline; zero if `earlier` is later.
    pub fn since(&self, earlier: Timestamp) -> Duration {
        elapsed(earlier, self.steady)
    }
}

/// The time from `earlier` to `later`; zero if it would be negative.
pub fn elapsed(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// `at` plus `duration`; at most the largest time that can be represented.
pub fn later(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// `at` minus `duration`; at least the smallest time that can be represented.
pub fn earlier(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_sub(duration).unwrap_or(Timestamp::MIN)
}

/// Seconds since the Unix epoch, the form of timestamps in Prometheus.
pub fn unix_seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// A running clock. One is made at the start of the process and handed down.
#[derive(Clone, Debug)]
pub struct Clock {
    steady_start: Timestamp,
    started: Instant,
}

impl Clock {
    /// Starts the steady timeline at the wall clock's present time.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self {
            steady_start: Timestamp::now(),
            started: Instant::now(),
        }
    }

    /// Continues an older steady timeline. `resume` returns its present time for the present time of the wall clock.
    #[must_use]
    pub fn resume(self, resume: impl FnOnce(Timestamp) -> Timestamp) -> Self {
        Self {
            steady_start: resume(self.now().wall),
            ..Self::start()
        }
    }

    /// The present moment.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Moment {
        Moment {
            wall: Timestamp::now(),
            steady: later(self.steady_start, self.started.elapsed()),
        }
    }
}
