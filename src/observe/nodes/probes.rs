//! Asks many addresses at once for `/health` and `/metrics`, a bounded number at a time, until a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::observation::Reason;
use crate::observe::http::client::{ClientResponse, Http, HttpError, shown};
use crate::observe::http::management_api::place_on;
use crate::observe::latency::node_metrics::ScrapedMetrics;
use crate::observe::nodes::requests::{NodeRequests, read_health};
use crate::observe::nodes::state::Probe;

/// Requests under way at once.
const CONCURRENT: usize = 32;

/// What is asked of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Ask {
    pub(in crate::observe) health: bool,
    pub(in crate::observe) metrics: bool,
}

/// What an address answered.
#[derive(Debug)]
pub(in crate::observe) struct AddressReading {
    pub(in crate::observe) probe: Option<Probe>,
    /// Why the probe failed, for people.
    pub(in crate::observe) probe_error: Option<HttpError>,
    /// Whether it reaches Redis, where its health covers that.
    pub(in crate::observe) redis: Option<bool>,
    pub(in crate::observe) metrics: Option<Result<ScrapedMetrics, HttpError>>,
}

/// Asks every target; those that did not answer when `cut` resolved are missing from the result.
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

/// What the tasks brought by `cut`, by name; those that are late then are aborted, and missing.
pub(in crate::observe) async fn gather<T: Send + 'static>(
    mut tasks: JoinSet<(String, T)>,
    cut: impl Future<Output = ()>,
) -> BTreeMap<String, T> {
    let mut results = BTreeMap::new();
    tokio::pin!(cut);
    loop {
        tokio::select! {
            () = &mut cut => return results, // dropping the set aborts what is late
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
        let said = async {
            let (what, answer) = get(http, url, health.port, &health.path.0).await?;
            read_health(health, answer, &what)
        };
        Some((said.await, started.elapsed()))
    };
    let metrics = async {
        let metrics = requests.metrics.as_ref().filter(|_| ask.metrics)?;
        let started = Instant::now();
        let read = async {
            let (what, answer) = get(http, url, metrics.port, &metrics.path.0).await?;
            let body = answer.ok(&what)?.body;
            let invalid = |wrong: String| HttpError {
                status: None,
                reason: Reason::InvalidMetrics,
                message: format!("GET {}: {wrong}", metrics.path.0),
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
        (Some((Ok(said), took)), _) => {
            reading.redis = said.redis;
            reading.probe = Some(answered(said.node_id, took));
        }
        (Some((Err(error), _)), _) => {
            reading.probe = Some(Probe::Failed(error.reason));
            reading.probe_error = Some(error);
        }
        // A node whose health is not described shows by its metrics that it is there.
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

/// Asks the node at `url` for a path, at another port where there is one; with what was asked, for people.
async fn get(
    http: &Http,
    url: &Url,
    port: Option<u16>,
    path: &str,
) -> Result<(String, ClientResponse), HttpError> {
    let place = place_on(url, port, path).unwrap_or_else(|| url.clone());
    let what = format!("GET {}", shown(&place));
    Ok((what, http.get_beside(url, place, None).await?))
}
