//! Reloads the configuration while the exporter serves: everything is validated and built first, then swapped in. After an
//! error, the previous configuration stays in force. Reloads run one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Error, bail};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::target::Target;
use super::{Load, ServedApp, state_files_differ};
use crate::clock::Clock;
use crate::collect::{Between, Collect};
use crate::config::{Config, ConfigError};
use crate::export::Reload;
use crate::observe::{Limiter, RedisShares, SetupError};
use crate::server::{Admin, App, Guard, ReloadRequest};
use crate::subject::{ActionDefinition, DEFAULT_TARGET, InvariantChecker, Subject};

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
    guard: Arc<Guard>,
    /// One for the process: targets that share a server share its time.
    shares: RedisShares,
    clock: Clock,
    ending: CancellationToken,
    outcome: watch::Sender<Reload>,
    ask: mpsc::Sender<ReloadRequest>,
    asked: mpsc::Receiver<ReloadRequest>,
    /// The last reading of the configuration. If it took too long, it may still be under way.
    reading: Option<JoinHandle<Result<Config, ConfigError>>>,
}

impl Reloader {
    /// Prepares to watch every target of `config`, which is in force from now on.
    pub(super) fn start(
        config: Config,
        guard: Arc<Guard>,
        load: Load,
        ending: CancellationToken,
    ) -> Result<Self, SetupError> {
        let clock = Clock::start();
        let at = clock.now().wall;
        let (ask, asked) = mpsc::channel(MOST_WAITING);
        let mut this = Self {
            config,
            targets: BTreeMap::new(),
            load,
            guard,
            shares: RedisShares::default(),
            clock,
            ending,
            outcome: watch::Sender::new(Reload { ok: true, at }),
            ask,
            asked,
            reading: None,
        };
        let prepared = this.prepare(&this.config)?.into_iter();
        this.targets = prepared.map(|(name, target, _)| (name, target)).collect();
        Ok(this)
    }

    /// Reloads at each SIGHUP and at each request over HTTP, and passes what is to be served to `app`. Never ends.
    pub(super) async fn run(mut self, mut hangup: Signal, app: watch::Sender<Arc<ServedApp>>) {
        loop {
            let waiting = tokio::select! {
                _ = hangup.recv() => None,
                // This also holds the sender, so the channel never closes.
                asked = self.asked.recv() => asked,
            };
            let result = self.reload().await.map_err(|error| error.to_string());
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

    async fn reload(&mut self) -> anyhow::Result<()> {
        let read = tokio::time::timeout(READ_PATIENCE, self.read()).await;
        let next =
            read.with_context(|| format!("its files were not read within {READ_PATIENCE:?}"))??;
        self.config.may_become(&next).map_err(Error::msg)?;
        let mut prepared = self.prepare(&next)?;

        // No target collects while they change, so that no client sees a part of the change.
        let collects = prepared.iter().map(|(_, target, _)| &target.collect);
        let collects: Vec<_> = collects.cloned().collect();
        let between = tokio::time::timeout(MOST_PATIENCE, all_between(&collects)).await;
        let between = between.with_context(|| {
            format!("there was no moment without a collection within {MOST_PATIENCE:?}")
        })?;

        // From here on nothing can fail.
        let changes = prepared.iter_mut().zip(between);
        for (((_, target, limiter), mut between), config) in changes.zip(next.targets.values()) {
            if let Some(limiter) = limiter.take() {
                target.actor = limiter.actor();
                between.reconfigure(limiter, config.checker.clone());
            }
        }
        let prepared = prepared.into_iter();
        self.targets = prepared.map(|(name, target, _)| (name, target)).collect();
        self.config = next;
        Ok(())
    }

    /// The configuration as its files are now. The guard reads its own files.
    async fn read(&mut self) -> anyhow::Result<Config> {
        let unfinished = |reading: &JoinHandle<_>| !reading.is_finished();
        if self.reading.as_ref().is_some_and(unfinished) {
            bail!("the last attempt still waits for its files");
        }
        let load = Arc::clone(&self.load);
        // On a thread that may wait for a disk. There is only one such thread, however many requests there are.
        let reading = tokio::task::spawn_blocking(move || load());
        let next = self.reading.insert(reading).await??;
        state_files_differ(&next)?;
        let refreshed = self.guard.refresh(true).await;
        refreshed.map_err(|why| next.refuse_web_file(&why))?;
        next.admits_actions(!self.guard.authenticates())?;
        Ok(next)
    }

    /// Does everything for `next` that can fail: the name of each target, the target, and the limiter that takes
    /// over in a target that exists.
    fn prepare(&self, next: &Config) -> Result<Vec<(String, Target, Option<Limiter>)>, SetupError> {
        let file = next.state_file.as_deref();
        let prepared = next.targets.iter().map(|(name, config)| {
            let (target, limiter) = match self.targets.get(name) {
                Some(there) => (there.clone(), Some(there.other(config, &self.shares)?)),
                None => (Target::start(name, config, file, &self.shares)?, None),
            };
            Ok((name.clone(), target, limiter))
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
            guard: Arc::clone(&self.guard),
            reload: self.outcome.subscribe(),
            ask_to_reload: web.enable_lifecycle.then(|| self.ask.clone()),
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
    while let Some(collect) = collects.get(awaited) {
        let mut first = Some(collect.between().await);
        let held = collects.iter().enumerate().map(|(place, collect)| {
            let between = if place == awaited {
                first.take()
            } else {
                collect.try_between()
            };
            between.ok_or(place)
        });
        match held.collect() {
            Ok(held) => return held,
            Err(busy) => awaited = busy,
        }
    }
    Vec::new()
}
