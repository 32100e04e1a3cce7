//! Makes nodes and their metrics from all readings. Asks only what depends on those: metrics a second time if checks both
//! failed and worked, the canaries, the Prometheus server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Url;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::limiters::Canary;
use crate::observation::{Collector, Failure, Node, Reason};
use crate::observe::deadline::{Deadline, cut_off};
use crate::observe::http::client::Http;
use crate::observe::http::management_api::{address_of, place_on};
use crate::observe::latency::prometheus::latencies;
use crate::observe::nodes::canary::ask_canaries;
use crate::observe::nodes::failing_checks::{CheckCounts, Checks, is_doubtful};
use crate::observe::nodes::history::{NodeHistory, counts_of};
use crate::observe::nodes::probes::{Ask, LateProbes};
use crate::observe::nodes::reader::{NodeReader, NodesJudged, NodesRead, RECHECK_AFTER};
use crate::observe::nodes::state::{NodeEvidence, Probe, RedisEvidence};

/// Why a node is unknown whose metrics were not read.
const NO_METRICS: &str = "no_metrics";

/// Why a node is unknown that did not answer the canary.
const CANARY_UNANSWERED: &str = "canary_unanswered";

/// How often doubtful counters are read again, [`RECHECK_AFTER`] apart: for one second. In that time a busy node fails
/// often enough to prove that all checks fail.
const RECHECKS: u32 = 4;

impl NodeReader {
    /// Judges the nodes and reads their metrics.
    pub(in crate::observe) async fn judge(
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
        // Addresses first: an address at which several nodes answer counts for none of them.
        let addresses = NodeEvidence {
            now: at.steady,
            health: self.requests.health_path(),
            registry: &read.registry,
            api: &read.api.nodes,
            probes: &probes,
            redis: &BTreeMap::new(),
            covers_redis: self.requests.cover_redis(),
            canary_refused: &BTreeMap::new(),
        };
        self.memory.learn(self.timing, &addresses);
        let mut redis = self.read_metrics(at, deadline, read, &mut judged).await;
        if let Some(canary) = self.requests.canary.clone() {
            self.ask_canaries(&canary, at, deadline, read, (&mut judged, &mut redis))
                .await;
        }
        let canary_refused = self
            .canaries
            .iter()
            .filter_map(|(id, history)| Some((id.clone(), history.refused(at.steady)?)))
            .collect();
        judged.nodes = self.memory.judge(
            self.timing,
            &NodeEvidence {
                now: at.steady,
                health: self.requests.health_path(),
                registry: &read.registry,
                api: &read.api.nodes,
                probes: &probes,
                redis: &redis,
                covers_redis: self.requests.cover_redis(),
                canary_refused: &canary_refused,
            },
        );
        let asks_refusal = self
            .requests
            .canary
            .as_ref()
            .is_some_and(|it| it.sets_limit());
        if let Some(discovery) = &mut self.discovery {
            discovery.excuse(at.steady, &mut judged.nodes);
        }
        for node in judged.nodes.iter_mut().filter(|_| asks_refusal) {
            let asked = match node.state.as_deref() {
                Some("Down") => false,
                Some(_) => self.canaries.contains_key(&node.id),
                None => true,
            };
            if asked && node.canary_refused.is_none() {
                node.canary_reason = Some(CANARY_UNANSWERED.to_owned());
            }
        }
        let down = |node: &&Node| node.state.as_deref() == Some("Down");
        let down = judged.nodes.iter().filter(down);
        for address in down.flat_map(|node| self.memory.addresses_of(&node.id)) {
            self.default_limits.is_down(&address);
        }
        let ids: BTreeSet<&str> = judged.nodes.iter().map(|node| node.id.as_str()).collect();
        judged.metrics.retain(|id, _| ids.contains(id.as_str()));
        self.histories.retain(|id, _| ids.contains(id.as_str()));
        self.read_at.retain(|id, _| ids.contains(id.as_str()));
        self.canaries.retain(|id, _| ids.contains(id.as_str()));
        if let Some(prometheus) = self.prometheus.clone() {
            self.ask_prometheus(&prometheus, deadline, read, &mut judged)
                .await;
        }
        self.address_failures(read);
        judged
    }

    /// Reads the nodes' `/metrics`, and concludes from their checks whether they reach Redis.
    async fn read_metrics(
        &mut self,
        at: Moment,
        deadline: &Deadline,
        read: &NodesRead,
        judged: &mut NodesJudged,
    ) -> BTreeMap<String, RedisEvidence> {
        let mut checks: BTreeMap<String, (&String, CheckCounts, Checks)> = BTreeMap::new();
        let owners = self.owners(at.steady, read);
        let mut evidence: BTreeMap<String, RedisEvidence> = BTreeMap::new();
        for (id, address) in &owners {
            match read
                .addresses
                .get(address)
                .and_then(|reading| reading.redis)
            {
                Some(true) => evidence.insert(id.clone(), RedisEvidence::Healthy),
                Some(false) => {
                    let broken = RedisEvidence::Broken("its health, which covers Redis, fails");
                    evidence.insert(id.clone(), broken)
                }
                None => None,
            };
            let Some(Ok(reading)) = read.addresses.get(address).and_then(|a| a.metrics.as_ref())
            else {
                if self.requests.counts_failures() {
                    add_evidence(&mut evidence, id, RedisEvidence::Unread(NO_METRICS));
                }
                continue;
            };
            let before = self.read_at.insert(id.clone(), address.clone());
            if before.is_some_and(|before| before != *address) {
                // Another process, or several: its counters do not continue the earlier ones.
                self.histories.remove(id);
            }
            let overdue = self.is_overdue(id, read);
            let resumed = || NodeHistory::new(self.memory.is_cut_off(id));
            let history = self.histories.entry(id.clone()).or_insert_with(resumed);
            let (metrics, rise) =
                history.add(at.steady, reading, &self.requests.series, self.window);
            judged.metrics.insert(id.clone(), metrics);
            if !self.requests.series.redis_errors.is_empty() {
                let counted = !self.requests.series.answers.is_empty();
                let answered = counted.then_some(reading.check_answers);
                let failed = reading.redis_errors;
                let errors = &mut history.redis_errors;
                errors.healthy = matches!(evidence.get(id), Some(RedisEvidence::Healthy));
                let found = errors.add(at.steady, failed, answered, read.outage);
                add_evidence(&mut evidence, id, found);
                continue;
            }
            if self.requests.registry.is_none() || self.requests.series.answers.is_empty() {
                // Without heartbeats to confirm it, failing checks may have other causes than Redis.
                continue;
            }
            if overdue {
                history.checks.heartbeat_overdue();
            }
            checks.insert(id.clone(), (address, counts_of(reading), rise));
        }
        let later = self.recheck_doubtful(deadline, read, &checks).await;
        for (id, (address, first, checks)) in checks {
            let later = later.get(address).copied();
            let history = self.histories.entry(id.clone()).or_default();
            let found = history
                .checks
                .conclude(at.steady, checks, first, read.outage, later);
            add_evidence(&mut evidence, &id, found);
        }
        evidence
    }

    /// Whether a heartbeat of the node is overdue, or cannot be read.
    fn is_overdue(&self, id: &str, read: &NodesRead) -> bool {
        let registered = read.registry.found.get(id);
        !read.registry.readable
            || registered.is_none_or(|registered| self.timing.is_overdue(registered))
    }

    /// Reads doubtful counters again until no doubt is left, for at most a second. Returns the last counts of each address.
    async fn recheck_doubtful(
        &self,
        deadline: &Deadline,
        read: &NodesRead,
        checks: &BTreeMap<String, (&String, CheckCounts, Checks)>,
    ) -> BTreeMap<String, CheckCounts> {
        let ask = Ask {
            health: false,
            metrics: true,
        };
        let mut later: BTreeMap<String, CheckCounts> = BTreeMap::new();
        for _ in 0..RECHECKS {
            let doubtful = checks.values().filter(|(address, first, checks)| {
                is_doubtful(*checks, *first, read.outage, later.get(*address).copied())
            });
            let doubtful: Vec<&String> = doubtful.map(|(address, ..)| *address).collect();
            if doubtful.is_empty() || deadline.left() <= RECHECK_AFTER * 2 {
                break;
            }
            tokio::time::sleep(RECHECK_AFTER).await;
            let targets = self.targets(doubtful);
            let (mut probes, cut) = (LateProbes::default(), deadline.passed());
            let found = probes.ask_all(&self.http, targets, ask, &self.requests, cut);
            let readings = found.await.into_iter().filter_map(|(address, reading)| {
                Some((address, counts_of(&reading.metrics?.ok()?)))
            });
            later.extend(readings);
        }
        later
    }

    /// The address at which each answering node is asked: its registered one, else one that answers with its id or by which
    /// it is known. An address at which several nodes answer is left out.
    fn owners(&self, now: Timestamp, read: &NodesRead) -> BTreeMap<String, String> {
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for (address, reading) in &read.addresses {
            let answered_id = match &reading.probe {
                Some(Probe::Answered { node_id, .. }) => node_id.clone(),
                Some(Probe::Failed(_) | Probe::CutOff) => continue,
                None => None,
            };
            if self.memory.is_balanced(address, now) {
                continue;
            }
            let registered_at = |id: &str| {
                let registered = read.registry.found.get(id);
                registered.is_some_and(|r| r.address.as_ref() == Some(address))
            };
            let registered = || {
                let mut ids = read.registry.found.keys();
                ids.find(|id| registered_at(id)).cloned()
            };
            let id = answered_id.or_else(registered);
            // An unhealthy node answers without an id: its last id is used.
            let shown = || {
                let shown = self.memory.shown_at(address);
                shown.filter(|_| read.registry.absent)
            };
            let id = id.or_else(|| shown().map(str::to_owned));
            let id = id.unwrap_or_else(|| address.clone());
            if registered_at(&id) || !owners.contains_key(&id) {
                owners.insert(id, address.clone());
            }
        }
        owners
    }

    /// Sends one check to each node that answers. It shows whether the node reaches Redis, its latency if there is no
    /// histogram, and now and then whether the node still refuses.
    async fn ask_canaries(
        &mut self,
        canary: &Arc<Canary>,
        at: Moment,
        deadline: &Deadline,
        read: &mut NodesRead,
        (judged, redis): (&mut NodesJudged, &mut BTreeMap<String, RedisEvidence>),
    ) {
        let started = Instant::now();
        let nodes: Vec<(String, Url, bool)> = self
            .owners(at.steady, read)
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
        let readings = ask_canaries(&self.http, canary, nodes, deadline.passed()).await;
        if readings.len() < ids.len() {
            read.failures.push(cut_off(Collector::Canary));
        }
        for id in &ids {
            self.canaries.entry(id.clone()).or_default();
            // What the canary shows replaces this.
            let matters = self.memory.is_cut_off(id) || !redis.contains_key(id);
            if canary.covers_redis && matters {
                add_evidence(redis, id, RedisEvidence::Unread(CANARY_UNANSWERED));
            }
        }
        for (id, reading) in readings {
            let history = self.canaries.entry(id.clone()).or_default();
            let back = history.add(at.steady, &reading, self.http.timeout(), self.window);
            let metrics = judged.metrics.entry(id.clone()).or_default();
            if let Some(p99) = history.p99() {
                let newest = history.newest(self.window);
                metrics.canary_p99_ms = Some(p99.as_secs_f64() * 1e3);
                metrics.canary_newest_ms = newest.map(|newest| newest.as_secs_f64() * 1e3);
                if metrics.latency_p99_ms.is_none() {
                    metrics.take_canary();
                }
            }
            if canary.covers_redis && reading.is_cut_off() {
                redis.insert(id.clone(), RedisEvidence::Broken("canary check failed"));
            }
            match reading.check {
                Ok(_) if canary.covers_redis => {
                    let evidence = redis.entry(id).or_default();
                    match back {
                        Some(since) => *evidence = RedisEvidence::Returned(since),
                        None if matches!(evidence, RedisEvidence::Returned(_)) => {}
                        None => *evidence = RedisEvidence::Works,
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    read.failures.push(error.counted(Collector::Canary, &id));
                }
            }
        }
        read.seconds
            .insert(Collector::Canary, started.elapsed().as_secs_f64());
    }

    async fn ask_prometheus(
        &self,
        (http, base): &(Http, Url),
        deadline: &Deadline,
        read: &mut NodesRead,
        judged: &mut NodesJudged,
    ) {
        let started = Instant::now();
        let Some(durations) = self.requests.series.latency.first() else {
            return;
        };
        let id_label = self.requests.id_label.as_deref();
        let label = id_label.unwrap_or("instance");
        let query = latencies(http, base, durations, label, self.window);
        let answer = match deadline.cut(query).await {
            Some(Ok(latencies)) => Ok(latencies),
            Some(Err(error)) => {
                let reason = format!("prometheus_{}", error.reason);
                read.failures.push(error.counted(Collector::Prometheus, ""));
                Err(reason)
            }
            None => {
                read.failures.push(cut_off(Collector::Prometheus));
                Err("deadline".to_owned())
            }
        };
        for node in judged.nodes.iter().filter(|node| node.is_up()) {
            let scraped_at = self.scraped_at(node).filter(|_| id_label.is_none());
            let named = scraped_at.as_ref().unwrap_or(&node.id);
            let metrics = judged.metrics.entry(node.id.clone()).or_default();
            metrics.latency_p99_ms = None;
            metrics.latency_p99_bucket = None;
            metrics.latency_source = None;
            metrics.latency_newest = None;
            let latency = match &answer {
                Ok(latencies) => latencies.of(named, self.window).map_err(str::to_owned),
                Err(reason) => Err(reason.clone()),
            };
            match latency {
                Ok((p99, newest)) => {
                    metrics.latency_p99_ms = Some(p99.seconds * 1e3);
                    metrics.latency_p99_bucket = Some(p99.bucket);
                    metrics.latency_source = Some("prometheus".to_owned());
                    metrics.latency_newest = newest;
                    metrics.latency_unknown = None;
                }
                Err(reason) => {
                    metrics.latency_unknown = Some(reason);
                    metrics.take_canary();
                }
            }
        }
        read.seconds
            .insert(Collector::Prometheus, started.elapsed().as_secs_f64());
    }

    /// The host and port of the node's metrics.
    fn scraped_at(&self, node: &Node) -> Option<String> {
        let port = self.requests.metrics.as_ref()?.port;
        let url = self.url_of(node.address.as_deref()?)?;
        address_of(&place_on(&url, port, "")?)
    }

    /// Adds the failures of addresses. An address that was never reached is no failure, unless it is configured.
    fn address_failures(&self, read: &mut NodesRead) {
        let mut failures = Vec::new();
        for (address, reading) in &read.addresses {
            let matters = self.matters(address);
            if let Some(error) = reading.probe_error.as_ref().filter(|_| matters) {
                failures.push(error.clone().counted(Collector::Probes, address));
            }
            // A node that is gone has no metrics and no default limit either, and its probe is already a failure. Without
            // probes, only this is.
            let counts = match reading.probe {
                Some(Probe::Answered { .. }) => true,
                Some(Probe::Failed(_) | Probe::CutOff) => false,
                None => matters,
            };
            if let Some(Err(error)) = reading.metrics.as_ref().filter(|_| counts) {
                failures.push(error.clone().counted(Collector::NodeMetrics, address));
            }
            if let Some(error) = self.default_limits.take_error(address).filter(|_| counts) {
                failures.push(error.counted(Collector::ManagementApi, address));
            }
            let has_metrics = reading.metrics.is_some() || self.requests.metrics.is_none();
            let cut = match reading.probe {
                Some(Probe::CutOff) if matters => Some(Collector::Probes),
                Some(Probe::Answered { .. }) | None if !has_metrics => Some(Collector::NodeMetrics),
                _ => None,
            };
            failures.extend(cut.map(|collector| {
                let message = format!("{address}: no answer before the collection's deadline");
                Failure::new(collector, address, Reason::Deadline, message)
            }));
        }
        read.failures.extend(failures);
    }
}

/// Adds what a node's counters show, unless other evidence shows more.
fn add_evidence(evidence: &mut BTreeMap<String, RedisEvidence>, id: &str, found: RedisEvidence) {
    let known = evidence.entry(id.to_owned()).or_default();
    let more = match found {
        RedisEvidence::None => false,
        RedisEvidence::NoFailures | RedisEvidence::Unread(_) => {
            matches!(known, RedisEvidence::None | RedisEvidence::NoFailures)
        }
        _ => !matches!(known, RedisEvidence::Broken(_)),
    };
    if more {
        *known = found;
    }
}
