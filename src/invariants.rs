//! The invariants: pure decisions about an observation. No I/O, no clock, no async; the caller passes `now`.
//!
//! An invariant maps an observation to a [`Verdict`] for each subject. Those about nodes and Redis have a file each, those about
//! keys are in `counters`. Their names, defaults and wording are in `report::invariant`. [`Checker`] adds time: it
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
