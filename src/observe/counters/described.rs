//! Counters of described kinds: reads names by their description. The sweep, which is the same for all kinds, decides what is
//! scanned and when.

mod answers;
mod falls;
mod inspect;
mod judging;
mod name_batch;
mod passing;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::limiters::{Called, Counter, Description, Finding, Fit, Limits, Matched, Type};
use crate::observation::{CounterKind, LONGEST_SAVED_KEY, decode_key, encode_key, shown_key};
use crate::observe::counters::api_limits::{ApiLimits, SavedApis};
use crate::observe::counters::limits::{LimitRule, rule_for};
use crate::observe::counters::pace::Pacer;
use crate::observe::counters::settings::LimitSettings;
use crate::observe::counters::sweep_result::Lane;
use crate::observe::redis::router::Router;
use crate::text::one_line;

use falls::Falls;
pub use inspect::{Inspected, Inspection, inspect};
use judging::{Judged, judge};

/// The most pairs of counters that a warning names.
const MOST_RIVALS: usize = 20;

/// What the exporter remembers of the counters of a kind between collections.
#[derive(Debug)]
pub(in crate::observe) struct Described {
    description: Arc<Description>,
    /// Limits from APIs.
    pub(in crate::observe) api: Option<ApiLimits>,
    /// What to set so that all of its APIs can be asked, if some cannot.
    pub(in crate::observe) to_set: Option<String>,
    /// The names of the keys to read again, by their labels.
    names: HashMap<Box<[u8]>, KeptName>,
    /// The same names. Their expiry is read wherever SCAN returns them.
    by_name: HashSet<Vec<u8>>,
    /// The watched labels: exported ones, and those in violation.
    wanted: HashSet<Box<[u8]>>,
    /// The pairs of counters that could claim the same name, after a warning has named them.
    rivals: BTreeSet<(usize, usize)>,
    /// Whether Redis reports the memory of a key.
    measured: AtomicBool,
    /// The type of the counter that was read last: most limiters use one type for all names that could have several.
    likely: Mutex<Option<Type>>,
    /// The limits before they fell.
    falls: Falls,
    /// How long anything of a counter may matter: the longest so far.
    pub(in crate::observe) longest_ms: u64,
}

/// What survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::observe) struct SavedDescribed {
    falls: falls::Before,
    api: Option<SavedApis>,
}

/// The name of a counter to read again.
#[derive(Clone, Debug)]
struct KeptName {
    name: Vec<u8>,
    /// The rest of its name, which distinguishes it from other counters with its label.
    rest: Vec<u8>,
    /// Whether it was in violation when it was last read.
    violates: bool,
}

/// The label, the name and the rest of the name of a counter in violation.
pub(in crate::observe) type SavedName = [String; 3];

/// The servers, clock and rules for reading names.
pub(in crate::observe) struct ReadContext<'a> {
    pub(in crate::observe) router: &'a Router,
    /// One for each link of the router.
    pub(in crate::observe) lanes: &'a [Lane],
    pub(in crate::observe) clock: &'a Clock,
    pub(in crate::observe) rules: &'a [LimitRule],
    /// Earlier settings, and when they were replaced.
    pub(in crate::observe) earlier: &'a [(LimitSettings, Timestamp)],
}

impl ReadContext<'_> {
    /// How many names one step reads: most take two commands at a time.
    pub(in crate::observe) fn step(&self) -> usize {
        let steps = self.lanes.iter().map(|lane| lane.pacer.step_size() / 2);
        steps.min().unwrap_or(1)
    }

    /// The pacers of the servers that hold `names`.
    pub(in crate::observe) fn pacers<'n>(
        &self,
        names: impl Iterator<Item = &'n Vec<u8>>,
    ) -> Vec<&Pacer> {
        let asked: BTreeSet<usize> = names.filter_map(|it| self.router.link_of(it)).collect();
        let lanes = asked.into_iter().filter_map(|lane| self.lanes.get(lane));
        lanes.map(|lane| &lane.pacer).collect()
    }
}

impl Described {
    pub(in crate::observe) fn new(description: Arc<Description>, api: Option<ApiLimits>) -> Self {
        Self {
            description,
            api,
            to_set: None,
            names: HashMap::new(),
            by_name: HashSet::new(),
            wanted: HashSet::new(),
            rivals: BTreeSet::new(),
            measured: AtomicBool::new(true),
            likely: Mutex::default(),
            falls: Falls::default(),
            longest_ms: 0,
        }
    }

    /// Sets the labels of the keys that this collection watches. Forgets the names of all others.
    pub(in crate::observe) fn watch(&mut self, labels: &[Box<[u8]>]) {
        self.wanted = labels.iter().cloned().collect();
        let wanted = &self.wanted;
        self.names.retain(|label, _| wanted.contains(label));
        let names = self.names.values();
        self.by_name = names.map(|kept| kept.name.clone()).collect();
    }

    /// Judges a finding made at `now`, on the steady timeline.
    fn judge(&self, finding: &Finding, now: Timestamp) -> Judged {
        let kept = |label: &[u8]| self.names.get(label).map(|kept| &*kept.rest);
        let mut judged = judge(finding, now, |matched| {
            Called::of(&self.description, matched, kept)
        });
        if let (Judged::Counter(seen), Some(api)) = (&mut judged, &self.api) {
            seen.confirm(finding, |matched, limits| {
                api.doubts(self.description.counter(matched), matched, limits)
            });
        }
        judged
    }

    /// A pass has seen every key.
    pub(in crate::observe) fn end_pass(&mut self, now: Timestamp) {
        self.falls.end_pass(self.longest_ms, now);
    }

    /// Takes over the remembered limits and the labels of counters from `before`.
    pub(in crate::observe) fn take_over(&mut self, before: Self) {
        self.names = before.names;
        self.drop_misfits();
        self.falls = before.falls;
        self.longest_ms = before.longest_ms;
        if let (Some(api), Some(before)) = (&mut self.api, before.api) {
            api.take_over(before);
        }
    }

    /// The number of changes so far, and what survives a restart.
    pub(in crate::observe) fn saved(&self) -> (u64, SavedDescribed) {
        let (of_api, api) = self.api.as_ref().map(ApiLimits::saved).unzip();
        let (of_falls, falls) = self.falls.saved();
        let changes = of_falls + of_api.unwrap_or(0);
        (changes, SavedDescribed { falls, api })
    }

    /// Takes back what was saved.
    pub(in crate::observe) fn recall(&mut self, saved: SavedDescribed) {
        self.falls.recall(saved.falls);
        if let (Some(api), Some(saved)) = (&mut self.api, saved.api) {
            api.recall(saved);
        }
    }

    /// The names of the counters in violation, to survive a restart.
    pub(in crate::observe) fn saved_names(&self) -> Vec<SavedName> {
        let names = self.names.iter();
        let saved = names.filter(|(_, kept)| kept.violates && kept.name.len() <= LONGEST_SAVED_KEY);
        let saved = saved.map(|(label, kept)| [label, &kept.name[..], &kept.rest].map(encode_key));
        saved.collect()
    }

    /// Takes back the names that were saved. Their counters keep their labels.
    pub(in crate::observe) fn recall_names(&mut self, saved: Vec<SavedName>) {
        for saved in saved {
            let [label, name, rest] = saved.map(|text| decode_key(&text));
            let violates = true;
            let kept = KeptName {
                name,
                rest,
                violates,
            };
            self.names.insert(label.into_boxed_slice(), kept);
        }
        self.drop_misfits();
    }

    /// Forgets names that the description splits or calls otherwise: those are of another description. An earlier release wrote
    /// only the beginning of some rests.
    fn drop_misfits(&mut self) {
        let description = &self.description;
        self.names.retain(|label, kept| {
            Type::ALL.into_iter().any(|kind| {
                let Fit::Counter(matched) = description.match_name(&kept.name, Some(kind)) else {
                    return false;
                };
                let called = Called::of(description, &matched, |_| None);
                let fits = label.starts_with(&called.label) && called.rest.starts_with(&kept.rest);
                if fits {
                    kept.rest = called.rest;
                }
                fits
            })
        });
    }

    /// Warns once about each pair of counters that could both claim a name.
    fn note_rivals(&mut self, finding: &Finding) {
        let Some(matched) = &finding.matched else {
            return;
        };
        for other in self.description.rivals(matched) {
            let pair = (matched.counter, other);
            if self.rivals.len() >= MOST_RIVALS || !self.rivals.insert(pair) {
                continue;
            }
            let name = |place: usize| {
                let counter = self.description.counters.get(place);
                counter.map_or("", |counter| counter.name.value.as_str())
            };
            let (key, counts, other) = (shown_key(&matched.name), name(pair.0), name(pair.1));
            tracing::warn!(
                limiter = self.description.name,
                key = one_line(&key),
                "counters {counts} and {other} could both claim a key: {counts} counts, as it is first in the description"
            );
        }
    }
}

/// The limits of a counter from the rules of the configuration, which match its label or its full name. If the description sets
/// one limit for all counters, a rule for every key does not replace it.
fn ruled(
    rules: &[LimitRule],
    description: &Description,
    counter: &Counter,
    matched: &Matched,
) -> Limits {
    if rules.is_empty() {
        return Limits::default();
    }
    let label = counter.label(matched);
    let rule = rule_for(rules, &label).or_else(|| rule_for(rules, &matched.name));
    let Some(rule) = rule else {
        return Limits::default();
    };
    let window_ms = Some(rule.limit.window_ms);
    if rule.is_for_every_key() && description.has_fixed_limit(counter) {
        return Limits {
            window_ms,
            ..Limits::default()
        };
    }
    Limits {
        limit: Some(rule.limit.limit),
        window_ms,
        burst: rule.burst,
    }
}

/// The counters of a kind, for the checker and the page.
pub(in crate::observe) fn counter_kinds(description: &Description) -> Vec<CounterKind> {
    let counters = description.counters.iter().map(|counter| CounterKind {
        name: counter.name.value.clone(),
        count: counter.count.value.name().to_owned(),
        refused: counter.refused,
        sticks: counter.sticks(),
    });
    counters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::built_in;

    #[test]
    fn names_survive_a_restart_unless_the_description_splits_them_otherwise() {
        let name = "LIMITS:LIMITER/user:1/5/1/minute";
        let saved = vec![["user:1", name, "LIMITS:LIMITER//5/1/minute"].map(str::to_owned)];
        for (kind, kept) in [("limits", true), ("upstash", false)] {
            let text = built_in(kind).unwrap();
            let description = Arc::new(Description::parse(text).unwrap());
            let mut described = Described::new(description, None);
            described.recall_names(saved.clone());
            assert_eq!(described.saved_names() == saved, kept);
            assert_eq!(described.saved_names().is_empty(), !kept);
        }
    }

    #[test]
    fn names_of_an_earlier_release_survive_its_upgrade() {
        let text = built_in("rack-attack").unwrap();
        let mut described = Described::new(Arc::new(Description::parse(text).unwrap()), None);
        let name = "rack::attack:29:logins/ip:2001:db8::1";
        // It did not write how long the groups of a label are.
        let saved = |rest: &str| vec![["logins/ip 2001:db8::1", name, rest].map(str::to_owned)];
        described.recall_names(saved("rack::attack:::"));
        assert_eq!(described.saved_names(), saved("rack::attack::: 9 11"));
    }
}
