//! Derives node states from evidence. Pure: readings come in, nodes come out, and [`NodeMemory`] keeps what the next
//! collection needs.
//!
//! Evidence, best first: the state in the management API, if that is not `Up`; a probe of the node itself; its
//! registration. If the exporter never reached a node's address, the node is judged by its registration alone. So addresses
//! that resolve only inside the limiter's network cause no alarm. `addresses` decides which node answers at an address.

mod addresses;
mod evidence;
mod registration;
mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::elapsed;
use crate::observation::{Node, Reason};
use crate::observe::http::api_reading::NodeList;
use addresses::{ProbeOutcome, Shown, same_address};
pub(in crate::observe) use evidence::{
    Glance, NodeEvidence, Probe, ReadingTimes, RedisEvidence, Registration, RegistryReading,
};
use registration::{Left, by_registration, reaches_redis, renewed_at, without_registry};
pub use timing::RegistryTiming;

/// The memory of nodes between collections and across restarts of the exporter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::observe) struct NodeMemory {
    known: BTreeMap<String, NodeRecord>,
    /// The addresses of the configuration.
    statics: BTreeMap<String, Shown>,
    /// The other addresses of known nodes.
    #[serde(default)]
    others: BTreeMap<String, Shown>,
    /// The nodes that left, for one TTL.
    #[serde(default)]
    left: BTreeMap<String, Left>,
    /// The nodes that were proved not to reach Redis when [`RedisEvidence`] was last read.
    #[serde(default)]
    cut_off: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct NodeRecord {
    address: Option<String>,
    registered_at: Option<String>,
    /// The last TTL of the registration, and when it was read.
    registration: Option<SeenTtl>,
    /// The node deleted its registration: it left.
    deregistered: bool,
    /// The registration was lost with Redis's data. Until it is seen again, its absence says nothing.
    lost: bool,
    /// The exporter has reached the node at its registered address.
    reached: bool,
    /// The static address that answers with this id, if that is not the registered one.
    static_address: Option<String>,
    last_alive: Option<Timestamp>,
    /// When the node became known.
    #[serde(default)]
    first_seen: Option<Timestamp>,
    /// When checks succeeded again after all had failed. Heartbeats that were due before that do not count.
    #[serde(default)]
    way_back: Option<Timestamp>,
    /// The state in the last list of the management API, if that was not `Up`.
    #[serde(default)]
    api_state: Option<ApiState>,
}

/// The state of a node in the management API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ApiState {
    state: String,
    /// When that node had registered. A node that registered anew is another process.
    registered_at: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct SeenTtl {
    at: Timestamp,
    ttl: Option<Duration>,
}

impl NodeMemory {
    /// A memory that knows the static addresses.
    pub(in crate::observe) fn new(static_addresses: impl IntoIterator<Item = String>) -> Self {
        let mut memory = Self::default();
        memory.set_statics(static_addresses);
        memory
    }

    /// The ids whose registrations are read directly.
    pub(in crate::observe) fn ids(&self) -> impl Iterator<Item = &String> {
        self.known.keys()
    }

    /// The addresses to probe: the static ones, and those of known nodes.
    pub(in crate::observe) fn addresses(&self) -> Vec<String> {
        let known = self
            .known
            .values()
            .filter_map(|known| known.address.clone());
        let mut all: Vec<String> = self.statics.keys().cloned().chain(known).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The addresses at which `id` can be asked, the registered one first.
    pub(in crate::observe) fn addresses_of(&self, id: &str) -> Vec<String> {
        let Some(known) = self.known.get(id) else {
            let itself = self.statics.keys().filter(|address| *address == id);
            return itself.cloned().collect();
        };
        let addresses = known.address.iter().chain(&known.static_address);
        addresses.cloned().collect()
    }

    /// Whether a node answered at `address`, or must answer there because it is configured.
    pub(in crate::observe) fn was_reached(&self, address: &str) -> bool {
        let mut known = self.known.values();
        self.statics.contains_key(address)
            || known.any(|known| known.reached && known.address.as_deref() == Some(address))
    }

    /// The id that a configured address last answered with.
    pub(in crate::observe) fn shown_at(&self, address: &str) -> Option<&str> {
        self.statics.get(address)?.id()
    }

    /// Notes which nodes exist, and at which addresses. A second call in the same collection changes nothing.
    pub(in crate::observe) fn learn(
        &mut self,
        timing: RegistryTiming,
        evidence: &NodeEvidence<'_>,
    ) {
        self.learn_registrations(evidence.now, evidence.registry);
        self.learn_api_only(evidence);
        self.learn_addresses(timing, evidence);
        self.drop_superseded(evidence);
        self.learn_api_states(evidence.api);
    }

    /// Judges every node that is known or appears in the evidence.
    pub(in crate::observe) fn judge(
        &mut self,
        timing: RegistryTiming,
        evidence: &NodeEvidence<'_>,
    ) -> Vec<Node> {
        self.learn(timing, evidence);
        self.learn_redis(evidence.redis);
        let mut nodes = Vec::new();
        let ids: Vec<String> = self.known.keys().cloned().collect();
        for id in ids {
            match self.judge_known(&id, timing, evidence) {
                Some(node) => nodes.push(node),
                None => {
                    self.known.remove(&id);
                }
            }
        }
        self.left
            .retain(|_, left| elapsed(left.at, evidence.now) < timing.ttl);
        let known = &self.known;
        self.others.retain(|address, _| {
            let mut known = known.values();
            known.any(|known| known.address.as_ref() == Some(address))
        });
        nodes.extend(self.unidentified_statics(evidence));
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        self.end_redis(evidence, &mut nodes);
        nodes
    }

    /// Removes from `found`, read at `times`, the registrations of nodes that left: Redis came back with older data, from a
    /// snapshot or a replica.
    pub(in crate::observe) fn drop_revived(
        &self,
        timing: RegistryTiming,
        times: &ReadingTimes,
        found: &mut BTreeMap<String, Registration>,
    ) {
        found.retain(|id, registration| {
            let left = self.left.get(id).zip(times.get(id));
            left.is_none_or(|(left, (begun, _))| !left.is_revived(registration, *begun, timing))
        });
    }

    /// Notes what `glances`, in the order of their times, saw after the last judgement.
    pub(in crate::observe) fn learn_glances(&mut self, glances: Vec<Glance>) {
        for (at, registry) in glances {
            self.learn_registrations(at, &registry);
        }
    }

    /// Notes the registrations at `now`, and which ones were deleted.
    fn learn_registrations(&mut self, now: Timestamp, registry: &RegistryReading) {
        for (id, registration) in &registry.found {
            let known = self.known.entry(id.clone()).or_insert_with(|| NodeRecord {
                first_seen: Some(now),
                ..NodeRecord::default()
            });
            if known.address != registration.address {
                known.reached = false;
                known.address.clone_from(&registration.address);
            }
            known.registered_at.clone_from(&registration.registered_at);
            known.registration = Some(SeenTtl {
                at: registry.begun(id, now),
                ttl: registration.ttl,
            });
            known.deregistered = false;
            known.lost = false;
            self.left.remove(id);
        }
        if !registry.readable {
            return;
        }
        for (id, known) in &mut self.known {
            if registry.found.contains_key(id) || registry.unread.contains(id) {
                continue;
            }
            known.lost |= registry.redis_restarted;
            if let Some(seen) = known.registration.filter(|_| !known.lost) {
                let passed = elapsed(seen.at, registry.read_at(id, now));
                let could_have_run_out = seen.ttl.is_some_and(|ttl| passed >= ttl);
                // Renewals since the last reading only move the expiry further away. So a registration that is
                // missing before it could have expired was deleted.
                if !known.deregistered && !could_have_run_out {
                    known.deregistered = true;
                    let (at, registered_at) =
                        (registry.read_at(id, now), known.registered_at.clone());
                    self.left.insert(id.clone(), Left { at, registered_at });
                }
            }
        }
    }

    /// Adds nodes from the API's list while Redis cannot be read. Otherwise ids that only the API knows are ignored,
    /// because the API cuts an id at its last colon.
    fn learn_api_only(&mut self, evidence: &NodeEvidence<'_>) {
        if evidence.registry.readable {
            return;
        }
        for node in evidence.api.nodes() {
            let known_address = self
                .known
                .values()
                .any(|known| known.address.as_deref() == Some(node.address.as_str()));
            if !self.known.contains_key(&node.id) && !known_address {
                let known = NodeRecord {
                    address: crate::observe::http::management_api::base_of(&node.address)
                        .map(|_| node.address.clone()),
                    registered_at: node.registered_at.clone(),
                    first_seen: Some(evidence.now),
                    ..NodeRecord::default()
                };
                self.known.insert(node.id.clone(), known);
            }
        }
    }

    /// Remembers the API's states other than `Up`, until the API answers again.
    fn learn_api_states(&mut self, api: &NodeList) {
        if !matches!(api, NodeList::Listed(_)) {
            return;
        }
        for (id, known) in &mut self.known {
            let listed = api.of(id, known.address.as_deref());
            let state = listed.filter(|node| node.state != "Up");
            known.api_state = state.map(|node| ApiState {
                state: node.state.clone(),
                registered_at: known.registered_at.clone(),
            });
        }
    }

    /// `None` if the node has left or is forgotten.
    fn judge_known(
        &mut self,
        id: &str,
        timing: RegistryTiming,
        evidence: &NodeEvidence<'_>,
    ) -> Option<Node> {
        let now = evidence.now;
        let registered = evidence.registry.found.get(id);
        let (answer, at_registered) = self.answer_of(id, evidence);
        let configured = self.known.get(id).is_some_and(|known| {
            let address = known.address.as_deref();
            known.static_address.is_some() || address.is_some_and(|given| self.is_configured(given))
        });
        let cut_off = self.is_cut_off(id);
        let known = self.known.get_mut(id)?;
        known.reached |= at_registered;
        if let Some(RedisEvidence::Returned(since)) = evidence.redis.get(id) {
            // A heartbeat that was overdue before checks failed has another cause, such as a full Redis.
            let renewed = known.registration.and_then(|seen| renewed_at(seen, timing));
            if renewed.is_some_and(|renewed| elapsed(renewed, *since) <= timing.heartbeat * 2) {
                known.way_back = Some(now);
            }
        }
        if registered.is_some() || matches!(answer, ProbeOutcome::Yes(_)) {
            known.last_alive = Some(now);
        }
        let last_alive = *known.last_alive.get_or_insert(now);
        if elapsed(last_alive, now) >= timing.forget_after && !configured {
            return None;
        }

        // An older state holds only if the node has neither left nor registered anew since: the API lists registered nodes.
        let api_state = known.api_state.as_ref().filter(|it| {
            matches!(evidence.api, NodeList::Listed(_))
                || !evidence.registry.covers(id)
                || registered.is_some_and(|now| now.registered_at == it.registered_at)
        });
        let (state, reason) = match (api_state, &answer) {
            (Some(api_state), _) => (
                Some(api_state.state.clone()),
                "said by the management API".to_owned(),
            ),
            (_, ProbeOutcome::Yes(_)) => (
                Some("Up".to_owned()),
                format!("answers GET {}", evidence.health),
            ),
            (_, ProbeOutcome::No(_) | ProbeOutcome::CutOff)
                if known.deregistered && registered.is_none() =>
            {
                return None;
            }
            (_, ProbeOutcome::No(why)) => (
                Some("Down".to_owned()),
                format!("GET {}: {why}", evidence.health),
            ),
            (_, ProbeOutcome::CutOff) => (None, Reason::Deadline.to_string()),
            (_, answer) => by_registration(
                id,
                known,
                registered,
                evidence.api.of(id, known.address.as_deref()).is_some(),
                answer,
                timing,
                evidence,
            )?,
        };
        let mut node = Node {
            id: id.to_owned(),
            address: known
                .address
                .clone()
                .or_else(|| known.static_address.clone()),
            state,
            reason: Some(reason),
            registered_at: known.registered_at.clone(),
            heartbeat_ttl_seconds: registered.and_then(|r| r.ttl).map(|ttl| ttl.as_secs_f64()),
            canary_refused: evidence.canary_refused.get(id).copied(),
            ..Node::default()
        };
        if let ProbeOutcome::Yes(seconds) = answer {
            node.probe_seconds = Some(seconds);
            let (connected, reason) =
                reaches_redis(id, known, registered, timing, evidence, cut_off);
            node.redis_connected = connected;
            node.redis_reason = reason.map(str::to_owned);
        } else if node.is_up() {
            node.redis_reason = Some("never_reached".to_owned());
        }
        Some(node)
    }

    /// Static addresses that never answered with an id, and are not the address of a known node.
    fn unidentified_statics(&self, evidence: &NodeEvidence<'_>) -> Vec<Node> {
        let known_here = |address: &str| {
            self.known.values().any(|known| {
                known
                    .address
                    .as_deref()
                    .is_some_and(|other| same_address(other, address))
            })
        };
        let mut nodes = Vec::new();
        for (address, memory) in &self.statics {
            if memory.id().is_some() || known_here(address) {
                continue;
            }
            let (state, reason, probe_seconds) = match evidence.probes.get(address) {
                Some(Probe::Answered { seconds, .. }) => (
                    Some("Up".to_owned()),
                    format!("answers GET {}", evidence.health),
                    Some(*seconds),
                ),
                Some(Probe::Failed(why)) => {
                    let reason = format!("GET {}: {why}", evidence.health);
                    (Some("Down".to_owned()), reason, None)
                }
                Some(Probe::CutOff) => (None, Reason::Deadline.to_string(), None),
                None => (None, "not_probed".to_owned(), None),
            };
            let (redis_connected, redis_reason) = match (state.as_deref(), probe_seconds) {
                (None | Some("Up"), _) if evidence.registry.absent => {
                    without_registry(address, evidence)
                }
                (_, Some(_)) => (None, Some("not_registered")),
                (_, None) => (None, None),
            };
            nodes.push(Node {
                id: address.clone(),
                address: Some(address.clone()),
                state,
                reason: Some(reason),
                probe_seconds,
                redis_connected,
                redis_reason: redis_reason.map(str::to_owned),
                canary_refused: evidence.canary_refused.get(address).copied(),
                ..Node::default()
            });
        }
        nodes
    }
}

#[cfg(test)]
mod tests;
