//! Reloads the configuration while the exporter serves: everything is validated and built first, then swapped in. After an
//! error, the previous configuration stays in force. Reloads run one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::target::Target;
use super::{Load, ServedApp};
use crate::clock::Clock;
use crate::collect::{Between, Collect};
use crate::config::{Config, ConfigError, TargetConfig};
use crate::export::Reload;
use crate::invariants::Checker;
use crate::observe::{Limiter, SetupError};
use crate::server::{Admin, App, Guard, ReloadNow};
use crate::subject::{ActionDefinition, DEFAULT_TARGET, InvariantChecker, Subject};

/// Where the outcome of a reload is sent to the client that asked for it.
type Asked = oneshot::Sender<Result<(), String>>;

/// Requests that may wait while a reload is under way; further ones wait to be queued.
const MOST_WAITING: usize = 16;

/// How long a reload waits for its files: long enough for a disk that spins up.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// How long a reload waits for collections under way, which end by the timeouts of scrapes: ten seconds by default.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// What is served now, and how it changes.
pub(super) struct Reloader {
    /// In force.
    config: Config,
    targets: BTreeMap<String, Target>,
    load: Load,
    /// The guard that the server uses. A reload makes a second one, to validate the file of this one.
    guard: Guard,
    clock: Clock,
    ending: CancellationToken,
    outcome: watch::Sender<Reload>,
    ask: mpsc::Sender<Asked>,
    asked: mpsc::Receiver<Asked>,
    /// A previous reading of the files that took too long. It may still be under way.
    reading: Option<JoinHandle<Result<(Config, Guard), ConfigError>>>,
}

impl Reloader {
    /// Starts with `config` in force.
    pub(super) fn new(
        config: Config,
        guard: Guard,
        load: Load,
        targets: BTreeMap<String, Target>,
        ending: &CancellationToken,
    ) -> Self {
        let clock = Clock::start();
        let at = clock.now().wall;
        let (ask, asked) = mpsc::channel(MOST_WAITING);
        Self {
            config,
            targets,
            load,
            guard,
            clock,
            ending: ending.clone(),
            outcome: watch::Sender::new(Reload { ok: true, at }),
            ask,
            asked,
            reading: None,
        }
    }

    /// Reloads at each SIGHUP and at each request over HTTP, and passes what is to be served to `app`. Never ends.
    pub(super) async fn run(mut self, mut hangup: Signal, app: watch::Sender<Arc<ServedApp>>) {
        loop {
            let waiting = tokio::select! {
                _ = hangup.recv() => None,
                // This also holds the sender, so the channel never closes.
                asked = self.asked.recv() => asked,
            };
            let result = self.reload().await;
            let at = self.clock.now().wall;
            match &result {
                Ok(()) => {
                    self.outcome.send_replace(Reload { ok: true, at });
                    app.send_replace(Arc::new(self.app()));
                    tracing::info!("the new configuration is in force");
                }
                Err(error) => {
                    self.outcome.send_modify(|reload| reload.ok = false);
                    tracing::error!(
                        "not reloaded, the previous configuration stays in force: {error}"
                    );
                }
            }
            if let Some(waiting) = waiting {
                // The client may have gone.
                let _ = waiting.send(result);
            }
        }
    }

    async fn reload(&mut self) -> Result<(), String> {
        let (next, guard) = self.read().await?;
        self.config.may_become(&next)?;
        let taken = self.guard.takes(&guard);
        taken.map_err(|error| format!("web.config.file: {error}"))?;
        let prepared = self.prepare(&next).map_err(|error| error.to_string())?;

        // No target collects while they change, so that no client sees a part of the change.
        let collects: Vec<_> = prepared
            .iter()
            .map(|prepared| Arc::clone(&prepared.target.collect))
            .collect();
        let between = tokio::time::timeout(MOST_PATIENCE, all_between(&collects))
            .await
            .map_err(|_| {
                format!("there was no moment without a collection within {MOST_PATIENCE:?}")
            })?;

        // From here on nothing can fail.
        let prepared = prepared.into_iter().zip(between);
        self.targets = prepared
            .map(|(prepared, between)| prepared.take_place(between))
            .collect();
        self.config = next;
        Ok(())
    }

    async fn read(&mut self) -> Result<(Config, Guard), String> {
        let unfinished = |reading: &JoinHandle<_>| !reading.is_finished();
        if self.reading.as_ref().is_some_and(unfinished) {
            return Err("the last attempt still waits for its files".to_owned());
        }
        let load = Arc::clone(&self.load);
        // On a thread that may wait for a disk. There is only one such thread, however many requests there are.
        let mut reading = tokio::task::spawn_blocking(move || {
            let config = load()?;
            let guard = super::guard(&config)?;
            Ok::<_, ConfigError>((config, guard))
        });
        match tokio::time::timeout(READ_PATIENCE, &mut reading).await {
            Ok(Ok(next)) => next.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(format!("reading its files failed: {error}")),
            Err(_) => {
                self.reading = Some(reading);
                Err(format!("its files were not read within {READ_PATIENCE:?}"))
            }
        }
    }

    /// Does everything for `next` that can fail.
    fn prepare(&self, next: &Config) -> Result<Vec<Prepared>, SetupError> {
        let file = next.state_file.as_deref();
        // All targets have the same, and there is always a default target.
        let shares = self.targets.values().next();
        let shares = shares.map(|there| there.shares.clone()).unwrap_or_default();
        let prepared = next.targets.iter().map(|(name, config)| {
            let (target, next) = match self.targets.get(name) {
                Some(there) => (there.clone(), Some(there.other(config)?)),
                None => (Target::start(name, config, file, &shares)?, None),
            };
            Ok(Prepared {
                name: name.clone(),
                config: config.clone(),
                target,
                next,
            })
        });
        prepared.collect()
    }

    /// What is served now.
    pub(super) fn app(&self) -> ServedApp {
        let web = &self.config.web;
        let targets = self.targets.iter();
        App {
            targets: targets
                .map(|(name, target)| (name.clone(), Arc::clone(&target.collect)))
                .collect(),
            telemetry_path: web.telemetry_path.clone(),
            timeout_offset: web.timeout_offset,
            actions: self.actions(),
            admin: web.enable_admin_api.then(|| self.admin()),
            runbook_url: web.runbook_url.clone(),
            clock: self.clock.clone(),
            guard: self.guard.clone(),
            reload: self.outcome.subscribe(),
            reload_now: web
                .enable_lifecycle
                .then(|| reload_over_http(self.ask.clone())),
            ending: self.ending.clone(),
        }
    }

    /// The actions of the default target, which every other target has, too.
    fn actions(&self) -> Vec<ActionDefinition> {
        let default = self.targets.get(DEFAULT_TARGET).into_iter();
        let actions = default.flat_map(|target| target.actor.actions());
        actions.map(ActionDefinition::with_target).collect()
    }

    fn admin(&self) -> Admin {
        let actors = self.targets.iter();
        Admin {
            actors: actors
                .map(|(name, target)| (name.clone(), Arc::clone(&target.actor)))
                .collect(),
            read_timeout: self.config.web.read_timeout,
            anybody: self.config.web.admin_api_insecure,
        }
    }
}

/// Waits for a moment in which none of them collects, in their order. While this waits for one, the others may collect.
async fn all_between<S: Subject + 'static, C: InvariantChecker + 'static>(
    collects: &[Arc<Collect<S, C>>],
) -> Vec<Between<'_, S, C>> {
    let _holds: Vec<_> = collects.iter().map(|it| it.hold()).collect();
    let mut awaited = 0;
    loop {
        let Some(collect) = collects.get(awaited) else {
            return Vec::new();
        };
        let mut first = Some(collect.between().await);
        let mut held = Vec::with_capacity(collects.len());
        let busy = collects.iter().enumerate().position(|(place, collect)| {
            let between = if place == awaited {
                first.take()
            } else {
                collect.try_between()
            };
            let busy = between.is_none();
            held.extend(between);
            busy
        });
        match busy {
            None => return held,
            Some(place) => awaited = place,
        }
    }
}

/// A target of the next configuration.
struct Prepared {
    name: String,
    config: TargetConfig,
    target: Target,
    /// The limiter that takes over in the target; `None` if the target is new.
    next: Option<Limiter>,
}

impl Prepared {
    fn take_place(mut self, mut between: Between<'_, Limiter, Checker>) -> (String, Target) {
        if let Some(next) = self.next {
            self.target.actor = next.actor();
            between.reconfigure(next, self.config.checker);
        }
        (self.name, self.target)
    }
}

fn reload_over_http(ask: mpsc::Sender<Asked>) -> ReloadNow {
    Box::new(move || {
        let ask = ask.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            // The other side is gone only when the exporter ends.
            let stopping = || "the exporter is stopping".to_owned();
            ask.send(answer).await.map_err(|_| stopping())?;
            answered.await.unwrap_or_else(|_| Err(stopping()))
        })
    })
}
