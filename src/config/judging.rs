//! The part of the configuration that a replay needs. The rest is not read: the machine of a replay may not have the
//! files with the limiter's secrets.

use super::reader::SWITCH;
use super::settings::Values;
use super::{ConfigError, LogConfig, add_file};
use crate::invariants::CheckerConfig;

/// How to judge a recording, validated.
#[derive(Clone, Debug)]
pub struct Judging {
    /// The configuration file, if there is one.
    pub file: Option<String>,
    /// The invariants, and how time is treated.
    pub checker: CheckerConfig,
    /// Whether to validate the configuration and do nothing else.
    pub check_only: bool,
    /// What to log.
    pub log: LogConfig,
}

impl Judging {
    /// Validates this part of `values`, and of the file that they name.
    pub fn load(mut values: Values) -> Result<Self, ConfigError> {
        add_file(&mut values)?;
        Ok(Self {
            file: values.text("config.file"),
            checker: values.checker()?,
            check_only: values.get("config.check", SWITCH)?,
            log: values.log()?,
        })
    }
}
