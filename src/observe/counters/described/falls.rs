//! The limits before they fell. Counts and expiries that were legal under them are excused for one window. Pure.
//!
//! A reload may change the rules of the configuration: the previous rules are kept. For keys whose limit is stored in Redis, a
//! hash and the limit are remembered. Only falls survive a restart: a kind may have a limit for each of its keys.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::elapsed;
use crate::limiters::{Former, Limits};
use crate::observe::counters::limits::own::{OwnLimits, Remembered};
use crate::observe::counters::limits::{LimitRule, fixed_hash};

/// The most falls that survive a restart.
const MOST_SAVED: usize = 100_000;

/// The remembered limits.
#[derive(Debug, Default)]
pub(in crate::observe) struct Falls {
    /// Their falls are in `before`.
    own: OwnLimits<Limits, ()>,
    odd: bool,
    before: Before,
    /// Counts the changes to `before`.
    changes: u64,
}

/// Limits before a fall that may still matter, and when they fell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Before {
    /// The rules before the last change.
    rules: Option<(Vec<LimitRule>, Timestamp)>,
    /// Stored limits, by the hash of the name.
    own: HashMap<u64, (Limits, Timestamp)>,
}

/// Whether `now` allows less than `before`.
fn is_fall(before: &Limits, now: &Limits) -> bool {
    let less = |before: Option<u64>, now: Option<u64>| before.zip(now).is_some_and(|(b, n)| n < b);
    less(before.capacity(), now.capacity()) || less(before.window_ms, now.window_ms)
}

/// The limits from which `limits` fell, of all `earlier` ones and the times at which they were replaced: the highest that a count
/// may still come from.
pub(super) fn former(
    earlier: impl Iterator<Item = (Limits, Timestamp)>,
    limits: &Limits,
    now: Timestamp,
) -> Option<Former> {
    let falls = earlier.filter(|(before, _)| is_fall(before, limits));
    let rank = |(before, at): &(Limits, Timestamp)| {
        let recent = is_recent(before, *at, now);
        (recent, before.capacity(), before.window_ms, *at)
    };
    let (limits, at) = falls.max_by_key(rank)?;
    let ago_ms = u64::try_from(elapsed(at, now).as_millis()).unwrap_or(u64::MAX);
    Some(Former { limits, ago_ms })
}

impl Falls {
    /// The rules have changed: `before` was in force until now.
    pub(in crate::observe) fn rules_changed(&mut self, before: Vec<LimitRule>, now: Timestamp) {
        self.before.rules = Some((before, now));
        self.changes += 1;
    }

    /// The rules before the last change, and when they were replaced.
    pub(super) fn rules(&self) -> Option<&(Vec<LimitRule>, Timestamp)> {
        self.before.rules.as_ref()
    }

    /// The stored limits of `name` before they became `limits`, and when that was.
    pub(super) fn of_own(
        &self,
        name: &[u8],
        limits: &Limits,
        now: Timestamp,
    ) -> Option<(Limits, Timestamp)> {
        let hash = fixed_hash(name);
        let last = self.own.get(hash).map(|own| own.limit);
        let newly = last.filter(|last| is_fall(last, limits));
        let newly = newly.map(|last| (last, now));
        newly.or_else(|| self.before.own.get(&hash).copied())
    }

    /// Records that `limits` are stored for `name`.
    pub(super) fn learn(&mut self, name: &[u8], limits: Limits, now: Timestamp) {
        let hash = fixed_hash(name);
        let last = self.own.get(hash).map(|own| own.limit);
        if let Some(last) = last.filter(|last| is_fall(last, &limits)) {
            // Of several falls in one window, the highest limit counts.
            let matters = |(before, at): &(Limits, Timestamp)| {
                is_recent(before, *at, now) && before.capacity() > last.capacity()
            };
            if !self.before.own.get(&hash).is_some_and(matters) {
                self.before.own.insert(hash, (last, now));
                self.changes += 1;
            }
        }
        let seen_in_odd = self.odd;
        let own = Remembered::new(limits);
        self.own.put(hash, Remembered { seen_in_odd, ..own });
    }

    /// A full pass has ended: keys that it did not see are forgotten.
    pub(super) fn end_pass(&mut self, now: Timestamp) {
        for hash in self.own.unseen(self.odd) {
            self.own.remove(hash);
        }
        self.own.tidy();
        let falls = self.before.own.len();
        let matters = |(before, at): &mut (Limits, Timestamp)| is_recent(before, *at, now);
        self.before.own.retain(|_, fall| matters(fall));
        self.changes += u64::from(self.before.own.len() < falls);
        self.odd = !self.odd;
    }

    /// The number of changes so far, and what survives a restart.
    pub(super) fn saved(&self) -> (u64, Before) {
        let own = self.before.own.iter().take(MOST_SAVED);
        let own = own.map(|(hash, fall)| (*hash, *fall)).collect();
        let rules = self.before.rules.clone();
        (self.changes, Before { rules, own })
    }

    /// Takes back what was saved.
    pub(super) fn recall(&mut self, saved: Before) {
        self.before = saved;
    }
}

/// Whether the previous window, counted from the fall, is not over yet.
fn is_recent(before: &Limits, at: Timestamp, now: Timestamp) -> bool {
    let window_ms = before.window_ms.unwrap_or(0);
    elapsed(at, now).as_millis() < u128::from(window_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn limits(limit: u64, window_s: u64) -> Limits {
        Limits {
            limit: Some(limit),
            window_ms: Some(window_s * 1000),
            burst: None,
        }
    }

    #[test]
    fn a_fallen_limit_is_remembered_for_one_window() {
        let mut falls = Falls::default();
        let (ten, five, two) = (limits(10, 60), limits(5, 60), limits(2, 60));
        falls.learn(b"a", ten, at(0));
        assert_eq!(falls.of_own(b"a", &ten, at(1)), None);
        // The fall is known before the new limit is learned, and after.
        let of = |falls: &Falls, now: &Limits, seconds| {
            let own = falls.of_own(b"a", now, at(seconds));
            let former = former(own.into_iter(), now, at(seconds))?;
            Some((former.limits.limit?, former.ago_ms))
        };
        assert_eq!(of(&falls, &five, 1), Some((10, 0)));
        falls.learn(b"a", five, at(1));
        assert_eq!(of(&falls, &five, 11), Some((10, 10_000)));
        // The highest of the window counts.
        falls.learn(b"a", two, at(20));
        assert_eq!(of(&falls, &two, 21), Some((10, 20_000)));
        falls.end_pass(at(22));
        assert!(of(&falls, &two, 23).is_some());
        falls.learn(b"a", two, at(62));
        falls.end_pass(at(62));
        assert_eq!(of(&falls, &two, 63), None);
        assert_eq!(falls.of_own(b"b", &two, at(63)), None);
    }

    #[test]
    fn of_several_falls_the_highest_that_is_recent_counts() {
        let earlier = [
            (limits(100, 10), at(0)),
            (limits(20, 60), at(1)),
            (limits(10, 60), at(2)),
        ];
        let of = |seconds| former(earlier.into_iter(), &limits(5, 60), at(seconds)).unwrap();
        assert_eq!(of(9).limits, limits(100, 10));
        assert_eq!((of(10).limits, of(10).ago_ms), (limits(20, 60), 9_000));
        assert_eq!(of(61).limits, limits(10, 60));
    }

    #[test]
    fn falls_in_progress_survive_a_restart() {
        let mut falls = Falls::default();
        falls.rules_changed(Vec::new(), at(0));
        falls.learn(b"a", limits(10, 60), at(0));
        let unchanged = falls.saved().0;
        falls.learn(b"a", limits(10, 60), at(1));
        falls.end_pass(at(1));
        assert_eq!(falls.saved().0, unchanged);
        falls.learn(b"a", limits(5, 60), at(1));
        let (changes, saved) = falls.saved();
        assert_ne!(changes, unchanged);
        let saved = serde_json::to_string(&saved).unwrap();
        let mut again = Falls::default();
        again.recall(serde_json::from_str(&saved).unwrap());
        assert_eq!(again.rules(), falls.rules());
        let of = |falls: &Falls| falls.of_own(b"a", &limits(5, 60), at(9));
        assert_eq!(of(&again), Some((limits(10, 60), at(1))));
        again.learn(b"a", limits(5, 60), at(9));
        again.end_pass(at(9));
        assert!(of(&again).is_some());
        again.end_pass(at(61));
        assert_eq!(of(&again), None);
    }

    #[test]
    fn a_key_that_a_pass_does_not_see_is_forgotten() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(10, 60), at(0));
        falls.end_pass(at(1));
        assert_eq!(falls.own.len(), 1);
        falls.end_pass(at(2));
        assert!(falls.own.is_empty());
    }

    #[test]
    fn a_limit_that_changes_all_the_time_hides_no_fall_of_another() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(10, 60), at(0));
        for number in 0..2_000 {
            falls.learn(b"b", limits(number, 60), at(0));
        }
        falls.end_pass(at(1));
        let fell = falls.of_own(b"a", &limits(5, 60), at(2));
        assert_eq!(fell, Some((limits(10, 60), at(2))));
    }

    #[test]
    fn shorter_windows_and_lower_rules_are_falls_and_rises_are_not() {
        let by = |before: Limits, now: Limits| former([(before, at(0))].into_iter(), &now, at(5));
        assert!(by(limits(10, 60), limits(10, 30)).is_some());
        assert_eq!(by(limits(10, 60), limits(5, 60)).unwrap().ago_ms, 5_000);
        assert_eq!(by(limits(10, 60), limits(11, 60)), None);
        assert_eq!(by(limits(10, 60), limits(10, 60)), None);
        assert_eq!(by(Limits::default(), limits(10, 60)), None);
    }
}
