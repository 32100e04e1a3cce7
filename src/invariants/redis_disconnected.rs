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

/// `None` where the question does not arise: the observation carries no such evidence at all, as in a replay.
pub(super) fn of_node(node: &Node) -> Option<Verdict> {
    if node.state.is_some() && !node.is_up() {
        // A node that is down is node_down's business: paging twice for it tells nobody anything.
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
