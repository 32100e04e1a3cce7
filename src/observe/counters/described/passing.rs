//! Reads names by their description: names from a pass, written names, and watched names.

use std::time::Duration;

use jiff::Timestamp;
use redis::RedisError;

use super::judging::{Judged, Seen};
use super::name_batch::{RedisAccess, Spent, read};
use super::{Described, KeptName, ReadContext, ruled};
use crate::limiters::{
    Counter, Finding, Http, Limits, Matched, Merged, NameContext, NameReader, Outcome, Under,
};
use crate::lock::lock;
use crate::observation::{CounterView, Lacks, Reason, Refused, utilization};
use crate::observe::counters::closer::CLOCK_TOLERANCE_MS;
use crate::observe::counters::listed::is_violating;
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep_result::{SweepResult, Unjudged, fail};
use crate::observe::counters::totals::Totals;
use crate::observe::nodes::canary::is_canary;
use crate::observe::redis::errors::is_elsewhere;
use crate::observe::redis::server_state::redis_millis;

impl Described {
    /// Reads watched keys, given by their labels. Keys whose names are unknown are read when the pass finds them.
    pub(in crate::observe) async fn recheck(
        &mut self,
        context: &ReadContext<'_>,
        sink: &mut dyn CounterSink,
        labels: &[Box<[u8]>],
        result: &mut SweepResult,
    ) {
        let known = labels.iter().filter_map(|label| {
            let kept = self.names.get(label)?;
            Some((label, kept.name.clone()))
        });
        let (labels, names): (Vec<_>, Vec<_>) = known.unzip();
        let sampled = vec![true; names.len()];
        let findings = self.read_names(context, &names, &sampled, result).await.0;
        let at = context.clock.now();
        let mut seen = Vec::new();
        let mut unjudged = Vec::new();
        for (label, finding) in labels.into_iter().zip(findings) {
            let Some(finding) = finding else { continue };
            match self.judge(&finding, at.steady) {
                Judged::Counter(counter) => {
                    if counter.lacks_limit() {
                        unjudged.push(self.without_limit(&finding, &counter));
                    }
                    if self.wanted.contains(&*counter.label) {
                        // It may be in violation now.
                        self.remember(sink, &counter);
                        seen.push(counter);
                    }
                }
                Judged::Unjudged(label, reason) => {
                    unjudged.push((label, self.lacking(&finding, reason), Lacks::Count));
                }
                // The key of the current window is read when it is written, or when the pass finds it.
                Judged::Passed => {}
                Judged::Nothing => {
                    self.names.remove(label);
                    result.gone.push(label.clone());
                }
            }
        }
        result.cannot_judge(&unjudged, None);
        let unjudged = unjudged.into_iter();
        result
            .unjudged
            .extend(unjudged.map(|(label, reason, _)| (label, reason)));
        sink.recheck(at, &views(&seen));
    }

    /// Reads `names`, which are one step of a pass if there are `totals`. `sampled`: which of them the sample takes. Until a step's
    /// names are read, nothing of them is recorded, so the pass may give up on it.
    pub(in crate::observe) async fn take(
        &mut self,
        context: &ReadContext<'_>,
        sink: &mut dyn CounterSink,
        (names, sampled): (&[Vec<u8>], &[bool]),
        mut totals: Option<&mut Totals>,
        result: &mut SweepResult,
    ) {
        let step = match totals {
            Some(_) => names.len().max(1),
            None => context.step(),
        };
        for (names, sampled) in names.chunks(step).zip(sampled.chunks(step)) {
            let closely = self.with_watched(names, sampled);
            let (findings, took) = self.read_names(context, names, &closely, result).await;
            let at = context.clock.now();
            let read = self.judge_all(sink, &findings, at.steady);
            let watched = read.unjudged.iter();
            let watched = watched.filter(|(label, ..)| self.wanted.contains(&**label));
            let watched = watched.map(|(label, reason, _)| (label.clone(), *reason));
            result.unjudged.extend(watched);
            result.cannot_judge(&read.unjudged, totals.as_deref_mut());
            if let Some(totals) = &mut totals {
                result.pass_took += took;
                for (finding, sampled) in findings.iter().zip(sampled) {
                    let Some(finding) = finding else { continue };
                    totals.add(finding, *sampled);
                    if *sampled {
                        self.note_rivals(finding);
                    }
                }
                sink.counters(at, &views(&read.seen));
            } else {
                sink.recheck(at, &views(&read.seen));
            }
            sink.recheck(at, &views(&read.empty));
        }
    }

    /// Why a limit or a window is unknown: `reason`, unless an API that may have it never answered.
    fn lacking(&self, finding: &Finding, reason: Reason) -> Reason {
        let unread = matches!(reason, Reason::NoLimit | Reason::NoWindow)
            && finding.matched.as_ref().is_some_and(|matched| {
                let counter = self.description.counter(matched);
                let api = self.api.as_ref();
                api.is_some_and(|api| api.is_unread(counter, matched))
            });
        if unread { Reason::LimitsUnread } else { reason }
    }

    /// A counter whose limit is unknown. It lacks nothing if no invariant would compare it with its limit.
    fn without_limit(&self, finding: &Finding, counter: &Seen) -> Unjudged {
        let mut matched = finding.matched.iter();
        let is_compared = counter.view().condition.refused != Refused::Counted
            || matched.any(|matched| self.description.counter(matched).sticks());
        let lacks = if is_compared {
            Lacks::Limit
        } else {
            Lacks::Nothing
        };
        let reason = self.lacking(finding, Reason::NoLimit);
        (counter.label.clone(), reason, lacks)
    }

    /// Which of `names` are read with their expiry: sampled ones and watched ones.
    fn with_watched(&self, names: &[Vec<u8>], sampled: &[bool]) -> Vec<bool> {
        let names = names.iter().zip(sampled);
        names
            .map(|(name, sampled)| *sampled || self.by_name.contains(name))
            .collect()
    }

    /// Judges findings, and remembers the names of counters that are read again in the next collection.
    fn judge_all(
        &mut self,
        sink: &dyn CounterSink,
        findings: &[Option<Finding>],
        now: Timestamp,
    ) -> Judgements {
        let mut read = Judgements::default();
        for finding in findings.iter().flatten() {
            let judged = self.judge(finding, now);
            if let Judged::Counter(counter) = &judged {
                self.longest_ms = self.longest_ms.max(counter.longest_ms);
                if let Some(own) = counter.own {
                    self.falls.learn(&counter.name, own, now);
                }
            }
            match judged {
                Judged::Counter(counter) if !counter.is_empty() => {
                    if counter.lacks_limit() {
                        read.unjudged.push(self.without_limit(finding, &counter));
                    }
                    self.remember(sink, &counter);
                    read.seen.push(counter);
                }
                // It may have been in violation, so its end is reported.
                Judged::Counter(counter) if self.wanted.contains(&*counter.label) => {
                    read.empty.push(counter);
                }
                Judged::Unjudged(label, reason) => {
                    let reason = self.lacking(finding, reason);
                    read.unjudged.push((label, reason, Lacks::Count));
                }
                Judged::Counter(_) | Judged::Passed | Judged::Nothing => {}
            }
        }
        read
    }

    /// Remembers the name of a counter that the next collection reads again. In the next window, the counter has another name.
    fn remember(&mut self, sink: &dyn CounterSink, counter: &Seen) {
        let view = counter.view();
        let used = utilization(view.count, view.limit);
        if counter.is_remarkable()
            || sink.ranks(used, view.key)
            || self.wanted.contains(&*counter.label)
        {
            self.by_name.insert(counter.name.clone());
            let label = counter.label.clone().into_boxed_slice();
            let kept = KeptName {
                name: counter.name.clone(),
                rest: counter.rest.clone(),
                violates: is_violating(&view),
            };
            self.names.insert(label, kept);
        }
    }

    /// The finding of each name, `None` if it could not be read, and how much of Redis's time the reading took.
    pub(super) async fn read_names(
        &self,
        context: &ReadContext<'_>,
        names: &[Vec<u8>],
        sampled: &[bool],
        result: &mut SweepResult,
    ) -> (Vec<Option<Finding>>, Duration) {
        let known = context.rules;
        let description = &*self.description;
        let rules =
            |counter: &Counter, matched: &Matched| ruled(known, description, counter, matched);
        let apis = self.api.as_ref();
        let api = |api: &Http, matched: &Matched| {
            apis.map_or_else(Limits::default, |apis| apis.limits(api, matched))
        };
        let at = context.clock.now();
        let falls = &self.falls;
        let former = |counter: &Counter, matched: &Matched, merged: &Merged, under: Under<'_>| {
            let limits = &merged.limits;
            let own = || falls.of_own(&matched.name, limits, at.steady);
            let own = merged.own.then(own).into_iter().flatten();
            let by_settings = context.earlier.iter().map(|(before, replaced)| {
                let fixed = before.fixed.get(&counter.name.value);
                let fixed = fixed.map(Vec::as_slice).unwrap_or_default();
                let before = ruled(&before.rules, description, counter, matched);
                let before = under(before, &|http| api(http, matched), Some(fixed));
                (before, *replaced)
            });
            let of_apis = apis.map(|apis| apis.earlier(counter, matched));
            let by_api = of_apis.into_iter().flatten().map(|(of, before, replaced)| {
                let before = |http: &Http| {
                    let earlier = std::ptr::eq(of, http).then_some(before);
                    earlier.unwrap_or_else(|| api(http, matched))
                };
                (under(rules(counter, matched), &before, None), replaced)
            });
            let earlier = own.chain(by_settings).chain(by_api);
            super::falls::former(counter, earlier, limits, at.steady)
        };
        let likely = *lock(&self.likely);
        let lanes: Vec<usize> = names
            .iter()
            .map(|name| context.router.link_of(name).unwrap_or(0))
            .collect();
        let readers = names
            .iter()
            .zip(sampled)
            .zip(&lanes)
            .map(|((name, sampled), lane)| {
                let offset = context.lanes.get(*lane).map(|lane| lane.clock_offset);
                let now_ms = redis_millis(at, offset.unwrap_or_default());
                let known = NameContext {
                    rules: &rules,
                    api: &api,
                    former: &former,
                    now_ms: u64::try_from(now_ms).unwrap_or(0),
                    tolerance_ms: CLOCK_TOLERANCE_MS,
                    sampled: *sampled,
                };
                NameReader::begin(description, known, name, likely)
            });
        let readers: Vec<NameReader<'_>> = readers.collect();
        let pacers = context.pacers(names.iter());
        let mut spent = Spent::default();
        let access = RedisAccess {
            router: context.router,
            pacers: &pacers,
            measured: &self.measured,
        };
        let findings = read(&access, readers, &mut spent).await;
        result.commands += spent.commands;
        let counted = |it: &Result<Finding, _>| {
            let finding = it.as_ref().ok()?;
            let matched = finding.matched.as_ref()?;
            let is_counted = matches!(finding.outcome, Outcome::Counted(_));
            is_counted.then(|| description.counter(matched).kind)
        };
        if let Some(kind) = findings.iter().rev().find_map(counted) {
            *lock(&self.likely) = Some(kind);
        }
        let findings = findings.into_iter().zip(names).zip(lanes);
        let findings = findings
            .map(|((finding, name), lane)| match finding {
                Ok(_) if is_canary(name) => None,
                Ok(finding) => Some(finding),
                Err(error) => {
                    unread(&error, lane, name, result);
                    None
                }
            })
            .collect();
        (findings, spent.took)
    }
}

fn views(seen: &[Seen]) -> Vec<CounterView<'_>> {
    seen.iter().map(Seen::view).collect()
}

/// The results for some names.
#[derive(Debug, Default)]
struct Judgements {
    seen: Vec<Seen>,
    /// Watched counters that are empty.
    empty: Vec<Seen>,
    unjudged: Vec<Unjudged>,
}

/// Notes that `name` could not be read.
fn unread(error: &RedisError, lane: usize, name: &[u8], result: &mut SweepResult) {
    if is_elsewhere(error) {
        result.skip(Reason::Resharding, name);
    } else {
        fail(lane, error, result);
    }
}
