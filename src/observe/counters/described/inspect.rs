//! Tries a description on a real Redis, once: classifies every name and reads the counters. It is for authors of descriptions.
//! Nothing is judged or remembered.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures_util::future::{Either, join_all, select};
use jiff::SignedDuration;
use redis::RedisResult;

use super::{Described, ReadContext};
use crate::clock::Clock;
use crate::limiters::{Description, Inventory};
use crate::observe::counters::invalidations::Tracked;
use crate::observe::counters::limits::LimitRule;
use crate::observe::counters::pace::RedisShares;
use crate::observe::counters::shard_reader::ready;
use crate::observe::counters::sweep_result::{Lane, SweepResult, fail};
use crate::observe::counters::totals::Sample;
use crate::observe::redis::cluster::slots_of;
use crate::observe::redis::deployment::RedisDeployment;
use crate::observe::redis::errors::not_connected;
use crate::observe::redis::router::{Link, Router};
use crate::observe::redis::topology::Topology;

/// The parameters of an inspection.
#[derive(Clone, Copy, Debug)]
pub struct Inspection<'a> {
    /// The Redis.
    pub redis: &'a RedisDeployment,
    /// The share of each server's time that may be taken.
    pub share: f64,
    /// The limits in the configuration.
    pub rules: &'a [LimitRule],
    /// The description to try.
    pub description: &'a Arc<Description>,
}

/// The result of an inspection.
#[derive(Debug)]
pub struct Inspected {
    /// The findings.
    pub inventory: Inventory,
    /// Whether every name was classified.
    pub whole: bool,
    /// The servers that were read.
    pub servers: Vec<String>,
    /// How many keys were not read because they moved to another server meanwhile.
    pub moved: u64,
}

/// Classifies all names, until `stop` is ready. The error names the server that could not be read, and why.
pub async fn inspect(
    inspection: Inspection<'_>,
    clock: &Clock,
    stop: impl Future<Output = ()>,
) -> Result<Inspected, String> {
    let mut topology = Topology::new(inspection.redis, inspection.description.first_prefix());
    let access = topology.access();
    let found = topology.discover(clock).await;
    let found = found.map_err(|failure| failure.message)?;
    if let Some(failure) = found.problem.or(found.harmless) {
        // A cluster is read completely or not at all.
        return Err(failure.message);
    }
    let shards = found.shards;
    let unreachable = Mutex::default();
    let tracked = Tracked::new(inspection.description, None);
    let readied = shards
        .iter()
        .map(|now| ready(None, (&access, &tracked), now, &unreachable));
    let readied = join_all(readied).await;
    let time = RedisShares::default();
    let mut result = SweepResult::default();
    let (mut links, mut lanes, mut readers) = (Vec::new(), Vec::new(), Vec::new());
    for (now, readied) in shards.iter().zip(readied) {
        let server = readied.ready.map_err(|failure| failure.message)?;
        let source = readied.reader.source.clone();
        let pacer = time.pacer(&source, inspection.share);
        pacer.set_ping(server.ping);
        result.sources.push(source);
        links.push(Link {
            primary: now.shard.primary.clone(),
            connection: Ok(server.connection),
            timed: server.timed,
        });
        let offset = now.state.as_ref().map(|state| state.clock_offset);
        lanes.push(Lane {
            scanner: Some(server.scanner),
            clock_offset: offset.unwrap_or(SignedDuration::ZERO),
            pacer,
        });
        // Dropping a reader would close its connections.
        readers.push(readied.reader);
    }
    if links.is_empty() {
        return Err(format!("Redis: {}", not_connected()));
    }
    let slots = shards.iter().any(|now| !now.shard.slots.is_empty());
    let slots = slots.then(|| slots_of(shards.iter().map(|now| &now.shard)));
    let servers = result.sources.clone();
    let context = ReadContext {
        router: &Router::new(links, slots),
        lanes: &lanes,
        clock,
        rules: inspection.rules,
        earlier: &[],
    };
    let mut inventory = Inventory::new(inspection.description);
    let described = Described::new(Arc::clone(inspection.description), None);
    let whole = {
        let all = pin!(described.classify(&context, &mut inventory, &mut result));
        matches!(select(all, pin!(stop)).await, Either::Left(_))
    };
    if let Some(failure) = result.failed.into_values().next() {
        return Err(failure.message);
    }
    Ok(Inspected {
        inventory,
        whole,
        servers,
        moved: result.skipped.values().map(|skipped| skipped.times).sum(),
    })
}

impl Described {
    async fn classify(
        &self,
        context: &ReadContext<'_>,
        inventory: &mut Inventory,
        result: &mut SweepResult,
    ) {
        let mut sample = Sample::default();
        for lane in 0..context.lanes.len() {
            let mut cursor = b"0".to_vec();
            loop {
                // All names are scanned, to show the ones that a wrong pattern misses.
                let (next, names) = match scan(&context.lanes[lane], &cursor, context.step()).await
                {
                    Ok(scanned) => scanned,
                    Err(error) => return fail(lane, &error, result),
                };
                let mut names = names;
                inventory.take_registrations(&self.description, &mut names);
                for names in names.chunks(context.step()) {
                    let sampled = sample.of(names);
                    let (findings, _) = self.read_names(context, names, &sampled, result).await;
                    for (name, finding) in names.iter().zip(findings) {
                        if let Some(finding) = finding {
                            inventory.add(&self.description, name, &finding);
                        }
                    }
                }
                if !result.failed.is_empty() {
                    return;
                }
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
    }
}

/// The names from `cursor` on, and the next cursor.
async fn scan(lane: &Lane, cursor: &[u8], step: usize) -> RedisResult<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut scanner = lane.scanner.clone().ok_or_else(not_connected)?;
    let mut command = redis::cmd("SCAN");
    command.arg(cursor).arg("COUNT").arg(step);
    let scan = || async move { (command.query_async(&mut scanner).await, None) };
    lane.pacer.step(step, scan).await.0
}
