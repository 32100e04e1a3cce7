//! Counters of a kind of limiter that is described as data: names are read as the description says. What is scanned, and
//! when, is the sweep's, which is one for all kinds.

mod answers;
mod judging;
mod looks;
mod passing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::clock::Clock;
use crate::limiters::{Counter, Description, Labels, Limits, Matched};
use crate::observation::{CounterKind, LimiterKind};
use crate::observe::counters::limits::{LimitRule, by_rule};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep_result::Lane;
use crate::observe::redis::router::Router;

/// What is known of the counters of a kind between collections.
#[derive(Debug)]
pub(in crate::observe) struct Described {
    description: Arc<Description>,
    labels: Labels,
    /// The names of the keys that are to be read again, by their labels.
    names: HashMap<Box<[u8]>, Vec<u8>>,
    /// These names, whose expiry is read wherever they turn up.
    by_name: HashSet<Vec<u8>>,
    /// The labels that are watched: shown, or in violation.
    wanted: HashSet<Box<[u8]>>,
}

/// What reading takes.
pub(in crate::observe) struct Means<'a> {
    pub(in crate::observe) router: &'a Router,
    /// One for each link of the router.
    pub(in crate::observe) lanes: &'a [Lane],
    pub(in crate::observe) clock: &'a Clock,
    pub(in crate::observe) rules: &'a [LimitRule],
    pub(in crate::observe) sink: &'a mut dyn CounterSink,
}

impl Means<'_> {
    /// How many names one step reads.
    fn step(&self) -> usize {
        let steps = self.lanes.iter().map(|lane| lane.pacer.step_size());
        steps.min().unwrap_or(1)
    }
}

impl Described {
    pub(in crate::observe) fn new(description: Arc<Description>) -> Self {
        Self {
            description,
            labels: Labels::default(),
            names: HashMap::new(),
            by_name: HashSet::new(),
            wanted: HashSet::new(),
        }
    }

    /// Its description.
    pub(in crate::observe) fn description(&self) -> &Description {
        &self.description
    }

    /// The keys that are watched in this collection, by their labels. The names of others are forgotten.
    pub(in crate::observe) fn watch(&mut self, labels: &[Box<[u8]>]) {
        self.wanted = labels.iter().cloned().collect();
        let wanted = &self.wanted;
        self.names.retain(|label, _| wanted.contains(label));
        self.by_name = self.names.values().cloned().collect();
    }
}

/// What the rules of the configuration say of a counter, by its label or its whole name.
fn ruled(rules: &[LimitRule], counter: &Counter, matched: &Matched) -> Limits {
    if rules.is_empty() {
        return Limits::default();
    }
    let label = counter.label(matched);
    let rule = by_rule(rules, &label).or_else(|| by_rule(rules, &matched.name));
    let Some(limit) = rule else {
        return Limits::default();
    };
    Limits {
        limit: Some(limit.limit),
        window_ms: Some(limit.window_ms),
        burst: None,
    }
}

/// What is said of a kind wherever its counters are judged or shown.
pub(in crate::observe) fn kind_of(description: &Description, is_reference: bool) -> LimiterKind {
    let counters = description.counters.iter().map(|counter| CounterKind {
        name: counter.name.value.clone(),
        count: counter.count.value.name().to_owned(),
        refused: counter.refused,
        sticks: counter.sticks(),
        validated: true,
    });
    LimiterKind {
        name: description.name.clone(),
        nodes: is_reference,
        counters: counters.collect(),
    }
}
