//! The invariants: pure decisions about an observation. No I/O, no clock, no async; the caller passes `now`.
//!
//! Each invariant has its own file and maps an observation to a [`Verdict`] for each subject. [`Checker`] adds time: it
//! applies grace periods, holds violations whose subject is unknown, and forgets subjects that are gone.

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
