//! The configuration read anew while the exporter serves: everything is validated and built first, then swapped in; on
//! any error the one of before stays in force. One reload after the other, whoever asks.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Load;
use crate::clock::Clock;
use crate::collect::Collect;
use crate::config::Config;
use crate::export::Reload;
use crate::observe::{Limiter, reset_counter};
use crate::server::{App, ReloadNow, ResetCounter};
use crate::subject::ACTIONS;

/// Who asked for a reload, and waits to hear how it went.
type Asked = oneshot::Sender<Result<(), String>>;

/// Requests that may wait while a reload is under way; further ones wait for a place here.
const MOST_WAITING: usize = 16;

/// What is served now, and how it becomes something else.
pub(super) struct Reloader {
    /// In force.
    config: Config,
    load: Load,
    collect: Arc<Collect<Limiter>>,
    clock: Clock,
    ending: CancellationToken,
    app: watch::Sender<Arc<App<Limiter>>>,
    outcome: watch::Sender<Reload>,
    ask: mpsc::Sender<Asked>,
    asked: mpsc::Receiver<Asked>,
}

impl Reloader {
    /// Begins with `config`; returns what is to be served.
    pub(super) fn new(
        config: Config,
        load: Load,
        collect: Arc<Collect<Limiter>>,
        clock: Clock,
        ending: &CancellationToken,
    ) -> (Self, watch::Receiver<Arc<App<Limiter>>>) {
        let outcome = watch::Sender::new(Reload {
            ok: true,
            at: clock.now().wall,
        });
        let (ask, asked) = mpsc::channel(MOST_WAITING);
        let first = app(&config, &collect, &clock, &outcome, &ask, ending);
        let (app, served) = watch::channel(Arc::new(first));
        let reloader = Self {
            config,
            load,
            collect,
            clock,
            ending: ending.clone(),
            app,
            outcome,
            ask,
            asked,
        };
        (reloader, served)
    }

    /// Reloads whenever it is asked to, by SIGHUP or over HTTP. Never ends.
    pub(super) async fn run(mut self, mut hangup: Signal) {
        loop {
            let waiting = tokio::select! {
                _ = hangup.recv() => None,
                // The sender is held here, so there is always somebody who may ask.
                asked = self.asked.recv() => asked,
            };
            let result = self.reload().await;
            let at = self.clock.now().wall;
            match &result {
                Ok(()) => {
                    self.outcome.send_replace(Reload { ok: true, at });
                    tracing::info!("the configuration was read anew and is in force");
                }
                Err(error) => {
                    self.outcome.send_modify(|reload| reload.ok = false);
                    tracing::error!("not reloaded, the configuration of before stays: {error}");
                }
            }
            if let Some(waiting) = waiting {
                // Who asked may have gone.
                let _ = waiting.send(result);
            }
        }
    }

    async fn reload(&mut self) -> Result<(), String> {
        let load = Arc::clone(&self.load);
        // Files are read: on a thread that may wait for a disk.
        let next = tokio::task::spawn_blocking(move || load()).await;
        let next = next.map_err(|error| format!("reading it failed: {error}"))?;
        let next = next.map_err(|error| error.to_string())?;
        fixed(&self.config, &next)?;
        let limiter = Limiter::new(next.observe.clone(), self.clock.clone());
        let limiter = limiter.map_err(|error| error.to_string())?;

        // From here on nothing can fail.
        let checker = next.checker.clone();
        self.collect
            .reconfigure(limiter, checker, next.key_label, next.max_series)
            .await;
        self.app.send_replace(Arc::new(app(
            &next,
            &self.collect,
            &self.clock,
            &self.outcome,
            &self.ask,
            &self.ending,
        )));
        self.config = next;
        Ok(())
    }
}

/// Refuses what cannot change while the exporter runs.
fn fixed(now: &Config, next: &Config) -> Result<(), String> {
    same(
        "web.listen-address",
        &now.web.listen,
        &next.web.listen,
        ToString::to_string,
    )?;
    same("state.file", &now.state_file, &next.state_file, |file| {
        file.as_ref()
            .map_or("none".to_owned(), |file| file.display().to_string())
    })?;
    same("log.level", &now.log.level, &next.log.level, |level| {
        level.to_string().to_lowercase()
    })?;
    same("log.format", &now.log.json, &next.log.json, |json| {
        if *json { "json" } else { "logfmt" }.to_owned()
    })
}

fn same<T: PartialEq>(
    name: &str,
    now: &T,
    next: &T,
    shown: impl Fn(&T) -> String,
) -> Result<(), String> {
    if now == next {
        return Ok(());
    }
    Err(format!(
        "{name}: cannot change from {} to {} without a restart",
        shown(now),
        shown(next)
    ))
}

/// What is served under `config`.
fn app(
    config: &Config,
    collect: &Arc<Collect<Limiter>>,
    clock: &Clock,
    outcome: &watch::Sender<Reload>,
    ask: &mpsc::Sender<Asked>,
    ending: &CancellationToken,
) -> App<Limiter> {
    App {
        collect: Arc::clone(collect),
        telemetry_path: config.web.telemetry_path.clone(),
        timeout_offset: config.web.timeout_offset,
        actions: &ACTIONS,
        reset_counter: config.web.enable_admin_api.then(|| reset_over_http(config)),
        runbook_url: config.web.runbook_url.clone(),
        clock: clock.clone(),
        reload: outcome.subscribe(),
        reload_now: config
            .web
            .enable_lifecycle
            .then(|| reload_over_http(ask.clone())),
        ending: ending.clone(),
    }
}

fn reload_over_http(ask: mpsc::Sender<Asked>) -> ReloadNow {
    Box::new(move || {
        let ask = ask.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            // Whoever is waited for is gone only when the exporter ends.
            let stopping = || "the exporter is stopping".to_owned();
            ask.send(answer).await.map_err(|_| stopping())?;
            answered.await.unwrap_or_else(|_| Err(stopping()))
        })
    })
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
