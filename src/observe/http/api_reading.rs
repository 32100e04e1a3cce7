//! What a collection reads from the management API: the default limits and, when it is due, the list of nodes. The first
//! base URL that answers is used. Only default limits are read from every node.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use reqwest::Url;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::observation::{Collector, Failure, Limit};
use crate::observe::deadline::Deadline;
use crate::observe::fallback::first_success;
use crate::observe::http::client::{Http, HttpError, shown};
use crate::observe::http::management_api::{
    ApiNode, ManagementApi, base_of, join, registered_address,
};
use crate::observe::http::optional::{ANSWER_WITHIN, OptionalRequest};

/// How many nodes are asked for their default limits at the same time.
const AT_ONCE: usize = 32;

/// The answers of the management API.
#[derive(Debug, Default)]
pub(in crate::observe) struct ApiReading {
    /// The API answered without an error.
    pub(in crate::observe) up: bool,
    /// The base URL that answered.
    pub(in crate::observe) base: Option<Url>,
    /// The default limit that no node exceeds.
    pub(in crate::observe) limit: Option<Limit>,
    pub(in crate::observe) nodes: NodeList,
    pub(in crate::observe) failures: Vec<Failure>,
    pub(in crate::observe) seconds: f64,
}

/// The result of `GET /api/nodes`.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) enum NodeList {
    /// The request was not due: the node states of the last answer stay valid.
    #[default]
    NotDue,
    /// The request was due, and failed.
    Failed,
    Listed(Vec<ApiNode>),
}

impl NodeList {
    /// The nodes that this collection's answer lists. An older list does not prove that a node still exists.
    pub(in crate::observe) fn nodes(&self) -> &[ApiNode] {
        match self {
            Self::NotDue | Self::Failed => &[],
            Self::Listed(nodes) => nodes,
        }
    }

    /// The entry of a node in this collection's answer, by id or else by address: the API cuts ids at their last colon.
    pub(in crate::observe) fn of(&self, id: &str, address: Option<&str>) -> Option<&ApiNode> {
        let nodes = self.nodes();
        let by_id = nodes.iter().find(|node| node.id == id);
        by_id.or_else(|| nodes.iter().find(|node| Some(&*node.address) == address))
    }
}

/// The request for the list of nodes, and its state between collections.
#[derive(Debug, Default)]
pub(in crate::observe) struct NodeListRequest {
    request: OptionalRequest,
    /// The base URL whose last answer was an error. The API counts as down there until the next answer.
    failed_at: Option<Url>,
}

/// Asks the first base URL, and if it fails all others at the same time: several that hang take no longer than two. Then
/// asks `others`, and listed nodes that are not `known` yet, for their default limits, until half of the time that
/// `deadline` leaves is over. What all nodes admit together is sent to `default`, or that it cannot be read.
pub(in crate::observe) async fn ask_api(
    http: &Http,
    bases: Vec<Url>,
    (others, known): (Vec<Url>, &BTreeSet<String>),
    deadline: &Deadline,
    default: oneshot::Sender<Option<Limit>>,
    now: Timestamp,
    list: &mut NodeListRequest,
) -> ApiReading {
    let started = Instant::now();
    let due = list.request.is_due(now);
    let mut reading = ApiReading {
        nodes: if due {
            NodeList::Failed
        } else {
            NodeList::NotDue
        },
        ..ApiReading::default()
    };
    let failed = |error: HttpError| error.counted(Collector::ManagementApi, "");
    let attempts = bases.into_iter().map(|base| async move {
        let api = ManagementApi::new(http, base.clone());
        Ok((api.default_limit().await?, base))
    });
    let (answer, failures) = first_success(attempts.collect()).await;
    // Includes the failures of base URLs that were asked before the one that answered.
    reading.failures = failures.into_iter().map(failed).collect();
    reading.base = answer.as_ref().map(|(_, base)| base.clone());
    if let Some(base) = &reading.base {
        if due {
            list.failed_at = None;
            let (patient, at) = (http.within(ANSWER_WITHIN), base.clone());
            let request = async move { ManagementApi::new(&patient, at).nodes().await };
            match list.request.make(now, http.timeout(), request).await {
                Some(Ok(mut nodes)) => {
                    for node in &mut nodes {
                        node.address = registered_address(&node.address);
                    }
                    reading.nodes = NodeList::Listed(nodes);
                }
                Some(Err(error)) => {
                    list.failed_at = Some(base.clone());
                    reading.failures.push(failed(error));
                }
                // The node scans its whole key space for this request, so a late answer does not mean that the API is down.
                None => {
                    let what = format!("GET {}", shown(&join(base, "api/nodes")));
                    let late = HttpError::late(&what, http.timeout());
                    reading.failures.push(failed(late));
                }
            }
        }
        reading.up = list.failed_at.as_ref() != Some(base);
    }
    reading.seconds = started.elapsed().as_secs_f64();
    if let Some((limit, base)) = answer {
        let listed = reading.nodes.nodes().iter().map(|node| &node.address);
        let new = listed.filter(|address| !known.contains(*address));
        let new = new.filter_map(|address| base_of(address));
        let others = others.into_iter().chain(new).filter(|url| *url != base);
        let until = Instant::now() + http.timeout().min(deadline.left() / 2);
        let limits = default_limits(http, others.collect(), until).await;
        reading.limit = Some(limits.into_iter().fold(limit, most_lenient));
    }
    // If the sweep was cut off, the receiver is gone.
    let _ = default.send(reading.limit);
    reading
}

/// The default limits of the nodes at `urls` that answer in time.
async fn default_limits(http: &Http, urls: Vec<Url>, until: Instant) -> Vec<Limit> {
    let asked = urls
        .into_iter()
        .map(|url| async { ManagementApi::new(http, url).default_limit().await });
    let mut answers = std::pin::pin!(stream::iter(asked).buffer_unordered(AT_ONCE));
    let mut limits = Vec::new();
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        limits.extend(answer);
    }
    limits
}

/// What nodes with two default limits may admit together. The default is each node's own setting, and a rolling restart
/// changes it on one node after the other.
fn most_lenient(one: Limit, other: Limit) -> Limit {
    Limit {
        limit: one.limit.max(other.limit),
        window_ms: one.window_ms.min(other.window_ms),
    }
}
