//! The counters' line of a collection: waits for the servers and the default limit, gets ready to read each server, then
//! sweeps. Beside it, `servers` connects to them, `steady` says how far passes have come, and `between` goes on with one
//! between two collections.

mod between;
mod servers;
mod steady;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::observation::{CountersRead, Failure, KeyLabel, Limit, Reason, encode_key};
use crate::observe::counters::invalidations::{Changes, Tracked};
use crate::observe::counters::memory::CounterMemory;
use crate::observe::counters::pace::RedisShares;
use crate::observe::counters::pass::Pass;
use crate::observe::counters::reader::between::{Between, Servers};
use crate::observe::counters::reader::steady::{Steady, slice};
use crate::observe::counters::shard_reader::{Ready, ShardReader, Unreachable};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep::Sweep;
use crate::observe::counters::sweep_result::{Lane, SweepResult};
use crate::observe::counters::told::{counters_read, unjudged};
use crate::observe::counters::totals::{Sample, Totals};
use crate::observe::deadline::Deadline;
use crate::observe::redis::cluster::{Shard, slots_of};
use crate::observe::redis::deployment::Access;
use crate::observe::redis::errors::not_connected;
use crate::observe::redis::router::{Link, Router};
use crate::observe::redis::topology::ShardNow;

/// How long a sweep waits for the default limit although it remembers one: a limiter that is well answers within
/// milliseconds, and one that hangs must not hold up the counters.
const DEFAULT_WITHIN: Duration = Duration::from_millis(50);

/// A collection works on the pass only if it has time for so many round trips: those of one step, of the answers on the way
/// when it stops, and of what is read again. A pass that goes on between collections needs no such time.
const ROUND_TRIPS: u32 = 16;

/// Reads counters and remembers limits.
#[derive(Debug)]
pub(in crate::observe) struct KeyReader {
    pub(in crate::observe) access: Arc<Access>,
    /// By the primary's address.
    pub(in crate::observe) readers: BTreeMap<String, ShardReader>,
    /// The primaries and their slots, as they were in the collection before.
    pub(in crate::observe) shards: Vec<Shard>,
    pub(in crate::observe) memory: CounterMemory,
    /// The writes that Redis tells.
    pub(in crate::observe) tracked: Tracked,
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
    /// A pass is to begin between collections, as a collection had no time for it.
    pub(in crate::observe) is_owed: bool,
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
    /// Whether the limiter's APIs with limits answered when they were last asked, and how long that took.
    pub(in crate::observe) api: Option<(bool, f64)>,
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
            self.readers.values().for_each(ShardReader::verify);
            // What was written was perhaps told and not looked at.
            self.steady = None;
            self.behind = true;
            self.is_owed = true;
        }
        self.replace_failed(&result);
        if self.pass.is_none() && cut_off || result.failed.len() > dead {
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
        let sources = self.shards.iter().zip(&result.sources).enumerate();
        let sources = sources.filter(|(place, _)| !result.failed.contains_key(place));
        KeysRead {
            node_ids: result.node_ids.iter().map(|id| encode_key(id)).collect(),
            failures: self.failures(&result),
            read: counters_read(&result, self.label),
            unjudged: unjudged(&result, self.label),
            coverage,
            api: self
                .memory
                .described
                .as_ref()
                .and_then(|kind| kind.api.as_ref()?.last_run()),
            sources: sources
                .map(|(_, (shard, source))| (shard.primary.clone(), source.clone()))
                .collect(),
            seconds: seconds.unwrap_or_else(|| started.elapsed()).as_secs_f64(),
        }
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
        let told = if shards.is_ok() && self.memory.limits.default_limit().is_some() {
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
        let changed = self.memory.limits.set_default(limit, clock.now().steady);
        if changed {
            // Keys that nobody wrote to may be above it now.
            self.begin_anew();
        }
        changed
    }

    /// What a sweep needs of each server. Its idle round trip is known from now on.
    fn lanes(
        &self,
        shards: &[ShardNow],
        servers: &[Option<Ready>],
        sources: &[String],
    ) -> Vec<Lane> {
        let mut lanes = Vec::with_capacity(shards.len());
        for ((now, server), source) in shards.iter().zip(servers).zip(sources) {
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
                clock_offset: clock_offset(now),
                pacer,
            });
        }
        lanes
    }

    /// A sweep over `servers`.
    fn sweep_of<'a>(
        &'a mut self,
        servers: &'a Servers,
        clock: &'a Clock,
        sink: &'a mut dyn CounterSink,
    ) -> Sweep<'a> {
        Sweep {
            router: &servers.router,
            lanes: &servers.lanes,
            pass: &mut self.pass,
            rechecked: &mut self.rechecked,
            clock,
            memory: &mut self.memory,
            sample: Sample::new(self.collections),
            sink,
            alone: servers.alone,
        }
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
        let api = self
            .memory
            .described
            .as_mut()
            .and_then(|kind| kind.api.as_mut());
        if let Some(api) = api {
            let changed = api.refresh(clock.now().steady, &mut result.api).await;
            if changed {
                // Keys that nobody writes to are judged by what is known now.
                self.begin_anew();
            }
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
        let told = servers.iter().flatten();
        let told = told.map(|server| !matches!(server.changes, Changes::Untold(_)));
        let told = told.fold(result.failed.is_empty(), |all, one| all && one);
        let servers = Arc::new(Servers {
            router: Router::new(links.collect(), slots),
            lanes: self.lanes(shards, &servers, &result.sources),
            alone: result.alone.is_some(),
        });
        self.between = Some(Between {
            servers: Arc::clone(&servers),
            dead: result.failed.clone(),
            sources: result.sources.clone(),
            told,
        });
        self.collections += 1;
        let mut sweep = self.sweep_of(&servers, clock, sink);
        sweep.recheck(watched.to_vec(), half, result).await;
        let mut behind = false;
        for (lane, names) in written {
            behind |= !sweep.look_at(lane, &names, stop, result).await;
        }
        self.behind |= behind;
        if self.behind {
            // Not everything is known any more; the pass under way goes on.
            self.steady = None;
        }
        if self.pass.is_none() {
            self.pass_begun = Instant::now();
        }
        let pings = shards.iter().filter_map(|now| now.ping.as_ref().ok());
        let round_trip = pings.max().copied().unwrap_or_default();
        if self.goes_on && deadline.left() < round_trip * ROUND_TRIPS {
            // Cut off half-way, the pass would be void.
            self.is_owed = true;
            result.coverage = self.pass.as_ref().map_or(Some(0.0), Pass::coverage);
            result.stopped = Some(Reason::Budget);
        } else {
            let most = slice(self.steady, self.goes_on, self.share, self.budget);
            let slice = stop.min(Instant::now() + most);
            self.sweep_of(&servers, clock, sink)
                .run(slice, result)
                .await;
            self.passed(result, told);
        }
        // What a rule would mend does not change between passes.
        for (reason, many) in self.memory.totals.iter().flat_map(Totals::unjudged) {
            result.skipped.entry(reason).or_insert_with(|| many.clone());
        }
    }
}

/// How far the clock of a server is from the exporter's.
fn clock_offset(now: &ShardNow) -> SignedDuration {
    match &now.state {
        Some(state) => state.clock_offset,
        None => SignedDuration::ZERO,
    }
}
