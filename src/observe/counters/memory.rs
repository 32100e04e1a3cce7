//! What the exporter remembers of the counters between sweeps: their description, their limits, and the totals of the last pass.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::limiters::{Counter, Description};
use crate::observe::counters::described::Described;
use crate::observe::counters::limits::{LimitMemory, LimitRule};
use crate::observe::counters::totals::Totals;
use crate::subject::Bulk;

/// What the exporter remembers of the counters between sweeps.
#[derive(Debug)]
pub(in crate::observe) struct CounterMemory {
    pub(in crate::observe) description: Arc<Description>,
    /// The counters of a described kind. `None` for the reference limiter.
    pub(in crate::observe) described: Option<Described>,
    /// Limits of the reference limiter.
    pub(in crate::observe) limits: LimitMemory,
    /// Keys of the reference limiter in an invalid state that only a closer reading shows.
    pub(in crate::observe) suspects: HashSet<Vec<u8>>,
    /// The names of counters that could not be judged, which each collection reads again.
    pub(in crate::observe) unjudged: BTreeSet<Vec<u8>>,
    pub(in crate::observe) rules: Vec<LimitRule>,
    /// The totals of the last full pass.
    pub(in crate::observe) totals: Option<Totals>,
}

impl CounterMemory {
    pub(in crate::observe) fn new(
        description: Arc<Description>,
        described: Option<Described>,
        rules: Vec<LimitRule>,
    ) -> Self {
        Self {
            description,
            described,
            limits: LimitMemory::default(),
            suspects: HashSet::new(),
            unjudged: BTreeSet::new(),
            rules,
            totals: None,
        }
    }

    /// Takes over the memory of the previous configuration, which was in force until `now`. `same_names`: whether the names of
    /// counters still have the same prefixes.
    pub(in crate::observe) fn take_over(&mut self, before: Self, same_names: bool, now: Timestamp) {
        if let (Some(described), Some(was)) = (&mut self.described, before.described) {
            let rules = (self.rules != before.rules).then_some(before.rules);
            described.take_over(was, rules, now);
        }
        self.limits = before.limits;
        self.suspects = before.suspects;
        if same_names {
            self.totals = before.totals;
            self.unjudged = before.unjudged;
        }
    }

    /// The limits that survive a restart. The form for the reference limiter and that for other kinds read each other as nothing.
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
            None => self.limits = serde_json::from_reader(from)?,
        }
        Ok(())
    }

    /// The one counter of the reference limiter.
    pub(in crate::observe) fn reference(&self) -> &Counter {
        &self.description.counters[0]
    }

    /// How many keys never expire although they should, by counter, according to the last full pass.
    pub(in crate::observe) fn without_expiry(&self) -> BTreeMap<String, u64> {
        let totals = self.totals.as_ref();
        totals
            .map(|totals| totals.without_expiry(&self.description))
            .unwrap_or_default()
    }

    /// How many names fit no counter. `None` for the reference limiter and before the first full pass.
    pub(in crate::observe) fn foreign(&self) -> Option<u64> {
        let totals = self.totals.as_ref().filter(|_| self.described.is_some());
        totals.map(|totals| totals.foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::built_in;
    use crate::observation::Limit;

    fn memory(kind: &str) -> CounterMemory {
        let description = Arc::new(Description::parse(built_in(kind).unwrap()).unwrap());
        let described = Described::new(Arc::clone(&description), None);
        let described = (kind != "reference").then_some(described);
        CounterMemory::new(description, described, Vec::new())
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
}
