//! Which limit holds for a key, and what it was before. Pure.
//!
//! Of keys with the default limit nothing is remembered; of keys with a limit of their own, a hash and two numbers.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::elapsed;
use crate::observation::{FallenLimit, Limit};

/// A rule of the configuration: keys that match have this limit, whatever Redis and the API say. For limits that
/// only the limiter's callers know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRule {
    /// A glob: `*` stands for any run of bytes, `?` for any one.
    pub pattern: String,
    /// The limit and window.
    pub limit: Limit,
}

/// The limit by the first rule that matches `key`.
pub(super) fn by_rule(rules: &[LimitRule], key: &[u8]) -> Option<Limit> {
    rules
        .iter()
        .find(|rule| glob(rule.pattern.as_bytes(), key))
        .map(|rule| rule.limit)
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

/// What was last seen of limits, to notice when one falls.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct LimitMemory {
    default: Option<Remembered>,
    own: HashMap<u64, Remembered>,
    #[serde(skip)]
    hasher: FixedHasher,
    /// The key space was seen whole at least once, so that a limit that shows now is new.
    pub(super) primed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    limit: Limit,
    fell: Option<FallenLimit>,
    /// The key has no limit of its own any more; the entry lives until the fall no longer matters.
    removed: bool,
}

impl Remembered {
    fn set(&mut self, limit: Limit, now: Timestamp) {
        if limit.limit < self.limit.limit {
            let still = self
                .fell
                .filter(|fell| elapsed(fell.at, now) < Duration::from_millis(self.limit.window_ms));
            let highest = still.map_or(self.limit.limit, |fell| fell.limit.max(self.limit.limit));
            self.fell = Some(FallenLimit {
                limit: highest,
                at: now,
            });
        }
        self.limit = limit;
    }
}

/// Not seeded: a hash must be the same after a restart, so that saved limits can be taken back.
type FixedHasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

impl LimitMemory {
    /// Takes over the default limit as it was read now.
    pub(super) fn set_default(&mut self, limit: Limit, now: Timestamp) {
        match &mut self.default {
            Some(remembered) => remembered.set(limit, now),
            None => {
                self.default = Some(Remembered {
                    limit,
                    fell: None,
                    removed: false,
                });
            }
        }
    }

    /// The default limit, as last read.
    pub(super) fn default_limit(&self) -> Option<Limit> {
        self.default.map(|remembered| remembered.limit)
    }

    /// The limit of `key`, whose own one is `own`, and the one before if it fell; `None` if it has none and the
    /// default is not known.
    pub(super) fn resolve(
        &mut self,
        key: &[u8],
        own: Option<Limit>,
        now: Timestamp,
    ) -> Option<(Limit, Option<FallenLimit>)> {
        if own.is_none() && self.own.is_empty() {
            let default = self.default?;
            return Some((default.limit, default.fell));
        }
        let hash = self.hasher.hash_one(key);
        let Some(own) = own else {
            return self.resolve_default(hash, now);
        };
        let default = self.default.filter(|_| self.primed);
        let remembered = self.own.entry(hash).or_insert_with(|| Remembered {
            limit: default.map_or(own, |default| default.limit),
            fell: None,
            removed: false,
        });
        remembered.removed = false;
        remembered.set(own, now);
        Some((own, remembered.fell))
    }

    fn resolve_default(
        &mut self,
        hash: u64,
        now: Timestamp,
    ) -> Option<(Limit, Option<FallenLimit>)> {
        let default = self.default?;
        let Some(remembered) = self.own.get_mut(&hash) else {
            return Some((default.limit, default.fell));
        };
        if !remembered.removed {
            remembered.set(default.limit, now);
            remembered.removed = true;
        }
        let fell = remembered.fell;
        let window = Duration::from_millis(default.limit.window_ms);
        if fell.is_none_or(|fell| elapsed(fell.at, now) >= window) {
            self.own.remove(&hash);
        }
        Some((default.limit, fell))
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
        let (_, fell) = memory.resolve(b"k", own.map(limit), at(now)).unwrap();
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
    fn a_limit_that_is_new_fell_from_the_default_once_all_was_seen() {
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        assert_eq!(fell(&mut memory, Some(5), 0), None);
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), at(0));
        memory.primed = true;
        assert_eq!(fell(&mut memory, Some(5), 1), Some(10));
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
}
