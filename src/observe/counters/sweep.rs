//! Reads the counters from Redis. SCAN runs ahead, counting follows, and several batches are in flight. The sweep keeps nothing
//! of a healthy key.
//!
//! SCAN, the pass and the written keys are the same for all kinds of limiters. `described` reads the names of described kinds as
//! their description says. The reference limiter has requests written for it (`requests`, `judging`): by its description, each
//! key would take four commands in three round trips; here it takes one.
//!
//! Every sorted set under `ratelimit:` is a counter of the reference limiter: the type decides, not the name. SCAN also returns
//! the hashes with limits: the first pass reads them in a separate round, later passes together with the counts. The sweep
//! reads the own limit of a key directly before it reports the key or ranks it among the fullest.

mod judging;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::{Clock, Moment};
use crate::limiters::MOST_SCANS;
use crate::observation::Reason;
use crate::observe::counters::described::{Described, ReadContext};
use crate::observe::counters::invalidations::Names;
use crate::observe::counters::memory::CounterMemory;
use crate::observe::counters::pace::Pacer;
use crate::observe::counters::pass::{Pass, Round};
use crate::observe::counters::requests::{Batch, Counted, count};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep_result::{Lane, SweepResult, fail};
use crate::observe::counters::totals::{Sample, Totals};
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::router::Router;
use crate::observe::redis::server_state::redis_millis;

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

/// One SCAN's answer, and the lane that it came from.
struct Scanned {
    lane: usize,
    answer: RedisResult<ScanAnswer>,
    /// How many names SCAN walked over.
    step: usize,
    /// Of Redis's time.
    took: Duration,
}

/// The outcome of counting a batch.
struct Done {
    counted: RedisResult<Counted>,
    at: Moment,
    /// Of Redis's time.
    took: Duration,
}

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
        let names = self.context().step();
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
        let keys: Vec<Vec<u8>> = some.iter().map(|key| key.to_vec()).collect();
        let at = self.clock.now();
        let mut unjudged = Vec::new();
        let found = self.verify(keys, at, &mut unjudged, result).await;
        let alive = found.iter().filter(|known| known.values.count > 0);
        let alive = alive.map(|known| &known.key);
        let alive = alive.chain(unjudged.iter().map(|(key, _)| key));
        let alive: HashSet<&[u8]> = alive.map(Vec::as_slice).collect();
        let gone = some.iter().filter(|key| !alive.contains(&***key));
        result.gone.extend(gone.cloned());
        self.report_outside_pass(at, &found);
        result.unjudged.append(&mut unjudged);
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
                let Done { counted, at, .. } = self.count(lane, batch).await;
                match counted {
                    Ok(counted) => self.take(at, counted, None, result).await,
                    Err(error) => fail(lane, &error, result),
                }
            }
            self.sample = sample;
        }
        true
    }

    /// Continues the pass, or begins one, until `stop`. If this future is dropped, the pass is lost.
    pub(in crate::observe) async fn run(&mut self, stop: Instant, result: &mut SweepResult) {
        let mut current = match self.pass.take() {
            Some(current) => current,
            None => self.begin(result).await,
        };
        current.fit(self.router.links().iter().map(|link| link.primary.as_str()));
        self.continue_round(&mut current, stop, result).await;
        if current.round == Round::Limits && self.rest_ended(&mut current, result) {
            // The limits on a server that cannot be read are unknown.
            if result.failed.is_empty() && !current.moved {
                self.memory.limits.set_primed();
            }
            current.begin_counters();
            self.continue_round(&mut current, stop, result).await;
        }
        let unread = result.failed.values().next().map(|failure| failure.reason);
        if current.ended() && unread.is_none() {
            result.pass_scanned = current.scanned();
            self.end(current);
            result.stopped = None;
        } else if unread.is_some() && self.rest_ended(&mut current, result) {
            // The servers that answer are read completely: the next collection begins a new pass.
            result.coverage = current.coverage();
            result.stopped = unread;
        } else {
            result.coverage = current.coverage();
            result.stopped = Some(unread.unwrap_or(Reason::Budget));
            *self.pass = Some(current);
        }
    }

    /// Continues the current round of the pass until it ends, or until `stop`.
    async fn continue_round(
        &mut self,
        current: &mut Pass,
        stop: Instant,
        result: &mut SweepResult,
    ) {
        let mut scanning = JoinSet::new();
        let scans = self.patterns(current.round);
        let mut scanned = self.scan(current, &scans, &mut scanning, result);
        let most_counting = scanning.len();
        let mut counting = JoinSet::new();
        let mut drained = false;
        // Each collection takes at least one step, however small the budget is: otherwise the pass would never end.
        let mut begun = false;
        loop {
            let time = !begun || Instant::now() < stop;
            let room = counting.len() < most_counting && !drained && time;
            tokio::select! {
                next = scanned.recv(), if room => {
                    let Some(Scanned { lane, answer, step, took }) = next else {
                        drained = true; // every lane came to its end, or said before why not
                        continue;
                    };
                    begun = true;
                    if result.failed.contains_key(&lane) {
                        continue;
                    }
                    result.commands += 1;
                    result.pass_took += took;
                    let (cursor, mut names) = match answer {
                        Ok(answer) => answer,
                        Err(error) => {
                            fail(lane, &error, result);
                            continue;
                        }
                    };
                    let part = current.part(&self.router.links()[lane].primary);
                    part.advance(cursor, scans.len(), step);
                    self.take_registrations(&mut names, result);
                    let totals = &mut current.totals;
                    if let Some((described, context, sink)) = self.describing() {
                        let names = (&names[..], &totals.sample.of(&names)[..]);
                        described.take(&context, sink, names, Some(totals), result).await;
                        continue;
                    }
                    let batch = self.sort(names, current.round, &mut totals.sample);
                    let work = self.count(lane, batch);
                    counting.spawn(async move { (lane, work.await) });
                }
                Some(done) = counting.join_next() => {
                    // The tasks neither panic nor are they aborted while the set lives.
                    let Ok((lane, Done { counted, at, took })) = done else { continue };
                    result.pass_took += took;
                    match counted {
                        Ok(counted) if current.round == Round::Limits => {
                            self.take_limits(at, counted, result);
                        }
                        Ok(counted) => {
                            let totals = Some(&mut current.totals);
                            self.take(at, counted, totals, result).await;
                        }
                        Err(error) => fail(lane, &error, result),
                    }
                }
                else => break,
            }
        }
    }

    /// Starts to scan every lane that can be read and has not ended, ahead of the counting.
    fn scan(
        &self,
        pass: &mut Pass,
        scans: &Arc<[Vec<u8>]>,
        scanning: &mut JoinSet<()>,
        result: &SweepResult,
    ) -> mpsc::Receiver<Scanned> {
        let (sender, scanned) = mpsc::channel(1);
        let round = pass.round;
        for (number, lane) in self.lanes.iter().enumerate() {
            let part = pass.part(&self.router.links()[number].primary);
            let Some(connection) = lane.scanner.clone() else {
                continue;
            };
            if !part.ended && !result.failed.contains_key(&number) {
                let ahead = Ahead {
                    lane: number,
                    connection,
                    scans: Arc::clone(scans),
                    scan: part.scan,
                    cursor: part.cursor.clone(),
                    // SCAN walks over a name at a fraction of the cost of counting it. A round of limits returns few names.
                    names: if round == Round::Limits { 8 } else { 4 },
                    pacer: lane.pacer.clone(),
                };
                scanning.spawn(ahead.run(sender.clone()));
            }
        }
        scanned
    }

    /// Whether all lanes have ended, except those that failed.
    fn rest_ended(&self, pass: &mut Pass, result: &SweepResult) -> bool {
        let mut links = self.router.links().iter().enumerate();
        links
            .all(|(lane, link)| result.failed.contains_key(&lane) || pass.part(&link.primary).ended)
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
            let size: RedisResult<u64> = redis::cmd("DBSIZE").query_async(&mut connection).await;
            Some(size)
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
    fn end(&mut self, pass: Pass) {
        if pass.moved || self.alone {
            // Some keys may have been seen twice, some limits never.
            return;
        }
        let now = self.clock.now().steady;
        match &mut self.memory.described {
            Some(described) => described.end_pass(now),
            None => self.memory.limits.end_pass(now),
        }
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
            rules: &memory.rules,
        };
        Some((described, context, self.sink))
    }

    /// What the names of counters are read with.
    fn context(&self) -> ReadContext<'_> {
        ReadContext {
            router: self.router,
            lanes: self.lanes,
            clock: self.clock,
            rules: &self.memory.rules,
        }
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

    /// The patterns for SCAN, one after the other.
    fn patterns(&self, round: Round) -> Arc<[Vec<u8>]> {
        let description = &self.memory.description;
        match (&self.memory.described, round) {
            (Some(_), _) => description.scans(MOST_SCANS).into(),
            (None, Round::Limits) => Arc::new([b"ratelimit:limit:*".to_vec()]),
            // One SCAN, as nearly all names with the common beginning are counters.
            (None, Round::Counters | Round::Both) => description.scans(1).into(),
        }
    }

    /// Counts a batch when its turn has come. The future borrows nothing.
    fn count(&self, lane: usize, batch: Batch) -> impl Future<Output = Done> + Send + use<> {
        let Lane {
            clock_offset,
            pacer,
            ..
        } = &self.lanes[lane];
        let (clock_offset, pacer) = (*clock_offset, pacer.clone());
        let clock = self.clock.clone();
        let connection = self.router.links()[lane].connection.clone();
        let cluster = self.router.is_cluster();
        async move {
            let mut done = Done {
                counted: Ok(Counted::default()),
                at: clock.now(),
                took: Duration::ZERO,
            };
            for (number, piece) in batch.into_pieces(pacer.step_size()).into_iter().enumerate() {
                let connection = connection.clone();
                let clock = &clock;
                let commands = piece.commands();
                let work = move || async move {
                    // Read now, not earlier: a window that begins too early counts requests that have left it.
                    let at = clock.now();
                    let now_ms = redis_millis(at, clock_offset);
                    let counted = async { count(connection?, piece, now_ms, cluster).await };
                    (counted.await, at)
                };
                let ((counted, at), took) = pacer.step(commands, work).await;
                done.took += took;
                if number == 0 {
                    done.at = at;
                }
                match (&mut done.counted, counted) {
                    (Ok(all), Ok(some)) => all.add(some),
                    (_, counted) => {
                        done.counted = counted;
                        break;
                    }
                }
            }
            done
        }
    }
}

/// Sorts `keys` and rotates them, so that the first key after `last` comes first.
fn order_after(keys: &mut [Box<[u8]>], last: Option<&[u8]>) {
    keys.sort_unstable();
    let begin = keys.partition_point(|key| last.is_some_and(|last| **key <= *last));
    keys.rotate_left(begin);
}

/// Scans a server ahead of the counting.
struct Ahead {
    lane: usize,
    connection: MultiplexedConnection,
    scans: Arc<[Vec<u8>]>,
    scan: usize,
    cursor: Vec<u8>,
    /// How many names one SCAN walks over, for each name that a step reads.
    names: usize,
    pacer: Pacer,
}

impl Ahead {
    /// Scans until the end, or until the receiver is gone.
    async fn run(mut self, sender: mpsc::Sender<Scanned>) {
        while let Some(pattern) = self.scans.get(self.scan) {
            let step = self.names * self.pacer.step_size();
            let mut scan = redis::cmd("SCAN");
            scan.arg(&self.cursor).arg("MATCH").arg(pattern);
            scan.arg("COUNT").arg(step);
            // SCAN walks over a name at less than the cost of a command.
            let asked = self.connection.clone();
            let work = || async move {
                let mut asked = asked;
                scan.query_async(&mut asked).await
            };
            let (answer, took) = self.pacer.step(step / 8, work).await;
            let answer: RedisResult<ScanAnswer> = answer;
            match &answer {
                Ok((next, _)) => {
                    self.cursor.clone_from(next);
                    self.scan += usize::from(next == b"0");
                }
                Err(_) => self.scan = self.scans.len(),
            }
            let scanned = Scanned {
                lane: self.lane,
                answer,
                step,
                took,
            };
            if sender.send(scanned).await.is_err() {
                return;
            }
        }
    }
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
