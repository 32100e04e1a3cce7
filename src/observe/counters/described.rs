//! Counters of a kind of limiter that is described as data: a sweep over the names that its patterns allow, every name
//! read as the description says.
//!
//! Each collection goes over as much of the names as its budget allows and goes on where the one before stopped; keys in
//! violation, and those that are shown, are read first. What is written between is not followed here.

mod answers;
mod judging;
mod looks;
mod passing;
mod totals;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::limiters::{Called, Counter, Description, Finding, Limits, Matched};
use crate::observation::{CounterKind, LimiterKind};
use crate::observe::counters::limits::{LimitRule, by_rule};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep::{Lane, SweepResult};
use crate::observe::redis::router::Router;

use judging::{Judged, Seen, judge};
pub(in crate::observe) use passing::Pass;
pub(in crate::observe) use totals::Totals;

/// How far clocks of applications may be ahead of Redis's, in milliseconds.
const CLOCK_TOLERANCE_MS: u64 = 2_000;

/// What is known of the counters of a kind between collections.
#[derive(Debug)]
pub(in crate::observe) struct Described {
    description: Arc<Description>,
    /// The names of the keys that are to be read again, by their labels.
    names: HashMap<Box<[u8]>, Name>,
    /// The pass that goes on in the next collection.
    pass: Option<Pass>,
    /// The number of the pass: each reads the expiry of others.
    number: u64,
    /// What the last full pass came across.
    pub(in crate::observe) last: Option<Totals>,
}

/// The name of a counter that is to be read again.
#[derive(Clone, Debug)]
struct Name {
    name: Vec<u8>,
    /// What tells it apart from others of its label.
    rest: Vec<u8>,
}

/// What a sweep in one collection has to work with.
pub(in crate::observe) struct Means<'a> {
    pub(in crate::observe) router: Router,
    /// One for each link of the router.
    pub(in crate::observe) lanes: Vec<Lane>,
    /// How many names one step reads.
    pub(in crate::observe) step: usize,
    pub(in crate::observe) clock: &'a Clock,
    pub(in crate::observe) rules: &'a [LimitRule],
    pub(in crate::observe) sink: &'a mut dyn CounterSink,
    /// Not all servers are known, or keys may be on their way between them.
    pub(in crate::observe) incomplete: bool,
}

impl Described {
    pub(in crate::observe) fn new(description: Arc<Description>) -> Self {
        Self {
            description,
            names: HashMap::new(),
            pass: None,
            number: 0,
            last: None,
        }
    }

    /// Its description.
    pub(in crate::observe) fn description(&self) -> &Description {
        &self.description
    }

    /// The next collection begins a pass of its own.
    pub(in crate::observe) fn begin_anew(&mut self) {
        self.pass = None;
    }

    /// Reads the watched keys until `half`, then goes on with the pass until `stop`.
    pub(in crate::observe) async fn sweep(
        &mut self,
        mut means: Means<'_>,
        watched: &[Box<[u8]>],
        (half, stop): (Instant, Instant),
        result: &mut SweepResult,
    ) {
        let wanted: HashSet<&[u8]> = watched.iter().map(|key| &**key).collect();
        self.names.retain(|label, _| wanted.contains(&**label));
        self.recheck(&mut means, &wanted, half, result).await;
        self.go_on(&mut means, &wanted, stop, result).await;
    }

    /// Judges a finding.
    fn judge(&self, finding: &Finding) -> Judged {
        let kept = |label: &[u8]| self.names.get(label).map(|kept| &*kept.rest);
        judge(finding, |matched| {
            Called::of(&self.description, matched, kept)
        })
    }

    /// Notes that a counter is to be read again.
    fn keep(&mut self, counter: &Seen) {
        let label = counter.label.clone().into_boxed_slice();
        let (name, rest) = (counter.name.clone(), counter.rest.clone());
        self.names.insert(label, Name { name, rest });
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
        sticks: !is_reference && counter.sticks(),
        validated: !is_reference,
    });
    LimiterKind {
        name: description.name.clone(),
        nodes: is_reference,
        counters: counters.collect(),
    }
}
