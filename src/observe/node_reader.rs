//! The nodes' line of a collection: Redis's PING and registry, the management API, the nodes themselves. Looks a
//! second time where the first look would raise an alarm, then hands everything to the judge in `nodes`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::Url;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::api_line::{ApiReading, ask_api};
use super::canary::{CanaryHistory, ask_canaries};
use super::connector::Connector;
use super::deadline::Deadline;
use super::exposition::Selector;
use super::http::Http;
use super::management_api::base_of;
use super::node_metrics::{Checks, NodeHistory, Reading, way_to_redis};
use super::nodes::{
    NodeEvidence, NodeMemory, Probe, RedisEvidence, Registration, RegistryReading, RegistryTiming,
};
use super::probes::{AddressReading, Ask, ask_all};
use super::redis::{RedisFailure, ServerState, registrations, server_state};
use crate::clock::{Clock, Moment};
use crate::observation::{Collector, Failure, Limit, Node, NodeMetrics, Reason};

/// Base URLs that are tried for the management API in one collection.
const API_TRIES: usize = 4;

/// How long to wait before a second look at a node that stopped answering: a clean stop deletes its registration
/// and closes its port within 0.2 s, in no particular order.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// Everything about nodes that lives on between collections.
#[derive(Debug)]
pub(super) struct NodeReader {
    pub(super) http: Http,
    pub(super) urls: Vec<Url>,
    pub(super) probe: bool,
    pub(super) canary: bool,
    pub(super) prometheus: Option<Url>,
    pub(super) selectors: Arc<Vec<Selector>>,
    pub(super) timing: RegistryTiming,
    pub(super) clock: Clock,
    pub(super) control: Connector,
    pub(super) memory: NodeMemory,
    pub(super) histories: BTreeMap<String, NodeHistory>,
    pub(super) canaries: BTreeMap<String, CanaryHistory>,
    pub(super) last_api: Option<Url>,
    pub(super) redis_was: RedisWas,
}

/// Redis as the collection before left it.
#[derive(Debug, Default)]
pub(super) struct RedisWas {
    /// Since when it has answered without a break or a restart.
    up_since: Option<Timestamp>,
    run_id: Option<String>,
}

/// What the line brought, not judged yet.
#[derive(Debug, Default)]
pub(super) struct NodesRead {
    /// How long PING took, or why it failed; `None` if the deadline passed first.
    pub(super) ping: Option<Result<Duration, RedisFailure>>,
    pub(super) state: Option<ServerState>,
    pub(super) api: ApiReading,
    pub(super) failures: Vec<Failure>,
    pub(super) seconds: BTreeMap<Collector, f64>,
    registry: RegistryReading,
    asked: BTreeSet<String>,
    addresses: BTreeMap<String, AddressReading>,
    outage: Option<&'static str>,
}

/// The nodes as judged, and their metrics.
#[derive(Debug, Default)]
pub(super) struct NodesJudged {
    pub(super) nodes: Vec<Node>,
    pub(super) metrics: BTreeMap<String, NodeMetrics>,
}

/// What the control connection brought.
struct RedisBasics {
    ping: Result<Duration, RedisFailure>,
    state: Option<ServerState>,
    registrations: Option<BTreeMap<String, Registration>>,
    failures: Vec<Failure>,
    seconds: f64,
}

impl NodeReader {
    /// The first look, and the second where it is needed.
    pub(super) async fn run(
        &mut self,
        at: Moment,
        deadline: &Deadline,
        offset: oneshot::Sender<SignedDuration>,
        default: oneshot::Sender<Option<Limit>>,
    ) -> NodesRead {
        let started = Instant::now();
        let ids: Vec<String> = self.memory.ids().cloned().collect();
        let addresses = self.memory.addresses();
        let targets = self.targets(&addresses);
        let (bases, ask) = (self.api_bases(), self.ask());
        let (basics, api, found) = tokio::join!(
            deadline.cut(redis_basics(&mut self.control, &self.clock, ids, offset)),
            deadline.cut(ask_api(&self.http, bases, default)),
            ask_all(&self.http, targets, ask, &self.selectors, deadline.passed()),
        );
        let mut read = NodesRead {
            asked: addresses.into_iter().collect(),
            addresses: found,
            ..NodesRead::default()
        };
        match api {
            Some(api) => {
                if api.base.is_some() {
                    self.last_api.clone_from(&api.base);
                }
                read.seconds.insert(Collector::ManagementApi, api.seconds);
                read.api = api;
            }
            None => read.failures.push(cut_off(Collector::ManagementApi)),
        }
        self.take_basics(at, basics, &mut read);

        let listed: Vec<String> = read
            .api
            .nodes
            .iter()
            .flatten()
            .map(|n| n.id.clone())
            .collect();
        self.look_up(deadline, listed, &mut read).await;
        self.probe_new(deadline, &mut read).await;
        self.look_again(deadline, &mut read).await;
        let seconds = started.elapsed().as_secs_f64();
        read.seconds.insert(Collector::Probes, seconds);
        read.seconds.insert(Collector::NodeMetrics, seconds);
        read
    }

    /// Looks at the known registrations alone. A clean stop is told from a death by how soon the registration went,
    /// which takes a look more often than it lives.
    pub(super) async fn glance(&mut self) {
        let ids: Vec<String> = self.memory.ids().cloned().collect();
        // Whether Redis is there, and what it means if not, is for a collection to say.
        if ids.is_empty() || self.redis_was.up_since.is_none() {
            return;
        }
        // On a new connection Redis may be a new one, and what is missing there was not deleted.
        let Some(mut connection) = self.control.current() else {
            return;
        };
        let before = self.clock.now();
        match registrations(&mut connection, &ids).await {
            Ok(read) => {
                let registry = RegistryReading {
                    readable: true,
                    found: read.found,
                    read_at: Some(self.clock.now().steady),
                    redis_up_since: self.redis_was.up_since,
                    redis_restarted: false,
                };
                self.memory.learn_registrations(before.steady, &registry);
            }
            Err(error) => self.control.note(&error),
        }
    }

    /// Nodes that only the sweep came across.
    pub(super) async fn late(
        &mut self,
        deadline: &Deadline,
        ids: Vec<String>,
        read: &mut NodesRead,
    ) {
        self.look_up(deadline, ids, read).await;
        self.probe_new(deadline, read).await;
    }

    fn take_basics(&mut self, at: Moment, basics: Option<RedisBasics>, read: &mut NodesRead) {
        let Some(basics) = basics else {
            read.failures.push(cut_off(Collector::Redis));
            read.failures.push(cut_off(Collector::Registry));
            self.control.replace();
            self.redis_was.up_since = None;
            return;
        };
        let was_up = self.redis_was.up_since.is_some();
        let run_id = basics.state.as_ref().and_then(|state| state.info.as_ref());
        let run_id = run_id.map(|info| info.run_id.clone());
        let restarted = match (&self.redis_was.run_id, &run_id) {
            (Some(before), Some(now)) => before != now,
            _ => false,
        };
        if basics.ping.is_err() {
            self.redis_was.up_since = None;
        } else if !was_up || restarted {
            self.redis_was.up_since = Some(at.steady);
        }
        if run_id.is_some() {
            self.redis_was.run_id = run_id;
        }
        // Errors since the last collection prove nothing about a node if Redis itself was away in that time.
        read.outage =
            (basics.ping.is_ok() && (!was_up || restarted)).then_some("redis_just_returned");
        read.registry = RegistryReading {
            readable: basics.registrations.is_some(),
            found: basics.registrations.unwrap_or_default(),
            read_at: Some(self.clock.now().steady),
            redis_up_since: self.redis_was.up_since,
            redis_restarted: restarted,
        };
        read.ping = Some(basics.ping);
        read.state = basics.state;
        read.failures.extend(basics.failures);
        read.seconds.insert(Collector::Redis, basics.seconds);
        read.seconds.insert(Collector::Registry, basics.seconds);
    }

    /// Reads registrations that were not read yet.
    async fn look_up(&mut self, deadline: &Deadline, ids: Vec<String>, read: &mut NodesRead) {
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
        if ids.is_empty() || !read.registry.readable {
            return;
        }
        let Ok((mut connection, _)) = self.control.get().await else {
            return;
        };
        match deadline.cut(registrations(&mut connection, &ids)).await {
            Some(Ok(result)) => {
                for id in &ids {
                    read.registry.found.remove(id);
                }
                read.registry.found.extend(result.found);
                read.registry.read_at = Some(self.clock.now().steady);
                read.failures.extend(malformed(result.malformed));
            }
            Some(Err(error)) => {
                self.control.note(&error);
                let what = "HMGET of registrations";
                read.failures
                    .push(redis_failed(Collector::Registry, what, &error));
            }
            None => self.control.replace(),
        }
    }

    /// Asks the addresses that turned up in this collection.
    async fn probe_new(&self, deadline: &Deadline, read: &mut NodesRead) {
        let registered = read
            .registry
            .found
            .values()
            .filter_map(|r| r.address.clone());
        let listed = read
            .api
            .nodes
            .iter()
            .flatten()
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
        let found = ask_all(
            &self.http,
            targets,
            self.ask(),
            &self.selectors,
            deadline.passed(),
        );
        read.addresses.extend(found.await);
    }

    /// Where a node that used to answer does not, waits out a clean stop and looks again, registration last: a node
    /// that stops by itself has deleted it by then. Where checks both failed and worked, sees what they do now.
    async fn look_again(&mut self, deadline: &Deadline, read: &mut NodesRead) {
        let failed: BTreeMap<String, Reason> = read
            .addresses
            .iter()
            .filter_map(|(address, reading)| match reading.probe {
                Some(Probe::Failed(reason)) if self.memory.was_reached(address) => {
                    Some((address.clone(), reason))
                }
                _ => None,
            })
            .collect();
        // A timeout took long enough already.
        let quick = failed
            .iter()
            .filter(|(_, reason)| **reason != Reason::Timeout);
        let again: Vec<String> = quick.map(|(address, _)| address.clone()).collect();
        if !again.is_empty() && deadline.left() > SECOND_LOOK * 2 {
            tokio::time::sleep(SECOND_LOOK).await;
            let targets = self.targets(&again);
            let found = ask_all(
                &self.http,
                targets,
                self.ask(),
                &self.selectors,
                deadline.passed(),
            );
            read.addresses.extend(found.await);
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

    /// Judges the nodes and reads their metrics.
    pub(super) async fn judge(
        &mut self,
        at: Moment,
        deadline: &Deadline,
        read: &mut NodesRead,
    ) -> NodesJudged {
        let probes: BTreeMap<String, Probe> = read
            .addresses
            .iter()
            .filter_map(|(address, reading)| Some((address.clone(), reading.probe.clone()?)))
            .collect();
        let mut judged = NodesJudged::default();
        let mut redis = self.read_metrics(at, deadline, read, &mut judged).await;
        if self.canary {
            self.ask_canaries(at, deadline, read, &mut judged, &mut redis)
                .await;
        }
        let canary_refused = self
            .canaries
            .iter()
            .filter_map(|(id, history)| Some((id.clone(), history.refused()?)))
            .collect();
        judged.nodes = self.memory.judge(
            self.timing,
            &NodeEvidence {
                now: at.steady,
                registry: &read.registry,
                api: read.api.nodes.as_deref(),
                probes: &probes,
                redis: &redis,
                canary_refused: &canary_refused,
            },
        );
        let ids: BTreeSet<&str> = judged.nodes.iter().map(|node| node.id.as_str()).collect();
        judged.metrics.retain(|id, _| ids.contains(id.as_str()));
        self.histories.retain(|id, _| ids.contains(id.as_str()));
        self.canaries.retain(|id, _| ids.contains(id.as_str()));
        if let Some(prometheus) = self.prometheus.clone() {
            self.ask_prometheus(&prometheus, deadline, read, &mut judged)
                .await;
        }
        self.address_failures(read);
        judged
    }

    /// Takes in the nodes' `/metrics`, and what their checks say of Redis.
    async fn read_metrics(
        &mut self,
        at: Moment,
        deadline: &Deadline,
        read: &NodesRead,
        judged: &mut NodesJudged,
    ) -> BTreeMap<String, RedisEvidence> {
        let mut doubtful: BTreeMap<String, (String, Checks)> = BTreeMap::new();
        let mut evidence = BTreeMap::new();
        let owners = owners(read);
        for (id, address) in &owners {
            let Some(Ok(reading)) = read.addresses.get(address).and_then(|a| a.metrics.as_ref())
            else {
                continue;
            };
            let history = self.histories.entry(id.clone()).or_default();
            let (metrics, checks) = history.add(at.steady, reading, &self.selectors);
            judged.metrics.insert(id.clone(), metrics);
            if checks.errors_rose && (checks.answers_rose || read.outage.is_some()) {
                doubtful.insert(id.clone(), (address.clone(), checks));
            } else {
                evidence.insert(id.clone(), way_to_redis(checks, reading, read.outage, None));
            }
        }
        if doubtful.is_empty() {
            return evidence;
        }
        let addresses: Vec<String> = doubtful
            .values()
            .map(|(address, _)| address.clone())
            .collect();
        let ask = Ask {
            health: false,
            metrics: true,
        };
        let mut later = BTreeMap::new();
        if deadline.left() > SECOND_LOOK * 2 {
            tokio::time::sleep(SECOND_LOOK).await;
            let targets = self.targets(&addresses);
            later = ask_all(&self.http, targets, ask, &self.selectors, deadline.passed()).await;
        }
        for (id, (address, checks)) in doubtful {
            let first = read
                .addresses
                .get(&address)
                .and_then(|a| a.metrics.as_ref());
            let second = later.get(&address).and_then(|a| a.metrics.as_ref());
            let second: Option<&Reading> = second.and_then(|reading| reading.as_ref().ok());
            if let Some(Ok(first)) = first {
                evidence.insert(id, way_to_redis(checks, first, read.outage, second));
            }
        }
        evidence
    }

    /// One check to each node that answers: its way to Redis, its latency where no histogram tells it, and now and
    /// then whether it refuses what it must.
    async fn ask_canaries(
        &mut self,
        at: Moment,
        deadline: &Deadline,
        read: &mut NodesRead,
        judged: &mut NodesJudged,
        redis: &mut BTreeMap<String, RedisEvidence>,
    ) {
        let started = Instant::now();
        let nodes: Vec<(String, Url, bool)> = owners(read)
            .into_iter()
            .filter_map(|(id, address)| {
                let due = self
                    .canaries
                    .get(&id)
                    .is_none_or(|history| history.refusal_due(at.steady));
                Some((id, self.url_of(&address)?, due))
            })
            .collect();
        let ids: Vec<String> = nodes.iter().map(|(id, ..)| id.clone()).collect();
        let readings = ask_canaries(&self.http, nodes, deadline.passed()).await;
        if readings.len() < ids.len() {
            read.failures.push(cut_off(Collector::Canary));
        }
        for (id, reading) in readings {
            let history = self.canaries.entry(id.clone()).or_default();
            history.add(at.steady, &reading, self.http.timeout());
            let metrics = judged.metrics.entry(id.clone()).or_default();
            if let Some(p99) = history.p99() {
                metrics.canary_p99_ms = Some(p99.as_secs_f64() * 1e3);
                if metrics.latency_p99_ms.is_none() {
                    metrics.latency_p99_ms = metrics.canary_p99_ms;
                    metrics.latency_source = Some("canary".to_owned());
                }
            }
            match reading.check {
                Ok(_) => {
                    redis.insert(id, RedisEvidence::Works);
                }
                Err(error) => {
                    // Anything else than a 5xx or silence is the API's shape, not its Redis.
                    let server_error = error.status.is_some_and(|status| status.is_server_error());
                    if server_error || error.reason == Reason::Timeout {
                        redis.insert(id.clone(), RedisEvidence::Broken("canary check failed"));
                    }
                    let (reason, message) = (error.reason, error.message);
                    read.failures
                        .push(Failure::new(Collector::Canary, id, reason, message));
                }
            }
        }
        read.seconds
            .insert(Collector::Canary, started.elapsed().as_secs_f64());
    }

    async fn ask_prometheus(
        &self,
        base: &Url,
        deadline: &Deadline,
        read: &mut NodesRead,
        judged: &mut NodesJudged,
    ) {
        let started = Instant::now();
        let metric = &self.selectors[0].name;
        for node in judged.nodes.iter().filter(|node| node.is_up()) {
            let metrics = judged.metrics.entry(node.id.clone()).or_default();
            metrics.latency_p99_ms = None;
            metrics.latency_p99_bucket = None;
            metrics.latency_source = None;
            let asked = deadline.cut(super::prometheus::p99(&self.http, base, metric, &node.id));
            match asked.await {
                Some(Ok(Some(p99))) => {
                    metrics.latency_p99_ms = Some(p99.seconds * 1e3);
                    metrics.latency_p99_bucket = Some(p99.bucket);
                    metrics.latency_source = Some("prometheus".to_owned());
                }
                Some(Ok(None)) => metrics.latency_unknown = Some("no_samples".to_owned()),
                Some(Err(error)) => {
                    metrics.latency_unknown = Some(format!("prometheus_{}", error.reason));
                    read.failures.push(Failure::new(
                        Collector::Prometheus,
                        &node.id,
                        error.reason,
                        error.message,
                    ));
                }
                None => {
                    metrics.latency_unknown = Some("deadline".to_owned());
                    read.failures.push(cut_off(Collector::Prometheus));
                    break;
                }
            }
        }
        read.seconds
            .insert(Collector::Prometheus, started.elapsed().as_secs_f64());
    }

    /// Names what the addresses failed in. An address that was never reached is no failure of anything.
    fn address_failures(&self, read: &mut NodesRead) {
        let mut failures = Vec::new();
        for (address, reading) in &read.addresses {
            let matters = self.memory.was_reached(address) || self.memory.is_static(address);
            if let Some(error) = reading.probe_error.as_ref().filter(|_| matters) {
                let (reason, message) = (error.reason, error.message.clone());
                failures.push(Failure::new(Collector::Probes, address, reason, message));
            }
            let answered = matches!(reading.probe, Some(Probe::Answered { .. }));
            if let Some(Err(error)) = reading.metrics.as_ref().filter(|_| answered) {
                let (reason, message) = (error.reason, error.message.clone());
                failures.push(Failure::new(
                    Collector::NodeMetrics,
                    address,
                    reason,
                    message,
                ));
            }
        }
        let missing = read.asked.iter().filter(|address| {
            !read.addresses.contains_key(*address) && self.url_of(address).is_some()
        });
        failures.extend(missing.map(|address| {
            let message = format!("{address}: no answer before the collection's deadline");
            Failure::new(Collector::Probes, address, Reason::Deadline, message)
        }));
        read.failures.extend(failures);
    }

    /// The base URLs to try for the API, the one that answered last first.
    fn api_bases(&self) -> Vec<Url> {
        let known = self.memory.addresses();
        let candidates = self
            .last_api
            .iter()
            .chain(&self.urls)
            .cloned()
            .chain(known.iter().filter_map(|address| base_of(address)));
        let mut bases: Vec<Url> = Vec::new();
        for url in candidates {
            if !bases.contains(&url) {
                bases.push(url);
            }
        }
        bases.truncate(API_TRIES);
        bases
    }

    /// The URL to ask at `address`: a static one may have a scheme and a path of its own.
    fn url_of(&self, address: &str) -> Option<Url> {
        let mut statics = self.urls.iter();
        let found = statics.find(|url| address_of(url).as_deref() == Some(address));
        found.cloned().or_else(|| base_of(address))
    }

    fn targets<'a>(&self, addresses: impl IntoIterator<Item = &'a String>) -> Vec<(String, Url)> {
        addresses
            .into_iter()
            .filter_map(|address| Some((address.clone(), self.url_of(address)?)))
            .collect()
    }

    fn ask(&self) -> Ask {
        Ask {
            health: self.probe,
            metrics: true,
        }
    }
}

/// `host:port` of a static URL.
pub(super) fn address_of(url: &Url) -> Option<String> {
    Some(format!(
        "{}:{}",
        url.host_str()?,
        url.port_or_known_default()?
    ))
}

/// Which node's metrics each answering address holds: the id it tells, else the one that is registered there.
fn owners(read: &NodesRead) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for (address, reading) in &read.addresses {
        let told = match &reading.probe {
            Some(Probe::Answered { node_id, .. }) => node_id.clone(),
            Some(Probe::Failed(_)) => continue,
            None => None,
        };
        let registered = || {
            let mut found = read.registry.found.iter();
            let found = found.find(|(_, r)| r.address.as_ref() == Some(address));
            found.map(|(id, _)| id.clone())
        };
        let id = told.or_else(registered).unwrap_or_else(|| address.clone());
        owners.entry(id).or_insert_with(|| address.clone());
    }
    owners
}

pub(super) fn cut_off(collector: Collector) -> Failure {
    Failure::new(
        collector,
        "",
        Reason::Deadline,
        format!(
            "{}: no answer before the collection's deadline",
            collector.name()
        ),
    )
}

fn malformed(ids: Vec<(String, Reason)>) -> impl Iterator<Item = Failure> {
    ids.into_iter().map(|(id, reason)| {
        let message = format!("ratelimiter:nodes:{id}: expected a hash with an address");
        Failure::new(Collector::Registry, id, reason, message)
    })
}

fn redis_failed(collector: Collector, what: &str, error: &redis::RedisError) -> Failure {
    let failure = RedisFailure::of(what, error);
    Failure::new(collector, "", failure.reason, failure.message)
}

/// PING, then clock, INFO and the registrations of known nodes.
async fn redis_basics(
    control: &mut Connector,
    clock: &Clock,
    ids: Vec<String>,
    offset: oneshot::Sender<SignedDuration>,
) -> RedisBasics {
    let started = Instant::now();
    let mut basics = RedisBasics {
        ping: Ok(Duration::ZERO),
        state: None,
        registrations: None,
        failures: Vec::new(),
        seconds: 0.0,
    };
    let mut connection = match control.ping().await {
        Ok((connection, took)) => {
            basics.ping = Ok(took);
            connection
        }
        Err(failure) => {
            let (reason, message) = (failure.reason, failure.message.clone());
            basics
                .failures
                .push(Failure::new(Collector::Redis, "", reason, message));
            basics.ping = Err(failure);
            basics.seconds = started.elapsed().as_secs_f64();
            return basics;
        }
    };
    let what = "TIME and INFO";
    match server_state(&mut connection, clock).await {
        Ok(state) => {
            let errors = state.errors.iter();
            let failures = errors.map(|error| redis_failed(Collector::Redis, what, error));
            basics.failures.extend(failures);
            // Nobody waits if the sweep was cut off.
            let _ = offset.send(state.clock_offset);
            basics.state = Some(state);
        }
        Err(error) => {
            control.note(&error);
            basics
                .failures
                .push(redis_failed(Collector::Redis, what, &error));
        }
    }
    match registrations(&mut connection, &ids).await {
        Ok(read) => {
            basics.failures.extend(malformed(read.malformed));
            basics.registrations = Some(read.found);
        }
        Err(error) => {
            control.note(&error);
            let what = "HMGET of registrations";
            basics
                .failures
                .push(redis_failed(Collector::Registry, what, &error));
        }
    }
    basics.seconds = started.elapsed().as_secs_f64();
    basics
}
