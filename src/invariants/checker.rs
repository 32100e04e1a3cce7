//! The checker: verdicts plus time. [`Checker::counters`] takes the counters in batches; [`Checker::check`] takes the
//! rest of the observation and ends the pass.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::counters::{draining_from, evidence, is_judged};
use super::grace::{Entry, InProgress};
use super::not_applicable::not_applicable;
use super::{CheckerConfig, Verdict};
use super::{high_latency, node_down, redis_disconnected};
use crate::clock::{Moment, elapsed};
use crate::observation::{
    CounterView, CountersRead, LONGEST_SAVED_KEY, Lacks, Observation, Reason, decode_key,
    encode_key, utilization,
};
use crate::report::{
    Evidence, InvariantName, InvariantStatus, NotApplicable, REDIS, Report, SavedEntry, Unknown,
    Violation,
};
use crate::subject::InvariantChecker;

type Key = Box<[u8]>;

/// The invariant checker.
#[derive(Debug)]
pub struct Checker {
    config: CheckerConfig,
    named: [InProgress<String>; 7],
    keys: [InProgress<Key>; 7],
    /// The number of the pass in progress. Each entry remembers the last pass that evaluated it.
    pass: u64,
    /// The latest steady time seen. An earlier time counts as this one.
    latest: Timestamp,
    /// Wall clock minus steady timeline.
    offset: SignedDuration,
}

impl Checker {
    /// A checker with nothing in progress.
    pub fn new(config: CheckerConfig) -> Self {
        Self {
            config,
            named: Default::default(),
            keys: Default::default(),
            pass: 1,
            latest: Timestamp::MIN,
            offset: SignedDuration::ZERO,
        }
    }

    /// The settings in force.
    pub fn config(&self) -> &CheckerConfig {
        &self.config
    }

    fn advance(&mut self, at: Moment) -> Timestamp {
        self.latest = self.latest.max(at.steady);
        let offset = at.wall.duration_since(at.steady);
        // The offset changes only when the wall clock is stepped: otherwise first_seen would jitter from scrape to
        // scrape.
        if (offset - self.offset).abs() > SignedDuration::from_secs(1) {
            self.offset = offset;
        }
        self.latest
    }

    fn wall(&self, steady: Timestamp) -> Timestamp {
        steady.checked_add(self.offset).unwrap_or(steady)
    }

    fn key_verdict(&mut self, name: InvariantName, counter: &CounterView<'_>, now: Timestamp) {
        let config = self.config.of(name);
        if !config.enabled || !is_judged(name, counter) {
            return;
        }
        let draining =
            draining_from(name, counter, now).filter(|_| self.config.lowered_limit_grace);
        let from = draining.map(|(limit, _)| limit);
        // Whatever its grace period, what the next answer of an API may refute is not reported yet.
        let grace = if counter.condition.unconfirmed {
            Duration::MAX
        } else {
            config.grace_period
        };
        let tracker = &mut self.keys[name as usize];
        match evidence(name, counter, config.threshold, from) {
            None => tracker.over(counter.key, now),
            Some(evidence) => tracker.violated(
                counter.key,
                evidence,
                now,
                grace,
                draining.map(|(_, until)| until),
                self.pass,
            ),
        }
    }

    /// Applies the verdicts of this collection on nodes and Redis. A subject without a verdict is gone.
    fn named_verdicts(
        &mut self,
        name: InvariantName,
        mut verdicts: Vec<(String, Verdict)>,
        now: Timestamp,
        status: &mut InvariantStatus,
    ) {
        let pass = self.pass;
        let grace = self.config.of(name).grace_period;
        let hold = self.config.unknown_hold;
        let tracker = &mut self.named[name as usize];
        // One verdict for each subject. If several subjects have the same name, the worst verdict counts: two nodes of one
        // id in a recording, or Redis and a node called `redis`. The first of equals is inserted last.
        verdicts.sort_by_key(|(_, verdict)| Reverse(verdict.rank()));
        let worst: BTreeMap<String, Verdict> = verdicts.into_iter().rev().collect();
        for (subject, verdict) in worst {
            match verdict {
                Verdict::Ok => tracker.over(subject.as_str(), now),
                Verdict::Violated(evidence) => {
                    tracker.violated(subject.as_str(), evidence, now, grace, None, pass);
                }
                Verdict::Unknown(reason) => status.unknown.push(Unknown {
                    subject: subject.clone(),
                    reason,
                }),
                Verdict::Inconclusive(reason) => {
                    tracker.over(subject.as_str(), now);
                    status.inconclusive.push(Unknown {
                        subject: subject.clone(),
                        reason,
                    });
                }
            }
            status.subjects.push(subject);
        }
        let listed = &status.subjects;
        tracker.end_unseen(pass, now, |subject, entry| {
            !listed.contains(subject) || elapsed(entry.last_seen, now) >= hold
        });
        // Each known node has a series, violated or not.
        tracker.cleared.clear();
    }

    fn end_keys_pass(
        &mut self,
        name: InvariantName,
        observation: &Observation,
        now: Timestamp,
        status: &mut InvariantStatus,
    ) {
        let (hold, label) = (self.config.unknown_hold, self.config.key_label);
        let tracker = &mut self.keys[name as usize];
        let unjudged = &observation.unjudged;
        let (gone, unread) = match &observation.counters_read {
            CountersRead::Full => (&[][..], None),
            CountersRead::Partial { gone, reason } => (&gone[..], Some(*reason)),
            CountersRead::Failed { reason } => (&[][..], Some(*reason)),
        };
        let gone: BTreeSet<&str> = gone.iter().map(String::as_str).collect();
        tracker.end_unseen(self.pass, now, |key, entry| {
            let is_unknown = match unread {
                Some(_) => gone.is_empty() || !gone.contains(&*label.of(key)),
                None => !unjudged.is_empty() && unjudged.contains_key(&label.of(key)),
            };
            !is_unknown || elapsed(entry.last_seen, now) >= hold
        });
        // A sweep that used up its budget continues in the next collection: that is no failure.
        let unread = unread.filter(|reason| *reason != Reason::Budget);
        // Without its limit, a counter can still be judged for `invalid_counter`.
        let judged = match name {
            InvariantName::InvalidCounter => Lacks::Limit,
            _ => Lacks::Nothing,
        };
        let mut failures = observation.failures.iter();
        let lacking = failures.find(|failure| failure.lacks() > judged);
        let lacking = lacking.map(|failure| failure.reason);
        let whole = unread.into_iter().chain(lacking).map(|reason| Unknown {
            subject: String::new(),
            reason: reason.to_string(),
        });
        status.unknown.extend(whole);
        if !unjudged.is_empty() {
            let unseen: BTreeSet<String> =
                tracker.unseen(self.pass).map(|key| label.of(key)).collect();
            let unseen = unseen.into_iter().filter_map(|subject| {
                let reason = unjudged.get(&subject)?.to_string();
                Some(Unknown { subject, reason })
            });
            status.unknown.extend(unseen.take(self.config.max_listed));
        }
        tracker.forget_cleared(now, self.config.cleared_hold, self.config.max_listed);
    }

    fn violation(&self, name: InvariantName, subject: String, entry: &Entry) -> Violation {
        let config = self.config.of(name);
        Violation {
            name,
            severity: config.severity,
            subject,
            message: entry.evidence.to_string(),
            first_seen: self.wall(entry.first_seen),
            last_seen: self.wall(entry.last_seen),
            evidence: entry.evidence.clone(),
            decision: entry.decision(self.pass),
            grace_left: entry.grace_left(config.grace_period, self.latest),
        }
    }

    /// Adds the violations of `name` in progress to the report: all nodes, and the worst keys up to the cap.
    fn list(&self, name: InvariantName, report: &mut Report, status: &mut InvariantStatus) {
        let mut named: Vec<_> = self.named[name as usize].entries.iter().collect();
        named.sort_unstable_by_key(|(subject, _)| *subject);
        for (subject, entry) in named {
            let violation = self.violation(name, subject.clone(), entry);
            if entry.reported_since.is_some() {
                status.violations += 1;
                report.violations.push(violation);
            } else {
                status.pending += 1;
                report.pending.push(violation);
            }
        }
        let keys = &self.keys[name as usize];
        let (reported, pending): (Vec<_>, Vec<_>) = keys
            .entries
            .iter()
            .partition(|(_, entry)| entry.reported_since.is_some());
        status.violations += reported.len() as u64;
        status.pending += pending.len() as u64;
        status.dropped = reported.len().saturating_sub(self.config.max_listed) as u64;
        let listed = |entries| {
            worst_first(entries, self.config.max_listed)
                .into_iter()
                .map(|(key, entry)| self.violation(name, self.config.key_label.of(key), entry))
        };
        report.violations.extend(listed(reported));
        report.pending.extend(listed(pending));
        let cleared = keys.cleared.keys();
        let cleared: BTreeSet<String> = cleared.map(|key| self.config.key_label.of(key)).collect();
        report
            .cleared
            .extend(cleared.into_iter().map(|subject| (name, subject)));
    }
}

/// The `most` worst of `entries`: highest utilization first, ties by name.
fn worst_first<'a>(
    mut entries: Vec<(&'a Key, &'a Entry)>,
    most: usize,
) -> Vec<(&'a Key, &'a Entry)> {
    let rank = |(key, entry): &(&'a Key, &'a Entry)| {
        let used = if let Evidence::Count { count, limit, .. } = entry.evidence {
            utilization(count, limit)
        } else {
            0.0
        };
        // Utilizations are never negative, so their bits sort like their values.
        (Reverse(used.to_bits()), *key)
    };
    if entries.len() > most && most > 0 {
        entries.select_nth_unstable_by(most - 1, |a, b| rank(a).cmp(&rank(b)));
    }
    entries.truncate(most);
    entries.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)));
    entries
}

impl InvariantChecker for Checker {
    type Config = CheckerConfig;

    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]) {
        let now = self.advance(at);
        for counter in batch {
            for name in InvariantName::ALL {
                if name.about_keys() {
                    self.key_verdict(name, counter, now);
                }
            }
        }
    }

    fn check(&mut self, at: Moment, observation: &Observation) -> Report {
        let now = self.advance(at);
        let mut report = Report {
            at,
            violations: Vec::new(),
            pending: Vec::new(),
            cleared: Vec::new(),
            invariants: Vec::new(),
            not_applicable: Vec::new(),
        };
        for name in InvariantName::ALL {
            let config = self.config.of(name).clone();
            if !config.enabled {
                continue;
            }
            if let Some(why) = not_applicable(name, observation.limiter.as_ref()) {
                self.named[name as usize].entries.clear();
                self.keys[name as usize].entries.clear();
                report.not_applicable.push(NotApplicable { name, why });
                continue;
            }
            let mut status = InvariantStatus {
                evaluable: true,
                unknown: Vec::new(),
                inconclusive: Vec::new(),
                subjects: Vec::new(),
                violations: 0,
                pending: 0,
                dropped: 0,
                started_total: 0,
                config,
            };
            let verdicts = named_subjects(name, observation, status.config.threshold);
            self.named_verdicts(name, verdicts, now, &mut status);
            if name.about_keys() {
                self.end_keys_pass(name, observation, now, &mut status);
            }
            status.evaluable = status.unknown.is_empty() && status.inconclusive.is_empty();
            status.started_total =
                self.named[name as usize].started_total + self.keys[name as usize].started_total;
            self.list(name, &mut report, &mut status);
            report.invariants.push(status);
        }
        self.pass += 1;
        report
    }

    fn watched_keys(&self) -> BTreeSet<Key> {
        let in_progress = self.keys.iter().flat_map(|keys| keys.entries.keys());
        in_progress.cloned().collect()
    }

    fn still_reported(&self, name: InvariantName, keys: &BTreeSet<String>) -> BTreeSet<String> {
        let entries = self.keys[name as usize].entries.iter();
        let reported = entries.filter(|(_, entry)| entry.reported_since.is_some());
        let labels = reported.map(|(key, _)| self.config.key_label.of(key));
        labels.filter(|label| keys.contains(label)).collect()
    }

    /// Saves whole keys, since the exporter counts a key again by its name. Violations of keys longer than 64 KiB begin
    /// anew after a restart.
    fn save(&self) -> Vec<(InvariantName, bool, SavedEntry)> {
        let mut saved = Vec::new();
        for name in InvariantName::ALL {
            let named = self.named[name as usize].saved(Clone::clone);
            saved.extend(named.map(|entry| (name, false, entry)));
            let keys = self.keys[name as usize].saved(|key| encode_key(key));
            let keys = keys.filter(|entry| entry.subject.len() <= LONGEST_SAVED_KEY);
            saved.extend(keys.map(|entry| (name, true, entry)));
        }
        saved
    }

    fn restore(&mut self, saved: Vec<(InvariantName, bool, SavedEntry)>) {
        for (name, is_key, entry) in saved {
            if !self.config.of(name).enabled {
                continue;
            }
            if is_key {
                let key = decode_key(&entry.subject).into_boxed_slice();
                self.keys[name as usize].restore(key, entry);
            } else {
                self.named[name as usize].restore(entry.subject.clone(), entry);
            }
        }
    }

    /// Violations in progress stay, except those of invariants that are now switched off.
    fn reconfigure(&mut self, config: CheckerConfig) {
        for invariant in config.invariants.iter().filter(|i| !i.enabled) {
            let index = invariant.name as usize;
            self.named[index] = InProgress::default();
            self.keys[index] = InProgress::default();
        }
        self.config = config;
    }

    fn clear_state(&mut self) {
        *self = Self::new(self.config.clone());
    }
}

/// The verdicts of `name` on nodes and Redis.
fn named_subjects(
    name: InvariantName,
    observation: &Observation,
    threshold: f64,
) -> Vec<(String, Verdict)> {
    let nodes = &observation.nodes;
    match name {
        InvariantName::NodeDown => nodes
            .iter()
            .map(|node| (node.id.clone(), node_down::verdict(node)))
            .collect(),
        InvariantName::RedisDisconnected => {
            let redis = (REDIS.to_owned(), redis_disconnected::of_redis(observation));
            let of_nodes = nodes.iter().filter_map(|node| {
                redis_disconnected::of_node(node).map(|verdict| (node.id.clone(), verdict))
            });
            std::iter::once(redis).chain(of_nodes).collect()
        }
        InvariantName::HighLatency => {
            let window = observation.latency_window_seconds;
            let metrics = &observation.node_metrics;
            let ids = nodes.iter().map(|node| &node.id).chain(metrics.keys());
            let ids: BTreeSet<&String> = ids.collect();
            let verdict = |id: &String| {
                let node = nodes.iter().find(|node| node.id == *id);
                let verdict = high_latency::verdict(node, metrics.get(id), window, threshold);
                (id.clone(), verdict)
            };
            ids.into_iter().map(verdict).collect()
        }
        InvariantName::CounterDrift
        | InvariantName::StuckCounter
        | InvariantName::InvalidCounter => Vec::new(),
        InvariantName::GhostAllowing => nodes
            .iter()
            .filter_map(|node| {
                let verdict = match (node.canary_refused, &node.canary_reason) {
                    (Some(true), _) => Verdict::Ok,
                    (Some(false), _) => Verdict::Violated(Evidence::FailOpen),
                    (None, Some(reason)) => Verdict::Unknown(reason.clone()),
                    (None, None) => return None,
                };
                Some((format!("canary:{}", node.id), verdict))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
