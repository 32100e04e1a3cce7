//! `redis_disconnected`: Redis does not answer the exporter (subject `redis`), or a node that is up does not reach
//! it (subject: the node's id).

use super::Verdict;
use crate::observation::{Node, Observation};
use crate::report::Evidence;

pub(super) fn of_redis(observation: &Observation) -> Verdict {
    match observation.redis_connected {
        Some(true) => Verdict::Ok,
        Some(false) => Verdict::Violated(Evidence::RedisPing {
            reason: observation.redis.reason.clone(),
        }),
        None => Verdict::Unknown("deadline".to_owned()),
    }
}

/// `None` if the observation has no evidence about this, as in some recordings.
pub(super) fn of_node(node: &Node) -> Option<Verdict> {
    if node.state.is_some() && !node.is_up() {
        // A node that is down is reported as node_down. A second page would say nothing new.
        return Some(Verdict::Ok);
    }
    match (node.redis_connected, &node.redis_reason) {
        (Some(true), _) => Some(Verdict::Ok),
        (Some(false), reason) => Some(Verdict::Violated(Evidence::NodeRedis {
            reason: reason.clone(),
        })),
        (None, Some(reason)) => Some(Verdict::Unknown(reason.clone())),
        (None, None) => None,
    }
}
