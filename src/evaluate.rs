//! `evaluate`: recorded observations, one JSON object a line, through the same checker that serves. What it would have
//! said at each of them comes out, one JSON object a line.
//!
//! Memory does not grow with the file. Nothing is asked of the limiter: what was not recorded is not known.

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
use std::path::PathBuf;

pub use backtest::{Backtest, Candidate, backtest};
pub use command::{Form, Replay, evaluate};
pub use input::Source;
pub use lines::replay;
pub use reading::{Mistakes, ReplayInput, Tally};
pub use report::page;
pub use table::table;

/// Why a replay ended before the end of its input.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A line is no observation.
    #[error("{name}: line {line} column {column}: {message}")]
    Broken {
        /// Of what.
        name: String,
        /// Which, from 1.
        line: u64,
        /// Where, in bytes from 1.
        column: usize,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// The input cannot be read.
    #[error("{name}: cannot read: {error}")]
    Read {
        /// Which.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The page cannot be written.
    #[error("--report: cannot write {}: {error}", path.display())]
    Report {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}
