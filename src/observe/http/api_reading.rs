//! What a collection reads from the management API: the default limit and, when it is due, the list of nodes. The first
//! base URL that answers is used.

use jiff::Timestamp;
use reqwest::Url;
use tokio::time::Instant;

use crate::observation::{Collector, Failure};
use crate::observe::fallback::first_success;
use crate::observe::http::client::{Http, HttpError, shown};
use crate::observe::http::default_limits::{ApiState, DefaultLimits};
use crate::observe::http::management_api::{
    ApiNode, ManagementApi, address_of, base_of, join, registered_address,
};
use crate::observe::http::optional::{ANSWER_WITHIN, OptionalRequest};

/// The answers of the management API.
#[derive(Debug, Default)]
pub(in crate::observe) struct ApiReading {
    /// The API answered without an error.
    pub(in crate::observe) up: bool,
    /// The base URL that answered.
    pub(in crate::observe) base: Option<Url>,
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

/// Asks the first base URL, and if it fails all others at the same time: several that hang take no longer than two. Its
/// default limit is in `defaults` as soon as it is known. Listed nodes that are not `known` yet are asked for theirs.
pub(in crate::observe) async fn ask_api(
    http: &Http,
    bases: Vec<Url>,
    (defaults, known): (&mut DefaultLimits, &[(String, Url)]),
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
    // The address of the node there: a configured URL may be known by another one.
    let address_at = |base: &Url| {
        let itself = known.iter().find(|(_, url)| url == base);
        let itself = itself.map(|(address, _)| address.clone());
        itself.or_else(|| address_of(base))
    };
    let first = bases.first().and_then(address_at);
    if let Some(first) = &first {
        defaults.expect(first.clone());
    }
    let attempts = bases.into_iter().map(|base| async move {
        let started = Instant::now();
        let api = ManagementApi::new(http, base.clone());
        Ok((api.default_limit().await?, base, started.elapsed()))
    });
    let (found, failures) = first_success(attempts.collect()).await;
    if let Some(first) = first.filter(|_| !failures.is_empty()) {
        defaults.give_up(&first, started.elapsed());
    }
    // Includes the failures of base URLs that were asked before the one that answered.
    reading.failures = failures.into_iter().map(failed).collect();
    if let Some((limit, base, took)) = found {
        if let Some(address) = address_at(&base) {
            defaults.learn(address, limit, took);
        }
        reading.base = Some(base);
    }
    defaults.note_api(ApiState::Listing, false);
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
                    let new = nodes.iter().map(|node| node.address.clone());
                    let new = new.filter_map(|address| base_of(&address).map(|url| (address, url)));
                    // A configured URL may be known by another address.
                    let is_known = |(address, url): &(String, Url)| {
                        known.iter().any(|(at, to)| at == address || to == url)
                    };
                    let new = new.filter(|node| !is_known(node));
                    defaults.ask(http, new);
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
    defaults.note_api(ApiState::Done, matches!(reading.nodes, NodeList::Listed(_)));
    reading.seconds = started.elapsed().as_secs_f64();
    reading
}
