//! Judges the counters of a plain log: sorts names by the commands that they need, judges counts by the remembered
//! limits, and reads keys again where those are not enough. It does not decide when anything is read.

use std::sync::Arc;

use super::Sweep;
use crate::clock::Moment;
use crate::limiters::Limits;
use crate::observation::{
    Condition, CounterView, FallenLimit, Invalid, Lacks, Limit, Reason, utilization,
};
use crate::observe::counters::closer::Closer;
use crate::observe::counters::limits::by_rule;
use crate::observe::counters::pace::step_at_all;
use crate::observe::counters::pass::{Pass, Round};
use crate::observe::counters::requests::{
    Batch, Counted, CountedKey, ReadFailure, ToCount, Verified, verify,
};
use crate::observe::counters::sink::CounterValues;
use crate::observe::counters::sweep_result::{SweepResult, Unjudged, fail};
use crate::observe::counters::totals::Sample;
use crate::observe::nodes::canary::is_canary;
use crate::observe::redis::errors::{is_elsewhere, reason_of};
use crate::observe::redis::server_state::redis_millis;

/// A counter with its count and limit.
pub(in crate::observe) struct JudgedCounter {
    pub(in crate::observe) key: Vec<u8>,
    pub(in crate::observe) values: CounterValues,
}

impl JudgedCounter {
    fn new(key: Vec<u8>, count: u64, limit: Limit, fell_from: Option<FallenLimit>) -> Self {
        let mut values = CounterValues::new(count, limit.limit, Condition::default());
        (values.window_ms, values.fell_from) = (Some(limit.window_ms), fell_from);
        Self { key, values }
    }

    fn view(&self) -> CounterView<'_> {
        self.values.view(&self.key)
    }
}

impl Sweep<'_> {
    /// Sorts names by the commands that they need in this round of a pass. Names that `sample` takes, and suspects, are read
    /// closely.
    pub(in crate::observe) fn sort(
        &mut self,
        names: Vec<Vec<u8>>,
        round: Round,
        sample: &mut Sample,
    ) -> Batch {
        let at = self.clock.now().steady;
        let log = Arc::clone(&self.memory.log);
        let mut batch = Batch::default();
        for mut name in names {
            if name.starts_with(&log.prefix) {
                name.drain(..log.prefix.len());
                if is_canary(&name) {
                    continue;
                }
                if let Some(key) = name.strip_prefix(&log.limit[..]) {
                    if round != Round::Counters || !self.memory.limits.is_learned(key) {
                        batch.limits.push(key.to_vec());
                    }
                } else if log.is_sequence(&name) {
                    batch.sequences.push(name);
                } else {
                    batch.keys.push(ToCount {
                        window_ms: self.window(&name, at),
                        closely: Closer::suits(&name)
                            && (sample.takes(&name) || self.memory.suspects.contains(&name)),
                        key: name,
                    });
                }
            }
        }
        batch
    }

    /// The window to count `key` over, as far as it is known.
    fn window(&mut self, key: &[u8], now: jiff::Timestamp) -> u64 {
        by_rule(&self.memory.settings.now.rules, key)
            .or_else(|| self.memory.limits.current(key, now).map(|(limit, _)| limit))
            .map_or(60_000, |limit| limit.window_ms)
    }

    /// Judges one batch, which may belong to a pass, and reads keys again where its answers are not enough. Until that is done,
    /// nothing is reported, so the caller may give up on it and count the batch again.
    pub(in crate::observe) async fn take(
        &mut self,
        at: Moment,
        counted: Counted,
        mut pass: Option<&mut Pass>,
        result: &mut SweepResult,
    ) {
        result.commands += counted.commands;
        let counters = counted.keys.iter().filter(|it| it.count.is_some());
        let expiries = counters.map(|it| it.closer.map(Closer::is_without_expiry));
        let expiries: Vec<Option<bool>> = expiries.collect();
        let closely = |key| (key, true);
        let mut doubtful: Vec<_> = counted.elsewhere.into_iter().map(closely).collect();
        let mut sure = Vec::with_capacity(counted.keys.len());
        let mut unjudged = Vec::new();
        for CountedKey { key, count, closer } in counted.keys {
            match count {
                None => result.skip(Reason::WrongType, &key),
                // The window is empty: the key only waits for its TTL.
                Some(0) => {}
                Some(count) => match self.judge(at, key, count, result) {
                    // Its own limit may have changed.
                    Judged::Sure(known) if self.examine(&known, closer, at).is_some() => {
                        doubtful.push((known.key, true));
                    }
                    Judged::Sure(known) => sure.push(known),
                    // In the next collection it is watched, and then it is read closely.
                    Judged::Doubtful(key) => {
                        doubtful.push((key, pass.is_none() || closer.is_some()));
                    }
                    Judged::Malformed(key) => {
                        unjudged.push((key, Reason::InvalidLimit, Lacks::Count));
                    }
                    Judged::Skipped => {}
                },
            }
        }
        // Counters whose names end like those of strings beside counters.
        doubtful.extend(counted.not_sequences.into_iter().map(closely));
        let mut changed = Vec::new();
        for (key, own) in counted.limits {
            match own {
                Ok(own) => {
                    if self.memory.limits.learn(&key, own, at.steady) {
                        changed.push(key);
                    }
                }
                Err(reason) => {
                    if self.is_malformed(&key, reason) {
                        result.skip(reason, &key);
                        self.memory.limits.set_invalid(&key);
                    }
                    if reason == Reason::WrongType {
                        doubtful.push(([&self.memory.log.limit[..], &key].concat(), true));
                    }
                }
            }
        }
        if let Some(pass) = &mut pass {
            pass.changed.append(&mut changed);
            changed.clone_from(&pass.changed);
        }
        let mut verified = self.verify(doubtful, at, &mut unjudged, result).await;
        let malformed = unjudged.iter().filter(|it| it.2 == Lacks::Count).count();
        // These may have been counted under the previous limit.
        let changed = changed.into_iter().map(closely).collect();
        let changed = self.verify(changed, at, &mut unjudged, result).await;
        verified.retain(|known| known.values.count > 0);
        sure.append(&mut verified);
        let totals = pass.as_mut().map(|pass| &mut pass.totals);
        result.cannot_judge(unjudged.iter().filter(|it| it.2 > Lacks::Nothing), totals);
        if let Some(pass) = pass {
            for without in expiries {
                pass.totals.add_key(0, without);
            }
            pass.changed.clear();
            let views: Vec<CounterView<'_>> = sure.iter().map(JudgedCounter::view).collect();
            self.sink.counters(at, &views);
            self.sink.without_limit(malformed as u64);
        } else {
            self.report_outside_pass(at, &sure);
        }
        self.report_outside_pass(at, &changed);
    }

    /// Remembers the stored limits of one batch, before anything is counted.
    pub(in crate::observe) fn take_limits(
        &mut self,
        at: Moment,
        counted: Counted,
        result: &mut SweepResult,
    ) {
        result.commands += counted.commands;
        for (key, own) in counted.limits {
            match own {
                Ok(own) => {
                    self.memory.limits.learn(&key, own, at.steady);
                }
                Err(reason) if self.is_malformed(&key, reason) => {
                    self.memory.limits.set_invalid(&key);
                }
                Err(_) => {}
            }
        }
    }

    /// Judges a count by the remembered limit, if that is enough.
    fn judge(&mut self, at: Moment, key: Vec<u8>, count: u64, result: &mut SweepResult) -> Judged {
        let ruled = by_rule(&self.memory.settings.now.rules, &key).map(|limit| (limit, None));
        if ruled.is_none() && self.memory.limits.is_invalid(&key) {
            return Judged::Malformed(key);
        }
        let Some((limit, fell_from)) =
            ruled.or_else(|| self.memory.limits.current(&key, at.steady))
        else {
            result.skip(Reason::NoDefaultLimit, &key);
            return Judged::Skipped;
        };
        let used = utilization(count, limit.limit);
        if ruled.is_none() && (count > limit.limit || self.sink.ranks(used, &key)) {
            return Judged::Doubtful(key);
        }
        let fell_from = self.memory.fell_from(&key, limit, fell_from, at.steady);
        Judged::Sure(JudgedCounter::new(key, count, limit, fell_from))
    }

    /// The state of a counter that its limiter cannot make, from its closer reading.
    fn examine(
        &self,
        known: &JudgedCounter,
        closer: Option<Closer>,
        at: Moment,
    ) -> Option<Invalid> {
        let JudgedCounter { key, values } = known;
        let longest = |window_ms| self.memory.longest_window(key, window_ms, at.steady);
        let limits = Limits {
            limit: Some(values.limit),
            window_ms: values.window_ms.map(longest),
            burst: None,
        };
        closer?.invalid(self.memory.plain(), values.count, &limits)
    }

    /// Reads limit and count of `keys` directly, and of those with `true` their expiry and their entries in the future. Returns
    /// the counters that it can judge. For keys that are no counter or have no valid limit, the reason is added to `unjudged`,
    /// with what a counter lacks.
    pub(in crate::observe) async fn verify(
        &mut self,
        keys: Vec<(Vec<u8>, bool)>,
        at: Moment,
        unjudged: &mut Vec<Unjudged>,
        result: &mut SweepResult,
    ) -> Vec<JudgedCounter> {
        if keys.is_empty() {
            return Vec::new();
        }
        let usual = self
            .memory
            .limits
            .default_limit()
            .map_or(60_000, |limit| limit.window_ms);
        // The time is read when the command is sent: a window that begins too early counts requests that have left it.
        let (clock, lanes, rules) = (self.clock, &self.lanes, &self.memory.settings.now.rules);
        let now_ms = |lane: usize| redis_millis(clock.now(), lanes[lane].clock_offset);
        let rule = |key: &[u8]| by_rule(rules, key);
        let keys = keys.into_iter().map(|(key, closely)| {
            let remembered = self.memory.limits.current(&key, at.steady);
            ToCount {
                window_ms: remembered.map_or(usual, |(limit, _)| limit.window_ms),
                closely: closely && Closer::suits(&key),
                key,
            }
        });
        let keys: Vec<ToCount> = keys.collect();
        let log = &self.memory.log;
        let names = |key: &[u8]| [log.counter_name(key), log.limit_name(key)];
        let names: Vec<[Vec<u8>; 2]> = keys.iter().map(|it| names(&it.key)).collect();
        let context = self.context();
        let pacers = context.pacers(names.iter().flatten());
        // One more reads the limit of each.
        let commands: usize = keys.iter().map(|it| 1 + it.commands()).sum();
        let work = || verify((self.router, log), &keys, now_ms, rule, usual);
        let answers = step_at_all(&pacers, commands, work).await.0;
        result.commands += commands as u64;
        let mut found = Vec::with_capacity(keys.len());
        for (ToCount { key, .. }, answer) in keys.into_iter().zip(answers) {
            let closer = answer.closer;
            match self.judge_read(&key, answer, at, result) {
                Read::Counted(count, limit, fell_from) => {
                    let mut known = JudgedCounter::new(key, count, limit, fell_from);
                    known.values.condition.unconfirmed =
                        count > limit.limit && self.memory.default_is_doubtful(&known.key);
                    let examined = closer.filter(|_| count > 0);
                    let invalid = self.examine(&known, examined, at);
                    known.values.condition.invalid = invalid;
                    // The key is read closely wherever SCAN returns it, until its state is valid again.
                    if invalid.is_some() {
                        self.memory.suspects.insert(known.key.clone());
                    } else if !self.memory.suspects.is_empty() {
                        self.memory.suspects.remove(&known.key);
                    }
                    found.push(known);
                }
                Read::Unjudged(reason, lacks) => unjudged.push((key, reason, lacks)),
                Read::Gone => {}
            }
        }
        found
    }

    /// Judges the direct reading of `key` by the limit that applies.
    fn judge_read(
        &mut self,
        key: &[u8],
        answer: Verified,
        at: Moment,
        result: &mut SweepResult,
    ) -> Read {
        let mut note_failure = |(lane, error): ReadFailure| match lane {
            Some(lane) if !is_elsewhere(&error) => {
                fail(lane, &error, result);
                reason_of(&error)
            }
            _ => {
                result.skip(Reason::Resharding, key);
                Reason::Resharding
            }
        };
        let count = match answer.count {
            Ok(count) => count,
            Err(why) => return Read::Unjudged(note_failure(why), Lacks::Nothing),
        };
        let own = match answer.own {
            Ok(own) => Some(own),
            Err(why) => {
                let reason = note_failure(why);
                // After a full pass, the remembered limit is the last one. It is good enough while the server that has it is
                // unavailable, because nobody can change it there.
                if !self.memory.limits.is_primed() {
                    return Read::Unjudged(reason, Lacks::Nothing);
                }
                None
            }
        };
        let Some(count) = count else {
            result.skip(Reason::WrongType, key);
            return Read::Unjudged(Reason::WrongType, Lacks::Nothing);
        };
        if let Some(limit) = by_rule(&self.memory.settings.now.rules, key) {
            let fell_from = self.memory.fell_from(key, limit, None, at.steady);
            return Read::Counted(count, limit, fell_from);
        }
        match own {
            None => {}
            Some(Err(reason)) if self.is_malformed(key, reason) => {
                self.memory.limits.set_invalid(key);
                if count == 0 {
                    // A count of 0 is within any limit.
                    result.skip(reason, key);
                    return Read::Gone;
                }
                return Read::Unjudged(reason, Lacks::Count);
            }
            Some(own) => {
                let own = own.ok().flatten();
                self.memory.limits.learn(key, own, at.steady);
            }
        }
        let limit = self.memory.limits.current_of_counted(key, count, at.steady);
        let Some((limit, fell_from)) = limit else {
            result.skip(Reason::NoDefaultLimit, key);
            return Read::Unjudged(Reason::NoDefaultLimit, Lacks::Nothing);
        };
        let fell_from = self.memory.fell_from(key, limit, fell_from, at.steady);
        Read::Counted(count, limit, fell_from)
    }

    /// Whether the value where the limit of `key` belongs is a malformed limit. A value of another type is most likely the
    /// counter of another key, unless `key` had a limit before.
    fn is_malformed(&self, key: &[u8], reason: Reason) -> bool {
        reason != Reason::WrongType || self.memory.limits.had_own(key)
    }

    /// Reports counters that do not belong to the pass. Counters at zero are included: they may have been in violation.
    pub(in crate::observe) fn report_outside_pass(&mut self, at: Moment, found: &[JudgedCounter]) {
        let views: Vec<CounterView<'_>> = found.iter().map(JudgedCounter::view).collect();
        self.sink.recheck(at, &views);
    }
}

/// The result of reading a key directly.
enum Read {
    /// The count and the limit that applies, with the previous limit if the count may be left over from it.
    Counted(u64, Limit, Option<FallenLimit>),
    /// The key cannot be judged. `Lacks::Nothing`: it is no counter, or it is noted already.
    Unjudged(Reason, Lacks),
    /// The window is empty.
    Gone,
}

enum Judged {
    Sure(JudgedCounter),
    /// The key must be read directly before it is reported.
    Doubtful(Vec<u8>),
    /// Its stored limit is malformed.
    Malformed(Vec<u8>),
    Skipped,
}
