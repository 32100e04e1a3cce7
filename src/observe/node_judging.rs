//! The end of the nodes' line: everything that was read becomes nodes and their metrics. Asks only what depends on the
//! rest: the second reading of metrics where checks both failed and worked, the canaries, the Prometheus server.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;
use tokio::time::Instant;

use super::canary::ask_canaries;
use super::deadline::Deadline;
use super::failing_checks::{Checks, way_to_redis};
use super::http::Http;
use super::node_metrics::Reading;
use super::node_reader::{NodeReader, NodesJudged, NodesRead, SECOND_LOOK, cut_off};
use super::nodes::{NodeEvidence, Probe, RedisEvidence};
use super::probes::{Ask, ask_all};
use crate::clock::Moment;
use crate::observation::{Collector, Failure, Reason};

impl NodeReader {
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
        let evidence = self.evidence_of_checks(at, deadline, read, judged).await;
        let believed = evidence.into_iter().map(|(id, evidence)| {
            let history = self.histories.entry(id.clone()).or_default();
            let believed = history.believe(at.steady, evidence, read.outage);
            (id, believed)
        });
        believed.collect()
    }

    async fn evidence_of_checks(
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
                let newest = history.newest();
                metrics.canary_p99_ms = Some(p99.as_secs_f64() * 1e3);
                metrics.canary_newest_ms = newest.map(|newest| newest.as_secs_f64() * 1e3);
                if metrics.latency_p99_ms.is_none() {
                    metrics.take_canary();
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
        (http, base): &(Http, Url),
        deadline: &Deadline,
        read: &mut NodesRead,
        judged: &mut NodesJudged,
    ) {
        let started = Instant::now();
        let query = super::prometheus::latencies(http, base, &self.selectors[0]);
        let answer = match deadline.cut(query).await {
            Some(Ok(latencies)) => Ok(latencies),
            Some(Err(error)) => {
                let reason = format!("prometheus_{}", error.reason);
                let (why, message) = (error.reason, error.message);
                read.failures
                    .push(Failure::new(Collector::Prometheus, "", why, message));
                Err(reason)
            }
            None => {
                read.failures.push(cut_off(Collector::Prometheus));
                Err("deadline".to_owned())
            }
        };
        for node in judged.nodes.iter().filter(|node| node.is_up()) {
            let metrics = judged.metrics.entry(node.id.clone()).or_default();
            metrics.latency_p99_ms = None;
            metrics.latency_p99_bucket = None;
            metrics.latency_source = None;
            metrics.latency_newest = None;
            let latency = match &answer {
                Ok(latencies) => latencies.of(&node.id).map_err(str::to_owned),
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

    /// Names what the addresses failed in. An address that was never reached is no failure of anything.
    fn address_failures(&self, read: &mut NodesRead) {
        let mut failures = Vec::new();
        for (address, reading) in &read.addresses {
            let matters = self.memory.was_reached(address) || self.memory.is_static(address);
            if let Some(error) = reading.probe_error.as_ref().filter(|_| matters) {
                let (reason, message) = (error.reason, error.message.clone());
                failures.push(Failure::new(Collector::Probes, address, reason, message));
            }
            // A node that is gone has no metrics either: its probe has said so. Without probes nobody has.
            let telling = match reading.probe {
                Some(Probe::Answered { .. }) => true,
                Some(Probe::Failed(_)) => false,
                None => matters,
            };
            if let Some(Err(error)) = reading.metrics.as_ref().filter(|_| telling) {
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
        let collector = if self.probe {
            Collector::Probes
        } else {
            Collector::NodeMetrics
        };
        failures.extend(missing.map(|address| {
            let message = format!("{address}: no answer before the collection's deadline");
            Failure::new(collector, address, Reason::Deadline, message)
        }));
        read.failures.extend(failures);
    }
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
