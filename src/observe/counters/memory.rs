//! What the exporter remembers of the counters between sweeps: their description, their limits, and the totals of the last pass.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::elapsed;
use crate::limiters::{Counter, Description, PlainLog};
use crate::observation::{FallenLimit, Limit};
use crate::observe::counters::described::Described;
use crate::observe::counters::limits::{LimitMemory, LimitRule, by_rule, fixed_hash};
use crate::observe::counters::settings::SettingsMemory;
use crate::observe::counters::totals::Totals;
use crate::subject::Bulk;

/// How counters are read.
pub(in crate::observe) enum Reading {
    /// As their description says, step by step.
    Described(Box<Described>),
    /// As a plain log.
    Plain(PlainLog),
}

/// What the exporter remembers of the counters between sweeps.
#[derive(Debug)]
pub(in crate::observe) struct CounterMemory {
    pub(in crate::observe) description: Arc<Description>,
    /// Counters that are read as their description says, step by step. `None` for a plain log.
    pub(in crate::observe) described: Option<Described>,
    /// The names of a plain log.
    pub(in crate::observe) log: Arc<PlainLog>,
    /// Limits of a plain log.
    pub(in crate::observe) limits: LimitMemory,
    /// Keys of a plain log in an invalid state that only a closer reading shows.
    pub(in crate::observe) suspects: HashSet<Vec<u8>>,
    /// The limits of the configuration.
    pub(in crate::observe) settings: SettingsMemory,
    /// The totals of the last full pass.
    pub(in crate::observe) totals: Option<Totals>,
}

impl CounterMemory {
    /// For `description`, whose counters are read as `read` says.
    pub(in crate::observe) fn new(
        description: Arc<Description>,
        read: Reading,
        rules: Vec<LimitRule>,
    ) -> Self {
        let (described, log) = match read {
            Reading::Described(described) => (Some(*described), PlainLog::default()),
            Reading::Plain(log) => (None, log),
        };
        Self {
            settings: SettingsMemory::new(&description, rules),
            description,
            described,
            limits: LimitMemory::of_names(fixed_hash(&log.identity())),
            log: Arc::new(log),
            suspects: HashSet::new(),
            totals: None,
        }
    }

    /// Takes over the memory of the previous configuration, which was in force until `now`. `same_names`: whether the names of
    /// counters still have the same prefixes.
    pub(in crate::observe) fn take_over(&mut self, before: Self, same_names: bool, now: Timestamp) {
        if let (Some(described), Some(was)) = (&mut self.described, before.described) {
            described.take_over(was);
        }
        self.settings.follow(before.settings, now);
        if self.log == before.log {
            self.limits = before.limits;
            self.suspects = before.suspects;
        }
        if same_names {
            self.totals = before.totals;
        }
    }

    /// The limits of a key of a plain log under earlier settings whose windows are not over, and when they were replaced.
    fn earlier_limits(
        &self,
        key: &[u8],
        now: Timestamp,
    ) -> impl Iterator<Item = (Limit, Timestamp)> {
        let earlier = &self.settings.earlier;
        let stored = (!earlier.is_empty()).then(|| self.limits.stored(key));
        let stored = stored.flatten();
        let window = |limit: Limit| Duration::from_millis(limit.window_ms);
        let of_stored = stored.map(window).unwrap_or_default();
        // Most are over, which is found faster than their rule for the key.
        let recent = earlier
            .iter()
            .filter(move |(before, at)| elapsed(*at, now) < before.longest().max(of_stored));
        let limits = recent.filter_map(move |(before, at)| {
            let limit = by_rule(&before.rules, key).or(stored)?;
            Some((limit, *at))
        });
        limits.filter(move |(limit, at)| elapsed(*at, now) < window(*limit))
    }

    /// The limit before a fall to `limit`, of a key of a plain log: `stored` is that of a stored limit.
    pub(in crate::observe) fn fell_from(
        &self,
        key: &[u8],
        limit: Limit,
        stored: Option<FallenLimit>,
        now: Timestamp,
    ) -> Option<FallenLimit> {
        let higher = self.earlier_limits(key, now);
        let higher = higher.filter(|(before, _)| before.limit > limit.limit);
        let falls = higher.map(|(Limit { limit, .. }, at)| FallenLimit {
            limit,
            at,
            until: None,
        });
        let window = Duration::from_millis(limit.window_ms);
        let matters = |fell: &FallenLimit| elapsed(fell.at, now) < window;
        let all = falls.chain(stored);
        all.max_by_key(|fell| (matters(fell), fell.limit))
    }

    /// Whether `key` has the default limit, and a node may have a higher one.
    pub(in crate::observe) fn default_is_doubtful(&self, key: &[u8]) -> bool {
        let limits = &self.limits;
        let is_default =
            || !limits.had_own(key) && by_rule(&self.settings.now.rules, key).is_none();
        limits.default_is_doubtful && is_default()
    }

    /// The longest window under which a key of a plain log may have been written, if `window_ms` applies now.
    pub(in crate::observe) fn longest_window(
        &self,
        key: &[u8],
        window_ms: u64,
        now: Timestamp,
    ) -> u64 {
        let earlier = self.earlier_limits(key, now);
        let earlier = earlier.map(|(limit, _)| limit.window_ms).max();
        let stored = self.limits.longest_window(key, window_ms, now);
        stored.max(earlier.unwrap_or_default())
    }

    /// The limits that survive a restart. The form for plain logs and that for others read each other as nothing.
    pub(in crate::observe) fn bulk(&self) -> Bulk {
        fn bulk((version, saved): (u64, impl Serialize + Send + 'static)) -> Bulk {
            Bulk {
                version,
                write: Box::new(move |to| Ok(serde_json::to_writer(to, &saved)?)),
            }
        }
        match &self.described {
            Some(described) => bulk(described.saved()),
            None => bulk(self.limits.saved()),
        }
    }

    /// Takes back what was written.
    pub(in crate::observe) fn recall(&mut self, from: impl Read) -> serde_json::Result<()> {
        match &mut self.described {
            Some(described) => described.recall(serde_json::from_reader(from)?),
            None => self.limits.recall(serde_json::from_reader(from)?),
        }
        Ok(())
    }

    /// The one counter of a plain log.
    pub(in crate::observe) fn plain(&self) -> &Counter {
        &self.description.counters[0]
    }

    /// How many keys never expire although they should, by counter, according to the last full pass.
    pub(in crate::observe) fn without_expiry(&self) -> BTreeMap<String, u64> {
        let totals = self.totals.as_ref();
        totals
            .map(|totals| totals.without_expiry(&self.description))
            .unwrap_or_default()
    }

    /// How many names fit no counter. `None` for a plain log and before the first full pass.
    pub(in crate::observe) fn foreign(&self) -> Option<u64> {
        let totals = self.totals.as_ref().filter(|_| self.described.is_some());
        totals.map(|totals| totals.foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::built_in;

    fn memory(kind: &str) -> CounterMemory {
        described(built_in(kind).unwrap())
    }

    fn described(text: &str) -> CounterMemory {
        let description = Arc::new(Description::parse(text).unwrap());
        let read = match PlainLog::of(&description) {
            Some(log) => Reading::Plain(log),
            None => Reading::Described(Box::new(Described::new(Arc::clone(&description), None))),
        };
        CounterMemory::new(description, read, Vec::new())
    }

    fn written(memory: &CounterMemory) -> Vec<u8> {
        let mut written = Vec::new();
        (memory.bulk().write)(&mut written).unwrap();
        written
    }

    #[test]
    fn the_file_of_another_kind_or_of_an_older_version_is_read_as_no_limits() {
        let (mut reference, mut kong) = (memory("reference"), memory("kong"));
        let limit = Limit {
            limit: 10,
            window_ms: 1000,
        };
        reference.limits.set_default(limit, Timestamp::UNIX_EPOCH);
        let before = written(&reference);
        reference.recall(&*written(&kong)).unwrap();
        assert_eq!(reference.limits.default_limit(), None);
        reference.recall(&*before).unwrap();
        assert_eq!(reference.limits.default_limit(), Some(limit));
        kong.recall(&*before).unwrap();
        let older = br#"{"default":null,"own":[],"primed":false}"#;
        kong.recall(&older[..]).unwrap();
        for damaged in ["", "{", r#"{"falls":1}"#, r#"{"api":{"asks":1}}"#] {
            assert!(kong.recall(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn limits_of_other_names_are_not_recalled_and_those_of_an_earlier_release_are() {
        let mut reference = memory("reference");
        let limit = Limit {
            limit: 10,
            window_ms: 1000,
        };
        reference
            .limits
            .learn(b"a", Some(limit), Timestamp::UNIX_EPOCH);
        let written = written(&reference);
        let own = built_in("reference")
            .unwrap()
            .replace("ratelimit:", "mine:");
        let mut other = described(&own);
        other.recall(&*written).unwrap();
        assert_eq!(other.limits.stored(b"a"), None);
        let mut saved: serde_json::Value = serde_json::from_slice(&written).unwrap();
        saved.as_object_mut().unwrap().remove("names").unwrap();
        for written in [written, saved.to_string().into_bytes()] {
            let mut again = memory("reference");
            again.recall(&*written).unwrap();
            assert_eq!(again.limits.stored(b"a"), Some(limit));
        }
    }

    #[test]
    fn a_rule_below_the_limit_before_it_excuses_counts_and_expiries_for_a_window() {
        let limit = |limit, window_ms| Limit { limit, window_ms };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut before = memory("reference");
        before.limits.set_default(limit(100, 2_000), at(0));
        let mut memory = memory("reference");
        memory.settings.now.rules = vec![LimitRule {
            pattern: "a*".to_owned(),
            limit: limit(10, 1_000),
            burst: None,
        }];
        memory.take_over(before, true, at(10));
        let fell = |key: &[u8], limit, seconds| memory.fell_from(key, limit, None, at(seconds));
        let hundred = FallenLimit {
            limit: 100,
            at: at(10),
            until: None,
        };
        assert_eq!(fell(b"a", limit(10, 2_000), 11), Some(hundred));
        assert_eq!(fell(b"a", limit(10, 1_000), 12), None);
        assert_eq!(fell(b"b", limit(100, 2_000), 11), None);
        // A stored limit that fell long ago does not hide it.
        let stored = FallenLimit {
            limit: 1_000,
            at: at(0),
            until: None,
        };
        let fell = memory.fell_from(b"a", limit(10, 2_000), Some(stored), at(11));
        assert_eq!(fell, Some(hundred));
        let longest = |seconds| memory.longest_window(b"a", 1_000, at(seconds));
        assert_eq!((longest(11), longest(12)), (2_000, 1_000));
    }
}
