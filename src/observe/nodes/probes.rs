//! Asks many addresses for `/health` and `/metrics`, a bounded number at the same time, until a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

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
#[derive(Debug)]
pub(in crate::observe) struct AddressReading {
    pub(in crate::observe) probe: Option<Probe>,
    /// Why the probe failed, as a message.
    pub(in crate::observe) probe_error: Option<HttpError>,
    /// Whether the node reaches Redis, if its health covers that.
    pub(in crate::observe) redis: Option<bool>,
    pub(in crate::observe) metrics: Option<Result<ScrapedMetrics, HttpError>>,
}

/// Asks every target. Targets that have not answered when `cut` resolves are missing from the result.
pub(in crate::observe) async fn ask_all(
    http: &Http,
    targets: Vec<(String, Url)>,
    ask: Ask,
    requests: &Arc<NodeRequests>,
    cut: impl Future<Output = ()>,
) -> BTreeMap<String, AddressReading> {
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut tasks = JoinSet::new();
    for (address, url) in targets {
        let (http, requests, places) = (http.clone(), Arc::clone(requests), Arc::clone(&places));
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            (address, ask_one(&http, &url, ask, &requests).await)
        });
    }
    gather(tasks, cut).await
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

async fn ask_one(http: &Http, url: &Url, ask: Ask, requests: &NodeRequests) -> AddressReading {
    let health = async {
        let health = requests.health.as_ref().filter(|_| ask.health)?;
        let started = Instant::now();
        let reading = async {
            let answer = get(http, url, health.port, &health.path.0).await?;
            read_health(health, answer)
        };
        Some((reading.await, started.elapsed()))
    };
    let metrics = async {
        let metrics = requests.metrics.as_ref().filter(|_| ask.metrics)?;
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
        Some((read.await, started.elapsed()))
    };
    let (health, metrics) = tokio::join!(health, metrics);
    let mut reading = AddressReading {
        probe: None,
        probe_error: None,
        redis: None,
        metrics: None,
    };
    let answered = |node_id, took: Duration| Probe::Answered {
        node_id,
        seconds: took.as_secs_f64(),
    };
    match (health, &metrics) {
        (Some((Ok(health), took)), _) => {
            reading.redis = health.redis;
            reading.probe = Some(answered(health.node_id, took));
        }
        (Some((Err(error), _)), _) => {
            reading.probe = Some(Probe::Failed(error.reason));
            reading.probe_error = Some(error);
        }
        // Without a described health, a node's metrics prove that it is up.
        (None, Some((read, took))) if ask.health && requests.health.is_none() => match read {
            Err(error) if error.reason != Reason::InvalidMetrics => {
                reading.probe = Some(Probe::Failed(error.reason));
                reading.probe_error = Some(error.clone());
            }
            _ => reading.probe = Some(answered(None, *took)),
        },
        (None, _) => {}
    }
    reading.metrics = metrics.map(|(read, _)| read);
    reading
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
