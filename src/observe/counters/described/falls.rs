//! The limits before they fell. Counts and expiries that were legal under them are excused while they may be left over. Pure.
//!
//! For keys whose limit is stored in Redis, a hash and the limit are remembered. Only falls survive a restart: a kind may have a
//! limit for each of its keys. `settings` remembers the earlier limits of the configuration.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::elapsed;
use crate::limiters::{Counter, Former, Limits};
use crate::observe::counters::limits::fixed_hash;
use crate::observe::counters::limits::own::{OwnLimits, Remembered};

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
    /// Stored limits, by the hash of the name.
    own: HashMap<u64, (Limits, Timestamp)>,
}

/// Whether `now` allows less than `before`.
fn is_fall(before: &Limits, now: &Limits) -> bool {
    let less = |before: Option<u64>, now: Option<u64>| before.zip(now).is_some_and(|(b, n)| n < b);
    let fills = before.fill_ms().zip(now.fill_ms());
    less(before.capacity(), now.capacity())
        || less(before.window_ms, now.window_ms)
        || fills.is_some_and(|(before, now)| now < before)
}

/// The limits from which the `limits` of `counter` fell, of all `earlier` ones and the times at which they were replaced: the
/// highest that a count may still come from.
pub(super) fn former(
    counter: &Counter,
    earlier: impl Iterator<Item = (Limits, Timestamp)>,
    limits: &Limits,
    now: Timestamp,
) -> Option<Former> {
    let falls = earlier.filter(|(before, _)| is_fall(before, limits));
    let rank = |(before, at): &(Limits, Timestamp)| {
        let drains = is_recent(counter.drains_ms(before, limits), *at, now);
        let matters = is_recent(counter.outlasts_ms(before, limits), *at, now);
        (drains, matters, before.capacity(), before.window_ms, *at)
    };
    let (limits, at) = falls.max_by_key(rank)?;
    let ago_ms = u64::try_from(elapsed(at, now).as_millis()).unwrap_or(u64::MAX);
    Some(Former { limits, ago_ms })
}

impl Falls {
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

    /// Records that `limits` are stored for `name`. `drains_ms`: how long after a fall from limits a count may be left over.
    pub(super) fn learn(
        &mut self,
        name: &[u8],
        limits: Limits,
        now: Timestamp,
        drains_ms: impl Fn(&Limits) -> u64,
    ) {
        let hash = fixed_hash(name);
        let last = self.own.get(hash).map(|own| own.limit);
        if let Some(last) = last.filter(|last| is_fall(last, &limits)) {
            // Of several falls that still drain, the one from the highest limit counts.
            let drains = |(before, at): &(Limits, Timestamp)| {
                is_recent(drains_ms(before), *at, now) && before.capacity() > last.capacity()
            };
            if !self.before.own.get(&hash).is_some_and(drains) {
                self.before.own.insert(hash, (last, now));
                self.changes += 1;
            }
        }
        let seen_in_odd = self.odd;
        let own = Remembered::new(limits);
        self.own.put(hash, Remembered { seen_in_odd, ..own });
    }

    /// A full pass has ended: keys that it did not see are forgotten, and falls after `longest_ms`.
    pub(super) fn end_pass(&mut self, longest_ms: u64, now: Timestamp) {
        for hash in self.own.unseen(self.odd) {
            self.own.remove(hash);
        }
        self.own.tidy();
        let falls = self.before.own.len();
        let matters = |at: Timestamp| is_recent(longest_ms, at, now);
        self.before.own.retain(|_, (_, at)| matters(*at));
        self.changes += u64::from(self.before.own.len() < falls);
        self.odd = !self.odd;
    }

    /// The number of changes so far, and what survives a restart.
    pub(super) fn saved(&self) -> (u64, Before) {
        let own = self.before.own.iter().take(MOST_SAVED);
        let own = own.map(|(hash, fall)| (*hash, *fall)).collect();
        (self.changes, Before { own })
    }

    /// Takes back what was saved.
    pub(super) fn recall(&mut self, saved: Before) {
        self.before = saved;
    }
}

/// Whether less than `longest_ms` has passed since `at`.
fn is_recent(longest_ms: u64, at: Timestamp, now: Timestamp) -> bool {
    elapsed(at, now).as_millis() < u128::from(longest_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// A counter of fixed windows.
    fn counter() -> Counter {
        let text = crate::limiters::built_in("fastapi-limiter").unwrap();
        let description = crate::limiters::Description::parse(text).unwrap();
        description.counters[0].clone()
    }

    fn learn(falls: &mut Falls, name: &[u8], limits: Limits, now: Timestamp) {
        let counter = counter();
        let drains_ms = |before: &Limits| counter.drains_ms(before, &limits);
        falls.learn(name, limits, now, drains_ms);
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
        learn(&mut falls, b"a", ten, at(0));
        assert_eq!(falls.of_own(b"a", &ten, at(1)), None);
        // The fall is known before the new limit is learned, and after.
        let of = |falls: &Falls, now: &Limits, seconds| {
            let own = falls.of_own(b"a", now, at(seconds));
            let former = former(&counter(), own.into_iter(), now, at(seconds))?;
            Some((former.limits.limit?, former.ago_ms))
        };
        assert_eq!(of(&falls, &five, 1), Some((10, 0)));
        learn(&mut falls, b"a", five, at(1));
        assert_eq!(of(&falls, &five, 11), Some((10, 10_000)));
        // The highest of the window counts.
        learn(&mut falls, b"a", two, at(20));
        assert_eq!(of(&falls, &two, 21), Some((10, 20_000)));
        falls.end_pass(60_000, at(22));
        assert!(of(&falls, &two, 23).is_some());
        learn(&mut falls, b"a", two, at(62));
        falls.end_pass(60_000, at(62));
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
        let of =
            |seconds| former(&counter(), earlier.into_iter(), &limits(5, 60), at(seconds)).unwrap();
        // The longer window of now counts, too.
        assert_eq!(of(59).limits, limits(100, 10));
        assert_eq!((of(60).limits, of(60).ago_ms), (limits(20, 60), 59_000));
        assert_eq!(of(61).limits, limits(10, 60));
    }

    #[test]
    fn a_fall_that_drained_hides_none_that_drains() {
        // Its keys live longer than its counts matter.
        let text = crate::limiters::built_in("zset-log").unwrap();
        let description = crate::limiters::Description::parse(text).unwrap();
        let log = &description.counters[0];
        let (hour, minute, now) = (limits(100, 3_600), limits(20, 60), limits(5, 60));
        let earlier = [(hour, at(0)), (minute, at(100))];
        let of = |seconds| former(log, earlier.into_iter(), &now, at(seconds)).unwrap();
        assert_eq!(of(110).limits, minute);
        assert_eq!(of(170).limits, hour, "for the expiry of its keys");
        let mut falls = Falls::default();
        for (limits, seconds) in [(hour, -1), (minute, 0), (now, 100)] {
            let drains_ms = |before: &Limits| log.drains_ms(before, &limits);
            falls.learn(b"a", limits, at(seconds), drains_ms);
        }
        assert_eq!(falls.of_own(b"a", &now, at(110)), Some((minute, at(100))));
    }

    #[test]
    fn falls_in_progress_survive_a_restart() {
        let mut falls = Falls::default();
        learn(&mut falls, b"a", limits(10, 60), at(0));
        let unchanged = falls.saved().0;
        learn(&mut falls, b"a", limits(10, 60), at(1));
        falls.end_pass(60_000, at(1));
        assert_eq!(falls.saved().0, unchanged);
        learn(&mut falls, b"a", limits(5, 60), at(1));
        let (changes, saved) = falls.saved();
        assert_ne!(changes, unchanged);
        let saved = serde_json::to_string(&saved).unwrap();
        let mut again = Falls::default();
        again.recall(serde_json::from_str(&saved).unwrap());
        let of = |falls: &Falls| falls.of_own(b"a", &limits(5, 60), at(9));
        assert_eq!(of(&again), Some((limits(10, 60), at(1))));
        learn(&mut again, b"a", limits(5, 60), at(9));
        again.end_pass(60_000, at(9));
        assert!(of(&again).is_some());
        again.end_pass(60_000, at(61));
        assert_eq!(of(&again), None);
    }

    #[test]
    fn a_key_that_a_pass_does_not_see_is_forgotten() {
        let mut falls = Falls::default();
        learn(&mut falls, b"a", limits(10, 60), at(0));
        falls.end_pass(60_000, at(1));
        assert_eq!(falls.own.len(), 1);
        falls.end_pass(60_000, at(2));
        assert!(falls.own.is_empty());
    }

    #[test]
    fn a_limit_that_changes_all_the_time_hides_no_fall_of_another() {
        let mut falls = Falls::default();
        learn(&mut falls, b"a", limits(10, 60), at(0));
        for number in 0..2_000 {
            learn(&mut falls, b"b", limits(number, 60), at(0));
        }
        falls.end_pass(60_000, at(1));
        let fell = falls.of_own(b"a", &limits(5, 60), at(2));
        assert_eq!(fell, Some((limits(10, 60), at(2))));
    }

    #[test]
    fn shorter_windows_and_lower_rules_are_falls_and_rises_are_not() {
        let by = |before: Limits, now: Limits| {
            former(&counter(), [(before, at(0))].into_iter(), &now, at(5))
        };
        assert!(by(limits(10, 60), limits(10, 30)).is_some());
        assert_eq!(by(limits(10, 60), limits(5, 60)).unwrap().ago_ms, 5_000);
        assert_eq!(by(limits(10, 60), limits(11, 60)), None);
        assert_eq!(by(limits(10, 60), limits(10, 60)), None);
        assert_eq!(by(Limits::default(), limits(10, 60)), None);
    }
}
