//! Reads the counters from Redis: step by step, a SCAN and then the names that it returned, at all servers at once. The sweep
//! keeps nothing of a healthy key.
//!
//! SCAN, the pass and the written keys are the same for all kinds of limiters. `described` reads names as their description says,
//! step by step. A plain log, such as that of the reference limiter, is simple enough to remember the limits (`requests`,
//! `judging`): step by step, each key would take four commands in three round trips; here it takes one.
//!
//! Every sorted set with the prefix of a plain log is a counter: the type decides, not the name. SCAN also returns the hashes
//! with limits: the first pass reads them in a separate round, later passes together with the counts. The sweep reads the own
//! limit of a key directly before it reports the key or ranks it among the fullest.

mod judging;

use std::collections::HashSet;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisResult;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::clock::{Clock, Moment};
use crate::limiters::MOST_SCANS;
use crate::observation::{Lacks, Reason};
use crate::observe::counters::described::{Described, ReadContext};
use crate::observe::counters::invalidations::Names;
use crate::observe::counters::memory::CounterMemory;
use crate::observe::counters::pass::{MOST_HELD, Pass, Round};
use crate::observe::counters::requests::{Batch, Counted, count};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep_result::{Lane, SweepResult, fail};
use crate::observe::counters::totals::{Sample, Totals};
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::router::{Link, Router};
use crate::observe::redis::server_state::redis_millis;
use crate::observe::redis::timed::ask_timed;

/// Everything a sweep needs.
pub(in crate::observe) struct Sweep<'a> {
    pub(in crate::observe) router: &'a Router,
    /// One for each link of the router.
    pub(in crate::observe) lanes: &'a [Lane],
    /// The unfinished pass, if there is one.
    pub(in crate::observe) pass: &'a mut Option<Pass>,
    /// The watched key that was rechecked last. The next recheck begins after it.
    pub(in crate::observe) rechecked: &'a mut Option<Box<[u8]>>,
    pub(in crate::observe) clock: &'a Clock,
    pub(in crate::observe) memory: &'a mut CounterMemory,
    /// Chooses the written keys whose expiry is read too.
    pub(in crate::observe) sample: Sample,
    pub(in crate::observe) sink: &'a mut dyn CounterSink,
    /// Whether some servers are unknown.
    pub(in crate::observe) alone: bool,
}

/// SCAN's reply: a cursor and names.
type ScanAnswer = (Vec<u8>, Vec<Vec<u8>>);

/// What a step of a pass brought.
enum Brought {
    /// SCAN's reply, and how many names it walked over.
    Names(ScanAnswer, usize),
    /// Counts, their time, and how many of the part's names are left to read.
    Counts(Counted, Moment, usize),
}

/// The lane of a step, how much of Redis's time it took, and what it brought.
type StepDone = (usize, Duration, RedisResult<Brought>);

impl Sweep<'_> {
    /// Reads the exported keys and those with a violation in progress before all others, and notes which of them are gone.
    /// The next collections read the keys that were not read before `stop`.
    pub(in crate::observe) async fn recheck(
        &mut self,
        watched: Vec<Box<[u8]>>,
        stop: Instant,
        result: &mut SweepResult,
    ) {
        if let Some(described) = &mut self.memory.described {
            described.watch(&watched);
        } else if !self.memory.suspects.is_empty() {
            let watched: HashSet<&[u8]> = watched.iter().map(|key| &**key).collect();
            self.memory.suspects.retain(|key| watched.contains(&**key));
        }
        let watched = watched.into_iter();
        let (shown, mut others): (Vec<_>, Vec<_>) =
            watched.partition(|key| self.sink.is_shown(key));
        order_after(&mut others, self.rechecked.as_deref());
        // Besides its limit, a step reads three values of each.
        let names = (self.context().step() / 2).max(1);
        for (keys, in_turn) in [(shown, false), (others, true)] {
            for (number, some) in keys.chunks(names).enumerate() {
                // Each collection takes at least one step, however small the budget is.
                if number > 0 && Instant::now() >= stop {
                    result.postponed = true;
                    break;
                }
                self.recheck_some(some, result).await;
                if in_turn {
                    *self.rechecked = some.last().cloned();
                }
            }
        }
    }

    async fn recheck_some(&mut self, some: &[Box<[u8]>], result: &mut SweepResult) {
        if let Some((described, context, sink)) = self.describing() {
            described.recheck(&context, sink, some, result).await;
            return;
        }
        let keys = some.iter().map(|key| (key.to_vec(), true)).collect();
        let at = self.clock.now();
        let mut unjudged = Vec::new();
        let found = self.verify(keys, at, &mut unjudged, result).await;
        let alive = found.iter().filter(|known| known.values.count > 0);
        let alive = alive.map(|known| &known.key);
        let alive = alive.chain(unjudged.iter().map(|(key, ..)| key));
        let alive: HashSet<&[u8]> = alive.map(Vec::as_slice).collect();
        let gone = some.iter().filter(|key| !alive.contains(&***key));
        result.gone.extend(gone.cloned());
        self.report_outside_pass(at, &found);
        result.cannot_judge(unjudged.iter().filter(|it| it.2 > Lacks::Nothing), None);
        let unjudged = unjudged.into_iter();
        result
            .unjudged
            .extend(unjudged.map(|(key, reason, _)| (key, reason)));
    }

    /// Counts keys of `lane` that were written. `names` are full Redis keys. Returns whether all were read before `stop`.
    pub(in crate::observe) async fn read_written(
        &mut self,
        lane: usize,
        names: &Names,
        stop: Instant,
        result: &mut SweepResult,
    ) -> bool {
        let mut names = names.iter().peekable();
        while names.peek().is_some() && !result.failed.contains_key(&lane) {
            if Instant::now() >= stop {
                return false;
            }
            let most = self.lanes[lane].pacer.step_size();
            let mut some: Vec<Vec<u8>> = names.by_ref().take(most).map(<[u8]>::to_vec).collect();
            self.take_registrations(&mut some, result);
            let mut sample = self.sample.clone();
            if let Some((described, context, sink)) = self.describing() {
                let names = (&some[..], &sample.of(&some)[..]);
                described.take(&context, sink, names, None, result).await;
            } else {
                let batch = self.sort(some, Round::Both, &mut sample);
                match self.count(lane, batch).await.0 {
                    Ok((counted, at)) => self.take(at, counted, None, result).await,
                    Err(error) => fail(lane, &error, result),
                }
            }
            self.sample = sample;
        }
        true
    }

    /// Continues the pass, or begins one, until `stop`, or at once until `give_way`: then the answers under way are dropped, and
    /// what they were about is read again. If this future itself is dropped, the pass is lost.
    pub(in crate::observe) async fn run(
        &mut self,
        stop: Instant,
        mut give_way: Pin<&mut (impl Future<Output = ()> + Send)>,
        result: &mut SweepResult,
    ) {
        let mut current = match self.pass.take() {
            Some(current) => current,
            None => self.begin(result).await,
        };
        current.fit(self.router.links().iter().map(|link| link.primary.as_str()));
        let mut whole = self
            .continue_round(&mut current, stop, give_way.as_mut(), result)
            .await;
        if whole && current.round == Round::Limits && self.rest_ended(&mut current, result) {
            // The limits on a server that cannot be read are unknown.
            if result.failed.is_empty() && !current.moved {
                self.memory.limits.set_primed();
            }
            current.begin_counters();
            whole = self
                .continue_round(&mut current, stop, give_way, result)
                .await;
        }
        let unread = result.failed.values().next().map(|failure| failure.reason);
        if whole && current.ended() && unread.is_none() {
            result.pass_scanned = current.scanned();
            self.end(current, result);
            result.stopped = None;
        } else if whole && unread.is_some() && self.rest_ended(&mut current, result) {
            // The servers that answer are read completely: the next collection begins a new pass.
            result.take_over(iter::once(&current.totals));
            result.coverage = current.coverage();
            result.stopped = unread;
        } else {
            result.coverage = current.coverage();
            result.stopped = Some(unread.unwrap_or(Reason::Budget));
            if !whole {
                current.interrupted += 1;
            }
            *self.pass = Some(current);
        }
    }

    /// Continues the current round of the pass until it ends, until `stop`, or until `give_way`. Each server has one step under
    /// way. Returns whether all that was begun is complete.
    async fn continue_round(
        &mut self,
        current: &mut Pass,
        stop: Instant,
        mut give_way: Pin<&mut (impl Future<Output = ()> + Send)>,
        result: &mut SweepResult,
    ) -> bool {
        let scans = self.patterns(current.round);
        let mut steps = JoinSet::new();
        let mut idle: Vec<usize> = (0..self.lanes.len()).collect();
        // Each collection takes at least one step, however small the budget is: otherwise the pass would never end.
        let mut begun = false;
        loop {
            for lane in std::mem::take(&mut idle) {
                // What SCAN has returned is read in any case.
                if !self
                    .describe(lane, current, give_way.as_mut(), result)
                    .await
                {
                    return false;
                }
                if result.failed.contains_key(&lane) {
                    continue;
                }
                let may_scan = !begun || Instant::now() < stop;
                begun |= self.begin_step(lane, (current, &scans, may_scan), &mut steps);
            }
            if steps.is_empty() {
                return true;
            }
            let done = tokio::select! {
                () = &mut give_way => return false,
                done = steps.join_next() => done,
            };
            // The tasks neither panic nor are they aborted while the set lives.
            let Some(Ok((lane, took, brought))) = done else {
                return true;
            };
            idle.push(lane);
            result.pass_took += took;
            match brought {
                Ok(Brought::Names(answer, walked)) => {
                    result.commands += 1;
                    let (cursor, mut names) = answer;
                    self.take_registrations(&mut names, result);
                    current.interrupted = 0;
                    let part = current.part(&self.router.links()[lane].primary);
                    part.advance((cursor, names), scans.len(), walked);
                }
                Ok(Brought::Counts(counted, at, left)) => {
                    if current.round == Round::Limits {
                        self.take_limits(at, counted, result);
                    } else {
                        tokio::select! {
                            () = &mut give_way => return false,
                            () = self.take(at, counted, Some(&mut *current), result) => {}
                        }
                    }
                    current.interrupted = 0;
                    let part = current.part(&self.router.links()[lane].primary);
                    part.names.truncate(left);
                }
                Err(error) => fail(lane, &error, result),
            }
        }
    }

    /// Begins the next step at a server, if there is one: reads names that SCAN has returned, or scans. Returns whether it scans.
    fn begin_step(
        &mut self,
        lane: usize,
        (current, scans, may_scan): (&mut Pass, &[Vec<u8>], bool),
        steps: &mut JoinSet<StepDone>,
    ) -> bool {
        let Lane { scanner, pacer, .. } = &self.lanes[lane];
        let link = &self.router.links()[lane];
        let round = current.round;
        let part = current.part(&link.primary);
        let size = pacer.step_size();
        if !part.names.is_empty() {
            let left = part.names.len().saturating_sub(size);
            let names = part.names[left..].to_vec();
            let batch = self.sort(names, round, &mut current.totals.sample);
            let work = self.count(lane, batch);
            steps.spawn(async move {
                let (counted, took) = work.await;
                let counts = counted.map(|(counted, at)| Brought::Counts(counted, at, left));
                (lane, took, counts)
            });
            return false;
        }
        let (Some(mut connection), Some(pattern), true) =
            (scanner.clone(), scans.get(part.scan), may_scan)
        else {
            return false;
        };
        // A name costs half as much if SCAN does not return it.
        let walked = if round == Round::Limits {
            2 * size
        } else {
            size
        };
        let mut scan = redis::cmd("SCAN");
        scan.arg(&part.cursor).arg("MATCH").arg(pattern);
        scan.arg("COUNT").arg(walked);
        let (pacer, timed) = (pacer.clone(), link.timed);
        steps.spawn(async move {
            let work = || async move { ask_timed(scan, &mut connection, timed).await };
            let (answer, took) = pacer.step(size, work).await;
            let names = answer.map(|answer| Brought::Names(answer, walked));
            (lane, took, names)
        });
        true
    }

    /// If the kind is described: reads the names that SCAN has returned, unless this gives way. Returns whether it did not.
    async fn describe(
        &mut self,
        lane: usize,
        current: &mut Pass,
        mut give_way: Pin<&mut (impl Future<Output = ()> + Send)>,
        result: &mut SweepResult,
    ) -> bool {
        let primary = &self.router.links()[lane].primary;
        while !result.failed.contains_key(&lane)
            && let Some((described, context, sink)) = self.describing()
        {
            // They stay with the part until they are read.
            let mut names = std::mem::take(&mut current.part(primary).names);
            if names.is_empty() {
                break;
            }
            let left = names.len().saturating_sub(context.step());
            let step = &names[left..];
            let sampled = current.totals.sample.of(step);
            let totals = Some(&mut current.totals);
            let whole = tokio::select! {
                () = &mut give_way => false,
                () = described.take(&context, sink, (step, &sampled), totals, result) => true,
            };
            if whole {
                names.truncate(left);
                current.interrupted = 0;
            }
            current.part(primary).names = names;
            if !whole {
                return false;
            }
        }
        true
    }

    /// Whether all lanes have ended, except those that failed.
    fn rest_ended(&self, pass: &mut Pass, result: &SweepResult) -> bool {
        let mut links = self.router.links().iter().enumerate();
        links.all(|(lane, link)| {
            result.failed.contains_key(&lane) || pass.part(&link.primary).ended()
        })
    }

    async fn begin(&mut self, result: &mut SweepResult) -> Pass {
        self.sink.begin_pass();
        let mut pass = Pass::default();
        pass.totals = Totals::after(self.memory.totals.as_ref());
        if self.memory.described.is_none() && !self.memory.limits.is_primed() {
            pass.round = Round::Limits;
        }
        let sizes = self.router.links().iter().map(|link| async {
            let mut connection = link.connection.clone().ok()?;
            let size = redis::cmd("DBSIZE");
            // Nothing waits for a Redis that hangs.
            let size = timeout(MOST_HELD, size.query_async::<u64>(&mut connection));
            size.await.ok()
        });
        let sizes = join_all(sizes).await;
        result.commands += sizes.len() as u64;
        for (lane, (link, size)) in self.router.links().iter().zip(sizes).enumerate() {
            // If the Redis user may not run DBSIZE, only the coverage ratio is missing.
            if let Some(Err(error)) = &size {
                let source = result.source(lane).to_owned();
                let what = format!("DBSIZE {source} (the coverage of a scan is not known)");
                result
                    .missing
                    .push((source, RedisFailure::of(&what, error)));
            }
            let size = size.and_then(Result::ok);
            pass.part(&link.primary).expected = size.unwrap_or(0);
        }
        pass
    }

    /// The pass has seen every key.
    fn end(&mut self, pass: Pass, result: &mut SweepResult) {
        if pass.moved || self.alone {
            // Some keys may have been seen twice, some limits never.
            result.take_over(iter::once(&pass.totals));
            return;
        }
        let now = self.clock.now().steady;
        let longest_ms = if let Some(described) = &mut self.memory.described {
            described.end_pass(now);
            described.longest_ms
        } else {
            self.memory.limits.end_pass(now);
            self.memory.limits.longest()
        };
        self.memory.settings.end_pass(longest_ms, now);
        self.sink.end_pass();
        self.memory.totals = Some(pass.totals);
    }

    /// The counters of a described kind, with the context and the sink to read them.
    fn describing(&mut self) -> Option<(&mut Described, ReadContext<'_>, &mut dyn CounterSink)> {
        let memory = &mut *self.memory;
        let described = memory.described.as_mut()?;
        let context = ReadContext {
            router: self.router,
            lanes: self.lanes,
            clock: self.clock,
            rules: &memory.settings.now.rules,
            earlier: &memory.settings.earlier,
        };
        Some((described, context, self.sink))
    }

    /// Removes the names of registrations, and notes their ids.
    fn take_registrations(&self, names: &mut Vec<Vec<u8>>, result: &mut SweepResult) {
        if let Some(registry) = self.memory.description.registry() {
            names.retain(|name| {
                let id = registry.id_of(name);
                result.node_ids.extend(id.map(<[u8]>::to_vec));
                id.is_none()
            });
        }
    }

    /// What the names of counters are read with.
    fn context(&self) -> ReadContext<'_> {
        ReadContext {
            router: self.router,
            lanes: self.lanes,
            clock: self.clock,
            rules: &self.memory.settings.now.rules,
            earlier: &self.memory.settings.earlier,
        }
    }

    /// The patterns for SCAN, one after the other.
    fn patterns(&self, round: Round) -> Arc<[Vec<u8>]> {
        let description = &self.memory.description;
        match (&self.memory.described, round) {
            (Some(_), _) => description.scans(MOST_SCANS).into(),
            (None, Round::Limits) => Arc::new([self.memory.log.scan_of_limits()]),
            (None, Round::Counters | Round::Both) => description.fewest_scans().into(),
        }
    }

    /// Counts a batch when its turn has come. Returns the counts with their time, and how much of Redis's time it took. The
    /// future borrows nothing.
    fn count(
        &self,
        lane: usize,
        batch: Batch,
    ) -> impl Future<Output = (RedisResult<(Counted, Moment)>, Duration)> + Send + use<> {
        let Lane {
            clock_offset,
            pacer,
            ..
        } = &self.lanes[lane];
        let (clock_offset, pacer, clock) = (*clock_offset, pacer.clone(), self.clock.clone());
        let Link {
            connection, timed, ..
        } = self.router.links()[lane].clone();
        let (how, log) = (
            (self.router.is_cluster(), timed),
            Arc::clone(&self.memory.log),
        );
        async move {
            let commands = batch.commands();
            if commands == 0 {
                return (Ok((Counted::default(), clock.now())), Duration::ZERO);
            }
            let work = || async move {
                // Read now, not earlier: a window that begins too early counts requests that have left it.
                let at = clock.now();
                let now_ms = redis_millis(at, clock_offset);
                let counted = async { count(connection?, &log, batch, now_ms, how).await };
                match counted.await {
                    Ok((counted, took)) => (Ok((counted, at)), took),
                    Err(error) => (Err(error), None),
                }
            };
            pacer.step(commands, work).await
        }
    }
}

/// Sorts `keys` and rotates them, so that the first key after `last` comes first.
fn order_after(keys: &mut [Box<[u8]>], last: Option<&[u8]>) {
    keys.sort_unstable();
    let begin = keys.partition_point(|key| last.is_some_and(|last| **key <= *last));
    keys.rotate_left(begin);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_rechecked_in_turn_all_have_their_turn() {
        let mut last: Option<Box<[u8]>> = None;
        let mut rechecked = Vec::new();
        for _ in 0..4 {
            let mut keys: Vec<Box<[u8]>> = (0..10_u8).map(|key| Box::from([key])).collect();
            order_after(&mut keys, last.as_deref());
            rechecked.extend(keys[..3].iter().map(|key| key[0]));
            last = Some(keys[2].clone());
        }
        assert_eq!(rechecked, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        // The key where the recheck stopped may be gone by the next time.
        let mut keys: Vec<Box<[u8]>> = [1_u8, 3].map(|key| Box::from([key])).into();
        order_after(&mut keys, Some(&[2]));
        assert_eq!(&*keys[0], &[3]);
    }
}
