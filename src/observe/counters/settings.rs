//! The limits that the configuration sets, now and before its last changes. Counts that were legal under earlier ones are excused
//! while they may be left over. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::elapsed;
use crate::limiters::{Description, Limits, WITHOUT_WINDOW_MS};
use crate::observe::counters::limits::LimitRule;

/// The most changes that are remembered.
const MOST_EARLIER: usize = 8;

/// The limits that the configuration sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::observe) struct LimitSettings {
    pub(in crate::observe) rules: Vec<LimitRule>,
    /// The fixed limits of the description, in their order, by counter.
    pub(in crate::observe) fixed: BTreeMap<String, Vec<Limits>>,
}

impl LimitSettings {
    /// The longest window in them.
    pub(in crate::observe) fn longest(&self) -> Duration {
        let rules = self.rules.iter().map(|rule| rule.limit.window_ms);
        let fixed = self.fixed.values().flatten();
        let window = |limits: &Limits| limits.window_ms.unwrap_or(WITHOUT_WINDOW_MS);
        let all = rules.chain(fixed.map(window));
        all.map(Duration::from_millis).max().unwrap_or_default()
    }
}

/// The limits that the configuration sets, and those that it set before.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::observe) struct SettingsMemory {
    pub(in crate::observe) now: LimitSettings,
    /// Earlier settings, and when they were replaced.
    pub(in crate::observe) earlier: Vec<(LimitSettings, Timestamp)>,
    /// How long anything of a counter may matter, the longest so far: the window of a limit may have another source.
    #[serde(default)]
    longest_ms: u64,
}

impl SettingsMemory {
    pub(in crate::observe) fn new(description: &Description, rules: Vec<LimitRule>) -> Self {
        let counters = description.counters.iter();
        let fixed = counters.map(|counter| {
            let fixed = description.fixed_limits(counter).copied().collect();
            (counter.name.value.clone(), fixed)
        });
        let fixed = fixed.collect();
        Self {
            now: LimitSettings { rules, fixed },
            earlier: Vec::new(),
            longest_ms: 0,
        }
    }

    /// Follows the settings of `before`, which were in force until `now`.
    pub(in crate::observe) fn follow(&mut self, before: Self, now: Timestamp) {
        self.earlier = before.earlier;
        self.longest_ms = before.longest_ms;
        if before.now != self.now {
            self.earlier.retain(|(earlier, _)| *earlier != before.now);
            self.earlier.push((before.now, now));
        }
        let too_many = self.earlier.len().saturating_sub(MOST_EARLIER);
        self.earlier.drain(..too_many);
    }

    /// Forgets settings whose windows are over. The pass has seen every counter: `longest_ms` is how long anything of one may
    /// matter.
    pub(in crate::observe) fn end_pass(&mut self, longest_ms: u64, now: Timestamp) {
        self.longest_ms = self.longest_ms.max(longest_ms);
        let longest = Duration::from_millis(self.longest_ms);
        let matters = |earlier: &LimitSettings| earlier.longest().max(longest);
        self.earlier
            .retain(|(earlier, at)| elapsed(*at, now) < matters(earlier));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Limit;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// Settings with a limit per minute.
    fn ruled(limit: u64) -> SettingsMemory {
        let window_ms = 60_000;
        let rule = LimitRule {
            pattern: "*".to_owned(),
            limit: Limit { limit, window_ms },
            burst: None,
        };
        let now = LimitSettings {
            rules: vec![rule],
            ..LimitSettings::default()
        };
        SettingsMemory {
            now,
            ..SettingsMemory::default()
        }
    }

    /// The limits of the earlier settings, and when they were replaced.
    fn earlier(memory: &SettingsMemory) -> Vec<(u64, i64)> {
        let all = memory.earlier.iter().map(|(settings, replaced)| {
            let seconds = replaced.as_second() - at(0).as_second();
            (settings.rules[0].limit.limit, seconds)
        });
        all.collect()
    }

    #[test]
    fn settings_before_several_changes_are_remembered_for_their_windows() {
        let mut memory = ruled(60);
        for (limit, seconds) in [(60, 1), (10, 2), (20, 3), (10, 4), (10, 5)] {
            let before = std::mem::replace(&mut memory, ruled(limit));
            // As over a restart.
            let saved = serde_json::to_value(before).unwrap();
            memory.follow(serde_json::from_value(saved).unwrap(), at(seconds));
        }
        assert_eq!(earlier(&memory), [(60, 2), (10, 3), (20, 4)]);
        memory.end_pass(0, at(62));
        assert_eq!(earlier(&memory), [(10, 3), (20, 4)]);
    }

    #[test]
    fn earlier_settings_are_remembered_for_the_longest_window_of_a_counter_and_no_longer() {
        let mut memory = ruled(60);
        let before = std::mem::replace(&mut memory, ruled(10));
        memory.follow(before, at(0));
        memory.end_pass(3_600_000, at(61));
        // The counter with that window has another limit now.
        memory.end_pass(60_000, at(3_599));
        assert_eq!(earlier(&memory), [(60, 0)]);
        memory.end_pass(60_000, at(3_600));
        assert_eq!(earlier(&memory), []);
    }

    #[test]
    fn settings_that_change_all_the_time_do_not_pile_up() {
        let mut memory = ruled(0);
        for limit in 1..100 {
            let before = std::mem::replace(&mut memory, ruled(limit));
            memory.follow(before, at(0));
        }
        assert_eq!(memory.earlier.len(), MOST_EARLIER);
    }
}
