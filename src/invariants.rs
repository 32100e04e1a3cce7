//! The invariants: pure decisions on what was observed. No I/O, no clock of its own, no async; `now` is passed in.
//!
//! Each invariant maps an observation to a [`Verdict`] per subject, in a file of its own. [`Checker`] adds time:
//! grace periods, holding what is unknown, forgetting what is gone.

mod checker;
mod config;
mod counters;
mod grace;
mod high_latency;
mod node_down;
mod not_applicable;
mod redis_disconnected;
mod verdict;

pub use checker::Checker;
pub use config::CheckerConfig;
pub use verdict::Verdict;
