//! One of the limiters that are watched, with a clock, collections and state of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::collect::Collect;
use crate::config::{Config, TargetConfig};
use crate::invariants::Checker;
use crate::observe::{Limiter, RedisShares, SetupError};
use crate::state::{self, State};
use crate::subject::{Actor, DEFAULT_TARGET, InvariantChecker as _, Subject as _};

/// One limiter, watched.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) collect: Arc<Collect<Limiter, Checker>>,
    /// What acts on the limiter.
    pub(super) actor: Arc<dyn Actor>,
    clock: Clock,
    pub(super) shares: RedisShares,
}

impl Target {
    /// Prepares to watch the limiter called `name`, with the state that was saved. Sends nothing yet.
    pub(super) fn start(
        name: &str,
        config: &TargetConfig,
        state_file: Option<&Path>,
        shares: &RedisShares,
    ) -> Result<Self, SetupError> {
        let state_file = state_file.map(|file| state::file_of(file, name));
        let state = state_file.as_deref().and_then(recalled);
        let clock = match &state {
            Some(state) => Clock::start().resume(|now| state.resume_at(now)),
            None => Clock::start(),
        };
        let limiter = Limiter::new(config.observe.clone(), clock.clone())?;
        let mut limiter = limiter.going_on(shares);
        let mut checker = Checker::new(config.checker.clone());
        if let Some(state) = state {
            match limiter.recall(state.subject) {
                Ok(()) => {
                    checker.restore(state.violations);
                    let recalled = state_file
                        .as_deref()
                        .map(|file| state::load_bulk(file, |bulk| limiter.recall_bulk(bulk)));
                    if let Some(Err(error)) = recalled {
                        tracing::error!("{error}; starting without limits");
                    }
                }
                Err(error) => {
                    tracing::error!("--state.file: {error}; starting empty");
                }
            }
        }
        let actor = limiter.actor();
        let collect = Collect::new(limiter, checker, clock.clone(), state_file);
        let collect = match name {
            DEFAULT_TARGET => collect,
            name => collect.named(name),
        };
        let collect = Arc::new(collect);
        Ok(Self {
            collect,
            actor,
            clock,
            shares: shares.clone(),
        })
    }

    /// The limiter with another configuration, which may take over from this one.
    pub(super) fn other(&self, config: &TargetConfig) -> Result<Limiter, SetupError> {
        let limiter = Limiter::new(config.observe.clone(), self.clock.clone())?;
        Ok(limiter.going_on(&self.shares))
    }
}

/// Prepares to watch every limiter of the configuration.
pub(super) fn start_all(config: &Config) -> Result<BTreeMap<String, Target>, SetupError> {
    let file = config.state_file.as_deref();
    // One for the process: targets that share a server share its time.
    let shares = RedisShares::default();
    let started = config.targets.iter().map(|(name, target)| {
        let target = Target::start(name, target, file, &shares)?;
        Ok((name.clone(), target))
    });
    started.collect()
}

/// The state of the previous run; `None`, with the reason in the log, if it cannot be read.
fn recalled(path: &Path) -> Option<State> {
    match state::load(path) {
        Ok(state) => state,
        Err(error) => {
            tracing::error!("{error}; starting empty");
            None
        }
    }
}
