//! `evaluate` runs recorded observations, one JSON object a line, through the checker that serves. It prints, one JSON
//! object a line, what would have been reported at each observation, or sums that up as a backtest.
//!
//! Memory does not grow with the file. `evaluate` asks the limiter nothing: what was not recorded is not known.

mod backtest;
mod command;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod history;
mod input;
mod judge;
mod lines;
mod reading;
mod report;
mod table;

use std::io;

pub use backtest::{Backtest, Candidate, backtest};
pub use command::{Form, Replay, evaluate};
pub use input::Source;
pub use lines::replay;
pub use reading::{ReplayInput, Tally};
pub use report::page;
pub use table::table;

/// Why a replay ended before the end of its input.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A line is no observation.
    #[error("{name}: line {line} column {column}: {message}")]
    Broken {
        /// The name of the input.
        name: String,
        /// The number of the line, from 1.
        line: u64,
        /// The place in the line, in bytes from 1.
        column: usize,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// The input cannot be read.
    #[error("{name}: cannot read: {error}")]
    Read {
        /// The name of the input.
        name: String,
        /// The reason.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}
