//! Asks many addresses for `/health` and `/metrics`, a bounded number at the same time, until a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::lock::lock;
use crate::observation::Reason;
use crate::observe::http::client::{ClientResponse, Http, HttpError};
use crate::observe::http::management_api::place_on;
use crate::observe::latency::node_metrics::ScrapedMetrics;
use crate::observe::nodes::health::read_health;
use crate::observe::nodes::requests::NodeRequests;
use crate::observe::nodes::state::Probe;

/// How many addresses are asked at the same time.
pub(in crate::observe) const CONCURRENT: usize = 32;

/// What to ask an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Ask {
    pub(in crate::observe) health: bool,
    pub(in crate::observe) metrics: bool,
}

/// The answers of an address.
#[derive(Debug, Default)]
pub(in crate::observe) struct AddressReading {
    pub(in crate::observe) probe: Option<Probe>,
    /// Why the probe failed, as a message.
    pub(in crate::observe) probe_error: Option<HttpError>,
    /// Whether the node reaches Redis, if its health covers that.
    pub(in crate::observe) redis: Option<bool>,
    pub(in crate::observe) metrics: Option<Result<ScrapedMetrics, HttpError>>,
}

/// Probes that had no answer when their collection ended, by address. They go on until they are answered or time out, and
/// the next collection has their results. So a probe has its whole timeout, however soon its collection ends.
#[derive(Debug, Default)]
pub(in crate::observe) struct LateProbes(BTreeMap<String, UnderWay>);

/// The requests to one address, and what they have brought until now.
#[derive(Debug)]
struct UnderWay {
    task: AbortOnDropHandle<()>,
    reading: Arc<Mutex<AddressReading>>,
}

impl AddressReading {
    fn failed(&mut self, error: HttpError) {
        self.probe = Some(Probe::Failed(error.reason));
        self.probe_error = Some(error);
    }
}

impl LateProbes {
    /// Ends the probes of addresses that are not in `asked`.
    pub(in crate::observe) fn retain(&mut self, asked: &BTreeSet<String>) {
        self.0.retain(|address, _| asked.contains(address));
    }

    /// Asks every target, until `cut` resolves. A probe that is late by then has the result of the late one before it, or
    /// is [`Probe::CutOff`].
    pub(in crate::observe) async fn ask_all(
        &mut self,
        http: &Http,
        targets: Vec<(String, Url)>,
        ask: Ask,
        requests: &Arc<NodeRequests>,
        cut: impl Future<Output = ()>,
    ) -> BTreeMap<String, AddressReading> {
        let places = Arc::new(Semaphore::new(CONCURRENT));
        let start = |url| UnderWay::start(http.clone(), url, ask, Arc::clone(requests), &places);
        let mut asked: Vec<(String, AddressReading, UnderWay)> = Vec::new();
        for (address, url) in targets {
            let (before, under_way) = match self.0.remove(&address) {
                Some(late) if late.task.is_finished() => (late.take(), start(url)),
                Some(late) => {
                    // They are older than this collection.
                    lock(&late.reading).metrics = None;
                    (AddressReading::default(), late)
                }
                None => (AddressReading::default(), start(url)),
            };
            asked.push((address, before, under_way));
        }
        let all = join_all(asked.iter_mut().map(|(.., under_way)| &mut under_way.task));
        tokio::select! {
            biased;
            _ = all => {}
            () = cut => {}
        }
        let mut results = BTreeMap::new();
        for (address, before, under_way) in asked {
            let is_late = !under_way.task.is_finished();
            let mut reading = under_way.take();
            if is_late && ask.health && reading.probe.is_none() {
                reading.probe = before.probe.or(Some(Probe::CutOff));
                reading.probe_error = before.probe_error;
                reading.redis = before.redis;
                self.0.insert(address.clone(), under_way);
            }
            results.insert(address, reading);
        }
        results
    }
}

impl UnderWay {
    fn start(
        http: Http,
        url: Url,
        ask: Ask,
        requests: Arc<NodeRequests>,
        places: &Arc<Semaphore>,
    ) -> Self {
        let reading = Arc::<Mutex<AddressReading>>::default();
        let (places, found) = (Arc::clone(places), Arc::clone(&reading));
        let task = tokio::spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            ask_one(&http, &url, ask, &requests, &found).await;
        });
        Self {
            task: AbortOnDropHandle::new(task),
            reading,
        }
    }

    /// What was read since the last call.
    fn take(&self) -> AddressReading {
        std::mem::take(&mut *lock(&self.reading))
    }
}

/// The results of the tasks, by name. Tasks that are late when `cut` resolves are aborted, and missing.
pub(in crate::observe) async fn gather<T: Send + 'static>(
    mut tasks: JoinSet<(String, T)>,
    cut: impl Future<Output = ()>,
) -> BTreeMap<String, T> {
    let mut results = BTreeMap::new();
    tokio::pin!(cut);
    loop {
        tokio::select! {
            () = &mut cut => return results, // dropping the set aborts late tasks
            next = tasks.join_next() => match next {
                Some(Ok((name, result))) => {
                    results.insert(name, result);
                }
                Some(Err(_)) => {}
                None => return results,
            },
        }
    }
}

/// Asks one address, and notes each answer in `reading` as soon as it comes.
async fn ask_one(
    http: &Http,
    url: &Url,
    ask: Ask,
    requests: &NodeRequests,
    reading: &Mutex<AddressReading>,
) {
    let answered = |node_id, took: Duration| Probe::Answered {
        node_id,
        seconds: took.as_secs_f64(),
    };
    let health = async {
        let Some(health) = requests.health.as_ref().filter(|_| ask.health) else {
            return;
        };
        let started = Instant::now();
        let read = async {
            let answer = get(http, url, health.port, &health.path.0).await?;
            read_health(health, answer)
        };
        let read = read.await;
        let mut reading = lock(reading);
        match read {
            Ok(health) => {
                reading.redis = health.redis;
                reading.probe = Some(answered(health.node_id, started.elapsed()));
            }
            Err(error) => reading.failed(error),
        }
    };
    let metrics = async {
        let Some(metrics) = requests.metrics.as_ref().filter(|_| ask.metrics) else {
            return;
        };
        let started = Instant::now();
        let read = async {
            let answer = get(http, url, metrics.port, &metrics.path.0).await?;
            let body = answer.ok()?.body;
            let invalid = |wrong: String| {
                let message = format!("GET {}: {wrong}", metrics.path.0);
                HttpError::new(Reason::InvalidMetrics, message)
            };
            let text = std::str::from_utf8(&body).map_err(|error| invalid(error.to_string()))?;
            ScrapedMetrics::parse(text, &requests.series).map_err(invalid)
        };
        let read = read.await;
        let mut reading = lock(reading);
        // Without a described health, a node's metrics prove that it is up.
        if ask.health && requests.health.is_none() {
            match &read {
                Err(error) if error.reason != Reason::InvalidMetrics => {
                    reading.failed(error.clone());
                }
                _ => reading.probe = Some(answered(None, started.elapsed())),
            }
        }
        reading.metrics = Some(read);
    };
    tokio::join!(health, metrics);
}

/// Asks the node at `url` for a path, at another port if one is given.
async fn get(
    http: &Http,
    url: &Url,
    port: Option<u16>,
    path: &str,
) -> Result<ClientResponse, HttpError> {
    let place = place_on(url, port, path).unwrap_or_else(|| url.clone());
    http.get_beside(url, place, None).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::limiters::{Description, built_in};
    use crate::observe::http::access::HttpAccess;

    const ASK: Ask = Ask {
        health: true,
        metrics: true,
    };

    /// Probes the address as a collection that ends at once does, until a collection has a result other than that it was
    /// cut off.
    async fn result_of_short_collections(http: &Http, listener: &TcpListener) -> Probe {
        let description = Description::parse(built_in("reference").unwrap()).unwrap();
        let requests = Arc::new(NodeRequests::new(&description));
        let address = listener.local_addr().unwrap().to_string();
        let url = Url::parse(&format!("http://{address}")).unwrap();
        let mut late = LateProbes::default();
        loop {
            let targets = vec![(address.clone(), url.clone())];
            let cut = tokio::task::yield_now();
            let mut found = late.ask_all(http, targets, ASK, &requests, cut).await;
            match found.remove(&address).and_then(|reading| reading.probe) {
                Some(Probe::CutOff) => tokio::time::sleep(Duration::from_millis(5)).await,
                probe => return probe.unwrap(),
            }
        }
    }

    fn http(timeout: Duration) -> Http {
        // As in `main`. Only the first call has an effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Http::new(timeout, HttpAccess::default()).unwrap()
    }

    #[tokio::test]
    async fn a_node_that_hangs_is_found_although_every_collection_is_shorter_than_a_probe() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = result_of_short_collections(&http(Duration::from_millis(200)), &listener).await;
        assert!(matches!(probe, Probe::Failed(Reason::Timeout)), "{probe:?}");
    }

    #[tokio::test]
    async fn a_node_that_answers_later_than_a_short_collection_ends_is_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answering = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n{\"status\":\"ok\",\"node_id\":\"n1\"}";
                let _ = stream.write_all(answer).await;
            }
        };
        let http = http(Duration::from_secs(600));
        let probe = tokio::select! {
            () = answering => unreachable!(),
            probe = result_of_short_collections(&http, &listener) => probe,
        };
        assert_eq!(probe.node_id(), Some("n1"), "{probe:?}");
    }
}
