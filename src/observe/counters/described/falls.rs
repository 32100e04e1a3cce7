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

/// The most falls of a key that are remembered.
const MOST_FALLS: usize = 4;

/// Limits before a fall, and when they fell.
type Fall = (Limits, Timestamp);

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
    own: HashMap<u64, Fall>,
    /// Those of the falls after that one.
    later: HashMap<u64, Vec<Fall>>,
}

impl Before {
    fn of(&self, hash: u64) -> impl Iterator<Item = Fall> {
        let later = self.later.get(&hash).into_iter().flatten();
        self.own.get(&hash).into_iter().chain(later).copied()
    }

    /// Replaces the falls of a key.
    fn set(&mut self, hash: u64, falls: impl IntoIterator<Item = Fall>) {
        let mut falls = falls.into_iter();
        match falls.next() {
            Some(first) => self.own.insert(hash, first),
            None => self.own.remove(&hash),
        };
        let later: Vec<Fall> = falls.collect();
        if later.is_empty() {
            self.later.remove(&hash);
        } else {
            self.later.insert(hash, later);
        }
    }

    /// Adds a fall of now from `last`.
    fn add(&mut self, hash: u64, last: Limits, now: Timestamp) {
        // What allowed no more than `last` excuses nothing that it does not.
        let falls = self.of(hash).filter(|(before, _)| is_fall(before, &last));
        let mut falls: Vec<Fall> = falls.chain([(last, now)]).collect();
        if falls.len() > MOST_FALLS {
            // Of two that are close together, the first counts, as if it had fallen with the second.
            let gap = |later: &usize| elapsed(falls[later - 1].1, falls[*later].1);
            if let Some(later) = (1..falls.len()).min_by_key(gap) {
                let (_, at) = falls.remove(later);
                falls[later - 1].1 = at;
            }
        }
        self.set(hash, falls);
    }
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
    earlier: impl Iterator<Item = Fall>,
    limits: &Limits,
    now: Timestamp,
) -> Option<Former> {
    let falls = earlier.filter(|(before, _)| is_fall(before, limits));
    let rank = |(before, at): &Fall| {
        let drains = is_recent(counter.drains_ms(before, limits), *at, now);
        let matters = is_recent(counter.outlasts_ms(before, limits), *at, now);
        let legal = counter.legal(before, limits, 0).or(before.capacity());
        (drains, matters, legal, before.window_ms, *at)
    };
    let (limits, at) = falls.max_by_key(rank)?;
    let ago_ms = u64::try_from(elapsed(at, now).as_millis()).unwrap_or(u64::MAX);
    Some(Former { limits, ago_ms })
}

impl Falls {
    /// The stored limits of `name` before they became `limits`, and when they fell.
    pub(super) fn of_own(
        &self,
        name: &[u8],
        limits: &Limits,
        now: Timestamp,
    ) -> impl Iterator<Item = Fall> {
        let hash = fixed_hash(name);
        let last = self.own.get(hash).map(|own| own.limit);
        let newly = last.filter(|last| is_fall(last, limits));
        let newly = newly.map(|last| (last, now));
        newly.into_iter().chain(self.before.of(hash))
    }

    /// Records that `limits` are stored for `name`.
    pub(super) fn learn(&mut self, name: &[u8], limits: Limits, now: Timestamp) {
        let hash = fixed_hash(name);
        let last = self.own.get(hash).map(|own| own.limit);
        if let Some(last) = last.filter(|last| is_fall(last, &limits)) {
            self.before.add(hash, last, now);
            self.changes += 1;
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
        let is_over = |(_, at): &Fall| !is_recent(longest_ms, *at, now);
        let over = self.before.own.iter().filter(|(_, first)| is_over(first));
        let over: Vec<u64> = over.map(|(hash, _)| *hash).collect();
        for hash in &over {
            let falls: Vec<Fall> = self.before.of(*hash).filter(|it| !is_over(it)).collect();
            self.before.set(*hash, falls);
        }
        self.changes += u64::from(!over.is_empty());
        self.odd = !self.odd;
    }

    /// The number of changes so far, and what survives a restart.
    pub(super) fn saved(&self) -> (u64, Before) {
        let mut saved = Before::default();
        for hash in self.before.own.keys().take(MOST_SAVED) {
            saved.set(*hash, self.before.of(*hash));
        }
        (self.changes, saved)
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

    /// The first counter of a kind.
    fn first(kind: &str) -> Counter {
        let text = crate::limiters::built_in(kind).unwrap();
        let description = crate::limiters::Description::parse(text).unwrap();
        description.counters[0].clone()
    }

    /// A counter of fixed windows.
    fn counter() -> Counter {
        first("fastapi-limiter")
    }

    /// The stored limits from which `a` fell to `now`.
    fn fell(falls: &Falls, now: Limits, seconds: i64) -> Vec<Fall> {
        falls.of_own(b"a", &now, at(seconds)).collect()
    }

    /// The limit from which `a` fell to `now` that counts, and how long ago that was.
    fn counts(falls: &Falls, now: Limits, seconds: i64) -> Option<(u64, u64)> {
        let own = falls.of_own(b"a", &now, at(seconds));
        let former = former(&counter(), own, &now, at(seconds))?;
        Some((former.limits.limit?, former.ago_ms))
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
        let (ten, five) = (limits(10, 60), limits(5, 60));
        falls.learn(b"a", ten, at(0));
        assert_eq!(fell(&falls, ten, 1), []);
        // The fall is known before the new limit is learned, and after.
        assert_eq!(counts(&falls, five, 1), Some((10, 0)));
        falls.learn(b"a", five, at(1));
        assert_eq!(counts(&falls, five, 11), Some((10, 10_000)));
        falls.end_pass(60_000, at(60));
        assert!(counts(&falls, five, 60).is_some());
        falls.learn(b"a", five, at(61));
        falls.end_pass(60_000, at(61));
        assert_eq!(fell(&falls, five, 61), []);
        assert_eq!(falls.of_own(b"b", &five, at(61)).count(), 0);
    }

    #[test]
    fn a_second_fall_excuses_what_was_legal_after_the_first() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(100, 60), at(-1));
        falls.learn(b"a", limits(20, 60), at(0));
        let five = limits(5, 60);
        falls.learn(b"a", five, at(50));
        assert_eq!(counts(&falls, five, 59), Some((100, 59_000)));
        assert_eq!(counts(&falls, five, 61), Some((20, 11_000)));
        falls.end_pass(60_000, at(70));
        assert_eq!(fell(&falls, five, 70), [(limits(20, 60), at(50))]);
        falls.end_pass(60_000, at(110));
        assert_eq!(fell(&falls, five, 110), []);
    }

    #[test]
    fn a_limit_that_falls_step_by_step_excuses_what_was_legal_a_window_ago() {
        let mut falls = Falls::default();
        for second in 0..90 {
            let now = limits(100 - second, 60);
            let seconds = i64::try_from(second).unwrap();
            falls.learn(b"a", now, at(seconds));
            let first = 100 - second.saturating_sub(60);
            let (counts, _) = counts(&falls, now, seconds).unwrap_or((first, 0));
            assert!(counts >= first, "{second}: {counts}");
            assert!(fell(&falls, now, seconds).len() <= MOST_FALLS);
        }
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
    fn of_several_falls_of_a_gcra_the_longest_time_ahead_counts() {
        let gcra = first("gcra");
        // An hour ahead, and a minute.
        let (hour, minute, now) = (limits(60, 3_600), limits(100, 60), limits(10, 60));
        let of = |fell, seconds| {
            let earlier = [(hour, at(0)), (minute, at(fell))];
            former(&gcra, earlier.into_iter(), &now, at(seconds)).unwrap()
        };
        assert_eq!((of(10, 20).limits, of(10, 20).ago_ms), (hour, 20_000));
        // It drained.
        assert_eq!(of(3_690, 3_700).limits, minute);
    }

    #[test]
    fn a_fall_that_drained_hides_none_that_drains() {
        // Its keys live longer than its counts matter.
        let log = &first("zset-log");
        let (hour, minute, now) = (limits(100, 3_600), limits(20, 60), limits(5, 60));
        let earlier = [(hour, at(0)), (minute, at(100))];
        let of = |seconds| former(log, earlier.into_iter(), &now, at(seconds)).unwrap();
        assert_eq!(of(110).limits, minute);
        assert_eq!(of(170).limits, hour, "for the expiry of its keys");
        let mut falls = Falls::default();
        for (limits, seconds) in [(hour, -1), (minute, 0), (now, 100)] {
            falls.learn(b"a", limits, at(seconds));
        }
        assert_eq!(fell(&falls, now, 110), earlier);
    }

    #[test]
    fn falls_in_progress_survive_a_restart() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(10, 60), at(0));
        let unchanged = falls.saved().0;
        falls.learn(b"a", limits(10, 60), at(1));
        falls.end_pass(60_000, at(1));
        assert_eq!(falls.saved().0, unchanged);
        falls.learn(b"a", limits(5, 60), at(1));
        falls.learn(b"a", limits(2, 60), at(3));
        let (changes, saved) = falls.saved();
        assert_ne!(changes, unchanged);
        let saved = serde_json::to_string(&saved).unwrap();
        let mut again = Falls::default();
        again.recall(serde_json::from_str(&saved).unwrap());
        let two = limits(2, 60);
        let both = [(limits(10, 60), at(1)), (limits(5, 60), at(3))];
        assert_eq!(fell(&again, two, 9), both);
        again.learn(b"a", two, at(9));
        again.end_pass(60_000, at(9));
        assert_eq!(fell(&again, two, 9), both);
        again.end_pass(60_000, at(63));
        assert_eq!(fell(&again, two, 63), []);
    }

    #[test]
    fn the_first_fall_of_a_key_is_saved_as_before() {
        let mut falls = Falls::default();
        for (limit, seconds) in [(10, 0), (5, 1), (2, 2)] {
            falls.learn(b"a", limits(limit, 60), at(seconds));
        }
        let (hash, _) = falls.before.own.iter().next().unwrap();
        let before = serde_json::json!({ "own": { hash.to_string(): (limits(10, 60), at(1)) } });
        let saved = serde_json::to_value(falls.saved().1).unwrap();
        assert_eq!(saved["own"], before["own"]);
        let mut again = Falls::default();
        again.recall(serde_json::from_value(before).unwrap());
        assert_eq!(fell(&again, limits(5, 60), 9), [(limits(10, 60), at(1))]);
    }

    #[test]
    fn a_key_that_a_pass_does_not_see_is_forgotten() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(10, 60), at(0));
        falls.end_pass(60_000, at(1));
        assert_eq!(falls.own.len(), 1);
        falls.end_pass(60_000, at(2));
        assert!(falls.own.is_empty());
    }

    #[test]
    fn a_limit_that_changes_all_the_time_hides_no_fall_of_another() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(10, 60), at(0));
        for number in 0..2_000 {
            falls.learn(b"b", limits(number, 60), at(0));
        }
        falls.end_pass(60_000, at(1));
        let fell = fell(&falls, limits(5, 60), 2);
        assert_eq!(fell, [(limits(10, 60), at(2))]);
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
