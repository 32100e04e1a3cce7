//! Reads what a collection needs to know about the nodes: Redis's PING and registry, the management API, the nodes
//! themselves. If the first reading would raise an alarm, reads again. `judging` decides.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::observation::{
    Collector, Failure, LatencyWindow, Node, NodeMetrics, Reason, RedisInfo, RedisShard, encode_key,
};
use crate::observe::deadline::{Deadline, cut_off};
use crate::observe::http::api_reading::{ApiReading, NodeList, NodeListRequest, ask_api};
use crate::observe::http::client::Http;
use crate::observe::http::default_limits::DefaultLimits;
use crate::observe::http::management_api::address_of;
use crate::observe::nodes::canary::CanaryHistory;
use crate::observe::nodes::discovery::Discovery;
use crate::observe::nodes::failing_checks::Outage;
use crate::observe::nodes::history::NodeHistory;
use crate::observe::nodes::probes::{AddressReading, Ask, CONCURRENT, LateProbes};
use crate::observe::nodes::redis_basics::{
    RedisBasics, malformed, read_registrations, redis_basics, unread,
};
use crate::observe::nodes::registry::Registrations;
use crate::observe::nodes::requests::NodeRequests;
use crate::observe::nodes::state::{Glance, NodeMemory, Probe, RegistryReading, RegistryTiming};
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::topology::{ShardNow, Topology};

/// How long to wait before a node that stopped answering is asked again: a clean stop deletes the registration and closes
/// the port within 0.2 s, in no particular order.
pub(in crate::observe) const RECHECK_AFTER: Duration = Duration::from_millis(250);

/// The settings for reading nodes, and the state between collections.
#[derive(Debug)]
pub(in crate::observe) struct NodeReader {
    pub(in crate::observe) http: Http,
    pub(in crate::observe) urls: Vec<Url>,
    pub(in crate::observe) probe: bool,
    pub(in crate::observe) prometheus: Option<(Http, Url)>,
    /// The requests to the nodes.
    pub(in crate::observe) requests: Arc<NodeRequests>,
    /// Whether a management API lists the nodes.
    pub(in crate::observe) has_api: bool,
    /// The addresses of names, if each name may be several nodes.
    pub(in crate::observe) discovery: Option<Discovery>,
    /// The URLs of the configured nodes, with names resolved.
    pub(in crate::observe) node_urls: Vec<Url>,
    /// The span over which latencies are computed.
    pub(in crate::observe) window: LatencyWindow,
    pub(in crate::observe) timing: RegistryTiming,
    pub(in crate::observe) clock: Clock,
    pub(in crate::observe) topology: Topology,
    pub(in crate::observe) memory: NodeMemory,
    pub(in crate::observe) late_probes: LateProbes,
    pub(in crate::observe) default_limits: DefaultLimits,
    pub(in crate::observe) histories: BTreeMap<String, NodeHistory>,
    /// The address that each history was read from.
    pub(in crate::observe) read_at: BTreeMap<String, String>,
    pub(in crate::observe) canaries: BTreeMap<String, CanaryHistory>,
    pub(in crate::observe) last_api: Option<Url>,
    pub(in crate::observe) node_list: NodeListRequest,
    pub(in crate::observe) redis_was: RedisWas,
}

/// The state of Redis in the collection before.
#[derive(Debug, Default)]
pub(in crate::observe) struct RedisWas {
    /// Since when Redis has answered without a break or a restart.
    up_since: Option<Timestamp>,
    /// Since when its registrations have been those of the primary, without a break.
    current_since: Option<Timestamp>,
    /// The server is a replica, which can lose its primary at any time.
    is_replica: bool,
    run_id: Option<String>,
    /// Its memory was full in the last reading.
    full: bool,
    /// Since when it is no longer full.
    memory_freed: Option<Timestamp>,
}

/// From this share of `maxmemory` on, Redis may refuse writes that need memory.
const FULL: f64 = 1.0;

/// Below this share, a memory that was full counts as freed. Expiring keys alone do not free so much.
const FREED: f64 = 0.95;

impl RedisWas {
    /// Notes how full the memory is. Returns whether it was full until now.
    fn freed(&mut self, share: Option<f64>, now: Timestamp) -> bool {
        let Some(share) = share else { return false };
        if share >= FULL {
            (self.full, self.memory_freed) = (true, None);
        }
        let freed = self.full && share < FREED;
        if freed {
            (self.full, self.memory_freed) = (false, Some(now));
        }
        freed
    }
}

/// The readings of one collection, not judged yet.
#[derive(Debug, Default)]
pub(in crate::observe) struct NodesRead {
    /// How long PING took, or why it failed. `None` if the deadline passed first.
    pub(in crate::observe) ping: Option<Result<Duration, RedisFailure>>,
    pub(in crate::observe) info: Option<RedisInfo>,
    pub(in crate::observe) shards: Vec<RedisShard>,
    pub(in crate::observe) api: ApiReading,
    /// Whether the API answered without an error. `None` if no node is known that could be asked.
    pub(in crate::observe) api_up: Option<bool>,
    pub(in crate::observe) failures: Vec<Failure>,
    /// Failures of optional commands. They are counted, and fail no collector.
    pub(in crate::observe) denied: Vec<Failure>,
    pub(in crate::observe) seconds: BTreeMap<Collector, f64>,
    pub(in crate::observe) registry: RegistryReading,
    pub(in crate::observe) asked: BTreeSet<String>,
    pub(in crate::observe) addresses: BTreeMap<String, AddressReading>,
    pub(in crate::observe) outage: Option<Outage>,
}

/// The judged nodes, and their metrics.
#[derive(Debug, Default)]
pub(in crate::observe) struct NodesJudged {
    pub(in crate::observe) nodes: Vec<Node>,
    pub(in crate::observe) metrics: BTreeMap<String, NodeMetrics>,
}

impl NodeReader {
    /// Reads everything once, and a second time if needed.
    pub(in crate::observe) async fn run(
        &mut self,
        at: Moment,
        deadline: &Deadline,
        shards: oneshot::Sender<Vec<ShardNow>>,
    ) -> NodesRead {
        let started = Instant::now();
        let unresolved = self.find_nodes(deadline).await;
        let ids: Vec<String> = self.memory.ids().cloned().collect();
        let registry = self.requests.registry.as_ref();
        let absent = registry.is_none();
        let asked: BTreeSet<String> = self.memory.addresses().into_iter().collect();
        self.late_probes.retain(&asked);
        let targets = self.targets(&asked);
        let (bases, ask) = (self.api_bases(), self.ask());
        let is_asked = !bases.is_empty();
        self.default_limits.begin(&asked);
        if let Some(first) = bases.first() {
            let wanted =
                |address: &str| self.matters(address) || !self.default_limits.knows(address);
            let others = targets.iter().filter(|(_, url)| url != first);
            let others: Vec<_> = others.filter(|(at, _)| wanted(at)).cloned().collect();
            self.default_limits.ask(&self.http, others);
        }
        let (basics, api, found) = tokio::join!(
            deadline.cut(redis_basics(
                &mut self.topology,
                &self.clock,
                registry,
                ids,
                shards
            )),
            deadline.cut(ask_api(
                &self.http,
                bases,
                (&mut self.default_limits, &targets),
                at.steady,
                &mut self.node_list
            )),
            self.late_probes.ask_all(
                &self.http,
                targets.clone(),
                ask,
                &self.requests,
                deadline.passed()
            ),
        );
        let mut read = NodesRead {
            asked,
            addresses: found,
            failures: unresolved,
            api_up: is_asked.then_some(false),
            registry: RegistryReading {
                absent,
                ..RegistryReading::default()
            },
            ..NodesRead::default()
        };
        match api {
            Some(mut api) => {
                if let NodeList::Listed(nodes) = &mut api.nodes {
                    self.name_configured(nodes.iter_mut().map(|node| &mut node.address));
                }
                if api.base.is_some() {
                    self.last_api.clone_from(&api.base);
                }
                if is_asked {
                    read.seconds.insert(Collector::ManagementApi, api.seconds);
                    read.api_up = Some(api.up);
                }
                read.api = api;
            }
            None => read.failures.push(cut_off(Collector::ManagementApi)),
        }
        self.take_basics(at, basics, &mut read);

        let listed: Vec<String> = read
            .api
            .nodes
            .nodes()
            .iter()
            .map(|n| n.id.clone())
            .collect();
        self.read_new_registrations(deadline, listed, &mut read)
            .await;
        self.probe_new(deadline, &mut read).await;
        self.recheck(deadline, &mut read).await;
        let seconds = started.elapsed().as_secs_f64();
        if self.probe {
            read.seconds.insert(Collector::Probes, seconds);
        }
        read.seconds.insert(Collector::NodeMetrics, seconds);
        read
    }

    /// Reads only the known registrations. If a registration disappears before its TTL could expire, the node deleted it: a
    /// clean stop. To notice that, registrations must be read more often than they expire.
    pub(in crate::observe) async fn glance(&mut self) {
        if let Some(glance) = self.known_registrations().await {
            self.memory.learn_glances(vec![glance]);
        }
    }

    /// The same while a collection, which began at `begun`, still reads keys. What it sees is for after the judgement, whose
    /// readings are older.
    pub(in crate::observe) async fn glance_until(
        &mut self,
        swept: &CancellationToken,
        begun: Instant,
        deadline: &Deadline,
    ) -> Vec<Glance> {
        let every = self.timing.glance_every();
        let (mut next, mut glances) = (begun + every, Vec::new());
        loop {
            let pause = tokio::time::sleep_until(next);
            if swept.run_until_cancelled(pause).await.is_none() {
                return glances;
            }
            let Some(glance) = deadline.cut(self.known_registrations()).await else {
                self.topology.verify();
                return glances;
            };
            glances.extend(glance);
            next = Instant::now() + every;
        }
    }

    /// The known registrations now, unless they would prove nothing.
    async fn known_registrations(&mut self) -> Option<Glance> {
        let registry = self.requests.registry.as_ref()?;
        let ids: Vec<String> = self.memory.ids().cloned().collect();
        // While Redis does not answer, only collections judge.
        if ids.is_empty() || self.redis_was.current_since.is_none() {
            return None;
        }
        // On a replica without its primary, even renewed registrations expire.
        if self.redis_was.is_replica && self.topology.is_stale().await {
            return None;
        }
        let before = self.clock.now();
        // This uses open connections only. A new connection may lead to another Redis, where a missing registration was not
        // deleted.
        let (topology, clock) = (&mut self.topology, &self.clock);
        let mut read = read_registrations(topology, clock, registry, &ids).await;
        self.correct(&mut read);
        let registry = RegistryReading {
            readable: true,
            found: read.found,
            unread: read.unread,
            times: read.times,
            redis_up_since: self.redis_was.current_since,
            redis_restarted: false,
            memory_freed: self.redis_was.memory_freed,
            absent: false,
        };
        (registry.unread.len() < ids.len()).then_some((before.steady, registry))
    }

    /// Reads and probes the nodes that only the sweep found.
    pub(in crate::observe) async fn add_swept_nodes(
        &mut self,
        deadline: &Deadline,
        ids: Vec<String>,
        read: &mut NodesRead,
    ) {
        self.read_new_registrations(deadline, ids, read).await;
        self.probe_new(deadline, read).await;
    }

    fn take_basics(&mut self, at: Moment, basics: Option<RedisBasics>, read: &mut NodesRead) {
        let Some(basics) = basics else {
            read.failures.push(cut_off(Collector::Redis));
            read.failures.push(cut_off(Collector::Registry));
            read.ping = self.topology.failed_before().map(Err);
            self.topology.verify();
            self.redis_was.up_since = None;
            self.redis_was.current_since = None;
            return;
        };
        let was_up = self.redis_was.up_since.is_some();
        let run_id = basics.info.as_ref().map(|info| info.run_id.clone());
        let run_id = run_id.filter(|run_id| !run_id.is_empty());
        let restarted = match (&self.redis_was.run_id, &run_id) {
            (Some(before), Some(now)) => before != now,
            _ => false,
        };
        if basics.ping.is_err() {
            self.redis_was.up_since = None;
        } else if !was_up || restarted {
            self.redis_was.up_since = Some(at.steady);
        }
        if basics.ping.is_err() || basics.stale {
            self.redis_was.current_since = None;
        } else if self.redis_was.current_since.is_none() || restarted {
            self.redis_was.current_since = Some(at.steady);
        }
        let role = basics.info.as_ref().map(|info| info.role.as_str());
        self.redis_was.is_replica = role.is_some_and(|role| role != "master");
        if run_id.is_some() {
            self.redis_was.run_id = run_id;
        }
        // If Redis itself was unavailable since the last collection, errors in that time prove nothing about a node.
        let freed = self.redis_was.freed(basics.memory_used, at.steady);
        read.outage = match basics.ping {
            Ok(_) if !was_up || restarted => Some(Outage::Away),
            Ok(_) if freed => Some(Outage::OutOfMemory),
            _ => None,
        };
        let registrations = basics.registrations.filter(|read| {
            // If no registration could be read, the management API's list is better.
            read.unread.is_empty() || !read.found.is_empty() || !read.malformed.is_empty()
        });
        let readable = registrations.is_some();
        let mut registrations = registrations.unwrap_or_default();
        self.correct(&mut registrations);
        read.registry = RegistryReading {
            absent: self.requests.registry.is_none(),
            readable,
            found: registrations.found,
            unread: registrations.unread,
            times: registrations.times,
            redis_up_since: self.redis_was.current_since,
            redis_restarted: restarted,
            memory_freed: self.redis_was.memory_freed,
        };
        read.ping = Some(basics.ping);
        read.info = basics.info;
        read.shards = basics.shards;
        read.failures.extend(basics.failures);
        read.denied.extend(basics.denied);
        read.seconds.insert(Collector::Redis, basics.seconds);
        read.seconds.insert(Collector::Registry, basics.seconds);
    }

    /// Reads the registrations that were not read yet.
    async fn read_new_registrations(
        &mut self,
        deadline: &Deadline,
        ids: Vec<String>,
        read: &mut NodesRead,
    ) {
        let known: BTreeSet<&String> = self.memory.ids().collect();
        let new: Vec<String> = ids
            .into_iter()
            .filter(|id| !known.contains(id) && !read.registry.found.contains_key(id))
            .collect();
        self.read_registrations(deadline, new, read).await;
    }

    async fn read_registrations(
        &mut self,
        deadline: &Deadline,
        ids: Vec<String>,
        read: &mut NodesRead,
    ) {
        let Some(registry) = &self.requests.registry else {
            return;
        };
        if ids.is_empty() || !read.registry.readable {
            return;
        }
        let (topology, clock) = (&mut self.topology, &self.clock);
        let reading = read_registrations(topology, clock, registry, &ids);
        let Some(mut result) = deadline.cut(reading).await else {
            return self.topology.verify();
        };
        self.correct(&mut result);
        read.failures.extend(malformed(registry, &result));
        read.failures.extend(unread(&result));
        let (found, unread, times) = (result.found, result.unread, result.times);
        read.registry.read_again(found, unread, times);
    }

    /// Asks the addresses that this collection found.
    async fn probe_new(&mut self, deadline: &Deadline, read: &mut NodesRead) {
        let registered = read
            .registry
            .found
            .values()
            .filter_map(|r| r.address.clone());
        let listed = read
            .api
            .nodes
            .nodes()
            .iter()
            .map(|node| node.address.clone());
        let listed: Vec<String> = if read.registry.readable {
            Vec::new()
        } else {
            listed.collect()
        };
        let new: BTreeSet<String> = registered
            .chain(listed)
            .filter(|address| !read.asked.contains(address))
            .collect();
        if new.is_empty() {
            return;
        }
        let targets = self.targets(&new);
        read.asked.extend(new);
        self.probe(deadline, targets, read).await;
    }

    async fn probe(
        &mut self,
        deadline: &Deadline,
        targets: Vec<(String, Url)>,
        read: &mut NodesRead,
    ) {
        let (ask, cut) = (self.ask(), deadline.passed());
        let probes = &mut self.late_probes;
        let found = probes.ask_all(&self.http, targets, ask, &self.requests, cut);
        for (address, reading) in found.await {
            let is_cut_off = matches!(reading.probe, Some(Probe::CutOff));
            if !(is_cut_off && read.addresses.contains_key(&address)) {
                read.addresses.insert(address, reading);
            }
        }
    }

    /// If a node no longer answers, waits for a clean stop to end, then probes it again and reads its registration last: a
    /// node that stops cleanly has deleted its registration by then.
    async fn recheck(&mut self, deadline: &Deadline, read: &mut NodesRead) {
        let failed: BTreeMap<String, Reason> = read
            .addresses
            .iter()
            .filter_map(|(address, reading)| match reading.probe {
                Some(Probe::Failed(reason)) if self.matters(address) => {
                    Some((address.clone(), reason))
                }
                _ => None,
            })
            .collect();
        // A busy machine may take longer than a timeout once. A node that hangs does not answer the second time either.
        let left = deadline.left().saturating_sub(RECHECK_AFTER * 2);
        let rounds = u32::try_from(failed.len().div_ceil(CONCURRENT)).unwrap_or(u32::MAX);
        let in_time = |reason| match reason {
            Reason::Timeout => left > self.http.timeout() * rounds,
            _ => !left.is_zero(),
        };
        let again = failed.iter().filter(|(_, reason)| in_time(**reason));
        let again: Vec<String> = again.map(|(address, _)| address.clone()).collect();
        if !again.is_empty() {
            tokio::time::sleep(RECHECK_AFTER).await;
            let targets = self.targets(&again);
            self.probe(deadline, targets, read).await;
        }
        let ids: Vec<String> = self
            .memory
            .ids()
            .filter(|id| {
                let addresses = self.memory.addresses_of(id);
                addresses.iter().any(|address| failed.contains_key(address))
            })
            .cloned()
            .collect();
        self.read_registrations(deadline, ids, read).await;
    }

    /// Takes over what is known of the nodes. The addresses of configured names are known once they are resolved.
    pub(in crate::observe) fn take_memory(&mut self, memory: NodeMemory) {
        self.memory = memory;
        if self.discovery.is_none() {
            let statics = self.urls.iter().filter_map(address_of);
            self.memory.set_statics(statics);
        }
    }

    /// The pattern of the registrations' names.
    pub(in crate::observe) fn registrations(&self) -> Option<String> {
        let registry = self.requests.registry.as_ref()?;
        Some(encode_key(registry.key.glob()))
    }

    /// Gives registrations the addresses of the configuration, and leaves out those of nodes that left.
    fn correct(&self, read: &mut Registrations) {
        let addresses = read.found.values_mut();
        self.name_configured(addresses.filter_map(|it| it.address.as_mut()));
        self.memory
            .drop_revived(self.timing, &read.times, &mut read.found);
    }

    pub(in crate::observe) fn ask(&self) -> Ask {
        Ask {
            health: self.probe,
            metrics: true,
        }
    }
}
