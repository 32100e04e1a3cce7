//! Reads the counters in a collection: waits for the servers and the default limit, connects to each server, then sweeps.
//! `servers` connects, `schedule` decides when a pass is due, and `between` continues a pass between two collections.

mod between;
mod schedule;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::observation::{CountersRead, Failure, KeyLabel, Reason, encode_key};
use crate::observe::counters::api_limits::ApiLimits;
use crate::observe::counters::invalidations::{Changes, Names, Tracked};
use crate::observe::counters::memory::CounterMemory;
use crate::observe::counters::pace::RedisShares;
use crate::observe::counters::pass::Pass;
use crate::observe::counters::reader::between::{Between, Servers};
use crate::observe::counters::reader::schedule::{Steady, slice};
use crate::observe::counters::shard_reader::{Ready, ShardReader, Unreachable};
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep::Sweep;
use crate::observe::counters::sweep_report::{counters_read, unjudged};
use crate::observe::counters::sweep_result::{Lane, SweepResult};
use crate::observe::counters::totals::Sample;
use crate::observe::deadline::Deadline;
use crate::observe::http::default_limits::{KnownDefaults, PROMPT};
use crate::observe::redis::cluster::{Shard, slots_of};
use crate::observe::redis::deployment::Access;
use crate::observe::redis::errors::not_connected;
use crate::observe::redis::router::{Link, Router};
use crate::observe::redis::topology::ShardNow;

/// How long a sweep waits for the management API if it remembers a default limit. A healthy limiter answers within
/// milliseconds; one that hangs must not delay the counters. One that was prompt the last time is waited for as other nodes are.
const DEFAULT_WITHIN: Duration = Duration::from_millis(50);

/// A collection works on the pass only if it has time for this many round trips: one step, the answers in flight when it stops,
/// and the keys that are read again. It applies where the pass continues between collections.
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
    /// The writes that Redis reports.
    pub(in crate::observe) tracked: Tracked,
    /// The number of collections so far. It selects the written keys whose expiry is read, other ones in each collection.
    pub(in crate::observe) collections: u64,
    pub(in crate::observe) budget: Duration,
    /// The share of each server's time that sweeps may take, and the accounts that all sweeps of the process have in common.
    pub(in crate::observe) share: f64,
    pub(in crate::observe) shares: RedisShares,
    /// Whether the pass continues between collections.
    pub(in crate::observe) goes_on: bool,
    pub(in crate::observe) label: KeyLabel,
    /// The unfinished pass, which the next collection continues.
    pub(in crate::observe) pass: Option<Pass>,
    /// Whether written keys were left unread. The current pass may already be beyond them.
    pub(in crate::observe) behind: bool,
    /// The watched key that was rechecked last. The next recheck begins after it.
    pub(in crate::observe) rechecked: Option<Box<[u8]>>,
    /// How much of Redis's time the current pass has taken so far, and when it began.
    pub(in crate::observe) pass_took: Duration,
    pub(in crate::observe) pass_begun: Instant,
    /// Whether a pass must begin between collections, because a collection had no time for it.
    pub(in crate::observe) is_owed: bool,
    /// The servers and connections of the previous collection, to continue its pass.
    pub(in crate::observe) between: Option<Between>,
    /// The result of the pass since the previous collection.
    pub(in crate::observe) found_between: SweepResult,
    /// The cost of the last full pass, if every write since then is known.
    pub(in crate::observe) steady: Option<Steady>,
    /// Commands sent since the start.
    pub(in crate::observe) commands_total: u64,
    pub(in crate::observe) last_full_pass: Option<Timestamp>,
    /// The passes over all servers that could be read that have ended since the start of the exporter.
    pub(in crate::observe) passes: u64,
    /// The ids of the nodes that this collection asks for their default limit.
    pub(in crate::observe) known_nodes: BTreeSet<String>,
    /// Registered nodes that were written since the last collection and are not known yet.
    pub(in crate::observe) new_nodes: BTreeSet<String>,
    /// Replicas that could not be reached and are not tried for a while.
    pub(in crate::observe) unreachable: Mutex<Unreachable>,
}

/// What reading waits for, and the keys to read in any case.
#[derive(Debug)]
pub(in crate::observe) struct Needs {
    /// The servers. Never sent if none of them answers.
    pub(in crate::observe) shards: oneshot::Receiver<Vec<ShardNow>>,
    /// The nodes' default limits.
    pub(in crate::observe) defaults: watch::Receiver<KnownDefaults>,
    /// The ids of the nodes that were asked for theirs.
    pub(in crate::observe) nodes: BTreeSet<String>,
    pub(in crate::observe) watched: Vec<Box<[u8]>>,
}

/// The result of reading, without the counters that were streamed.
#[derive(Debug)]
pub(in crate::observe) struct KeysRead {
    pub(in crate::observe) read: CountersRead,
    /// The labels of watched keys that could not be judged, and why.
    pub(in crate::observe) unjudged: BTreeMap<String, Reason>,
    pub(in crate::observe) failures: Vec<Failure>,
    /// The escaped ids of the registrations that the sweep found.
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
            self.known_nodes = needs.nodes;
            let mut defaults = needs.defaults;
            let shards = self.needs(clock, deadline, needs.shards, &mut defaults);
            let Ok(shards) = shards.await else {
                result.stopped = Some(Reason::RedisDown);
                return;
            };
            let keys = (&shards[..], &watched[..]);
            self.sweep(clock, deadline, keys, sink, &mut result, &mut dead)
                .await;
            seconds = Some(started.elapsed());
            // The nodes' part of the collection waits for the API, too, so this takes hardly longer. The deadline holds all the
            // same, so that the swept counters are kept.
            let settled = async {
                let _ = defaults.wait_for(KnownDefaults::is_api_done).await;
                let settled = defaults.wait_for(KnownDefaults::is_settled);
                let _ = tokio::time::timeout(PROMPT, settled).await;
            };
            let _ = tokio::time::timeout(deadline.left().mul_f64(0.9), settled).await;
            if self.take_default(clock, &defaults) {
                // The keys that were judged by the previous limit are judged again before anything is reported.
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
            // Redis may have reported writes that nothing has read.
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
            self.note_full_pass(clock);
        }
        if self.steady.is_some() && result.stopped == Some(Reason::Budget) {
            // All written keys were read. The next collections continue the pass.
            result.stopped = None;
        }
        if let (None, Some(failure)) = (result.stopped, &result.alone) {
            // The keys on unknown servers were not seen.
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

    /// Notes which nodes registered and are not known. They are asked for their default limit in the next collection, which may
    /// be higher. One that stays unknown, as its registration cannot be read, is not doubtful for ever.
    fn note_new_nodes(&mut self, written: &[(usize, Names)]) {
        let registry = self.memory.description.registry();
        let Some(registry) = registry.filter(|_| self.memory.described.is_none()) else {
            return;
        };
        let names = written.iter().flat_map(|(_, names)| names.iter());
        let ids = names.filter_map(|name| Some(encode_key(registry.id_of(name)?)));
        let new: BTreeSet<String> = ids.filter(|id| !self.known_nodes.contains(id)).collect();
        let is_new = !new.is_subset(&self.new_nodes);
        self.memory.limits.default_is_doubtful |= is_new;
        self.new_nodes = new;
    }

    /// The limits from APIs of a described kind.
    fn api(&mut self) -> Option<&mut ApiLimits> {
        self.memory.described.as_mut()?.api.as_mut()
    }

    fn note_full_pass(&mut self, clock: &Clock) {
        self.last_full_pass = Some(clock.now().wall);
    }

    /// Waits for the servers and for default limits. If a limit is remembered, the wait is short.
    async fn needs(
        &mut self,
        clock: &Clock,
        deadline: &Deadline,
        shards: oneshot::Receiver<Vec<ShardNow>>,
        defaults: &mut watch::Receiver<KnownDefaults>,
    ) -> Result<Vec<ShardNow>, RecvError> {
        let shards = shards.await;
        // The default limit is read even if Redis is unavailable: the API may be unavailable by the time that Redis returns.
        let remembered = shards.is_ok() && self.memory.limits.default_limit().is_some();
        let (api, others) = if remembered {
            (DEFAULT_WITHIN, PROMPT)
        } else {
            (Duration::MAX, deadline.left() / 2)
        };
        let asked = defaults.wait_for(KnownDefaults::is_api_asked);
        let is_asked = tokio::time::timeout(api, asked).await.is_ok();
        // The API, or a node, that was prompt the last time is waited for as long as that means.
        let is_worthwhile = is_asked || defaults.borrow().is_doubtful();
        if is_worthwhile && shards.is_ok() {
            let settled = defaults.wait_for(KnownDefaults::is_settled);
            let _ = tokio::time::timeout(others, settled).await;
        }
        // Before the first pass, only the list names nodes. Servers that are down may stay so, so a pass over the others is enough.
        let unlisted = self.passes == 0 && !defaults.borrow().listed;
        self.memory.limits.default_is_doubtful = defaults.borrow().is_doubtful() || unlisted;
        self.take_default(clock, defaults);
        shards
    }

    /// Takes over the default limit that no node exceeds, as far as is known. Returns whether it changed.
    fn take_default(&mut self, clock: &Clock, defaults: &watch::Receiver<KnownDefaults>) -> bool {
        let Some(limit) = defaults.borrow().limit() else {
            return false;
        };
        let changed = self.memory.limits.set_default(limit, clock.now().steady);
        if changed {
            // Keys that were not written may be above it now.
            self.begin_anew();
        }
        changed
    }

    /// What a sweep needs of each server. Records the idle round trip of each.
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
        // Stop before the deadline: a pass that stops can continue, one that is cut off is lost.
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
        if let Some(api) = self.api() {
            let changed = api.refresh(clock.now().steady, &mut result.api).await;
            if changed {
                // Keys that were not written must be judged by the new limits too.
                self.begin_anew();
            }
        }
        let written = self.written(&mut servers);
        self.note_new_nodes(&written);
        let slots = shards.iter().any(|now| !now.shard.slots.is_empty());
        let slots = slots.then(|| slots_of(shards.iter().map(|now| &now.shard)));
        let links = shards.iter().zip(&servers).map(|(now, server)| Link {
            primary: now.shard.primary.clone(),
            connection: match server {
                Some(server) => Ok(server.connection.clone()),
                None => Err(not_connected()),
            },
            timed: server.as_ref().is_some_and(|server| server.timed),
        });
        let all_report = servers.iter().flatten();
        let all_report =
            all_report.map(|server| !matches!(server.changes, Changes::NotReported(_)));
        let all_report = all_report.fold(result.failed.is_empty(), |all, one| all && one);
        let servers = Arc::new(Servers {
            router: Router::new(links.collect(), slots),
            lanes: self.lanes(shards, &servers, &result.sources),
            alone: result.alone.is_some(),
        });
        self.between = Some(Between {
            servers: Arc::clone(&servers),
            dead: result.failed.clone(),
            sources: result.sources.clone(),
            all_report,
        });
        self.collections += 1;
        let mut sweep = self.sweep_of(&servers, clock, sink);
        sweep.recheck(watched.to_vec(), half, result).await;
        let mut behind = false;
        for (lane, names) in written {
            behind |= !sweep.read_written(lane, &names, stop, result).await;
        }
        self.behind |= behind;
        if self.behind {
            // Some written keys are still unread. The current pass continues.
            self.steady = None;
        }
        if self.pass.is_none() {
            self.pass_begun = Instant::now();
        }
        let pings = shards.iter().filter_map(|now| now.ping.as_ref().ok());
        let round_trip = pings.max().copied().unwrap_or_default();
        if self.goes_on && deadline.left() < round_trip * ROUND_TRIPS {
            // A pass that is cut off is lost.
            self.is_owed = true;
            result.coverage = self.pass.as_ref().map_or(Some(0.0), Pass::coverage);
            result.stopped = Some(Reason::Budget);
        } else {
            let most = slice(self.steady, self.goes_on, self.share, self.budget);
            let slice = stop.min(Instant::now() + most);
            self.sweep_of(&servers, clock, sink)
                .run(slice, pin!(std::future::pending()), result)
                .await;
            self.passed(result, all_report);
        }
        // What the last pass could not judge holds until the next one has read it.
        let unfinished = self.pass.iter().map(|pass| &pass.totals);
        result.take_over(self.memory.totals.iter().chain(unfinished));
    }
}

/// How far the clock of a server is from the exporter's.
fn clock_offset(now: &ShardNow) -> SignedDuration {
    match &now.state {
        Some(state) => state.clock_offset,
        None => SignedDuration::ZERO,
    }
}
