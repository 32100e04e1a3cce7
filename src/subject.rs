//! The interface for other kinds of subjects: what can be observed, checked and acted upon. [`crate::collect`] knows
//! only these traits and the neutral data that passes through them.

mod action;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::observation::{CounterView, Observation};
use crate::report::{InvariantName, Report, SavedEntry};

pub use action::{
    Act, ActionDefinition, ActionError, Actor, Parameter, ParameterType, Parameters, Risk,
};

/// The name of the default subject.
pub const DEFAULT_TARGET: &str = "default";

/// A function that writes to a given destination, later and on another thread.
pub type WriteLater = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The large part of a memory, as it is now.
pub struct Bulk {
    /// The content with the same version is the same.
    pub version: u64,
    /// Writes the content, which it shares instead of copying it where it can.
    pub write: WriteLater,
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Something that can be observed.
pub trait Subject: fmt::Debug + Send {
    /// Observes everything by the deadline, which can move closer while it runs, and streams the counters into
    /// `checker`. Never fails: what could not be read is a named failure in the observation.
    fn observe<C: InvariantChecker>(
        &mut self,
        deadline: watch::Receiver<Instant>,
        checker: &mut C,
    ) -> impl Future<Output = Observation> + Send;

    /// Reads what would be missed between collections that are far apart. Returns how long the next glance can wait.
    fn glance(&mut self) -> impl Future<Output = Duration> + Send;

    /// Continues for a moment with what the last collection had no time for, and streams these counters into `checker`. Stops
    /// at once when `give_way` is ready, because a collection waits. Returns whether there is more to do before the next collection.
    fn observe_more<C: InvariantChecker>(
        &mut self,
        _checker: &mut C,
        _give_way: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// The small part of its memory, which changes all the time, to survive a restart.
    fn remember(&self) -> serde_json::Value;

    /// The large part of its memory, which seldom changes. It is written only after a change.
    fn bulk(&self) -> Option<Bulk> {
        None
    }

    /// Takes back what [`Subject::bulk`] wrote, after [`Subject::recall`]; an error as there.
    fn recall_bulk(&mut self, _bulk: &mut dyn Read) -> Result<(), String> {
        Ok(())
    }

    /// Takes back what [`Subject::remember`] returned; an error says what was wrong, and then nothing is taken over.
    fn recall(&mut self, memory: serde_json::Value) -> Result<(), String>;

    /// Takes over from the previous subject, which had other settings: its memory, and connections that are still
    /// usable. Returns whether both observe the same thing; if not, nothing is taken over.
    fn take_over(&mut self, before: Self) -> bool
    where
        Self: Sized;

    /// The actor for it. It is a separate value, so that no action waits for a collection under way.
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

    /// Which of these keys, by their labels, are in reported violation of `name`: also those that the report has no room for.
    fn still_reported(&self, name: InvariantName, keys: &BTreeSet<String>) -> BTreeSet<String>;

    /// Everything else, which ends the pass.
    fn check(&mut self, at: Moment, observation: &Observation) -> Report;

    /// Everything in progress, to survive a restart: (invariant, subject is a key, entry).
    fn save(&self) -> Vec<(InvariantName, bool, SavedEntry)>;

    /// Takes saved entries back, as if the checker had run all along.
    fn restore(&mut self, saved: Vec<(InvariantName, bool, SavedEntry)>);

    /// Takes over new settings. Violations in progress stay as far as these allow.
    fn reconfigure(&mut self, config: Self::Config);

    /// Forgets everything in progress.
    fn clear_state(&mut self);
}
