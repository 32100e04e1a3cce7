//! What a collection asks of Redis: its servers, PING, its clock and INFO, and the registrations of known nodes.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::limiters::Registry;
use crate::observation::{Collector, Failure, RedisInfo, RedisShard, decode_key, encode_key};
use crate::observe::nodes::registry::{Registrations, registrations};
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::topology::{Discovered, ShardNow, Topology};

/// The answers of Redis.
pub(in crate::observe) struct RedisBasics {
    /// The slowest PING, or why one of them failed.
    pub(in crate::observe) ping: Result<Duration, RedisFailure>,
    pub(in crate::observe) info: Option<RedisInfo>,
    /// The share of `maxmemory` that the fullest server uses, if all servers report it.
    pub(in crate::observe) memory_used: Option<f64>,
    pub(in crate::observe) shards: Vec<RedisShard>,
    /// `None` if no server answered, or if the limiter has no registry.
    pub(in crate::observe) registrations: Option<Registrations>,
    /// The server is a replica that has lost its primary. It is not asked for registrations.
    pub(in crate::observe) stale: bool,
    pub(in crate::observe) failures: Vec<Failure>,
    /// Optional commands that the Redis user may not send. They are listed, and fail no collector.
    pub(in crate::observe) denied: Vec<Failure>,
    pub(in crate::observe) seconds: f64,
}

/// Finds the servers and sends PING to each. Then reads clock, INFO and the registrations of known nodes.
pub(in crate::observe) async fn redis_basics(
    topology: &mut Topology,
    clock: &Clock,
    registry: Option<&Registry>,
    ids: Vec<String>,
    shards: oneshot::Sender<Vec<ShardNow>>,
) -> RedisBasics {
    let started = Instant::now();
    let basics = match topology.discover(clock).await {
        Ok(discovered) => {
            let basics = basics_of(&discovered);
            if discovered.shards.iter().any(|now| now.ping.is_ok()) {
                // If the sweep was cut off, the receiver is gone.
                let _ = shards.send(discovered.shards);
                if basics.stale {
                    return basics.after(started);
                }
                match registry {
                    Some(registry) => {
                        let read = read_registrations(topology, clock, registry, &ids).await;
                        with_registrations(basics, registry, read)
                    }
                    None => basics,
                }
            } else {
                basics
            }
        }
        Err(failure) => RedisBasics {
            failures: vec![failure.clone().counted(Collector::Redis, "")],
            ping: Err(failure),
            info: None,
            memory_used: None,
            shards: Vec::new(),
            registrations: None,
            stale: false,
            denied: Vec::new(),
            seconds: 0.0,
        },
    };
    basics.after(started)
}

impl RedisBasics {
    fn after(mut self, started: Instant) -> Self {
        self.seconds = started.elapsed().as_secs_f64();
        self
    }
}

/// Reads the registrations of `ids`, and drops the connections that broke meanwhile.
pub(in crate::observe) async fn read_registrations(
    topology: &mut Topology,
    clock: &Clock,
    registry: &Registry,
    ids: &[String],
) -> Registrations {
    let router = topology.router();
    let read = registrations(&router, clock, registry, ids).await;
    topology.note(&router, &read.broken);
    read
}

fn with_registrations(
    mut basics: RedisBasics,
    registry: &Registry,
    read: Registrations,
) -> RedisBasics {
    basics.failures.extend(malformed(registry, &read));
    // A server that did not answer PING is already among the failures.
    if basics.ping.is_ok() {
        basics.failures.extend(unread(&read));
    }
    basics.registrations = Some(read);
    basics
}

fn basics_of(discovered: &Discovered) -> RedisBasics {
    let mut failures = Vec::new();
    let mut denied = Vec::new();
    let mut lost = None;
    // The address of a single server is known from the configuration.
    let subject = |now: &ShardNow| {
        let named = discovered.cluster.then(|| now.shard.primary.clone());
        named.unwrap_or_default()
    };
    let mut slowest = Duration::ZERO;
    let mut dead: Vec<(&ShardNow, &RedisFailure)> = Vec::new();
    for now in &discovered.shards {
        match &now.ping {
            Ok(took) => slowest = slowest.max(*took),
            Err(failure) => {
                failures.push(failure.clone().counted(Collector::Redis, &subject(now)));
                dead.push((now, failure));
            }
        }
        let Some(state) = &now.state else { continue };
        let counted = |failure: &RedisFailure| {
            let failure = failure.clone();
            failure.counted(Collector::Redis, &subject(now))
        };
        failures.extend(state.broke.iter().map(counted));
        denied.extend(state.denied.iter().map(counted));
        lost = lost.or(state.stale.as_ref());
    }
    for failure in discovered.problem.iter().chain(&discovered.harmless) {
        failures.push(failure.clone().counted(Collector::Redis, ""));
    }
    let without = discovered.denied.iter().cloned();
    denied.extend(without.map(|failure| failure.counted(Collector::Redis, "")));
    let lost = lost.filter(|_| !discovered.cluster);
    failures.extend(lost.map(|lost| lost.clone().counted(Collector::Registry, "")));
    let ping = match (&dead[..], &discovered.problem) {
        ([], None) => Ok(slowest),
        ([], Some(problem)) => Err(problem.clone()),
        ([(_, failure), ..], _) if !discovered.cluster => Err((*failure).clone()),
        ([(_, failure), ..], _) => Err(RedisFailure {
            reason: failure.reason,
            message: format!(
                "{} of {} primaries of the cluster: {}",
                dead.len(),
                discovered.shards.len(),
                failure.message
            ),
        }),
    };
    RedisBasics {
        ping,
        info: merged(&discovered.shards),
        memory_used: fullest(&discovered.shards),
        shards: discovered.shards.iter().map(shard).collect(),
        registrations: None,
        stale: lost.is_some(),
        failures,
        denied,
        seconds: 0.0,
    }
}

fn shard(now: &ShardNow) -> RedisShard {
    RedisShard {
        address: now.shard.primary.clone(),
        connected: now.ping.is_ok(),
        reason: now
            .ping
            .as_ref()
            .err()
            .map(|failure| failure.message.clone()),
        swept_from: None,
    }
}

/// The share of its memory that the fullest server uses. `None` if one server does not report it. A server without a limit
/// counts as empty.
fn fullest(shards: &[ShardNow]) -> Option<f64> {
    let mut fullest: f64 = 0.0;
    for now in shards {
        let info = now.state.as_ref()?.info.as_ref()?;
        let (used, most) = (info.used_memory?, info.max_memory?);
        if most > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a share, not a count of bytes")]
            let share = used as f64 / most as f64;
            fullest = fullest.max(share);
        }
    }
    (!shards.is_empty()).then_some(fullest)
}

/// The INFO of all servers combined. Figures are summed, and missing unless every server reports them.
fn merged(shards: &[ShardNow]) -> Option<RedisInfo> {
    let infos: Vec<&RedisInfo> = shards
        .iter()
        .filter_map(|now| now.state.as_ref()?.info.as_ref())
        .collect();
    let first = infos.first()?;
    if shards.len() == 1 {
        return Some((*first).clone());
    }
    let all = infos.len() == shards.len();
    let sum = |figure: fn(&RedisInfo) -> Option<u64>| {
        let figures: Option<Vec<u64>> = infos.iter().map(|info| figure(info)).collect();
        figures.filter(|_| all).map(|figures| figures.iter().sum())
    };
    let mut runs: Vec<&str> = infos.iter().map(|info| info.run_id.as_str()).collect();
    runs.sort_unstable();
    // If one server has no limit, the sum has none.
    let max_memory = sum(|info| info.max_memory);
    let unlimited = infos.iter().any(|info| info.max_memory == Some(0));
    Some(RedisInfo {
        version: first.version.clone(),
        role: first.role.clone(),
        mode: first.mode.clone(),
        run_id: if all { runs.join(",") } else { String::new() },
        evicted_keys: sum(|info| info.evicted_keys),
        used_memory: sum(|info| info.used_memory),
        max_memory: if unlimited {
            max_memory.map(|_| 0)
        } else {
            max_memory
        },
        operations_per_second: sum(|info| info.operations_per_second),
    })
}

/// The failures for malformed registrations.
pub(in crate::observe) fn malformed(
    registry: &Registry,
    read: &Registrations,
) -> impl Iterator<Item = Failure> {
    read.malformed.iter().map(|(id, reason)| {
        let name = encode_key(&registry.name_of(&decode_key(id)));
        let message = format!("{name}: expected a hash with an address");
        Failure::new(Collector::Registry, id, *reason, message)
    })
}

/// The failure for registrations that could not be read, if there are any.
pub(in crate::observe) fn unread(read: &Registrations) -> Option<Failure> {
    Some(read.why.clone()?.counted(Collector::Registry, ""))
}
