//! The limits of the keys of a plain log, current ones and those before a fall. Pure.
//!
//! Keys with the default limit take no memory. For each key with its own limit, a hash and the index of the limit in a table are
//! remembered.

pub(in crate::observe) mod own;
mod saved;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::{elapsed, later};
use crate::observation::{FallenLimit, Limit};
use own::OwnLimits;

/// A rule of the configuration: keys that match have this limit, whatever Redis and the API say. It is for limits that only the
/// limiter's callers know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRule {
    /// A glob: `*` is any run of bytes, `?` is any one byte.
    pub pattern: String,
    /// The limit and window.
    pub limit: Limit,
    /// How many requests may come at once, if that differs from the limit. The reference limiter has no burst.
    pub burst: Option<u64>,
}

impl LimitRule {
    /// Whether it matches every key.
    pub(in crate::observe) fn is_for_every_key(&self) -> bool {
        !self.pattern.is_empty() && self.pattern.bytes().all(|c| c == b'*')
    }
}

/// The first rule that matches `key`.
pub(in crate::observe) fn rule_for<'r>(
    rules: &'r [LimitRule],
    key: &[u8],
) -> Option<&'r LimitRule> {
    rules.iter().find(|rule| glob(rule.pattern.as_bytes(), key))
}

/// The limit from the first rule that matches `key`.
pub(in crate::observe) fn by_rule(rules: &[LimitRule], key: &[u8]) -> Option<Limit> {
    rule_for(rules, key).map(|rule| rule.limit)
}

/// Whether `text` matches `pattern`, in time linear in their product at most.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// The last limits seen: the own limits of keys, and limits before they fell.
#[derive(Debug, Default)]
pub(in crate::observe) struct LimitMemory {
    default: Option<Remembered>,
    /// A node may have a higher default limit.
    pub(in crate::observe) default_is_doubtful: bool,
    own: OwnLimits<Limit, Fall>,
    /// Keys whose stored limit is invalid, and whether an odd pass found that.
    invalid: HashMap<u64, bool>,
    /// Earlier, longer windows by key, or `None` for the default, and until when a key that was written under them may live.
    longer: HashMap<Option<u64>, (u64, Timestamp)>,
    hasher: FixedHasher,
    /// Whether the current pass has an odd number. A limit that one pass finds must be found by the next one too.
    odd_pass: bool,
    /// Whether all stored limits were seen at least once. Then a limit that appears is new.
    primed: bool,
    /// Counts the changes to what is saved.
    changes: u64,
    /// The hash of what the names of counters and limits are made of. 0 in a file of an earlier release.
    names: u64,
}

type Remembered = own::Remembered<Limit, Fall>;

/// A limit before it fell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fall {
    #[serde(flatten)]
    from: FallenLimit,
    /// The lowest count above the limit since the fall: a count that is left over from before only falls.
    #[serde(default)]
    least: Option<u64>,
}

impl Remembered {
    fn set(&mut self, limit: Limit, now: Timestamp) {
        if limit.limit < self.limit.limit {
            let window = Duration::from_millis(self.limit.window_ms);
            let still = self.fell_from();
            let still = still.filter(|fell| elapsed(fell.at, now) < window);
            let highest = still.map_or(self.limit.limit, |fell| fell.limit.max(self.limit.limit));
            let from = FallenLimit {
                limit: highest,
                at: now,
                until: None,
            };
            self.fell = Some(Fall { from, least: None });
        }
        self.limit = limit;
    }

    /// Records `count` under the current `limit`. A count that rises, or was not above the limit when the fall was seen, is not
    /// left over from before: then the fall no longer matters.
    fn counted(&mut self, count: u64, limit: u64) {
        let least = self.fell.as_ref().and_then(|fell| fell.least);
        if count <= limit || least.is_some_and(|least| count > least) {
            self.fell = None;
        }
        if let Some(fell) = &mut self.fell {
            fell.least = Some(count);
        }
    }

    fn fell_from(&self) -> Option<FallenLimit> {
        self.fell.as_ref().map(|fell| fell.from)
    }
}

/// Not seeded: hashes must be the same after a restart, so that saved limits can be restored.
type FixedHasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// The hash of what is saved.
pub(in crate::observe) fn fixed_hash(bytes: &[u8]) -> u64 {
    FixedHasher::default().hash_one(bytes)
}

impl LimitMemory {
    /// For counters and limits whose names have this hash.
    pub(in crate::observe) fn of_names(names: u64) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// Takes back what was saved, unless names were others.
    pub(in crate::observe) fn recall(&mut self, saved: Self) {
        let names = self.names;
        if [0, names].contains(&saved.names) {
            *self = Self { names, ..saved };
        }
    }

    /// Sets the default limit, which was just read. Returns whether it changed.
    pub(in crate::observe) fn set_default(&mut self, limit: Limit, now: Timestamp) -> bool {
        let changed = self.default_limit() != Some(limit);
        self.note_window(None, self.default_limit(), limit, now);
        self.default
            .get_or_insert(Remembered::new(limit))
            .set(limit, now);
        self.changes += u64::from(changed);
        changed
    }

    /// The default limit that was read last.
    pub(in crate::observe) fn default_limit(&self) -> Option<Limit> {
        self.default.as_ref().map(|remembered| remembered.limit)
    }

    /// The limit of `key` that was read last: its own, or else the default.
    pub(in crate::observe) fn stored(&self, key: &[u8]) -> Option<Limit> {
        let own = self.own.get(self.hash(key)).filter(|own| !own.removed);
        own.map(|own| own.limit).or(self.default_limit())
    }

    /// The hash that identifies a key.
    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Whether the current pass has already read the key's own limit.
    pub(in crate::observe) fn is_learned(&self, key: &[u8]) -> bool {
        let own = self.own.get(self.hash(key));
        own.is_some_and(|own| !own.removed && own.seen_in_odd == self.odd_pass)
    }

    /// Notes that the key's stored limit is invalid. The previous limit is kept, because it is likely to return.
    pub(in crate::observe) fn set_invalid(&mut self, key: &[u8]) {
        let hash = self.hash(key);
        self.invalid.insert(hash, self.odd_pass);
        if let Some(own) = self.own.get(hash) {
            let seen_in_odd = self.odd_pass;
            self.own.put(hash, Remembered { seen_in_odd, ..own });
        }
    }

    /// Whether the key has its own limit, or had one until it became invalid.
    pub(in crate::observe) fn had_own(&self, key: &[u8]) -> bool {
        let own = self.own.get(self.hash(key));
        own.is_some_and(|own| !own.removed) || self.is_invalid(key)
    }

    /// Whether the key's stored limit was invalid when it was last read.
    pub(in crate::observe) fn is_invalid(&self, key: &[u8]) -> bool {
        !self.invalid.is_empty() && self.invalid.contains_key(&self.hash(key))
    }

    /// Records the key's own limit, or that it has none, as just read. Returns whether it changed.
    pub(in crate::observe) fn learn(
        &mut self,
        key: &[u8],
        own: Option<Limit>,
        now: Timestamp,
    ) -> bool {
        let hash = self.hash(key);
        self.invalid.remove(&hash);
        let default = self.default_limit();
        let before = self.stored(key);
        if let Some(limit) = own.or(default) {
            self.note_window(Some(hash), before, limit, now);
        }
        match (self.own.get(hash), own) {
            (Some(mut remembered), Some(own)) => {
                let news = remembered.removed || remembered.limit != own;
                remembered.removed = false;
                remembered.set(own, now);
                remembered.seen_in_odd = self.odd_pass;
                self.put(hash, remembered);
                news
            }
            (Some(mut remembered), None) => {
                let news = !remembered.removed;
                if let Some(default) = default.filter(|_| news) {
                    remembered.set(default, now);
                }
                remembered.removed = true;
                self.put(hash, remembered);
                news
            }
            (None, Some(own)) => {
                // After a full pass, a limit that appears is new: until now, the default applied.
                let before = default.filter(|_| self.primed).unwrap_or(own);
                let mut remembered = Remembered::new(before);
                remembered.set(own, now);
                remembered.seen_in_odd = self.odd_pass;
                self.put(hash, remembered);
                true
            }
            (None, None) => false,
        }
    }

    /// The remembered limit of `key`, and the previous one if it fell. `None` if the key has no limit of its own and the
    /// default is unknown.
    pub(in crate::observe) fn current(
        &mut self,
        key: &[u8],
        now: Timestamp,
    ) -> Option<(Limit, Option<FallenLimit>)> {
        let default = self.default.as_ref();
        let default = default.map(|default| (default.limit, default.fell_from()));
        if self.own.is_empty() {
            return default;
        }
        let hash = self.hash(key);
        let Some(remembered) = self.own.get(hash) else {
            return default;
        };
        if !remembered.removed {
            return Some((remembered.limit, remembered.fell_from()));
        }
        let (limit, default_fell) = default?;
        let window = Duration::from_millis(limit.window_ms);
        let fell = remembered.fell_from();
        let fell = fell.filter(|fell| elapsed(fell.at, now) < window);
        if fell.is_none() {
            self.own.remove(hash);
            self.changes += 1;
        }
        Some((limit, fell.or(default_fell)))
    }

    /// [`Self::current`] for a key whose `count` was just read directly under that limit.
    ///
    /// When a limit in Redis falls, it falls for all nodes at once: requests admitted since then are not left over from before.
    /// The default is a setting of each node: a rolling restart lowers it on one node after the other, and the others still
    /// admit by the old one. So its fall excuses every count that was legal before.
    pub(in crate::observe) fn current_of_counted(
        &mut self,
        key: &[u8],
        count: u64,
        now: Timestamp,
    ) -> Option<(Limit, Option<FallenLimit>)> {
        let (limit, fell) = self.current(key, now)?;
        let hash = self.hash(key);
        match self.own.get(hash) {
            Some(mut own) if fell.is_some() => {
                own.counted(count, limit.limit);
                self.put(hash, own);
            }
            _ => return Some((limit, fell)),
        }
        self.current(key, now)
    }

    /// Records that `limit` applies now. A key that was written under a longer window may live as long as that window.
    fn note_window(
        &mut self,
        of: Option<u64>,
        before: Option<Limit>,
        limit: Limit,
        now: Timestamp,
    ) {
        if let Some(before) = before.filter(|before| before.window_ms > limit.window_ms) {
            let until = later(now, Duration::from_millis(before.window_ms));
            self.longer.insert(of, (before.window_ms, until));
        }
    }

    /// The longest window under which `key` may have been written, if `window_ms` applies now.
    pub(in crate::observe) fn longest_window(
        &self,
        key: &[u8],
        window_ms: u64,
        now: Timestamp,
    ) -> u64 {
        let longer = |of: Option<u64>| {
            let (window_ms, until) = self.longer.get(&of)?;
            (now < *until).then_some(*window_ms)
        };
        if self.longer.is_empty() {
            return window_ms;
        }
        let before = longer(None).max(longer(Some(self.hash(key))));
        window_ms.max(before.unwrap_or_default())
    }

    /// The longest window of a limit.
    pub(in crate::observe) fn longest(&self) -> u64 {
        let all = self.own.limits().chain(self.default_limit());
        all.map(|limit| limit.window_ms).max().unwrap_or_default()
    }

    /// A full pass has ended: limits that it did not see are gone.
    pub(in crate::observe) fn end_pass(&mut self, now: Timestamp) {
        let default = self.default_limit();
        self.longer.retain(|_, (_, until)| now < *until);
        for hash in self.own.unseen(self.odd_pass) {
            if let Some(mut remembered) = self.own.get(hash) {
                if let Some(default) = default {
                    self.note_window(Some(hash), Some(remembered.limit), default, now);
                    remembered.set(default, now);
                }
                remembered.removed = true;
                self.put(hash, remembered);
            }
        }
        self.own.tidy();
        let odd = self.odd_pass;
        self.invalid.retain(|_, seen_in_odd| *seen_in_odd == odd);
        self.odd_pass = !self.odd_pass;
        self.set_primed();
    }

    /// Whether all stored limits were seen at least once.
    pub(in crate::observe) fn is_primed(&self) -> bool {
        self.primed
    }

    /// Records that all stored limits were seen.
    pub(in crate::observe) fn set_primed(&mut self) {
        self.changes += u64::from(!self.primed);
        self.primed = true;
    }

    fn put(&mut self, hash: u64, remembered: Remembered) {
        self.changes += u64::from(self.own.put(hash, remembered));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn limit(limit: u64) -> Limit {
        Limit {
            limit,
            window_ms: 60_000,
        }
    }

    fn fell(memory: &mut LimitMemory, own: Option<u64>, now: i64) -> Option<u64> {
        memory.learn(b"k", own.map(limit), at(now));
        let (_, fell) = memory.current(b"k", at(now)).unwrap();
        fell.map(|fell| fell.limit)
    }

    #[test]
    fn a_default_that_falls_is_noticed() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        assert_eq!(fell(&mut memory, None, 0), None);
        memory.set_default(limit(5), at(1));
        assert_eq!(fell(&mut memory, None, 1), Some(10));
        memory.set_default(limit(3), at(2));
        assert_eq!(fell(&mut memory, None, 2), Some(10));
    }

    #[test]
    fn an_own_limit_that_falls_is_noticed() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        assert_eq!(fell(&mut memory, Some(100), 0), None);
        assert_eq!(fell(&mut memory, Some(50), 1), Some(100));
        assert_eq!(fell(&mut memory, None, 2), Some(100));
    }

    #[test]
    fn a_new_limit_fell_from_the_default_after_a_full_pass() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        assert_eq!(fell(&mut memory, Some(5), 0), None);
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        memory.primed = true;
        assert_eq!(fell(&mut memory, Some(5), 1), Some(10));
    }

    #[test]
    fn a_strict_limit_set_before_its_key_was_used_did_not_fall() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        memory.learn(b"k", Some(limit(5)), at(0));
        memory.end_pass(at(1));
        assert_eq!(fell(&mut memory, Some(5), 100), None);
        assert_eq!(fell(&mut memory, Some(3), 101), Some(5));
    }

    #[test]
    fn a_limit_that_appears_before_its_key_is_used_fell_when_it_appeared() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        memory.end_pass(at(1));
        memory.learn(b"k", Some(limit(5)), at(5));
        memory.learn(b"k", Some(limit(5)), at(9));
        let (_, fell) = memory.current(b"k", at(20)).unwrap();
        let expected = FallenLimit {
            limit: 10,
            at: at(5),
            until: None,
        };
        assert_eq!(fell, Some(expected));
    }

    /// The limit before the fall that may explain each of `counts`, which follow each other by a second.
    fn drains(memory: &mut LimitMemory, counts: &[u64]) -> Vec<Option<u64>> {
        let counts = counts.iter().zip(10..);
        let fell = counts.map(|(count, second)| {
            let (_, fell) = memory.current_of_counted(b"k", *count, at(second)).unwrap();
            fell.map(|fell| fell.limit)
        });
        fell.collect()
    }

    #[test]
    fn a_count_that_rose_or_began_after_a_fall_is_not_left_over() {
        let fallen = |default_falls: bool| {
            let mut memory = LimitMemory::default();
            memory.set_default(limit(10), at(0));
            memory.end_pass(at(1));
            if default_falls {
                memory.set_default(limit(5), at(2));
            } else {
                memory.learn(b"k", Some(limit(5)), at(2));
            }
            memory
        };
        let (yes, no) = (Some(10), None);
        let mut memory = fallen(false);
        assert_eq!(
            drains(&mut memory, &[8, 8, 7, 8, 7]),
            [yes, yes, yes, no, no]
        );
        // After another fall, counts are compared from the start.
        memory.learn(b"k", Some(limit(3)), at(20));
        assert_eq!(drains(&mut memory, &[7]), [Some(5)]);
        assert_eq!(drains(&mut fallen(false), &[0, 7]), [no, no]);
        assert_eq!(drains(&mut fallen(false), &[5, 6]), [no, no]);
        // Nodes that were not restarted yet admit by the old default.
        assert_eq!(drains(&mut fallen(true), &[0, 7, 8]), [yes, yes, yes]);
    }

    #[test]
    fn a_limit_that_was_malformed_for_a_while_did_not_fall() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        memory.learn(b"k", Some(limit(5)), at(0));
        memory.end_pass(at(1));
        for second in 2..5 {
            memory.set_invalid(b"k");
            memory.end_pass(at(second));
            assert!(memory.had_own(b"k"));
        }
        assert_eq!(fell(&mut memory, Some(5), 6), None);
        assert!(!memory.is_invalid(b"k"));
    }

    #[test]
    fn removed_limits_are_forgotten_after_a_window() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        fell(&mut memory, Some(100), 0);
        assert_eq!(fell(&mut memory, None, 1), Some(100));
        fell(&mut memory, None, 62);
        assert!(memory.own.is_empty());
    }

    #[test]
    fn limits_that_a_whole_pass_did_not_show_are_gone() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        assert!(memory.learn(b"k", Some(limit(100)), at(0)));
        memory.end_pass(at(1));
        assert!(!memory.learn(b"k", Some(limit(100)), at(2)));
        memory.end_pass(at(3));
        assert_eq!(memory.current(b"k", at(3)).unwrap().0, limit(100));
        memory.end_pass(at(4));
        assert_eq!(
            memory.current(b"k", at(5)).unwrap(),
            (
                limit(10),
                Some(FallenLimit {
                    limit: 100,
                    at: at(4),
                    until: None,
                })
            )
        );
    }

    #[test]
    fn globs_match_as_globs_do() {
        for (pattern, text, matches) in [
            ("tenant:*", "tenant:42", true),
            ("tenant:*", "tenan:42", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                matches,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_key_written_under_a_longer_window_may_live_as_long_as_that_window() {
        let limit = |window_ms| Limit {
            limit: 10,
            window_ms,
        };
        let (minute, hour) = (limit(60_000), limit(3_600_000));
        let longest = |limits: &LimitMemory, key: &[u8], now: Limit, seconds| {
            limits.longest_window(key, now.window_ms, at(seconds))
        };
        let mut limits = LimitMemory::default();
        limits.set_default(minute, at(0));
        limits.learn(b"k", Some(hour), at(0));
        assert_eq!(longest(&limits, b"k", hour, 0), 3_600_000);
        limits.learn(b"k", Some(minute), at(10));
        assert_eq!(longest(&limits, b"k", minute, 3_609), 3_600_000);
        assert_eq!(longest(&limits, b"k", minute, 3_610), 60_000);
        assert_eq!(longest(&limits, b"other", minute, 11), 60_000);
        // The key loses its own limit, and the default window becomes shorter.
        limits.learn(b"k", Some(hour), at(5_000));
        limits.learn(b"k", None, at(5_001));
        assert_eq!(longest(&limits, b"k", minute, 5_002), 3_600_000);
        limits.set_default(limit(1_000), at(10_000));
        assert_eq!(longest(&limits, b"other", limit(1_000), 10_059), 60_000);
        limits.end_pass(at(20_000));
        assert!(limits.longer.is_empty());
    }
}
