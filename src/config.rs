//! File, environment and flags become one validated [`Config`]. Nothing downstream sees what was typed.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod judging;
mod limiter;
mod reader;
mod redis;
mod settings;
mod targets;
mod web;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use judging::Judging;
pub use settings::{SETTINGS, Setting, Values, check_variables, env_name, find, may_repeat};
pub use targets::TargetConfig;
pub use web::WebConfig;

use reader::{Reader, SWITCH};

use crate::invariants::CheckerConfig;
use crate::observe::ObserveConfig;
use crate::subject::DEFAULT_TARGET;
use crate::text::{one_line, without_login};

/// The whole configuration, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to observe.
    pub observe: ObserveConfig,
    /// How to judge it.
    pub checker: CheckerConfig,
    /// Every limiter by name, the default one, which is also told above, among them.
    pub targets: BTreeMap<String, TargetConfig>,
    /// Where state survives a restart.
    pub state_file: Option<PathBuf>,
    /// Who said so.
    state_origin: String,
    /// Nothing more is wanted than to know that it is valid.
    pub check_only: bool,
    /// How to serve it.
    pub web: WebConfig,
    /// What to log.
    pub log: LogConfig,
}

/// What to log, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// JSON instead of logfmt.
    pub json: bool,
}

/// What is wrong with the configuration, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that is not valid.
    #[error("{origin}: invalid value {value:?}: expected {expected}")]
    Value {
        /// Who gave it: a flag, a variable, or a name and its place in the file.
        origin: String,
        /// The value, with nothing secret in it.
        value: String,
        /// What it should have been.
        expected: String,
    },
    /// A name that nothing is known by. Its value may be a secret that was put in the wrong place, so it is not shown.
    #[error("{origin}: not known here{}", hint(nearest.as_deref()))]
    Unknown {
        /// The name and its place in the file.
        origin: String,
        /// The known name that is most like it.
        nearest: Option<String>,
    },
}

fn hint(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None => "; the known names are in docs/CONFIGURATION.md".to_owned(),
    }
}

impl ConfigError {
    fn new(
        origin: impl fmt::Display,
        value: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        // A URL may stand where none belongs, with its password.
        Self::Value {
            // What others wrote in it is one line already, and nothing of its place may be cut off.
            origin: without_login(&origin.to_string()),
            value: one_line(&without_login(&value.to_string())),
            expected: one_line(&expected.to_string()),
        }
    }

    fn unknown(origin: &str, nearest: Option<String>) -> Self {
        let origin = without_login(origin);
        Self::Unknown { origin, nearest }
    }
}

impl Config {
    /// Validates `values` of flags and environment, to which file and defaults are added here.
    pub fn load(mut values: Values) -> Result<Self, ConfigError> {
        add_file(&mut values)?;
        Self::validated(values)
    }

    /// What is to be said of `--state.file` where state cannot be kept at `path`.
    pub fn refuse_state_file(&self, path: &Path, expected: &str) -> ConfigError {
        ConfigError::new(&self.state_origin, path.display(), expected)
    }

    /// What flags, environment and file say, over the defaults.
    fn validated(mut values: Values) -> Result<Self, ConfigError> {
        let targets = targets::targets(&values)?;
        // It is always there.
        let default = targets.get(DEFAULT_TARGET).cloned();
        let default = default.ok_or_else(|| ConfigError::new("targets", "", "one"))?;
        values.add_defaults();
        let read = Reader(&values);
        Ok(Self {
            observe: default.observe,
            checker: default.checker,
            check_only: read.get("config.check", SWITCH)?,
            state_file: read.path("state.file"),
            state_origin: read
                .typed("state.file")
                .map_or_else(String::new, |typed| typed.origin.clone()),
            targets,
            web: read.web()?,
            log: read.log()?,
        })
    }
}

/// Adds what the file has. Defaults are not added: they are below what targets inherit.
fn add_file(values: &mut Values) -> Result<(), ConfigError> {
    match values.get("config.file").cloned() {
        Some(named) => file::read(&named.origin, Path::new(named.text()), values),
        None => Ok(()),
    }
}

/// `text` with what may be a password cut out, also if it is no URL at all.
fn without_password(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    let start = before.find("://").map_or(0, |at| at + 3);
    format!("{}<secret>@{after}", &before[..start])
}

#[cfg(test)]
mod tests;
