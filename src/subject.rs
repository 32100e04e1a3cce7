//! The seam for a second kind of subject: what can be observed, checked and acted upon. The exporter's own code
//! knows only these traits and the neutral data that passes through them.

use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};

use once_cell::sync::Lazy;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::invariants::Report;
use crate::observation::{CounterView, Observation, Reason};

/// Takes counters in batches as they are read, so that nothing has to hold all of them.
pub trait CounterSink: Send {
    /// A pass over all counters begins; what an unfinished one brought is void.
    fn begin_pass(&mut self);

    /// The pass has seen every counter. It may have begun in an earlier collection.
    fn end_pass(&mut self);

    /// Whether a key of this utilization would be among those that are shown: such keys are read with care.
    fn ranks(&self, used: f64, key: &[u8]) -> bool;

    /// Whether the key was among those shown last: such keys are rechecked before others.
    fn is_shown(&self, key: &[u8]) -> bool;

    /// One batch of the pass, counted at `at`.
    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]);

    /// Keys that are looked at out of turn, because they have a violation in progress. The pass may bring them again.
    fn recheck(&mut self, at: Moment, batch: &[CounterView<'_>]);
}

/// Writes something to where it is told, some time later and elsewhere.
pub type WriteLater = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// Much that is remembered, as it is now.
pub struct Bulk {
    /// Of the same version it is the same.
    pub version: u64,
    /// Writes it. Holds it without a copy as far as that goes.
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
pub trait Subject: Send {
    /// Observes everything by the deadline, which can move closer while it runs, and streams the counters into
    /// `sink`. Never fails: what could not be read is a named failure in the observation.
    fn observe(
        &mut self,
        deadline: watch::Receiver<Instant>,
        watched: Vec<Box<[u8]>>,
        sink: &mut dyn CounterSink,
    ) -> impl Future<Output = Observation> + Send;

    /// A light look between collections that are far apart, at what would otherwise be missed.
    fn glance(&mut self) -> impl Future<Output = ()> + Send;

    /// Goes on for a moment with what the last collection had no time for, and streams the counters that this brings into
    /// `sink`. Returns whether there is more to do before the next collection.
    fn go_on(&mut self, sink: &mut dyn CounterSink) -> impl Future<Output = bool> + Send {
        let _ = sink;
        std::future::ready(false)
    }

    /// What it remembers between collections, to survive a restart: what is small and changes all the time.
    fn memory(&self) -> serde_json::Value;

    /// What it remembers besides that is much and seldom changes; written only when it did.
    fn bulk(&self) -> Option<Bulk> {
        None
    }

    /// Takes back what [`Subject::bulk`] wrote, after [`Subject::recall`]; an error as there.
    fn recall_bulk(&mut self, bulk: &mut dyn Read) -> Result<(), String> {
        let _ = bulk;
        Ok(())
    }

    /// Takes back what [`Subject::memory`] told; an error says what was wrong with it, and nothing is taken.
    fn recall(&mut self, memory: serde_json::Value) -> Result<(), String>;

    /// Takes over from the one before, whose settings were others: what it remembers, and connections that are still
    /// of use. Tells whether both observe the same thing; if not, nothing is taken over.
    fn succeed(&mut self, before: Self) -> bool
    where
        Self: Sized;

    /// What can be done about what is observed.
    fn actions(&self) -> &'static [ActionDefinition];
}

/// Why an action was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ActionError {
    /// In one word: it holds nothing of what was asked for.
    pub reason: Reason,
    /// In full, for who asked for it.
    pub message: String,
}

/// Decides what an observation means. Pure: no I/O, no clock.
pub trait InvariantChecker: Send {
    /// One batch of the pass in progress.
    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]);

    /// Everything else, which ends the pass.
    fn check(&mut self, at: Moment, observation: &Observation) -> Report;

    /// Forgets everything.
    fn clear_state(&mut self);
}

/// An action, described for whoever decides whether to take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActionDefinition {
    /// Its name.
    pub name: &'static str,
    /// What it does, and what it does not.
    pub description: &'static str,
    /// Its parameters by name.
    pub parameters: std::collections::BTreeMap<&'static str, Parameter>,
    /// `low`, `medium` or `high`.
    pub risk_level: &'static str,
    /// Whether somebody has to approve it first.
    pub requires_approval: bool,
}

/// A parameter of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its JSON type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it means.
    pub description: &'static str,
    /// Whether it must be given.
    pub required: bool,
}

/// The actions on a rate limiter. `update_limit` is deferred: stored limits are not enforced by every limiter.
#[expect(
    clippy::non_std_lazy_statics,
    reason = "once_cell is one of the project's chosen packages"
)]
pub static ACTIONS: Lazy<Vec<ActionDefinition>> = Lazy::new(|| {
    vec![ActionDefinition {
        name: "reset_counter",
        description: "Deletes the counter of a key through the management API, so that its window starts empty. \
                      Fire and forget: it does not verify that the counter was cleared.",
        parameters: std::collections::BTreeMap::from([
            (
                "key",
                Parameter {
                    kind: "string",
                    description: "The rate limit key, as the limiter's callers name it.",
                    required: true,
                },
            ),
            (
                "target",
                Parameter {
                    kind: "string",
                    description: "The limiter, by its name under targets in the configuration file; without it the default one.",
                    required: false,
                },
            ),
        ]),
        risk_level: "low",
        requires_approval: false,
    }]
});
