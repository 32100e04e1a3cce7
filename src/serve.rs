//! Puts the parts together: configuration → limiter, checker, collections, server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::collect::Collect;
use crate::config::Config;
use crate::export::Reload;
use crate::invariants::Checker;
use crate::observe::{Limiter, reset_counter};
use crate::server::{App, ResetCounter, Server};
use crate::snapshot::Snapshot;
use crate::subject::Subject as _;

/// What `check` gives a collection.
const CHECK_TIME: Duration = Duration::from_secs(30);

/// Serves until SIGINT or SIGTERM; a second one aborts.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let clock = Clock::start();
    let server = Server::bind(config.web.listen).await.with_context(|| {
        format!(
            "--web.listen-address: cannot listen on {}",
            config.web.listen
        )
    })?;
    let limiter = Limiter::new(config.observe.clone(), clock.clone())?;
    let actions = limiter.actions();
    let collect = Arc::new(collect(&config, limiter, clock.clone()));
    let app = Arc::new(App {
        collect: Arc::clone(&collect),
        telemetry_path: config.web.telemetry_path.clone(),
        timeout_offset: config.web.timeout_offset,
        actions,
        reset_counter: config
            .web
            .enable_admin_api
            .then(|| reset_over_http(&config)),
        reload: Reload {
            ok: true,
            at: clock.now().wall,
        },
    });
    let shutdown = CancellationToken::new();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %server.local_addr()?,
        path = config.web.telemetry_path,
        "serving"
    );
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let running = server.run(app, shutdown.clone());
    tokio::pin!(running);
    let asked = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: answers under way are finished first");
        shutdown.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::select! {
        () = &mut running => collect.finish().await,
        () = asked => tracing::warn!("stopping at once"),
    }
    Ok(())
}

fn collect(config: &Config, limiter: Limiter, clock: Clock) -> Collect<Limiter> {
    let checker = Checker::new(config.checker.clone(), config.key_label);
    Collect::new(limiter, checker, clock, config.key_label, config.max_series)
}

fn reset_over_http(config: &Config) -> ResetCounter {
    let urls = config.observe.ratelimiter_urls.clone();
    let timeout = config.observe.ratelimiter_timeout;
    Box::new(move |key| {
        let urls = urls.clone();
        Box::pin(async move {
            let result = reset_counter(&urls, timeout, &key).await;
            result.map_err(|error| error.to_string())
        })
    })
}

/// One collection, after watching the nodes' latency histograms for `watch`: a latency needs two readings.
pub async fn check(config: &Config, watch: Duration) -> anyhow::Result<Arc<Snapshot>> {
    let clock = Clock::start();
    let limiter = Limiter::new(config.observe.clone(), clock.clone())?;
    let collect = Arc::new(collect(config, limiter, clock));
    let mut snapshot = collect.snapshot(Instant::now() + CHECK_TIME).await;
    if !watch.is_zero() {
        tokio::time::sleep(watch).await;
        snapshot = collect.snapshot(Instant::now() + CHECK_TIME).await;
    }
    snapshot.context("the collection failed")
}
