//! Puts the parts together: configuration → limiter, checker, collections, server.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::collect::{Collect, Keep};
use crate::config::Config;
use crate::export::Reload;
use crate::invariants::Checker;
use crate::observe::{Limiter, reset_counter};
use crate::server::{Admin, App, Server};
use crate::state::{self, State};
use crate::subject::Subject as _;

/// Serves until SIGINT or SIGTERM; a second one aborts.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let (listen, guard) = (config.web.listen, config.web.guard.clone());
    let bound = Server::bind(listen, guard, config.web.limits).await;
    let server =
        bound.with_context(|| format!("--web.listen-address: cannot listen on {listen}"))?;
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
    let actions = limiter.actions();
    let keep = Keep {
        label: config.key_label,
        max_series: config.max_series,
        state_file: config.state_file.clone(),
        ..Keep::default()
    };
    let collect = Arc::new(Collect::new(limiter, checker, clock.clone(), keep));
    let app = Arc::new(App {
        collect: Arc::clone(&collect),
        telemetry_path: config.web.telemetry_path.clone(),
        timeout_offset: config.web.timeout_offset,
        actions,
        admin: config.web.enable_admin_api.then(|| admin(&config)),
        runbook_url: config.web.runbook_url.clone(),
        clock: clock.clone(),
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
        () = collect.glance_at_times() => {}
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

fn admin(config: &Config) -> Admin {
    let observe = Arc::new(config.observe.clone());
    Admin {
        reset: Box::new(move |key| {
            let observe = Arc::clone(&observe);
            Box::pin(async move { reset_counter(&observe, &key).await })
        }),
        key_label: config.key_label,
        read_timeout: config.web.limits.read_timeout,
        anybody: config.web.admin_api_insecure,
    }
}
