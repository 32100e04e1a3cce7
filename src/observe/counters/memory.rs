//! What the exporter remembers of the counters between sweeps: their description, their limits, and the totals of the last pass.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::limiters::{Counter, Description};
use crate::observe::counters::described::Described;
use crate::observe::counters::limits::{LimitMemory, LimitRule};
use crate::observe::counters::totals::Totals;

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
        }
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
