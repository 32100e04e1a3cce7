//! How hard a sweep presses on Redis, by what others ask of it. Pure.

use std::time::Duration;

/// How hard a sweep presses on Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Pace {
    /// Keys that one SCAN looks at, and about as many commands that go out at once: what others have to wait for.
    pub(in crate::observe) step: usize,
    /// Batches under way at once: while one is read, Redis works on the next.
    pub(in crate::observe) in_flight: usize,
}

impl Pace {
    /// Nobody else asks for anything: Redis is kept busy, and held for less than a millisecond at a time.
    const FULL: Self = Self {
        step: 1000,
        in_flight: 3,
    };

    /// The smallest step beside traffic. On loopback the limiter's p99 during a sweep was twice that without one at 100, and
    /// a quarter more than without at 30; a sweep takes 1.7 times as long at 30 as at 100.
    const LEAST_STEP: usize = 30;

    /// The pace beside this many commands of others a second, where a round trip takes `ping`.
    ///
    /// While the limiter is in use, its checks come first. A command takes Redis about a microsecond, so they wait for
    /// some tens of microseconds at a time, or for a fifth of the round trip that they take anyway.
    pub(in crate::observe) fn beside(operations_per_second: u64, ping: Duration) -> Self {
        // A health check here and there, or the exporter's own look at the registrations, is no traffic.
        if operations_per_second < 50 {
            return Self::FULL;
        }
        let fifth = usize::try_from(ping.as_micros() / 5).unwrap_or(usize::MAX);
        Self {
            step: fifth.clamp(Self::LEAST_STEP, Self::FULL.step),
            in_flight: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_traffic_a_sweep_holds_redis_for_a_fifth_of_a_round_trip_at_most() {
        let step = |operations, micros| {
            let pace = Pace::beside(operations, Duration::from_micros(micros));
            (pace.step, pace.in_flight)
        };
        assert_eq!(step(0, 200), (1000, 3));
        assert_eq!(step(49, 25_000), (1000, 3));
        assert_eq!(step(50, 100), (30, 1));
        assert_eq!(step(50, 200), (40, 1));
        assert_eq!(step(50, 2_000), (400, 1));
        assert_eq!(step(5_000, 25_000), (1000, 1));
    }
}
