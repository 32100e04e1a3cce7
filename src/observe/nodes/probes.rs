//! Asks many addresses at once for `/health` and `/metrics`, a bounded number at a time, until a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::observation::Reason;
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::management_api::ManagementApi;
use crate::observe::latency::exposition::Selector;
use crate::observe::latency::node_metrics::ScrapedMetrics;
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
    pub(in crate::observe) metrics: Option<Result<ScrapedMetrics, HttpError>>,
}

/// Asks every target; those that did not answer when `cut` resolved are missing from the result.
pub(in crate::observe) async fn ask_all(
    http: &Http,
    targets: Vec<(String, Url)>,
    ask: Ask,
    selectors: &Arc<Vec<Selector>>,
    cut: impl Future<Output = ()>,
) -> BTreeMap<String, AddressReading> {
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut tasks = JoinSet::new();
    for (address, url) in targets {
        let (http, selectors, places) = (http.clone(), Arc::clone(selectors), Arc::clone(&places));
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            (address, ask_one(&http, url, ask, &selectors).await)
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

async fn ask_one(http: &Http, url: Url, ask: Ask, selectors: &[Selector]) -> AddressReading {
    let api = ManagementApi::new(http, url);
    let health = async {
        if !ask.health {
            return (None, None);
        }
        let started = Instant::now();
        match api.health().await {
            Ok(health) => {
                let probe = Probe::Answered {
                    node_id: health.node_id,
                    seconds: started.elapsed().as_secs_f64(),
                };
                (Some(probe), None)
            }
            Err(error) => (Some(Probe::Failed(error.reason)), Some(error)),
        }
    };
    let metrics = async {
        if !ask.metrics {
            return None;
        }
        Some(api.metrics().await.and_then(|body| {
            let invalid = |what: String| HttpError {
                status: None,
                reason: Reason::InvalidMetrics,
                message: format!("GET /metrics: {what}"),
            };
            let text = std::str::from_utf8(&body).map_err(|error| invalid(error.to_string()))?;
            ScrapedMetrics::parse(text, selectors).map_err(invalid)
        }))
    };
    let ((probe, probe_error), metrics) = tokio::join!(health, metrics);
    AddressReading {
        probe,
        probe_error,
        metrics,
    }
}
