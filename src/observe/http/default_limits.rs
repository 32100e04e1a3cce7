//! The default limits of all nodes. The default is each node's own setting, and a rolling restart changes it on one node after
//! the other. So every node is asked, and the last answer of each is remembered. Nothing waits for a request to end: it goes on
//! past its collection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::observation::Limit;
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::management_api::ManagementApi;

/// How long a sweep waits for answers. A healthy node answers within milliseconds. A node that took longer the last time is not
/// waited for.
pub(in crate::observe) const PROMPT: Duration = Duration::from_millis(250);

/// How many nodes are asked at the same time.
const AT_ONCE: usize = 32;

/// The requests to the nodes, and what is known from them.
#[derive(Debug)]
pub(in crate::observe) struct DefaultLimits {
    places: Arc<Semaphore>,
    /// The last request to each address.
    requests: BTreeMap<String, AbortOnDropHandle<()>>,
    known: watch::Sender<KnownDefaults>,
}

/// The default limits, as far as they are known.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct KnownDefaults {
    nodes: BTreeMap<String, NodeDefault>,
    api: ApiState,
    /// The API listed the nodes before.
    pub(in crate::observe) listed: bool,
}

/// How far this collection has come with the management API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) enum ApiState {
    /// No base URL has answered.
    #[default]
    Asked,
    /// The default limit is known. The API is asked for the list of nodes, which may name new ones.
    Listing,
    Done,
}

/// What is known of one address.
#[derive(Clone, Debug, Default)]
struct NodeDefault {
    /// The last answer.
    limit: Option<Limit>,
    /// Why the last request failed.
    error: Option<HttpError>,
    /// That failure was counted.
    counted: bool,
    /// The request of this collection has not ended.
    awaited: bool,
    /// The last request took longer than [`PROMPT`], with its wait for a place.
    slow: bool,
}

impl Default for DefaultLimits {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            requests: BTreeMap::new(),
            known: watch::Sender::default(),
        }
    }
}

impl DefaultLimits {
    pub(in crate::observe) fn subscribe(&self) -> watch::Receiver<KnownDefaults> {
        self.known.subscribe()
    }

    /// Begins a collection of the nodes at `addresses`. Forgets all others.
    pub(in crate::observe) fn begin(&mut self, addresses: &BTreeSet<String>) {
        let stays = |address: &String| addresses.contains(address);
        self.requests.retain(|address, _| stays(address));
        self.known.send_modify(|known| {
            known.api = ApiState::Asked;
            known.nodes.retain(|address, node| {
                // The collection that waited for it was cut off.
                node.slow |= std::mem::take(&mut node.awaited);
                stays(address)
            });
        });
    }

    /// Asks `targets`. A request of an earlier collection goes on instead.
    pub(in crate::observe) fn ask(
        &mut self,
        http: &Http,
        targets: impl IntoIterator<Item = (String, Url)>,
    ) {
        for (address, url) in targets {
            let before = self.requests.get(&address);
            let goes_on = before.is_some_and(|request| !request.is_finished());
            self.known.send_modify(|known| {
                let node = known.nodes.entry(address.clone()).or_default();
                node.awaited = if goes_on {
                    node.limit.is_none() && node.error.is_none()
                } else {
                    !node.slow
                };
            });
            if goes_on {
                continue;
            }
            let (http, places, at) = (http.clone(), Arc::clone(&self.places), address.clone());
            let known = self.known.clone();
            let request = tokio::spawn(async move {
                let started = Instant::now();
                // The semaphore is never closed.
                let _place = places.acquire().await;
                let answer = ManagementApi::new(&http, url).default_limit().await;
                let took = started.elapsed();
                known.send_modify(|known| known.answered(at, answer, took));
            });
            self.requests
                .insert(address, AbortOnDropHandle::new(request));
        }
    }

    /// Forgets the last answer of a node that is down, unless it still answers this request.
    pub(in crate::observe) fn is_down(&self, address: &str) {
        self.known.send_modify(|known| {
            let node = known.nodes.get_mut(address);
            if let Some(node) = node.filter(|node| node.error.is_some()) {
                node.limit = None;
            }
        });
    }

    /// Notes that a node is asked otherwise.
    pub(in crate::observe) fn expect(&self, address: String) {
        self.known.send_modify(|known| {
            let node = known.nodes.entry(address).or_default();
            node.awaited = !node.slow;
        });
    }

    /// Notes the answer of a node that was asked otherwise, and how long it took.
    pub(in crate::observe) fn learn(&self, address: String, limit: Limit, took: Duration) {
        self.known
            .send_modify(|known| known.answered(address, Ok(limit), took));
    }

    /// Notes that a node that was asked otherwise failed after `took`.
    pub(in crate::observe) fn give_up(&self, address: &str, took: Duration) {
        self.known.send_modify(|known| {
            if let Some(node) = known.nodes.get_mut(address) {
                (node.awaited, node.slow) = (false, took > PROMPT);
            }
        });
    }

    /// Notes how far the collection has come, and whether the API listed the nodes.
    pub(in crate::observe) fn note_api(&self, api: ApiState, listed: bool) {
        self.known.send_modify(|known| {
            known.api = api;
            known.listed |= listed;
        });
    }

    /// Whether `address` was ever asked.
    pub(in crate::observe) fn knows(&self, address: &str) -> bool {
        self.known.borrow().nodes.contains_key(address)
    }

    /// Why the last request to `address` failed, once for each request.
    pub(in crate::observe) fn take_error(&self, address: &str) -> Option<HttpError> {
        let mut error = None;
        self.known.send_modify(|known| {
            let node = known.nodes.get_mut(address);
            if let Some(node) = node.filter(|node| !node.counted) {
                node.counted = true;
                error.clone_from(&node.error);
            }
        });
        error
    }

    /// The last answer of each address, to save.
    pub(in crate::observe) fn saved(&self) -> BTreeMap<String, Limit> {
        let known = self.known.borrow();
        let nodes = known.nodes.iter();
        let limits = nodes.filter_map(|(address, node)| Some((address.clone(), node.limit?)));
        limits.collect()
    }

    /// Takes back what was saved.
    pub(in crate::observe) fn recall(&self, saved: BTreeMap<String, Limit>) {
        self.known.send_modify(|known| {
            for (address, limit) in saved {
                known.nodes.entry(address).or_default().limit = Some(limit);
            }
        });
    }
}

impl KnownDefaults {
    fn answered(&mut self, address: String, answer: Result<Limit, HttpError>, took: Duration) {
        let node = self.nodes.entry(address).or_default();
        (node.awaited, node.counted, node.slow) = (false, false, took > PROMPT);
        match answer {
            Ok(limit) => (node.limit, node.error) = (Some(limit), None),
            Err(error) => node.error = Some(error),
        }
    }

    /// Whether the management API answered, or failed.
    pub(in crate::observe) fn is_api_asked(&self) -> bool {
        self.api != ApiState::Asked
    }

    /// Whether the list of nodes was read, or failed, or was not due.
    pub(in crate::observe) fn is_api_done(&self) -> bool {
        self.api == ApiState::Done
    }

    /// Whether no answer is worth waiting for.
    pub(in crate::observe) fn is_settled(&self) -> bool {
        self.is_api_done() && self.nodes.values().all(|node| !node.awaited)
    }

    /// Whether a node may have a higher default limit than [`Self::limit`]: it was not asked before, or lately answered in time
    /// and now did not answer yet.
    pub(in crate::observe) fn is_doubtful(&self) -> bool {
        self.nodes.values().any(|node| node.awaited)
    }

    /// What nodes may admit together: no node has a higher limit or a shorter window.
    pub(in crate::observe) fn limit(&self) -> Option<Limit> {
        let limits = self.nodes.values().filter_map(|node| node.limit);
        limits.reduce(|one, other| Limit {
            limit: one.limit.max(other.limit),
            window_ms: one.window_ms.min(other.window_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::observation::Reason;
    use crate::observe::http::access::HttpAccess;

    fn limit(limit: u64, window_ms: u64) -> Limit {
        Limit { limit, window_ms }
    }

    fn failed() -> Result<Limit, HttpError> {
        Err(HttpError::new(Reason::Timeout, "hangs".to_owned()))
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_node_that_does_not_answer_keeps_its_last_default_until_it_is_down_or_leaves() {
        let mut defaults = DefaultLimits::default();
        defaults.learn("a".to_owned(), limit(10, 1_000), Duration::ZERO);
        defaults.learn("b".to_owned(), limit(100, 2_000), Duration::ZERO);
        let now = |defaults: &DefaultLimits| defaults.known.borrow().limit();
        let lenient = Some(limit(100, 1_000));
        assert_eq!(now(&defaults), lenient);
        let fails = |known: &mut KnownDefaults| known.answered("b".to_owned(), failed(), PROMPT);
        defaults.known.send_modify(fails);
        assert_eq!(now(&defaults), lenient);
        assert!(defaults.take_error("b").is_some());
        assert!(defaults.take_error("b").is_none(), "counted");
        let after = DefaultLimits::default();
        after.recall(defaults.saved());
        assert_eq!(now(&after), lenient, "after a restart");
        defaults.is_down("b");
        assert_eq!(now(&defaults), Some(limit(10, 1_000)));
        defaults.learn("b".to_owned(), limit(20, 2_000), Duration::ZERO);
        assert!(defaults.take_error("b").is_none());
        defaults.is_down("b");
        assert_eq!(now(&defaults), Some(limit(20, 1_000)), "it answers");
        defaults.begin(&names(&["a"]));
        assert_eq!(now(&defaults), Some(limit(10, 1_000)));
    }

    #[tokio::test]
    async fn a_node_that_hangs_is_waited_for_once() {
        // As in `main`. Only the first call has an effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Http::new(PROMPT * 2, HttpAccess::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let url = Url::parse(&format!("http://{address}")).unwrap();
        let target = || [(address.clone(), url.clone())];
        let mut defaults = DefaultLimits::default();
        let mut known = defaults.subscribe();
        defaults.note_api(ApiState::Done, true);
        defaults.ask(&http, target());
        assert!(!known.borrow().is_settled() && known.borrow().is_doubtful());
        defaults.ask(&http, target());
        assert!(known.borrow().is_doubtful(), "its first request goes on");
        known
            .wait_for(|known| known.nodes[&address].error.is_some())
            .await
            .unwrap();
        assert!(defaults.take_error(&address).is_some());
        defaults.ask(&http, target());
        assert!(known.borrow().is_settled(), "it was slow");
        // It answers again.
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let body = r#"{"default_limit":20,"default_window_ms":1000}"#;
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let answered = known.wait_for(|known| known.limit().is_some());
            let hung_up = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                answered = answered => {
                    assert_eq!(answered.unwrap().limit(), Some(limit(20, 1_000)));
                    return;
                }
                () = hung_up => {}
            }
        }
    }

    #[tokio::test]
    async fn a_node_that_waits_behind_others_that_hang_is_doubtful_once() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Http::new(PROMPT * 2, HttpAccess::default()).unwrap();
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", hanging.local_addr().unwrap())).unwrap();
        // Nothing listens there: its failure comes at once, after the wait for a place.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let last = Url::parse(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
        drop(closed);
        let others = (0..AT_ONCE).map(|place| (format!("a{place}"), url.clone()));
        let mut targets: Vec<_> = others.collect();
        targets.push(("z".to_owned(), last));
        let mut defaults = DefaultLimits::default();
        let mut known = defaults.subscribe();
        defaults.note_api(ApiState::Done, true);
        for is_first in [true, false] {
            defaults.ask(&http, targets.clone());
            assert_eq!(known.borrow().is_doubtful(), is_first);
            let failed = |known: &KnownDefaults| known.nodes.values().all(|it| it.error.is_some());
            known.wait_for(failed).await.unwrap();
        }
    }

    #[test]
    fn a_node_that_is_asked_otherwise_is_waited_for_unless_it_was_slow() {
        let mut defaults = DefaultLimits::default();
        let known = defaults.subscribe();
        let all = names(&["a"]);
        let is_doubtful = |defaults: &mut DefaultLimits| {
            defaults.begin(&all);
            defaults.expect("a".to_owned());
            known.borrow().is_doubtful()
        };
        assert!(is_doubtful(&mut defaults));
        defaults.learn("a".to_owned(), limit(10, 1_000), PROMPT);
        assert!(!known.borrow().is_doubtful(), "it answered");
        assert!(is_doubtful(&mut defaults));
        defaults.give_up("a", Duration::ZERO);
        assert!(!known.borrow().is_doubtful(), "it failed");
        assert!(is_doubtful(&mut defaults));
        assert!(!is_doubtful(&mut defaults), "the collection was cut off");
        let slow = PROMPT + Duration::from_millis(1);
        defaults.give_up("a", slow);
        assert!(!is_doubtful(&mut defaults), "it was slow");
        defaults.learn("a".to_owned(), limit(10, 1_000), slow);
        assert!(!is_doubtful(&mut defaults), "it was slow");
        defaults.learn("a".to_owned(), limit(10, 1_000), PROMPT);
        assert!(is_doubtful(&mut defaults));
    }

    #[test]
    fn the_list_of_nodes_is_waited_for_as_it_may_name_new_ones() {
        let defaults = DefaultLimits::default();
        let known = defaults.subscribe();
        let seen = |api, listed| {
            defaults.note_api(api, listed);
            let known = known.borrow();
            (known.is_api_asked(), known.is_settled(), known.listed)
        };
        assert_eq!(seen(ApiState::Asked, false), (false, false, false));
        assert_eq!(seen(ApiState::Listing, false), (true, false, false));
        assert_eq!(seen(ApiState::Done, true), (true, true, true));
        assert_eq!(seen(ApiState::Done, false), (true, true, true));
    }
}
