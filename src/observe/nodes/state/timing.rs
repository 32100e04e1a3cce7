//! How often nodes renew their registrations, and when one is overdue.

use std::time::Duration;

use super::Registration;
use crate::limiters::Registry;

/// The timing of the limiter's registrations, and how long dead nodes are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryTiming {
    /// The TTL that a heartbeat gives a registration.
    pub ttl: Duration,
    /// The time between heartbeats.
    pub heartbeat: Duration,
    /// How long a node that vanished without deregistering stays `Down`.
    pub forget_after: Duration,
}

/// The shortest and the longest time between two readings of the known registrations. A reading costs two commands for each node.
const GLANCE_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(8)];

impl RegistryTiming {
    /// The timing of `registry`.
    pub fn new(registry: Option<&Registry>) -> Self {
        let duration = |of: fn(&Registry) -> u64| Duration::from_millis(registry.map_or(0, of));
        Self {
            ttl: duration(|registry| registry.ttl),
            heartbeat: duration(|registry| registry.renewed),
            forget_after: Duration::from_secs(3600),
        }
    }

    /// How often the known registrations are read between collections: often enough to see that one disappears before it
    /// can expire. Without a registry, no time is that short.
    pub(in crate::observe) fn glance_every(&self) -> Duration {
        match self.ttl.saturating_sub(self.heartbeat) {
            Duration::ZERO => GLANCE_EVERY[1],
            spare => (spare / 2).clamp(GLANCE_EVERY[0], GLANCE_EVERY[1]),
        }
    }

    /// A TTL below this means that two heartbeats are missing.
    pub(super) fn overdue_below(&self) -> Duration {
        self.ttl.saturating_sub(self.heartbeat * 2)
    }

    /// Whether two heartbeats are missing, by a registration that was just read.
    pub(in crate::observe) fn is_overdue(&self, registration: &Registration) -> bool {
        registration
            .ttl
            .is_some_and(|ttl| ttl < self.overdue_below())
    }
}
