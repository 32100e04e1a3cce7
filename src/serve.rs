//! Puts the parts together: configuration → limiter, checker, collections, server. What a new configuration changes
//! while they run is `reload`'s business.

mod reload;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::collect::Collect;
use crate::config::{Config, ConfigError};
use crate::invariants::Checker;
use crate::observe::Limiter;
use crate::server::Server;
use crate::snapshot::Snapshot;
use crate::state::{self, State};
use crate::subject::Subject as _;
use reload::Reloader;

/// How often the registry is looked at between collections: well inside the life of a registration (30 s), which
/// Prometheus's default scrape interval (1 min) is not. It costs two commands a node.
const GLANCE_EVERY: Duration = Duration::from_secs(8);

/// What `check` gives a collection.
const CHECK_TIME: Duration = Duration::from_secs(30);

/// How long the end may wait for a collection under way, once every answer is out: until its state is written.
const LAST_COLLECTION: Duration = Duration::from_secs(3);

/// Reads the configuration anew, from the same flags and variables and from the file as it is now.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Serves until SIGINT or SIGTERM; a second one aborts. SIGHUP makes it `load` the configuration anew.
pub async fn serve(config: Config, load: Load) -> anyhow::Result<()> {
    let server = Server::bind(config.web.listen).await.with_context(|| {
        format!(
            "--web.listen-address: cannot listen on {}",
            config.web.listen
        )
    })?;
    let state = config.state_file.as_deref().and_then(recalled);
    let clock = match &state {
        Some(state) => Clock::start().resume(|now| state.resume_at(now)),
        None => Clock::start(),
    };
    let mut limiter = Limiter::new(config.observe.clone(), clock.clone())?;
    let mut checker = Checker::new(config.checker.clone(), config.key_label);
    if let Some(state) = state {
        match limiter.recall(state.subject) {
            Ok(()) => checker.restore(state.violations),
            Err(error) => tracing::error!("--state.file: not taken back: {error}; starting empty"),
        }
    }
    let state_file = config.state_file.clone();
    let collect = Arc::new(Collect::new(
        limiter,
        checker,
        clock.clone(),
        config.key_label,
        config.max_series,
        state_file,
    ));
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let hangup = signal(SignalKind::hangup())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %server.local_addr()?,
        path = config.web.telemetry_path,
        "serving"
    );
    let (reloader, app) = Reloader::new(config, load, Arc::clone(&collect), clock, &shutdown);
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
    let glances = async {
        loop {
            tokio::time::sleep(GLANCE_EVERY).await;
            collect.glance().await;
        }
    };
    let ended = async {
        running.await;
        if tokio::time::timeout(LAST_COLLECTION, collect.finish())
            .await
            .is_err()
        {
            tracing::warn!("stopping without the state of the last collection, which does not end");
        }
    };
    tokio::select! {
        () = ended => {}
        () = asked => tracing::warn!("stopping at once"),
        () = reloader.run(hangup) => {}
        () = glances => {}
    }
    Ok(())
}

/// The state of the run before; `None`, with the reason in the log, if there is none to be had.
fn recalled(path: &Path) -> Option<State> {
    match state::load(path) {
        Ok(state) => state,
        Err(error) => {
            tracing::error!("{error}; starting empty");
            None
        }
    }
}

/// One collection, after watching the nodes' latency histograms for `watch`: a latency needs two readings.
pub async fn check(config: &Config, watch: Duration) -> anyhow::Result<Arc<Snapshot>> {
    let clock = Clock::start();
    let limiter = Limiter::new(config.observe.clone(), clock.clone())?;
    let checker = Checker::new(config.checker.clone(), config.key_label);
    let (label, max_series) = (config.key_label, config.max_series);
    let collect = Arc::new(Collect::new(
        limiter, checker, clock, label, max_series, None,
    ));
    let mut snapshot = collect.snapshot(Instant::now() + CHECK_TIME).await;
    if !watch.is_zero() {
        tokio::time::sleep(watch).await;
        snapshot = collect.snapshot(Instant::now() + CHECK_TIME).await;
    }
    snapshot.context("the collection failed")
}
