//! A target: one of the limiters that are watched, with a clock, collections and state of its own.

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::collect::Collect;
use crate::config::TargetConfig;
use crate::invariants::Checker;
use crate::observe::{Limiter, RedisShares, SetupError};
use crate::state;
use crate::subject::{Actor, DEFAULT_TARGET, InvariantChecker as _, Subject as _};

/// A limiter that is watched.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) collect: Arc<Collect<Limiter, Checker>>,
    /// What acts on the limiter.
    pub(super) actor: Arc<dyn Actor>,
    clock: Clock,
}

impl Target {
    /// Prepares to watch the target called `name`, with the state that was saved. Sends nothing yet.
    pub(super) fn start(
        name: &str,
        config: &TargetConfig,
        state_file: Option<&Path>,
        shares: &RedisShares,
    ) -> Result<Self, SetupError> {
        let state_file = state_file.map(|file| state::file_of(file, name));
        let state = state_file.as_deref().and_then(|file| {
            state::load(file).unwrap_or_else(|error| {
                tracing::error!("{error}; starting empty");
                None
            })
        });
        let clock = match &state {
            Some(state) => Clock::start().resume(|now| state.resume_at(now)),
            None => Clock::start(),
        };
        let limiter = Limiter::new(config.observe.clone(), clock.clone())?;
        let mut limiter = limiter.with_shares(shares);
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
        let collect = Arc::new(match name {
            DEFAULT_TARGET => collect,
            name => collect.named(name),
        });
        collect.glance_at_times();
        Ok(Self {
            collect,
            actor,
            clock,
        })
    }

    /// The limiter with another configuration, which may take over from this one.
    pub(super) fn other(
        &self,
        config: &TargetConfig,
        shares: &RedisShares,
    ) -> Result<Limiter, SetupError> {
        let limiter = Limiter::new(config.observe.clone(), self.clock.clone())?;
        Ok(limiter.with_shares(shares))
    }
}
