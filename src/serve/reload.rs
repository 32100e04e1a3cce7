//! The configuration read anew while the exporter serves: everything is validated and built first, then swapped in; on
//! any error the one of before stays in force. One reload after the other, whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Load;
use super::target::Target;
use crate::clock::Clock;
use crate::collect::{Between, Collect};
use crate::config::{Config, ConfigError, TargetConfig};
use crate::export::Reload;
use crate::invariants::Checker;
use crate::observe::{Limiter, SetupError};
use crate::server::{Admin, App, Guard, ReloadNow};
use crate::subject::{ActionDefinition, DEFAULT_TARGET, InvariantChecker, Subject};

/// Who asked for a reload, and waits to hear how it went.
type Asked = oneshot::Sender<Result<(), String>>;

/// Requests that may wait while a reload is under way; further ones wait for a place here.
const MOST_WAITING: usize = 16;

/// How long a reload waits for its files: for a disk that spins up, not for one that is dead.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// How long a reload waits for collections under way, which end by the timeouts of scrapes: ten seconds by default.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// What is served now, and how it becomes something else.
pub(super) struct Reloader {
    /// In force.
    config: Config,
    load: Load,
    targets: BTreeMap<String, Target>,
    around: Around,
    app: watch::Sender<Arc<App<Limiter, Checker>>>,
    asked: mpsc::Receiver<Asked>,
    /// A reading that was not waited for to its end.
    reading: Option<JoinHandle<Result<(Config, Guard), ConfigError>>>,
}

/// What every configuration is served with.
struct Around {
    clock: Clock,
    /// The one that the server asks: a configuration that is read anew brings one of its own, which nobody does.
    guard: Guard,
    ending: CancellationToken,
    outcome: watch::Sender<Reload>,
    ask: mpsc::Sender<Asked>,
}

impl Reloader {
    /// Begins with `config`; returns what is to be served.
    pub(super) fn new(
        config: Config,
        guard: Guard,
        load: Load,
        targets: BTreeMap<String, Target>,
        ending: &CancellationToken,
    ) -> (Self, watch::Receiver<Arc<App<Limiter, Checker>>>) {
        let clock = Clock::start();
        let outcome = watch::Sender::new(Reload {
            ok: true,
            at: clock.now().wall,
        });
        let (ask, asked) = mpsc::channel(MOST_WAITING);
        let around = Around {
            clock,
            guard,
            ending: ending.clone(),
            outcome,
            ask,
        };
        let (app, served) = watch::channel(Arc::new(around.app(&config, &targets)));
        let reloader = Self {
            config,
            load,
            targets,
            around,
            app,
            asked,
            reading: None,
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
            let at = self.around.clock.now().wall;
            match &result {
                Ok(()) => {
                    self.around.outcome.send_replace(Reload { ok: true, at });
                    tracing::info!("the new configuration is in force");
                }
                Err(error) => {
                    self.around.outcome.send_modify(|reload| reload.ok = false);
                    tracing::error!(
                        "not reloaded, the previous configuration stays in force: {error}"
                    );
                }
            }
            if let Some(waiting) = waiting {
                // Who asked may have gone.
                let _ = waiting.send(result);
            }
        }
    }

    async fn reload(&mut self) -> Result<(), String> {
        let (next, guard) = self.read().await?;
        self.config.may_become(&next)?;
        let taken = self.around.guard.takes(&guard);
        taken.map_err(|error| format!("web.config.file: {error}"))?;
        let prepared = self.prepare(&next).map_err(|error| error.to_string())?;

        // All of them stand still while they change, so that nobody sees some of it.
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
        self.targets = prepared
            .into_iter()
            .zip(between)
            .map(|(prepared, between)| prepared.take_place(between))
            .collect();
        let app = self.around.app(&next, &self.targets);
        self.app.send_replace(Arc::new(app));
        self.config = next;
        Ok(())
    }

    async fn read(&mut self) -> Result<(Config, Guard), String> {
        let unfinished = |reading: &JoinHandle<_>| !reading.is_finished();
        if self.reading.as_ref().is_some_and(unfinished) {
            return Err(
                "its files are being read since the last attempt, and still are".to_owned(),
            );
        }
        let load = Arc::clone(&self.load);
        // On a thread that may wait for a disk: one of them, however often somebody asks.
        let mut reading = tokio::task::spawn_blocking(move || {
            let config = load()?;
            let guard = super::guard(&config)?;
            Ok::<_, ConfigError>((config, guard))
        });
        match tokio::time::timeout(READ_PATIENCE, &mut reading).await {
            Ok(Ok(next)) => next.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(format!("reading it failed: {error}")),
            Err(_) => {
                self.reading = Some(reading);
                Err(format!("its files were not read within {READ_PATIENCE:?}"))
            }
        }
    }

    /// Everything of `next` that could fail.
    fn prepare(&self, next: &Config) -> Result<Vec<Prepared>, SetupError> {
        let file = next.state_file.as_deref();
        // That of those who are there: there is always a default target.
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
}

/// A moment in which none of them collects, in their order. While one does, the others are not kept waiting for it.
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
    /// What takes over in the target; `None` if it was not watched before.
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

impl Around {
    /// What is served under `config`.
    fn app(&self, config: &Config, targets: &BTreeMap<String, Target>) -> App<Limiter, Checker> {
        let web = &config.web;
        App {
            targets: targets
                .iter()
                .map(|(name, target)| (name.clone(), Arc::clone(&target.collect)))
                .collect(),
            telemetry_path: web.telemetry_path.clone(),
            timeout_offset: web.timeout_offset,
            actions: actions(targets),
            admin: web.enable_admin_api.then(|| admin(config, targets)),
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

/// The actions that are offered: those on the default target, of which all the others are, too.
fn actions(targets: &BTreeMap<String, Target>) -> Vec<ActionDefinition> {
    let default = targets.get(DEFAULT_TARGET).into_iter();
    let actions = default.flat_map(|target| target.actor.actions());
    actions.map(ActionDefinition::with_target).collect()
}

fn admin(config: &Config, targets: &BTreeMap<String, Target>) -> Admin {
    let actors = targets.iter();
    Admin {
        actors: actors
            .map(|(name, target)| (name.clone(), Arc::clone(&target.actor)))
            .collect(),
        read_timeout: config.web.read_timeout,
        anybody: config.web.admin_api_insecure,
    }
}
