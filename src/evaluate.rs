//! `evaluate`: recorded observations, one JSON object a line, through the same checker that serves. What it would have
//! said at each of them comes out, one JSON object a line.
//!
//! Memory does not grow with the file. Nothing is asked of the limiter: what was not recorded is not known.

mod blocks;
mod command;
mod judge;
mod line;
mod lines;
mod pipeline;
mod progress;
mod reading;

use std::io;

pub use blocks::Source;
pub use command::{Replay, evaluate};
pub use lines::replay;
pub use progress::Progress;
pub use reading::{Mistakes, Reading, Tally};

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
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}
