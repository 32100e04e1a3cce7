//! The seam for a second kind of subject: what can be observed, checked and acted upon. [`crate::collect`] knows only
//! these traits and the neutral data that passes through them.

mod action;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::observation::{CounterView, Observation};
use crate::report::{InvariantName, Report, SavedEntry};

pub use action::{
    Act, ActionDefinition, ActionError, Actor, Parameter, ParameterType, Parameters, Risk,
};

/// The name of the subject that everything is about where none is named.
pub const DEFAULT_TARGET: &str = "default";

/// Something that can be observed.
pub trait Subject: fmt::Debug + Send {
    /// Observes everything by the deadline, which can move closer while it runs, and streams the counters into
    /// `checker`. Never fails: what could not be read is a named failure in the observation.
    fn observe<C: InvariantChecker>(
        &mut self,
        deadline: watch::Receiver<Instant>,
        checker: &mut C,
    ) -> impl Future<Output = Observation> + Send;

    /// A light look between collections that are far apart, at what would otherwise be missed.
    fn glance(&mut self) -> impl Future<Output = ()> + Send;

    /// What it remembers between collections, to survive a restart.
    fn memory(&self) -> serde_json::Value;

    /// Takes back what [`Subject::memory`] returned; an error says what was wrong with it, and nothing is taken.
    fn recall(&mut self, memory: serde_json::Value) -> Result<(), String>;

    /// Takes over from the one before, whose settings were others: what it remembers, and connections that are still
    /// of use. Returns whether both observe the same thing; if not, nothing is taken over.
    fn take_over(&mut self, before: Self) -> bool
    where
        Self: Sized;

    /// What acts on it: apart from it, so that no action waits for a collection under way.
    fn actor(&self) -> Arc<dyn Actor>;
}

/// Decides what an observation means. Pure: no I/O, no clock.
pub trait InvariantChecker: fmt::Debug + Send {
    /// Its settings.
    type Config: Send;

    /// One batch of the counters of a pass.
    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]);

    /// The keys with a violation in progress: these are to be counted in every collection.
    fn watched_keys(&self) -> BTreeSet<Box<[u8]>>;

    /// Everything else, which ends the pass.
    fn check(&mut self, at: Moment, observation: &Observation) -> Report;

    /// Everything in progress, to survive a restart: (invariant, subject is a key, entry).
    fn save(&self) -> Vec<(InvariantName, bool, SavedEntry)>;

    /// Takes saved entries back, as if the checker had run all along.
    fn restore(&mut self, saved: Vec<(InvariantName, bool, SavedEntry)>);

    /// Takes over new settings. What is in progress stays, as far as they allow.
    fn reconfigure(&mut self, config: Self::Config);

    /// Forgets everything in progress.
    fn clear_state(&mut self);
}
