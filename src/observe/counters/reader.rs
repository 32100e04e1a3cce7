//! The counters' line of a collection: waits for the servers and the default limit, gets ready to read each server, then
//! sweeps. Decides when what was seen before still counts, and when everything has to be looked at anew.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::limiters::Longest;
use crate::observation::{Collector, CountersRead, Failure, KeyLabel, Limit, Reason, encode_key};
use crate::observe::counters::described::Described;
use crate::observe::counters::invalidations::{Changes, Names, Tracked};
use crate::observe::counters::limits::{LimitMemory, LimitRule};
use crate::observe::counters::pace::RedisShares;
use crate::observe::counters::pass::Pass;
use crate::observe::counters::shard_reader::{Readied, Ready, ShardReader, Unreachable, ready};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep::Sweep;
use crate::observe::counters::sweep_result::{Lane, SweepResult};
use crate::observe::counters::told::{counters_read, passed_over, unjudged};
use crate::observe::counters::totals::{Sample, Totals};
use crate::observe::deadline::Deadline;
use crate::observe::redis::cluster::{Shard, slots_of};
use crate::observe::redis::deployment::Access;
use crate::observe::redis::errors::{RedisFailure, not_connected};
use crate::observe::redis::router::{Link, Router, Slots};
use crate::observe::redis::topology::ShardNow;

/// In the steady state a pass is spread over this long: what was written is known without it. Well below the quarter of an
/// hour after which the alert `RatelimiterCoverageBehind` calls it late.
const STEADY_PASS: Duration = Duration::from_secs(600);

/// In the steady state, over this many collections where nobody goes on between them.
const SLICES: u32 = 10;

/// The least that a collection spends on the pass: small key spaces are passed whole.
const LEAST_SLICE: Duration = Duration::from_millis(50);

/// The most that a collection spends on the pass where it goes on between collections: nobody is kept waiting for it.
const MOST_SLICE: Duration = Duration::from_secs(1);

/// How long the pass goes on between collections before others have their turn: a collection is kept waiting for as long.
const BETWEEN_SLICE: Duration = Duration::from_millis(100);

/// How long a sweep waits for the default limit although it remembers one: a limiter that is well answers within
/// milliseconds, and one that hangs must not hold up the counters.
const DEFAULT_WITHIN: Duration = Duration::from_millis(50);

/// When more than one in this many of all keys was written, a whole pass costs little more and tells all.
const STORM: u64 = 4;

/// Reads counters and remembers limits.
#[derive(Debug)]
pub(in crate::observe) struct KeyReader {
    pub(in crate::observe) access: Arc<Access>,
    /// By the primary's address.
    pub(in crate::observe) readers: BTreeMap<String, ShardReader>,
    /// The primaries and their slots, as they were in the collection before.
    pub(in crate::observe) shards: Vec<Shard>,
    pub(in crate::observe) limits: LimitMemory,
    pub(in crate::observe) rules: Vec<LimitRule>,
    /// The counters, where they are not the reference limiter's.
    pub(in crate::observe) described: Option<Described>,
    /// The writes that Redis tells.
    pub(in crate::observe) tracked: Arc<Tracked>,
    /// What the last full pass came across.
    pub(in crate::observe) totals: Option<Totals>,
    /// The longest expiry of a key, where the limiter is the reference.
    pub(in crate::observe) longest: Option<Longest>,
    /// Keys, of the reference limiter, in which something is wrong that only a closer reading shows.
    pub(in crate::observe) suspects: HashSet<Vec<u8>>,
    /// Collections so far: each reads other written keys with their expiry.
    pub(in crate::observe) collections: u64,
    pub(in crate::observe) budget: Duration,
    /// What sweeps may take of the time of each server, and who else has a part of it.
    pub(in crate::observe) share: f64,
    pub(in crate::observe) shares: RedisShares,
    /// Whether the pass goes on between collections.
    pub(in crate::observe) goes_on: bool,
    pub(in crate::observe) label: KeyLabel,
    /// The pass that goes on in the next collection.
    pub(in crate::observe) pass: Option<Pass>,
    /// Keys were written that were not looked at: the pass under way may have passed them by before.
    pub(in crate::observe) behind: bool,
    /// The watched key that was rechecked last: those behind it are next.
    pub(in crate::observe) rechecked: Option<Box<[u8]>>,
    /// What the pass under way has taken of Redis's time so far, and when it began.
    pub(in crate::observe) pass_took: Duration,
    pub(in crate::observe) pass_begun: Instant,
    /// What the collection before knows for those who go on with its pass.
    pub(in crate::observe) between: Option<Between>,
    /// What was found since.
    pub(in crate::observe) found_between: SweepResult,
    /// A full pass is behind us, and every write since is known.
    pub(in crate::observe) steady: Option<Steady>,
    /// Commands sent since the start.
    pub(in crate::observe) commands_total: u64,
    pub(in crate::observe) last_full_pass: Option<Timestamp>,
    /// Replicas that are left alone for a while.
    pub(in crate::observe) unreachable: Mutex<Unreachable>,
}

/// The servers as a collection left them.
#[derive(Debug)]
pub(in crate::observe) struct Between {
    clock_offsets: Vec<SignedDuration>,
    dead: BTreeMap<usize, RedisFailure>,
    sources: Vec<String>,
    slots: Option<Slots>,
    alone: bool,
    /// All servers tell what is written.
    told: bool,
}

/// What the last full pass took.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Steady {
    /// Of Redis's time.
    took: Duration,
    /// Keys of any kind that it looked at.
    scanned: u64,
}

/// What the line waits for, and the keys to look at in any case.
#[derive(Debug)]
pub(in crate::observe) struct Needs {
    /// The servers; never sent if none of them answers.
    pub(in crate::observe) shards: oneshot::Receiver<Vec<ShardNow>>,
    /// The default limit, or that it could not be read.
    pub(in crate::observe) default: oneshot::Receiver<Option<Limit>>,
    pub(in crate::observe) watched: Vec<Box<[u8]>>,
}

/// What the line brought, besides the counters that it streamed.
#[derive(Debug)]
pub(in crate::observe) struct KeysRead {
    pub(in crate::observe) read: CountersRead,
    /// Watched keys that could not be judged, as they are shown, and why.
    pub(in crate::observe) unjudged: BTreeMap<String, Reason>,
    pub(in crate::observe) failures: Vec<Failure>,
    /// Ids of the registrations that the sweep came across, escaped.
    pub(in crate::observe) node_ids: Vec<String>,
    pub(in crate::observe) coverage: Option<f64>,
    /// Which server was read for which primary.
    pub(in crate::observe) sources: BTreeMap<String, String>,
    pub(in crate::observe) seconds: f64,
}

impl KeyReader {
    pub(in crate::observe) async fn run(
        &mut self,
        clock: &Clock,
        deadline: &Deadline,
        needs: Needs,
        sink: &mut dyn CounterSink,
    ) -> KeysRead {
        let started = Instant::now();
        let mut result = SweepResult {
            stopped: Some(Reason::Deadline),
            ..std::mem::take(&mut self.found_between)
        };
        let mut dead = 0;
        let mut seconds = None;
        let line = async {
            let watched = needs.watched;
            let (shards, late) = self.needs(clock, needs.shards, needs.default).await;
            let Ok(shards) = shards else {
                result.stopped = Some(Reason::RedisDown);
                return;
            };
            let keys = (&shards[..], &watched[..]);
            self.sweep(clock, deadline, keys, sink, &mut result, &mut dead)
                .await;
            seconds = Some(started.elapsed());
            let Some(late) = late else { return };
            // The other line waits for the same answer, so this takes no longer. Kept inside the deadline all the same:
            // what was swept counts.
            let left = deadline.left().mul_f64(0.9);
            if let Ok(Ok(Some(limit))) = tokio::time::timeout(left, late).await
                && self.set_default(limit, clock)
            {
                // What was judged by the limit of before is judged anew, before anything is reported.
                dead = 0;
                result = SweepResult {
                    stopped: Some(Reason::Deadline),
                    commands: result.commands,
                    node_ids: std::mem::take(&mut result.node_ids),
                    ..SweepResult::default()
                };
                self.sweep(clock, deadline, keys, sink, &mut result, &mut dead)
                    .await;
            }
        };
        let cut_off = deadline.cut(line).await.is_none();
        if cut_off {
            // The connections may have answers on the way that nobody waits for any more.
            self.readers.clear();
        }
        self.replace_failed(&result);
        if cut_off || result.failed.len() > dead {
            // What was written was perhaps told and not looked at.
            self.begin_anew();
        }
        self.commands_total += result.commands;
        if result.stopped.is_none() && result.alone.is_none() {
            self.last_full_pass = Some(clock.now().wall);
        }
        if self.steady.is_some() && result.stopped == Some(Reason::Budget) {
            // The rest of the pass is for the next collections: what was written was looked at.
            result.stopped = None;
        }
        if let (None, Some(failure)) = (result.stopped, &result.alone) {
            // What is elsewhere was not seen.
            result.stopped = Some(failure.reason);
        }
        let coverage = match result.stopped {
            None => Some(1.0),
            Some(_) => result.coverage,
        };
        let sources = self.readers.iter();
        KeysRead {
            node_ids: result.node_ids.iter().map(|id| encode_key(id)).collect(),
            failures: self.failures(&result),
            read: counters_read(&result, self.label),
            unjudged: unjudged(&result, self.label),
            coverage,
            sources: sources
                .map(|(primary, reader)| (primary.clone(), reader.source.clone()))
                .collect(),
            seconds: seconds.unwrap_or_else(|| started.elapsed()).as_secs_f64(),
        }
    }

    /// Goes on with the pass for a moment between two collections. Returns whether there is more to do before the next.
    pub(in crate::observe) async fn go_on(
        &mut self,
        clock: &Clock,
        sink: &mut dyn CounterSink,
    ) -> bool {
        if !self.is_due() {
            return false;
        }
        let Some(between) = self.between.take() else {
            return false;
        };
        let mut result = SweepResult {
            failed: between.dead.clone(),
            sources: between.sources.clone(),
            ..SweepResult::default()
        };
        let (mut links, mut lanes) = (Vec::new(), Vec::new());
        for (place, shard) in self.shards.iter().enumerate() {
            let reader = self.readers.get(&shard.primary);
            let reader = reader.filter(|_| !between.dead.contains_key(&place));
            let (scanner, connection) = reader.and_then(ShardReader::current).unzip();
            if scanner.is_none() && !between.dead.contains_key(&place) {
                return false;
            }
            links.push(Link {
                primary: shard.primary.clone(),
                connection: connection.ok_or_else(not_connected),
            });
            lanes.push(Lane {
                scanner,
                clock_offset: between.clock_offsets[place],
                pacer: self.shares.pacer(&between.sources[place], self.share),
            });
        }
        let mut sweep = Sweep {
            router: Router::new(links, between.slots.clone()),
            lanes,
            clock,
            limits: &mut self.limits,
            described: self.described.as_mut(),
            totals: &mut self.totals,
            sample: Sample::new(self.collections),
            longest: self.longest,
            suspects: &mut self.suspects,
            rules: &self.rules,
            sink,
            alone: between.alone,
        };
        let stop = Instant::now() + BETWEEN_SLICE;
        sweep.run(stop, &mut self.pass, &mut result).await;
        self.commands_total += result.commands;
        self.passed(&mut result, between.told);
        if result.stopped.is_none() && !between.alone {
            self.last_full_pass = Some(clock.now().wall);
        }
        let found = &mut self.found_between;
        found.node_ids.append(&mut result.node_ids);
        for (reason, (times, example)) in std::mem::take(&mut result.skipped) {
            found.skipped.entry(reason).or_insert((0, example)).0 += times;
        }
        if result.failed.len() > between.dead.len() {
            self.replace_failed(&result);
            self.begin_anew();
            return false;
        }
        self.between = Some(between);
        self.is_due()
    }

    /// Whether the pass has to go on before the next collection. In the steady state it keeps to its time.
    fn is_due(&self) -> bool {
        self.pass.is_some()
            && self.steady.is_none_or(|last| {
                let passed = self.pass_begun.elapsed().div_duration_f64(STEADY_PASS);
                self.pass_took < last.took.mul_f64(passed.min(1.0))
            })
    }

    /// Drops the connections to servers that failed: there may be answers on the way that nobody waits for.
    fn replace_failed(&mut self, result: &SweepResult) {
        for (place, shard) in self.shards.iter().enumerate() {
            if result.failed.contains_key(&place)
                && let Some(reader) = self.readers.get_mut(&shard.primary)
            {
                reader.replace();
            }
        }
    }

    /// Takes in how far the pass came. `told`: all servers tell what is written.
    fn passed(&mut self, result: &mut SweepResult, told: bool) {
        self.pass_took += std::mem::take(&mut result.pass_took);
        if result.stopped.is_none() {
            // Where it fell behind, one more pass over everything brings what was passed by.
            let known = told && !self.behind;
            self.steady = known.then_some(Steady {
                took: self.pass_took,
                scanned: result.pass_scanned,
            });
            self.behind = false;
            self.pass_took = Duration::ZERO;
        } else if self.pass.is_none() {
            self.begin_anew();
        }
    }

    /// Nothing that was seen before counts any more: the next pass looks at every key.
    fn begin_anew(&mut self) {
        self.pass = None;
        self.pass_took = Duration::ZERO;
        self.steady = None;
        self.behind = false;
    }

    /// Waits for the servers, and for the default limit: where one is remembered, not for long. If it is late then, the
    /// receiver for it.
    async fn needs(
        &mut self,
        clock: &Clock,
        shards: oneshot::Receiver<Vec<ShardNow>>,
        mut default: oneshot::Receiver<Option<Limit>>,
    ) -> (
        Result<Vec<ShardNow>, RecvError>,
        Option<oneshot::Receiver<Option<Limit>>>,
    ) {
        let shards = shards.await;
        // Before giving up on Redis: the API may be gone by the time that Redis returns.
        let told = if shards.is_ok() && self.limits.default_limit().is_some() {
            match tokio::time::timeout(DEFAULT_WITHIN, &mut default).await {
                Ok(told) => told,
                Err(_) => return (shards, Some(default)),
            }
        } else {
            default.await
        };
        if let Ok(Some(limit)) = told {
            self.set_default(limit, clock);
        }
        (shards, None)
    }

    /// Takes the default limit over; tells whether it changed.
    fn set_default(&mut self, limit: Limit, clock: &Clock) -> bool {
        let changed = self.limits.set_default(limit, clock.now().steady);
        if changed {
            // Keys that nobody wrote to may be above it now.
            self.begin_anew();
        }
        changed
    }

    async fn sweep(
        &mut self,
        clock: &Clock,
        deadline: &Deadline,
        (shards, watched): (&[ShardNow], &[Box<[u8]>]),
        sink: &mut dyn CounterSink,
        result: &mut SweepResult,
        dead: &mut usize,
    ) {
        // Inside the deadline, so that a pass can be laid aside whole rather than be cut off and void.
        let margin = deadline.left() / 3;
        let budget = self.budget.min(deadline.left().saturating_sub(margin));
        let (half, stop) = (Instant::now() + budget / 2, Instant::now() + budget);
        let mut servers = self.get_ready(shards, result).await;
        result.alone = shards.iter().find_map(|now| now.alone.clone());
        *dead = result.failed.len();
        if result.failed.len() == shards.len() {
            result.stopped = result.failed.values().next().map(|failure| failure.reason);
            return;
        }
        let written = self.written(&mut servers);
        let slots = shards.iter().any(|now| !now.shard.slots.is_empty());
        let slots = slots.then(|| slots_of(shards.iter().map(|now| &now.shard)));
        let links = shards.iter().zip(&servers).map(|(now, server)| Link {
            primary: now.shard.primary.clone(),
            connection: match server {
                Some(server) => Ok(server.connection.clone()),
                None => Err(not_connected()),
            },
        });
        let offset = |now: &ShardNow| match &now.state {
            Some(state) => state.clock_offset,
            None => SignedDuration::ZERO,
        };
        let told = servers.iter().flatten();
        let told = told.map(|server| !matches!(server.changes, Changes::Untold(_)));
        self.between = Some(Between {
            clock_offsets: shards.iter().map(offset).collect(),
            dead: result.failed.clone(),
            sources: result.sources.clone(),
            slots: slots.clone(),
            alone: result.alone.is_some(),
            told: told.fold(result.failed.is_empty(), |all, one| all && one),
        });
        let mut lanes = Vec::with_capacity(shards.len());
        for ((now, server), source) in shards.iter().zip(&servers).zip(&result.sources) {
            let pacer = self.shares.pacer(source, self.share);
            let pings = now
                .ping
                .iter()
                .chain(server.iter().map(|server| &server.ping));
            if let Some(ping) = pings.min() {
                pacer.set_ping(*ping);
            }
            lanes.push(Lane {
                scanner: server.as_ref().map(|server| server.scanner.clone()),
                clock_offset: offset(now),
                pacer,
            });
        }
        self.collections += 1;
        let mut sweep = Sweep {
            router: Router::new(links.collect(), slots),
            lanes,
            clock,
            limits: &mut self.limits,
            described: self.described.as_mut(),
            totals: &mut self.totals,
            sample: Sample::new(self.collections),
            longest: self.longest,
            suspects: &mut self.suspects,
            rules: &self.rules,
            sink,
            alone: result.alone.is_some(),
        };
        sweep
            .recheck(watched.to_vec(), &mut self.rechecked, half, result)
            .await;
        for (lane, names) in written {
            self.behind |= !sweep.look_at(lane, &names, stop, result).await;
        }
        if self.behind {
            // Not everything is known any more; the pass under way goes on.
            self.steady = None;
        }
        let most = match self.steady {
            Some(_) if self.goes_on => LEAST_SLICE,
            Some(last) => (last.took.div_f64(self.share) / SLICES).max(LEAST_SLICE),
            None if self.goes_on => MOST_SLICE,
            None => self.budget,
        };
        if self.pass.is_none() {
            self.pass_begun = Instant::now();
        }
        let slice = stop.min(Instant::now() + most);
        sweep.run(slice, &mut self.pass, result).await;
        let told = self.between.as_ref().is_some_and(|between| between.told);
        self.passed(result, told);
        // What a rule would mend does not change between passes.
        for (reason, many) in self.totals.iter().flat_map(Totals::unjudged) {
            result.skipped.entry(reason).or_insert_with(|| many.clone());
        }
    }

    /// Connects to every server that answers, and notes those that cannot be read.
    async fn get_ready(
        &mut self,
        shards: &[ShardNow],
        result: &mut SweepResult,
    ) -> Vec<Option<Ready>> {
        let found: Vec<Shard> = shards.iter().map(|now| now.shard.clone()).collect();
        if self.shards != found
            && let Some(pass) = &mut self.pass
        {
            pass.moved = true;
        }
        self.shards = found;
        let mut readers = std::mem::take(&mut self.readers);
        let (means, unreachable) = ((&self.access, &self.tracked), &self.unreachable);
        let work = shards.iter().map(|now| {
            let before = readers.remove(&now.shard.primary);
            async move {
                if let Err(failure) = &now.ping {
                    // That it does not answer is told by PING.
                    let failure = RedisFailure {
                        reason: Reason::RedisDown,
                        message: failure.message.clone(),
                    };
                    return (before, Err(failure), Vec::new());
                }
                if let Some(stale) = now.state.iter().find_map(|state| state.stale.clone()) {
                    // When it is of use again, it has other data: nothing that it told until then counts.
                    return (None, Err(stale), Vec::new());
                }
                let Readied {
                    reader,
                    ready,
                    passed_over,
                } = ready(before, means, now, unreachable).await;
                (Some(reader), ready, passed_over)
            }
        });
        let work: Vec<_> = work.collect();
        let mut servers = Vec::with_capacity(shards.len());
        for (place, done) in join_all(work).await.into_iter().enumerate() {
            let (reader, ready, passed_over) = done;
            let primary = &shards[place].shard.primary;
            let source = reader.as_ref().map_or(primary, |reader| &reader.source);
            result.sources.push(source.clone());
            result.missing.extend(passed_over);
            if let Some(reader) = reader {
                self.readers.insert(primary.clone(), reader);
            }
            if let Ok(Ready {
                changes: Changes::Untold(Some(failure)),
                ..
            }) = &ready
            {
                let source = result.sources[place].clone();
                result.missing.push((source, failure.clone()));
            }
            match ready {
                Ok(ready) => servers.push(Some(ready)),
                Err(failure) => {
                    result.failed.insert(place, failure);
                    servers.push(None);
                }
            }
        }
        servers
    }

    /// What was written since the last collection, by server. Where that is not known, or is much, a whole pass is due.
    fn written(&mut self, servers: &mut [Option<Ready>]) -> Vec<(usize, Names)> {
        let mut written = Vec::new();
        let mut count = 0;
        for (lane, server) in servers.iter_mut().enumerate() {
            match server.as_mut().map(|server| &mut server.changes) {
                Some(Changes::Names(names)) => {
                    count += names.len() as u64;
                    written.push((lane, std::mem::take(names)));
                }
                // What the pass under way passed by may have been written since: it goes on, and another follows.
                Some(Changes::Unknown) if self.steady.is_none() && self.pass.is_some() => {
                    self.behind = true;
                }
                Some(Changes::Unknown) => self.begin_anew(),
                // The pass under way relied on being told.
                Some(Changes::Untold(_)) | None if self.steady.is_some() => self.begin_anew(),
                Some(Changes::Untold(_)) | None => {}
            }
        }
        if self.steady.is_some_and(|last| count > last.scanned / STORM) {
            self.begin_anew();
            // The pass that begins now comes across all of them.
            return Vec::new();
        }
        written
    }

    fn failures(&self, result: &SweepResult) -> Vec<Failure> {
        let mut failures = passed_over(result, self.label);
        // With one server alone, its address says nothing that the configuration does not.
        let cluster = self.shards.len() > 1;
        for (place, failure) in &result.failed {
            // That a server is down is told by PING.
            if failure.reason != Reason::RedisDown {
                let subject = self.shards.get(*place).filter(|_| cluster);
                let subject = subject.map_or("", |shard| shard.primary.as_str());
                failures.push(failure.clone().counted(Collector::Counters, subject));
            }
        }
        for (server, failure) in &result.missing {
            failures.push(failure.clone().counted(Collector::Counters, server));
        }
        if let Some(failure) = &result.alone {
            failures.push(failure.clone().counted(Collector::Counters, ""));
        }
        if result.failed.is_empty() && result.stopped == Some(Reason::Deadline) {
            let message = "the sweep of the counters was cut off";
            failures.push(Failure::new(
                Collector::Counters,
                "",
                Reason::Deadline,
                message,
            ));
        }
        failures
    }
}
