//! `node_down`: a node's state is not `Up`.

use super::Verdict;
use crate::observation::Node;
use crate::report::Evidence;

pub(super) fn verdict(node: &Node) -> Verdict {
    match &node.state {
        Some(state) if state == "Up" => Verdict::Ok,
        Some(state) => Verdict::Violated(Evidence::NodeState {
            state: state.clone(),
            reason: node.reason.clone(),
        }),
        None => Verdict::Unknown(
            node.reason
                .clone()
                .unwrap_or_else(|| "state_unknown".to_owned()),
        ),
    }
}
