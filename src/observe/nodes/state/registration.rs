//! What a node's registration says: of its state where it cannot be probed, and of its way to Redis.

use jiff::Timestamp;

use super::{
    NodeEvidence, NodeRecord, ProbeOutcome, RedisEvidence, Registration, RegistryTiming, SeenTtl,
};
use crate::clock::elapsed;

/// When a registration was renewed last, by what its TTL was when it was read; `None` if it has none.
pub(in crate::observe) fn renewed_at(seen: SeenTtl, timing: RegistryTiming) -> Option<Timestamp> {
    seen.at
        .checked_sub(timing.ttl.saturating_sub(seen.ttl?))
        .ok()
}

/// The state of a node whose address was never reached, or that was not probed; `None` if it has left.
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
    if !evidence.registry.tells_of(id) {
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
        // Known from the API's list or a static address only, and Redis does not know it.
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
        // Redis came back empty: the registrations return with the next heartbeats.
        return unknown("redis_restarted");
    }
    let read_at = evidence.registry.read_at.unwrap_or(evidence.now);
    let ran_out = seen.ttl.is_some_and(|ttl| elapsed(seen.at, read_at) >= ttl);
    if ran_out {
        Some((Some("Down".to_owned()), "registration ran out".to_owned()))
    } else {
        unknown("registration_lost")
    }
}

/// Whether a node that answers reaches Redis, with the evidence.
pub(in crate::observe) fn way_to_redis(
    id: &str,
    known: &NodeRecord,
    registered: Option<&Registration>,
    timing: RegistryTiming,
    evidence: &NodeEvidence<'_>,
) -> (Option<bool>, &'static str) {
    let checks = evidence.redis.get(id).unwrap_or(&RedisEvidence::None);
    match checks {
        RedisEvidence::Broken(why) => return (Some(false), why),
        RedisEvidence::Inconclusive(why) => return (None, why),
        RedisEvidence::Works
        | RedisEvidence::Answered
        | RedisEvidence::Returned(_)
        | RedisEvidence::None => {}
    }
    match (heartbeats(id, known, registered, timing, evidence), checks) {
        // A Redis out of memory still answers checks that trim before they add, and takes no registrations.
        (heartbeats @ (Some(_), _), _) => heartbeats,
        (_, RedisEvidence::Works) => (Some(true), "canary check answered"),
        (_, RedisEvidence::Returned(_)) => (Some(true), "checks answered"),
        ((None, "redis_just_returned" | "redis_was_out_of_memory"), RedisEvidence::Answered) => {
            (Some(true), "checks answered")
        }
        (heartbeats, _) => heartbeats,
    }
}

/// What the registration's age says of the node's way to Redis.
fn heartbeats(
    id: &str,
    known: &NodeRecord,
    registered: Option<&Registration>,
    timing: RegistryTiming,
    evidence: &NodeEvidence<'_>,
) -> (Option<bool>, &'static str) {
    if !evidence.registry.tells_of(id) {
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
    // Missing registrations are judged by what their TTL would be by now.
    let left = ttl.saturating_sub(elapsed(seen.at, evidence.now));
    if left >= timing.overdue_below() {
        return (Some(true), "heartbeats in time");
    }
    // After an outage every registration is old: nodes get the time of two heartbeats to renew it.
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
