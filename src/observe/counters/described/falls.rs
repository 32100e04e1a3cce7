//! The limits before they fell. Counts and expiries that were legal under them are excused for one window. Pure.
//!
//! A reload may change the rules of the configuration: the previous rules are kept. For keys whose limit is stored in Redis, a
//! hash and the limit are remembered.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use jiff::Timestamp;

use crate::clock::elapsed;
use crate::limiters::{Former, Limits};
use crate::observe::counters::limits::LimitRule;

/// Flag in [`Own`], above the index of the limit: an odd pass saw the key last.
const ODD: u32 = 1 << 31;

/// The index of a limit in the table of limits, and the flag.
type Own = u32;

/// The remembered limits.
#[derive(Debug, Default)]
pub(in crate::observe) struct Falls {
    rules: Option<(Vec<LimitRule>, Timestamp)>,
    own: HashMap<u64, Own>,
    limits: Vec<Limits>,
    places: HashMap<Limits, u32>,
    /// Limits before a fall that may still matter, and when they fell, by the hash of the name.
    fell: HashMap<u64, (Limits, Timestamp)>,
    odd: bool,
}

fn hash(name: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}

/// Whether `now` allows less than `before`.
fn is_fall(before: &Limits, now: &Limits) -> bool {
    let less = |before: Option<u64>, now: Option<u64>| before.zip(now).is_some_and(|(b, n)| n < b);
    less(before.capacity(), now.capacity()) || less(before.window_ms, now.window_ms)
}

fn former(limits: Limits, at: Timestamp, now: Timestamp) -> Former {
    let ago_ms = u64::try_from(elapsed(at, now).as_millis()).unwrap_or(u64::MAX);
    Former { limits, ago_ms }
}

impl Falls {
    /// The rules have changed: `before` was in force until now.
    pub(in crate::observe) fn rules_changed(&mut self, before: Vec<LimitRule>, now: Timestamp) {
        self.rules = Some((before, now));
    }

    /// The limits of a counter under the previous rules, by `ruled`, and when those were replaced. `None` if they do not allow
    /// more than the current ones.
    pub(super) fn by_rules(
        &self,
        limits: &Limits,
        ruled: impl Fn(&[LimitRule]) -> Limits,
        now: Timestamp,
    ) -> Option<Former> {
        let (before, at) = self.rules.as_ref()?;
        let before = ruled(before);
        is_fall(&before, limits).then(|| former(before, *at, now))
    }

    /// The stored limit of `name` before it became `limits`.
    pub(super) fn of_own(&self, name: &[u8], limits: &Limits, now: Timestamp) -> Option<Former> {
        let hash = hash(name);
        let last = self.own.get(&hash).map(|own| self.limit(*own));
        let newly = last.filter(|last| is_fall(last, limits));
        match (newly, self.fell.get(&hash)) {
            (Some(last), _) => Some(former(last, now, now)),
            (None, Some((before, at))) => Some(former(*before, *at, now)),
            (None, None) => None,
        }
    }

    fn limit(&self, own: Own) -> Limits {
        self.limits
            .get((own & !ODD) as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Records that `limits` are stored for `name`.
    pub(super) fn learn(&mut self, name: &[u8], limits: Limits, now: Timestamp) {
        let hash = hash(name);
        let last = self.own.get(&hash).map(|own| self.limit(*own));
        if let Some(last) = last.filter(|last| is_fall(last, &limits)) {
            // Of several falls in one window, the highest limit counts.
            let matters = |(before, at): &(Limits, Timestamp)| {
                is_recent(before, *at, now) && before.capacity() > last.capacity()
            };
            if !self.fell.get(&hash).is_some_and(matters) {
                self.fell.insert(hash, (last, now));
            }
        }
        let place = *self.places.entry(limits).or_insert_with(|| {
            self.limits.push(limits);
            u32::try_from(self.limits.len() - 1).map_or(!ODD, |place| place & !ODD)
        });
        self.own
            .insert(hash, if self.odd { place | ODD } else { place });
    }

    /// A full pass has ended: keys that it did not see are forgotten.
    pub(super) fn end_pass(&mut self, now: Timestamp) {
        let odd = self.odd;
        self.own.retain(|_, own| (*own & ODD != 0) == odd);
        self.fell
            .retain(|_, (before, at)| is_recent(before, *at, now));
        self.odd = !odd;
        if self.limits.len() > 2 * self.own.len() + 1_000 {
            // Most limits belong to no key any more. The others are learned again: for one pass, their falls go unnoticed.
            *self = Self {
                rules: self.rules.take(),
                fell: std::mem::take(&mut self.fell),
                odd: self.odd,
                ..Self::default()
            };
        }
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
            let former = falls.of_own(b"a", now, at(seconds))?;
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
    fn a_key_that_a_pass_does_not_see_is_forgotten() {
        let mut falls = Falls::default();
        falls.learn(b"a", limits(10, 60), at(0));
        falls.end_pass(at(1));
        assert_eq!(falls.own.len(), 1);
        falls.end_pass(at(2));
        assert!(falls.own.is_empty());
    }

    #[test]
    fn shorter_windows_and_lower_rules_are_falls_and_rises_are_not() {
        let mut falls = Falls::default();
        falls.rules_changed(Vec::new(), at(0));
        let by = |before: Limits, now: Limits| falls.by_rules(&now, |_| before, at(5));
        assert!(by(limits(10, 60), limits(10, 30)).is_some());
        assert_eq!(by(limits(10, 60), limits(5, 60)).unwrap().ago_ms, 5_000);
        assert_eq!(by(limits(10, 60), limits(11, 60)), None);
        assert_eq!(by(limits(10, 60), limits(10, 60)), None);
        assert_eq!(by(Limits::default(), limits(10, 60)), None);
    }
}
