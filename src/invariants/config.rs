//! The settings of the checker, and their defaults.

use std::time::Duration;

use crate::observation::KeyLabel;
use crate::report::{InvariantConfig, InvariantName};

/// The settings of the checker.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckerConfig {
    /// One entry for each invariant, in the order of [`InvariantName::ALL`].
    pub invariants: [InvariantConfig; 7],
    /// How long a violation is kept while its subject cannot be evaluated.
    pub unknown_hold: Duration,
    /// How long a key that was reported keeps its series at 0 afterwards.
    pub cleared_hold: Duration,
    /// Whether a count that was legal under the limit before it fell is reported only after one window.
    pub lowered_limit_grace: bool,
    /// How keys are shown.
    pub key_label: KeyLabel,
    /// The most violating keys that are listed and exported for each invariant. Totals are exact.
    pub max_listed: usize,
}

impl Default for CheckerConfig {
    fn default() -> Self {
        Self {
            invariants: InvariantName::ALL.map(InvariantConfig::default_for),
            unknown_hold: Duration::from_secs(5 * 60),
            cleared_hold: Duration::from_secs(10 * 60),
            lowered_limit_grace: true,
            key_label: KeyLabel::Plain,
            max_listed: 100,
        }
    }
}

impl CheckerConfig {
    /// The settings of `name`.
    pub fn of(&self, name: InvariantName) -> &InvariantConfig {
        &self.invariants[name as usize]
    }

    /// The settings of `name`, to change them.
    pub fn of_mut(&mut self, name: InvariantName) -> &mut InvariantConfig {
        &mut self.invariants[name as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_invariant_is_found_at_its_own_place() {
        let config = CheckerConfig::default();
        for name in InvariantName::ALL {
            assert_eq!(config.of(name).name, name);
        }
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let table: Vec<String> = CheckerConfig::default()
            .invariants
            .iter()
            .map(|i| {
                format!(
                    "{} {}s {} {}",
                    i.name,
                    i.grace_period.as_secs(),
                    i.threshold,
                    i.severity
                )
            })
            .collect();
        assert_eq!(
            table,
            [
                "node_down 0s 0 critical",
                "redis_disconnected 0s 0 critical",
                "high_latency 60s 0.05 warning",
                "counter_drift 30s 0.1 warning",
                "ghost_allowing 0s 0 critical",
                "stuck_counter 60s 0 critical",
                "invalid_counter 60s 0 warning",
            ]
        );
    }
}
