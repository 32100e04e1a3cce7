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

/// `None` if the observation has no evidence about this, as for kinds of limiters whose nodes do not show it, and in some
/// recordings.
pub(super) fn of_node(node: &Node) -> Option<Verdict> {
    match (node.redis_connected, &node.redis_reason) {
        (None, None) => None,
        // A node that is down is reported as node_down. A second page would say nothing new.
        _ if node.state.is_some() && !node.is_up() => Some(Verdict::Ok),
        (Some(true), _) => Some(Verdict::Ok),
        (Some(false), reason) => Some(Verdict::Violated(Evidence::NodeRedis {
            reason: reason.clone(),
        })),
        (None, Some(reason)) => Some(Verdict::Unknown(reason.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_which_nothing_is_known_has_no_verdict_not_even_when_it_is_down() {
        for (state, redis_reason, expected) in [
            ("Up", None, None),
            ("Down", None, None),
            ("Down", Some("GET /health: refused"), Some(Verdict::Ok)),
            (
                "Up",
                Some("no_metrics"),
                Some(Verdict::Unknown("no_metrics".to_owned())),
            ),
        ] {
            let node = Node {
                state: Some(state.to_owned()),
                redis_reason: redis_reason.map(str::to_owned),
                ..Node::default()
            };
            assert_eq!(of_node(&node), expected, "{node:?}");
        }
    }
}
