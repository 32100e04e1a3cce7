//! Scrapes every 15 seconds, as Prometheus makes them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use super::exporter::{Exporter, full_pass, scrape};

/// How often Prometheus scrapes.
pub(crate) const EVERY: Duration = Duration::from_secs(15);

/// Scrapes of one exporter, from its start until this is dropped; the first is made at once.
#[derive(Debug)]
pub(crate) struct Scraping {
    seen: Arc<Mutex<Seen>>,
    /// Unix time of the first scrape, in seconds.
    began: f64,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    full_pass: Option<f64>,
    seconds: Vec<f64>,
}

impl Scraping {
    pub(crate) fn start(exporter: &Exporter) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let address = exporter.address.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                // One that fails is missed as Prometheus would miss it.
                if let Ok((metrics, seconds)) = scrape(&address, "/metrics").await {
                    let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.full_pass = seen.full_pass.or(full_pass(&metrics));
                    seen.seconds.push(seconds);
                }
            }
        });
        Self {
            seen,
            began: now(),
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Seconds from the first scrape to the end of the first full pass, once a scrape has shown that.
    pub(crate) fn first_pass(&self) -> Option<f64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.full_pass.map(|at| at - self.began)
    }

    /// How long the scrapes took since the last call, in seconds.
    pub(crate) fn take_seconds(&self) -> Vec<f64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut seen.seconds)
    }
}

fn now() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds, fewer than 2^52")]
    let now = lab::clock::now_ms() as f64;
    now / 1000.0
}
