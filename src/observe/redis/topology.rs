//! Finds the servers that hold the data, and keeps the connections for that: one server, the primary that the sentinels
//! name, or all primaries of a cluster. Every collection finds them anew, and so follows a failover or a resharding.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use redis::{RedisError, RedisResult};

use crate::clock::Clock;
use crate::observation::Reason;
use crate::observe::fallback::first_success;
use crate::observe::redis::cluster::{Shard, ask_cluster, parse_slots, problem, slots_of};
use crate::observe::redis::connector::Connector;
use crate::observe::redis::deployment::{Access, RedisDeployment};
use crate::observe::redis::errors::{RedisFailure, first_of, not_connected};
use crate::observe::redis::router::{Link, Router};
use crate::observe::redis::sentinels::Sentinels;
use crate::observe::redis::server_state::{ServerState, Wanted, server_state, stale};

/// A primary, as this collection found it.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ShardNow {
    pub(in crate::observe) shard: Shard,
    pub(in crate::observe) ping: Result<Duration, RedisFailure>,
    pub(in crate::observe) state: Option<ServerState>,
    /// Set if the server is a node of a cluster whose other nodes are unknown: the reason why.
    pub(in crate::observe) alone: Option<RedisFailure>,
}

/// All primaries, and the failures that are not those of one primary.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Discovered {
    pub(in crate::observe) shards: Vec<ShardNow>,
    pub(in crate::observe) cluster: bool,
    /// Redis as a whole is unavailable, whatever single servers answer.
    pub(in crate::observe) problem: Option<RedisFailure>,
    /// A failure that the collection survives: the primary is known from before, or this server can be watched alone.
    pub(in crate::observe) harmless: Option<RedisFailure>,
    /// Optional commands that the Redis user may not send.
    pub(in crate::observe) denied: Vec<RedisFailure>,
}

/// The servers that were found last, and one connection to each.
#[derive(Debug)]
pub(in crate::observe) struct Topology {
    access: Arc<Access>,
    seeds: Vec<String>,
    keys: Vec<u8>,
    sentinels: Option<Sentinels>,
    /// The servers say that they are nodes of a cluster.
    cluster: bool,
    /// Replicas are asked for, too.
    replicas: bool,
    connectors: BTreeMap<String, Connector>,
    /// The primaries that were found last.
    shards: Vec<Shard>,
}

impl Topology {
    /// `keys` is the prefix of the keys that the Redis user may read.
    pub(in crate::observe) fn new(target: &RedisDeployment, keys: &[u8]) -> Self {
        let sentinels = target.sentinel_master.as_ref().map(|master| {
            let access = target.access(&target.sentinel_login, 0);
            Sentinels::new(&access, &target.seeds, master)
        });
        Self {
            access: target.access(&target.login, target.database),
            seeds: target.seeds.clone(),
            keys: keys.to_vec(),
            sentinels,
            cluster: false,
            replicas: target.prefer_replica,
            connectors: BTreeMap::new(),
            shards: Vec::new(),
        }
    }

    /// Finds the primaries and reads the state of each. Fails only if no address of a primary is known.
    pub(in crate::observe) async fn discover(
        &mut self,
        clock: &Clock,
    ) -> Result<Discovered, RedisFailure> {
        let mut discovered = Discovered::default();
        self.find(&mut discovered).await?;
        discovered.shards = self.ask_shards(clock).await;
        let proof = |now: &ShardNow| now.state.as_ref()?.proof_of_cluster();
        if !self.cluster
            && let Some(proof) = discovered.shards.iter().find_map(proof)
        {
            self.cluster = true;
            match self.find_cluster(&mut discovered.denied).await {
                Ok(problem) => {
                    discovered.problem = problem;
                    discovered.shards = self.ask_shards(clock).await;
                }
                Err(mut failure) => {
                    self.cluster = false;
                    failure.message = format!(
                        "{}; there is a cluster ({proof}) whose other servers are not known",
                        failure.message
                    );
                    for now in &mut discovered.shards {
                        now.alone = Some(failure.clone());
                    }
                    discovered.harmless = Some(failure);
                }
            }
        }
        discovered.cluster = self.cluster;
        let known: Vec<&String> = self.shards.iter().map(|shard| &shard.primary).collect();
        let seeds = &self.seeds;
        self.connectors
            .retain(|address, _| known.contains(&address) || seeds.contains(address));
        Ok(discovered)
    }

    /// The settings for connections to the servers that hold data.
    pub(in crate::observe) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// Whether the only server is a replica that has lost its primary. Makes no new connection.
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

    /// A router for the servers that were found last. Makes no new connection.
    pub(in crate::observe) fn router(&self) -> Router {
        let links = self.shards.iter().map(|shard| {
            let open = self.connectors.get(&shard.primary);
            let open = open.and_then(Connector::current);
            Link {
                primary: shard.primary.clone(),
                connection: open.ok_or_else(not_connected),
                timed: false,
            }
        });
        let slots = self.cluster.then(|| slots_of(self.shards.iter()));
        Router::new(links.collect(), slots)
    }

    /// Drops the connections that broke.
    pub(in crate::observe) fn note(&self, router: &Router, broken: &BTreeMap<usize, RedisError>) {
        for (link, error) in broken {
            if let Some(connector) = self.connectors.get(&router.links()[*link].primary) {
                connector.note(error);
            }
        }
    }

    /// Checks the connections, for a caller that gave up on an answer.
    pub(in crate::observe) fn verify(&self) {
        self.sentinels.iter().for_each(Sentinels::verify);
        self.connectors.values().for_each(Connector::verify);
    }

    /// For a caller that gave up on an answer: why the attempt before it failed at a primary. Where any seed may be the
    /// primary, all must have failed.
    pub(in crate::observe) fn failed_before(&self) -> Option<RedisFailure> {
        if self.cluster || self.sentinels.is_some() {
            let mut primaries = self.shards.iter().map(|shard| &shard.primary);
            return primaries.find_map(|primary| self.failed_at(primary));
        }
        let failures: Option<Vec<_>> = self.seeds.iter().map(|seed| self.failed_at(seed)).collect();
        failures?.into_iter().next()
    }

    fn failed_at(&self, address: &str) -> Option<RedisFailure> {
        self.connectors.get(address)?.failed_before()
    }

    async fn find(&mut self, discovered: &mut Discovered) -> Result<(), RedisFailure> {
        if self.cluster {
            match self.find_cluster(&mut discovered.denied).await {
                Ok(problem) => discovered.problem = problem,
                Err(failure) if self.shards.is_empty() => return Err(failure),
                // The known primaries are asked anyway, and report their own failures.
                Err(failure) => discovered.denied.push(failure),
            }
            if self.cluster {
                return Ok(());
            }
        }
        let primary = match &mut self.sentinels {
            Some(sentinels) => match (sentinels.primary().await, self.shards.first()) {
                (Ok(primary), _) => primary,
                (Err(failure), Some(before)) => {
                    discovered.harmless = Some(failure);
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

    /// The first seed that answers, or else the first seed.
    async fn first_seed(&mut self) -> String {
        if let [_, _, ..] = &self.seeds[..] {
            // The seed that answered last comes first: the seeds before it may hang, and need not be waited for again. If it
            // hangs itself, the collection may be shorter than its timeout: the next one begins with another seed.
            let last = self.shards.first().map(|shard| &shard.primary);
            let mut seeds = self.seeds.clone();
            seeds.sort_by_key(|seed| (self.failed_at(seed).is_some(), Some(seed) != last));
            let failed = |seed: &String| self.failed_at(seed).is_some();
            let at_once = failed(&seeds[0]) || last.is_some_and(failed);
            let pings = self.connectors(seeds.into_iter()).into_iter();
            let pings =
                pings.map(|(seed, connector)| async move { connector.ping().await.map(|_| seed) });
            let found = if at_once {
                let first = select_ok(pings.map(Box::pin)).await;
                first.ok().map(|(seed, _)| seed)
            } else {
                first_success(pings.collect()).await.0
            };
            if let Some(seed) = found {
                return seed;
            }
        }
        self.seeds[0].clone()
    }

    /// Asks a node of the cluster which primaries serve which slots. Nodes with an open connection are asked first.
    async fn find_cluster(
        &mut self,
        denied: &mut Vec<RedisFailure>,
    ) -> Result<Option<RedisFailure>, RedisFailure> {
        let known = self.shards.iter().map(|shard| &shard.primary);
        let addresses: Vec<String> = known.chain(&self.seeds).cloned().collect();
        let mut connectors = self.connectors(addresses.into_iter());
        connectors.sort_by_key(|(_, connector)| connector.current().is_none());
        let asked = connectors
            .into_iter()
            .map(|(address, connector)| async move {
                match ask_cluster(&connector).await {
                    Ok((slots, state)) => {
                        let shards = parse_slots(&slots, &address);
                        let what = format!("CLUSTER INFO {address}");
                        let denied = state.as_ref().err();
                        let denied = denied.map(|error| RedisFailure::of(&what, error));
                        let problem = problem(state.as_deref().unwrap_or_default(), &shards);
                        Ok(Some((problem, shards, denied)))
                    }
                    // The server was replaced by one without a cluster.
                    Err(error) if error.to_string().contains("cluster support disabled") => {
                        Ok(None)
                    }
                    Err(error) => {
                        connector.note(&error);
                        let what = format!("CLUSTER SLOTS {address}");
                        Err(RedisFailure::of(&what, &error))
                    }
                }
            });
        let (found, failures) = first_success(asked.collect()).await;
        let Some((problem, shards, without)) = found.ok_or_else(|| first_of(failures))? else {
            self.cluster = false;
            return Ok(None);
        };
        denied.extend(without);
        self.shards = shards;
        Ok(problem)
    }

    /// The connectors to these addresses, without duplicates.
    fn connectors(&mut self, addresses: impl Iterator<Item = String>) -> Vec<(String, Connector)> {
        let mut connectors: Vec<(String, Connector)> = Vec::new();
        for address in addresses {
            if connectors.iter().all(|(known, _)| *known != address) {
                let connector = self.connector(&address);
                connectors.push((address, connector));
            }
        }
        connectors
    }

    /// The connector to `address`. It is kept when the deadline cuts off its user.
    fn connector(&mut self, address: &str) -> Connector {
        let new = || Connector::new(Arc::clone(&self.access), address);
        let kept = self.connectors.entry(address.to_owned());
        kept.or_insert_with(new).clone()
    }

    async fn ask_shards(&mut self, clock: &Clock) -> Vec<ShardNow> {
        let shards = self.shards.clone();
        let connectors = shards.iter().map(|shard| self.connector(&shard.primary));
        let connectors: Vec<Connector> = connectors.collect();
        let wanted = Wanted {
            replicas: self.replicas,
            cluster: (!self.cluster).then_some(&*self.keys),
        };
        let asked = shards.iter().zip(connectors);
        let asked = asked.map(|(shard, connector)| ask_shard(shard, connector, clock, wanted));
        join_all(asked).await
    }
}

async fn ask_shard(
    shard: &Shard,
    connector: Connector,
    clock: &Clock,
    wanted: Wanted<'_>,
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
                Ok(state) if state.mode() == "sentinel" => {
                    let message = format!(
                        "PING {address}: this is a sentinel, which holds no data: a URL with \
                         redis+sentinel://{address}/NAME was probably meant"
                    );
                    now.ping = Err(RedisFailure::new(Reason::Unexpected, message));
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
