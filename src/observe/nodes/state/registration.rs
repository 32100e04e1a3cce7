//! Judges a node by its registration: its state if it cannot be probed, and whether it reaches Redis.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    NodeEvidence, NodeMemory, NodeRecord, ProbeOutcome, RedisEvidence, Registration,
    RegistryTiming, SeenTtl,
};
use crate::clock::elapsed;
use crate::observation::Node;
use crate::observe::nodes::redis_errors::NO_DECISIONS;

/// A node that deleted its registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::observe) struct Left {
    /// When the registration was seen to be missing.
    pub(super) at: Timestamp,
    pub(super) registered_at: Option<String>,
}

impl Left {
    /// Whether `registration`, read from `begun` on, is the one that the node deleted, and nothing has renewed it since.
    pub(super) fn is_revived(
        &self,
        registration: &Registration,
        begun: Timestamp,
        timing: RegistryTiming,
    ) -> bool {
        let (at, ttl) = (begun, registration.ttl);
        let renewed = renewed_at(SeenTtl { at, ttl }, timing);
        registration.registered_at == self.registered_at
            && renewed.is_some_and(|renewed| renewed <= self.at)
    }
}

impl NodeMemory {
    /// Whether `id` was proved not to reach Redis, and nothing has contradicted that since.
    pub(in crate::observe) fn is_cut_off(&self, id: &str) -> bool {
        self.cut_off.contains(id)
    }

    /// Notes which nodes are proved not to reach Redis. Evidence that was not read changes nothing.
    pub(in crate::observe) fn learn_redis(&mut self, redis: &BTreeMap<String, RedisEvidence>) {
        for (id, found) in redis {
            match found {
                RedisEvidence::Broken(_) => {
                    self.cut_off.insert(id.clone());
                }
                RedisEvidence::Unread(_) | RedisEvidence::Inconclusive(_) => {}
                RedisEvidence::None
                | RedisEvidence::NoFailures
                | RedisEvidence::Works
                | RedisEvidence::Healthy
                | RedisEvidence::Answered
                | RedisEvidence::Returned(_) => {
                    self.cut_off.remove(id);
                }
            }
        }
    }

    /// Gives nodes of which nothing was read the reason of their state, and forgets what was proved of nodes that are down or
    /// gone.
    pub(in crate::observe) fn end_redis(
        &mut self,
        evidence: &NodeEvidence<'_>,
        nodes: &mut [Node],
    ) {
        for node in nodes.iter_mut() {
            let unsaid = node.redis_connected.is_none() && node.redis_reason.is_none();
            if evidence.covers_redis && unsaid {
                node.redis_reason.clone_from(&node.reason);
            }
        }
        let down = |node: &Node| node.state.is_some() && !node.is_up();
        self.cut_off.retain(|id| {
            let mut nodes = nodes.iter();
            nodes.any(|node| node.id == *id && !down(node))
        });
    }
}

/// When a registration was last renewed, by its TTL when it was read. `None` without a TTL.
pub(in crate::observe) fn renewed_at(seen: SeenTtl, timing: RegistryTiming) -> Option<Timestamp> {
    seen.at
        .checked_sub(timing.ttl.saturating_sub(seen.ttl?))
        .ok()
}

/// The state of a node whose address was never reached or not probed. `None` if the node has left.
pub(in crate::observe) fn by_registration(
    id: &str,
    known: &NodeRecord,
    registered: Option<&Registration>,
    listed: bool,
    answer: &ProbeOutcome,
    timing: RegistryTiming,
    evidence: &NodeEvidence<'_>,
) -> Option<(Option<String>, String)> {
    let probed = matches!(answer, ProbeOutcome::NeverReached);
    let up = |reason: &str| Some((Some("Up".to_owned()), reason.to_owned()));
    let unknown = |reason: &str| Some((None, reason.to_owned()));
    if registered.is_some() {
        return up(match (&known.address, probed) {
            (None, _) => "registered, without an address to probe",
            (Some(_), true) => "registered; its address was never reached",
            (Some(_), false) => "registered; not probed",
        });
    }
    if evidence.registry.absent {
        return unknown("not_probed");
    }
    if !evidence.registry.covers(id) {
        return if listed {
            up("listed by the management API")
        } else {
            unknown("registry_unreadable")
        };
    }
    if known.deregistered {
        return None;
    }
    let Some(seen) = known.registration else {
        // The node is known only from the API's list or a static address. Redis does not know it.
        return if listed {
            up("listed by the management API")
        } else if known.reached {
            unknown("not_probed")
        } else {
            None
        };
    };
    let settled = evidence
        .registry
        .redis_up_since
        .is_some_and(|since| elapsed(since, evidence.now) >= timing.heartbeat * 2);
    if !settled {
        // Redis may have come back empty: the next heartbeats restore the registrations.
        return unknown("redis_restarted");
    }
    let read_at = evidence.registry.read_at(id, evidence.now);
    let ran_out = seen.ttl.is_some_and(|ttl| elapsed(seen.at, read_at) >= ttl);
    if ran_out {
        Some((Some("Down".to_owned()), "registration ran out".to_owned()))
    } else {
        unknown("registration_lost")
    }
}

/// Whether a node that answers reaches Redis, and the evidence or the reason why that is unknown. `cut_off` says that it did
/// not when its counters or the canary last showed it.
pub(in crate::observe) fn reaches_redis(
    id: &str,
    known: &NodeRecord,
    registered: Option<&Registration>,
    timing: RegistryTiming,
    evidence: &NodeEvidence<'_>,
    cut_off: bool,
) -> (Option<bool>, Option<&'static str>) {
    if evidence.registry.absent {
        return without_registry(id, evidence);
    }
    let (reaches, reason) = by_all(id, known, registered, timing, evidence, cut_off);
    (reaches, Some(reason))
}

/// The same for a limiter without heartbeats. Without evidence, `None` and no reason.
pub(in crate::observe) fn without_registry(
    id: &str,
    evidence: &NodeEvidence<'_>,
) -> (Option<bool>, Option<&'static str>) {
    match evidence.redis.get(id).unwrap_or(&RedisEvidence::None) {
        RedisEvidence::None => (None, None),
        RedisEvidence::Broken(why) => (Some(false), Some(why)),
        RedisEvidence::Inconclusive(why) | RedisEvidence::Unread(why) => (None, Some(why)),
        RedisEvidence::NoFailures => (Some(true), Some("no failures of Redis")),
        RedisEvidence::Works => (Some(true), Some("canary check answered")),
        RedisEvidence::Healthy => (Some(true), Some("its health covers Redis")),
        RedisEvidence::Answered | RedisEvidence::Returned(_) => {
            (Some(true), Some("checks answered"))
        }
    }
}

fn by_all(
    id: &str,
    known: &NodeRecord,
    registered: Option<&Registration>,
    timing: RegistryTiming,
    evidence: &NodeEvidence<'_>,
    cut_off: bool,
) -> (Option<bool>, &'static str) {
    let checks = evidence.redis.get(id).unwrap_or(&RedisEvidence::None);
    match checks {
        RedisEvidence::Broken(why) => return (Some(false), why),
        RedisEvidence::Inconclusive(why) if *why != NO_DECISIONS => return (None, why),
        RedisEvidence::Inconclusive(_)
        | RedisEvidence::Unread(_)
        | RedisEvidence::NoFailures
        | RedisEvidence::Works
        | RedisEvidence::Healthy
        | RedisEvidence::Answered
        | RedisEvidence::Returned(_)
        | RedisEvidence::None => {}
    }
    match (heartbeats(id, known, registered, timing, evidence), checks) {
        // Heartbeats that are in time do not end what checks proved.
        ((None | Some(true), _), RedisEvidence::Unread(why)) if cut_off => (None, why),
        // A Redis that is out of memory still answers checks that trim before they add, but refuses registrations.
        (heartbeats @ (Some(_), _), _) => heartbeats,
        (_, RedisEvidence::Works) => (Some(true), "canary check answered"),
        (_, RedisEvidence::Healthy) => (Some(true), "its health covers Redis"),
        (_, RedisEvidence::Returned(_)) => (Some(true), "checks answered"),
        ((None, "redis_just_returned" | "redis_was_out_of_memory"), RedisEvidence::Answered) => {
            (Some(true), "checks answered")
        }
        (heartbeats, _) => heartbeats,
    }
}

/// Whether the node reaches Redis, by the age of its registration.
fn heartbeats(
    id: &str,
    known: &NodeRecord,
    registered: Option<&Registration>,
    timing: RegistryTiming,
    evidence: &NodeEvidence<'_>,
) -> (Option<bool>, &'static str) {
    if !evidence.registry.covers(id) {
        return (None, "redis_down");
    }
    let Some(seen) = known.registration else {
        return (None, "not_registered");
    };
    if registered.is_none() && known.deregistered {
        return (None, "deregistered");
    }
    let Some(ttl) = seen.ttl else {
        return (None, "registration_without_ttl");
    };
    // A missing registration is judged by the TTL that it would have now.
    let left = ttl.saturating_sub(elapsed(seen.at, evidence.now));
    if left >= timing.overdue_below() {
        return (Some(true), "heartbeats in time");
    }
    // After an outage every registration is old. Nodes get the time of two heartbeats to renew it.
    let settled_since = |time: Timestamp| elapsed(time, evidence.now) >= timing.heartbeat * 2;
    if !evidence.registry.redis_up_since.is_some_and(settled_since) {
        return (None, "redis_just_returned");
    }
    if known.way_back.is_some_and(|time| !settled_since(time)) {
        return (Some(true), "checks answered");
    }
    let freed = evidence.registry.memory_freed;
    if freed.is_some_and(|time| !settled_since(time)) {
        return (None, "redis_was_out_of_memory");
    }
    (Some(false), "heartbeat overdue")
}

#[cfg(test)]
mod tests;
