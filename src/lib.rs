//! Prometheus exporter and invariant checker for Redis-backed rate limiters.
//!
//! The way of the data is one way: [`observe`] does all the I/O of a collection and returns an
//! [`observation::Observation`]; [`invariants`] decides what it means; [`export`] turns both into metric families;
//! [`server`] serves them. [`collect`] runs a collection, [`serve`] puts the parts together.

#[macro_use]
mod closed_list;

#[cfg(any(test, feature = "fuzzing"))]
mod assertions;
pub mod check;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod config;
pub mod credentials;
pub mod evaluate;
pub mod export;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod invariants;
pub mod limiters;
mod lock;
pub mod observation;
pub mod observe;
pub mod overall_status;
pub mod report;
pub mod serve;
pub mod server;
pub mod snapshot;
pub mod state;
mod stop_signals;
pub mod subject;
mod text;
mod text_table;
mod yaml;
