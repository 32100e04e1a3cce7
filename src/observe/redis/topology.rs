//! Which servers hold the data now, and the control connections to them: one server, the primary that the sentinels
//! name, or all primaries of a cluster. Found anew at every collection, so that a failover or a resharding is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{RedisError, RedisResult, Value};

use crate::clock::Clock;
use crate::observation::Reason;
use crate::observe::fallback::first_success;
use crate::observe::redis::address::{host_of, join};
use crate::observe::redis::connector::Connector;
use crate::observe::redis::deployment::{Access, RedisTarget};
use crate::observe::redis::errors::{RedisFailure, not_connected};
use crate::observe::redis::router::{Link, Router, Slots};
use crate::observe::redis::sentinels::Sentinels;
use crate::observe::redis::server_state::{ServerState, Wanted, server_state, stale};

/// The most primaries that are connected to: what Redis's own documentation gives as the largest sensible cluster. A
/// node that lies about its cluster cannot make us connect everywhere.
const MOST_PRIMARIES: usize = 1000;

/// A primary, and what it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Shard {
    /// `host:port`.
    pub(in crate::observe) primary: String,
    /// Ranges of slots, both ends included; empty without a cluster.
    pub(in crate::observe) slots: Vec<(u16, u16)>,
}

/// A primary as it was found now.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ShardNow {
    pub(in crate::observe) shard: Shard,
    pub(in crate::observe) ping: Result<Duration, RedisFailure>,
    pub(in crate::observe) state: Option<ServerState>,
    /// It is one of a cluster whose others are not known, and why not.
    pub(in crate::observe) alone: Option<RedisFailure>,
}

/// All primaries, and what is wrong besides.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Looked {
    pub(in crate::observe) shards: Vec<ShardNow>,
    pub(in crate::observe) cluster: bool,
    /// Redis as a whole does not serve, whatever the single server answers.
    pub(in crate::observe) problem: Option<RedisFailure>,
    /// What failed without harm: the primary is known from before, or this one can be watched alone.
    pub(in crate::observe) aside: Option<RedisFailure>,
    /// What the Redis user may not ask for, and need not.
    pub(in crate::observe) denied: Vec<RedisFailure>,
}

/// The control connections.
#[derive(Debug)]
pub(in crate::observe) struct Control {
    access: Arc<Access>,
    seeds: Vec<String>,
    keys: &'static [u8],
    sentinels: Option<Sentinels>,
    /// The servers are nodes of a cluster, as they say themselves.
    cluster: bool,
    /// Replicas are to be named too.
    replicas: bool,
    connectors: BTreeMap<String, Connector>,
    /// As last found.
    shards: Vec<Shard>,
}

impl Control {
    /// `keys` is what keys begin with that the Redis user may ask for.
    pub(in crate::observe) fn new(
        target: &RedisTarget,
        keys: &'static [u8],
    ) -> Result<Self, String> {
        let sentinels = match &target.sentinel_master {
            None => None,
            Some(master) => {
                let access = target.sentinel_access()?;
                Some(Sentinels::new(&access, &target.seeds, master))
            }
        };
        Ok(Self {
            access: target.access()?,
            seeds: target.seeds.clone(),
            keys,
            sentinels,
            cluster: false,
            replicas: target.prefer_replica,
            connectors: BTreeMap::new(),
            shards: Vec::new(),
        })
    }

    /// Finds the primaries and looks at each. Fails only if it cannot even be told where they would be.
    pub(in crate::observe) async fn look(&mut self, clock: &Clock) -> Result<Looked, RedisFailure> {
        let mut looked = Looked::default();
        self.find(&mut looked).await?;
        looked.shards = self.ask_shards(clock).await;
        if !self.cluster
            && let Some(proof) = looked.shards.iter().find_map(proof_of_cluster)
        {
            self.cluster = true;
            match self.find_cluster(&mut looked.denied).await {
                Ok(problem) => {
                    looked.problem = problem;
                    looked.shards = self.ask_shards(clock).await;
                }
                Err(mut failure) => {
                    self.cluster = false;
                    failure.message = format!(
                        "{}; there is a cluster ({proof}) whose other servers are not known",
                        failure.message
                    );
                    for now in &mut looked.shards {
                        now.alone = Some(failure.clone());
                    }
                    looked.aside = Some(failure);
                }
            }
        }
        looked.cluster = self.cluster;
        let known: Vec<&String> = self.shards.iter().map(|shard| &shard.primary).collect();
        let seeds = &self.seeds;
        self.connectors
            .retain(|address, _| known.contains(&address) || seeds.contains(address));
        Ok(looked)
    }

    /// How connections to the servers that hold data are made.
    pub(in crate::observe) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// Whether the only server is a replica that has lost its primary. Nothing is connected anew.
    pub(in crate::observe) async fn is_stale(&self) -> bool {
        let [shard] = &self.shards[..] else {
            return false;
        };
        let open = self.connectors.get(&shard.primary);
        let Some(mut connection) = open.and_then(Connector::current) else {
            return false;
        };
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let info: RedisResult<String> = info.query_async(&mut connection).await;
        info.is_ok_and(|info| stale(&shard.primary, &info).is_some())
    }

    /// Routes by what was found last. Nothing is connected anew.
    pub(in crate::observe) fn router(&self) -> Router {
        let links = self.shards.iter().map(|shard| {
            let open = self.connectors.get(&shard.primary);
            let open = open.and_then(Connector::current);
            Link {
                primary: shard.primary.clone(),
                connection: open.ok_or_else(not_connected),
            }
        });
        let slots = self.cluster.then(|| slots_of(self.shards.iter()));
        Router::new(links.collect(), slots)
    }

    /// Drops the connections that broke.
    pub(in crate::observe) fn note(
        &mut self,
        router: &Router,
        broken: &BTreeMap<usize, RedisError>,
    ) {
        for (link, error) in broken {
            if let Some(connector) = self.connectors.get_mut(&router.links()[*link].primary) {
                connector.note(error);
            }
        }
    }

    /// Drops every connection: answers may be on the way that nobody waits for any more.
    pub(in crate::observe) fn replace(&mut self) {
        self.connectors.clear();
    }

    async fn find(&mut self, looked: &mut Looked) -> Result<(), RedisFailure> {
        if self.cluster {
            match self.find_cluster(&mut looked.denied).await {
                Ok(problem) => looked.problem = problem,
                Err(failure) if self.shards.is_empty() => return Err(failure),
                // Each primary that was known says itself what is wrong with it.
                Err(failure) => looked.denied.push(failure),
            }
            if self.cluster {
                return Ok(());
            }
        }
        let primary = match &mut self.sentinels {
            Some(sentinels) => match (sentinels.primary().await, self.shards.first()) {
                (Ok(primary), _) => primary,
                (Err(failure), Some(before)) => {
                    looked.aside = Some(failure);
                    before.primary.clone()
                }
                (Err(failure), None) => return Err(failure),
            },
            None => self.first_seed().await,
        };
        self.shards = vec![Shard {
            primary,
            slots: Vec::new(),
        }];
        Ok(())
    }

    /// The first seed that answers, or the first of all if none does.
    async fn first_seed(&mut self) -> String {
        if let [_, _, ..] = &self.seeds[..] {
            // The one that answered last first: those before it may be hung, and are not waited for again.
            let last = self.shards.first().map(|shard| &shard.primary);
            let mut seeds = self.seeds.clone();
            seeds.sort_by_key(|seed| Some(seed) != last);
            let mut taken = self.take_connectors(seeds);
            let pings = taken.iter_mut().map(|(seed, connector)| async move {
                connector.ping().await.map(|_| seed.clone())
            });
            let found = first_success(pings.collect()).await;
            self.connectors.extend(taken);
            if let Ok(seed) = found {
                return seed;
            }
        }
        self.seeds[0].clone()
    }

    /// Asks a node of the cluster, those with a connection first, who serves which slots.
    async fn find_cluster(
        &mut self,
        denied: &mut Vec<RedisFailure>,
    ) -> Result<Option<RedisFailure>, RedisFailure> {
        let mut addresses: Vec<String> = self
            .shards
            .iter()
            .map(|shard| shard.primary.clone())
            .collect();
        addresses.extend(self.seeds.iter().cloned());
        addresses.sort_by_key(|address| {
            let open = self.connectors.get(address).and_then(Connector::current);
            open.is_none()
        });
        let mut taken = self.take_connectors(addresses);
        let asked = taken.iter_mut().map(|(address, connector)| async move {
            match ask_cluster(connector).await {
                Ok((slots, state)) => {
                    let shards = parse_slots(&slots, address);
                    let what = format!("CLUSTER INFO {address}");
                    let denied = state.as_ref().err();
                    let denied = denied.map(|error| RedisFailure::of(&what, error));
                    let problem = problem(state.as_deref().unwrap_or_default(), &shards);
                    Ok(Some((problem, shards, denied)))
                }
                // The server was replaced by one that is in no cluster.
                Err(error) if error.to_string().contains("cluster support disabled") => Ok(None),
                Err(error) => {
                    connector.note(&error);
                    let what = format!("CLUSTER SLOTS {address}");
                    Err(RedisFailure::of(&what, &error))
                }
            }
        });
        let found = first_success(asked.collect()).await;
        self.connectors.extend(taken);
        match found {
            Ok(Some((problem, shards, without))) => {
                denied.extend(without);
                self.shards = shards;
                Ok(problem)
            }
            Ok(None) => {
                self.cluster = false;
                Ok(None)
            }
            Err(failures) => Err(failures.into_iter().next().unwrap_or_else(|| RedisFailure {
                reason: Reason::Unexpected,
                message: "no node of the cluster is known".to_owned(),
            })),
        }
    }

    /// The connectors to these addresses, each once, to be put back.
    fn take_connectors(&mut self, addresses: Vec<String>) -> Vec<(String, Connector)> {
        let mut taken: Vec<(String, Connector)> = Vec::with_capacity(addresses.len());
        let mut seen = BTreeSet::new();
        for address in addresses {
            if seen.insert(address.clone()) {
                let connector = self.connectors.remove(&address);
                let connector =
                    connector.unwrap_or_else(|| Connector::new(Arc::clone(&self.access), &address));
                taken.push((address, connector));
            }
        }
        taken
    }

    async fn ask_shards(&mut self, clock: &Clock) -> Vec<ShardNow> {
        let wanted = Wanted {
            replicas: self.replicas,
            cluster: (!self.cluster).then_some(self.keys),
        };
        let asked = self.shards.iter().map(|shard| {
            let connector = self.connectors.remove(&shard.primary);
            let mut connector = connector
                .unwrap_or_else(|| Connector::new(Arc::clone(&self.access), &shard.primary));
            async move {
                let now = ask_shard(shard, &mut connector, clock, wanted).await;
                (now, connector)
            }
        });
        let asked: Vec<_> = asked.collect();
        let mut shards = Vec::with_capacity(asked.len());
        for (now, connector) in join_all(asked).await {
            self.connectors.insert(now.shard.primary.clone(), connector);
            shards.push(now);
        }
        shards
    }
}

/// The slots, and the state of the cluster, which may be denied.
async fn ask_cluster(connector: &mut Connector) -> RedisResult<(Value, RedisResult<String>)> {
    let (mut connection, _) = connector.get().await?;
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    pipe.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let answers: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_else(|| Err(not_connected()));
    let (slots, state) = (next()?, next());
    let state = state.and_then(|state| Ok(redis::from_redis_value::<String>(state)?));
    Ok((slots, state))
}

/// How it is known that a server is one of a cluster, if it is.
fn proof_of_cluster(now: &ShardNow) -> Option<String> {
    let state = now.state.as_ref()?;
    let moved = state.elsewhere.clone();
    state
        .is_of_cluster()
        .then(|| moved.unwrap_or_else(|| "INFO says so".to_owned()))
}

async fn ask_shard(
    shard: &Shard,
    connector: &mut Connector,
    clock: &Clock,
    wanted: Wanted,
) -> ShardNow {
    let mut now = ShardNow {
        shard: shard.clone(),
        ping: Ok(Duration::ZERO),
        state: None,
        alone: None,
    };
    let address = &shard.primary;
    match connector.ping().await {
        Err(failure) => now.ping = Err(failure),
        Ok((mut connection, took)) => {
            now.ping = Ok(took);
            match server_state(&mut connection, address, clock, wanted).await {
                Ok(state) if is_sentinel(&state) => {
                    now.ping = Err(RedisFailure {
                        reason: Reason::Unexpected,
                        message: format!(
                            "PING {address}: this is a sentinel, which holds no data: a URL with \
                             redis+sentinel://{address}/NAME was probably meant"
                        ),
                    });
                }
                Ok(state) => now.state = Some(state),
                Err(error) => {
                    connector.note(&error);
                    now.state = Some(ServerState::failed(address, &error));
                }
            }
        }
    }
    now
}

fn is_sentinel(state: &ServerState) -> bool {
    let info = state.info.as_ref();
    info.is_some_and(|info| info.mode == "sentinel")
}

/// `CLUSTER SLOTS` as told by `asked`: which primary serves what. An answer without a host means the one asked.
fn parse_slots(answer: &Value, asked: &str) -> Vec<Shard> {
    let mut shards: Vec<Shard> = Vec::new();
    let Value::Array(ranges) = answer else {
        return shards;
    };
    let asked_host = host_of(asked);
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(primary),
            ..,
        ] = &parts[..]
        else {
            continue;
        };
        let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(*last)) else {
            continue;
        };
        let [host, Value::Int(port), ..] = &primary[..] else {
            continue;
        };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() && host != b"?" => {
                String::from_utf8_lossy(host).into_owned()
            }
            _ => asked_host.to_owned(),
        };
        let primary = join(&host, &port.to_string());
        match shards.iter_mut().find(|shard| shard.primary == primary) {
            Some(shard) => shard.slots.push((first, last)),
            None => shards.push(Shard {
                primary,
                slots: vec![(first, last)],
            }),
        }
    }
    shards.sort_by_key(|shard| shard.slots.iter().min().copied());
    shards.truncate(MOST_PRIMARIES);
    shards
}

/// What `CLUSTER INFO` says of the cluster as a whole.
fn problem(info: &str, shards: &[Shard]) -> Option<RedisFailure> {
    let fails = info.lines().any(|line| line.trim() == "cluster_state:fail");
    if !fails && !shards.is_empty() {
        return None;
    }
    let served: u32 = shards
        .iter()
        .flat_map(|shard| &shard.slots)
        .map(|(first, last)| u32::from(last.saturating_sub(*first)) + 1)
        .sum();
    Some(RedisFailure {
        reason: Reason::Clusterdown,
        message: format!("CLUSTER INFO: cluster_state is fail; {served} of 16384 slots assigned"),
    })
}

/// The ranges of `shards` in rising order, each with its shard's place.
pub(in crate::observe) fn slots_of<'a>(shards: impl Iterator<Item = &'a Shard>) -> Slots {
    let mut slots: Slots = shards
        .enumerate()
        .flat_map(|(link, shard)| shard.slots.iter().map(move |&(a, b)| (a, b, link)))
        .collect();
    slots.sort_unstable();
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: i64) -> Value {
        Value::Array(vec![
            Value::BulkString(host.as_bytes().to_vec()),
            Value::Int(port),
            Value::BulkString(b"id".to_vec()),
        ])
    }

    #[test]
    fn ranges_of_one_primary_are_one_shard_and_a_missing_host_is_the_one_asked() {
        let range = |first, last, port, host: &str| {
            let replica = node("10.0.0.9", 1);
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                node(host, port),
                replica,
            ])
        };
        let answer = Value::Array(vec![
            range(8000, 16383, 7001, ""),
            range(0, 100, 7000, "10.0.0.1"),
            range(200, 300, 7000, "10.0.0.1"),
        ]);
        let shards = parse_slots(&answer, "10.0.0.7:7001");
        let shown: Vec<_> = shards
            .iter()
            .map(|shard| (shard.primary.as_str(), shard.slots.as_slice()))
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.1:7000", &[(0, 100), (200, 300)][..]),
                ("10.0.0.7:7001", &[(8000, 16383)][..]),
            ]
        );
        let slots = slots_of(shards.iter());
        assert_eq!(slots, [(0, 100, 0), (200, 300, 0), (8000, 16383, 1)]);
        let fail = problem("cluster_state:fail\r\n", &shards).unwrap();
        assert!(fail.message.contains("8586 of 16384"), "{}", fail.message);
        assert_eq!(problem("cluster_state:ok\r\n", &shards), None);
        assert!(problem("cluster_state:ok\r\n", &[]).is_some());
    }
}
