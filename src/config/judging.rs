//! The part of the configuration that a replay needs. What it says of the limiter, and where its secrets are, is not
//! looked at: a recording is judged where neither is to be had.

use super::reader::SWITCH;
use super::settings::Values;
use super::{ConfigError, LogConfig, Reader, add_file};
use crate::invariants::CheckerConfig;

/// How to judge what was observed elsewhere, validated.
#[derive(Clone, Debug)]
pub struct Judging {
    /// The file that it was read from, if from any.
    pub file: Option<String>,
    /// The invariants, and how time is treated.
    pub checker: CheckerConfig,
    /// Nothing more is wanted than to know that it is valid.
    pub check_only: bool,
    /// What to log.
    pub log: LogConfig,
}

impl Judging {
    /// Validates this part of `values`, with what the file has and the defaults.
    pub fn load(mut values: Values) -> Result<Self, ConfigError> {
        add_file(&mut values)?;
        values.add_defaults();
        let read = Reader(&values);
        Ok(Self {
            file: read.text("config.file"),
            checker: read.checker()?,
            check_only: read.get("config.check", SWITCH)?,
            log: read.log()?,
        })
    }
}
