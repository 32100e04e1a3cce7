//! What is known of the counters between sweeps: their description, their limits, and what the last pass came across.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::limiters::{Counter, Description};
use crate::observe::counters::described::Described;
use crate::observe::counters::limits::{LimitMemory, LimitRule};
use crate::observe::counters::totals::Totals;

/// What is known of the counters between sweeps.
#[derive(Debug)]
pub(in crate::observe) struct CounterMemory {
    pub(in crate::observe) description: Arc<Description>,
    /// The counters, where they are not the reference limiter's.
    pub(in crate::observe) described: Option<Described>,
    /// Limits of the reference limiter.
    pub(in crate::observe) limits: LimitMemory,
    /// Keys, of the reference limiter, in which something is wrong that only a closer reading shows.
    pub(in crate::observe) suspects: HashSet<Vec<u8>>,
    pub(in crate::observe) rules: Vec<LimitRule>,
    /// What the last full pass came across.
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

    /// Takes over what was known under the configuration before, which held until `now`. `same_names`: the names of counters
    /// begin as they did.
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

    /// How many keys never expire although they should, by counter, as far as a full pass has shown.
    pub(in crate::observe) fn without_expiry(&self) -> BTreeMap<String, u64> {
        let totals = self.totals.as_ref();
        totals
            .map(|totals| totals.without_expiry(&self.description))
            .unwrap_or_default()
    }

    /// How many names fit no counter, where the patterns say which do.
    pub(in crate::observe) fn foreign(&self) -> Option<u64> {
        let totals = self.totals.as_ref().filter(|_| self.described.is_some());
        totals.map(|totals| totals.foreign)
    }
}
