//! The invariants: pure decisions on what was observed. No I/O, no clock of its own, no async; `now` is passed in.
//!
//! Each invariant maps an observation to a [`Verdict`] per subject, in a file of its own. [`Checker`] adds time:
//! grace periods, holding what is unknown, forgetting what is gone.

mod checker;
mod config;
mod counters;
mod decision;
mod evidence;
mod explain;
mod grace;
mod high_latency;
mod node_down;
mod not_applicable;
mod redis_disconnected;
mod report;

pub use checker::Checker;
pub use config::{CheckerConfig, InvariantConfig, InvariantName, Severity};
pub(crate) use counters::is_above;
pub use decision::Decision;
pub use evidence::{Evidence, Verdict};
pub use explain::{Explained, Explanation, Rule, Terms, source};
pub use grace::SavedEntry;
pub use report::{InvariantStatus, NotApplicable, Report, Unknown, Violation};
