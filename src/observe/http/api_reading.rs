//! The management API's line of a collection: the default limit and the node list, from the first base that answers.

use reqwest::Url;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::observation::{Collector, Failure, Limit, Reason};
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::management_api::{ApiNode, ManagementApi};
use crate::observe::redis::fallback::first_success;

/// What the management API said.
#[derive(Debug, Default)]
pub(in crate::observe) struct ApiReading {
    /// It answered, and without an error.
    pub(in crate::observe) up: bool,
    /// Where it answered.
    pub(in crate::observe) base: Option<Url>,
    pub(in crate::observe) limit: Option<Limit>,
    pub(in crate::observe) nodes: Option<Vec<ApiNode>>,
    pub(in crate::observe) failures: Vec<Failure>,
    pub(in crate::observe) seconds: f64,
}

/// Asks the first base, and where that fails all the others at once: several that hang take no longer than two. The
/// default limit is sent on as soon as it is known, or known to be unreadable.
pub(in crate::observe) async fn ask_api(
    http: &Http,
    bases: Vec<Url>,
    default: oneshot::Sender<Option<Limit>>,
) -> ApiReading {
    let started = Instant::now();
    let mut reading = ApiReading::default();
    let failed =
        |error: HttpError| Failure::new(Collector::ManagementApi, "", error.reason, error.message);
    // Also those of bases that were asked before the one that answered.
    let failures = Mutex::new(Vec::new());
    let attempts = bases.into_iter().map(|base| {
        let failures = &failures;
        async move {
            let api = ManagementApi::new(http, base.clone());
            match api.default_limit().await {
                Ok(limit) => Ok((limit, base)),
                Err(error) => {
                    failures.lock().await.push(failed(error));
                    Err(())
                }
            }
        }
    });
    if let Ok((limit, base)) = first_success(attempts.collect()).await {
        reading.limit = Some(limit);
        reading.base = Some(base);
    }
    reading.failures = failures.into_inner();
    // Nobody waits if the sweep was cut off.
    let _ = default.send(reading.limit);
    if let Some(base) = &reading.base {
        reading.up = true;
        match ManagementApi::new(http, base.clone()).nodes().await {
            Ok(nodes) => reading.nodes = Some(nodes),
            Err(error) => {
                // It scans the whole key space on the node: that it takes too long is no drama. An error is.
                reading.up = error.reason == Reason::Timeout;
                reading.failures.push(failed(error));
            }
        }
    }
    reading.seconds = started.elapsed().as_secs_f64();
    reading
}
