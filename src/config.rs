//! Makes one validated [`Config`] of file, environment and flags. No other module sees what was typed.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod limiter;
mod reader;
mod redis;
mod settings;
mod targets;
mod web;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use limiter::description_of;
pub use reader::parse_duration;
pub use settings::{SETTINGS, Setting, Values, check_variables, env_name, find, may_repeat};
pub use targets::TargetConfig;
pub use web::WebConfig;

use reader::SWITCH;
use settings::Typed;

use crate::invariants::CheckerConfig;
use crate::observe::ObserveConfig;
use crate::subject::DEFAULT_TARGET;
use crate::text::{one_line, without_login};

/// The settings that only a restart changes.
const FIXED: [&str; 7] = [
    "web.listen-address",
    "web.config.file",
    "web.max-connections",
    "web.read-timeout",
    "state.file",
    "log.level",
    "log.format",
];

const ADMIN_API: &str = "web.enable-admin-api";

/// The whole configuration, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to observe: the default target unless another is selected.
    pub observe: ObserveConfig,
    /// How to judge it.
    pub checker: CheckerConfig,
    /// Every target by name, the default one among them.
    pub targets: BTreeMap<String, TargetConfig>,
    /// The file that keeps state over a restart.
    pub state_file: Option<PathBuf>,
    /// Whether to validate the configuration and do nothing else.
    pub check_only: bool,
    /// How to serve.
    pub web: WebConfig,
    /// What to log.
    pub log: LogConfig,
    /// Settings as they were typed: those that a reload compares, and those whose mistakes are found later.
    typed: BTreeMap<&'static str, Typed>,
}

/// What to log, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// Whether lines are JSON instead of logfmt.
    pub json: bool,
}

/// What is wrong with the configuration, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that is not valid.
    #[error("{origin}: invalid value {value:?}: expected {expected}")]
    Value {
        /// Its origin: a flag, a variable, or a name and its place in the file.
        origin: String,
        /// The value, without secrets.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// An unknown name. Its value is not shown: it may be a secret in the wrong place.
    #[error("{origin}: not known here{}", hint(nearest.as_deref()))]
    Unknown {
        /// The name and its place in the file.
        origin: String,
        /// The known name that is most similar to it.
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
        // A URL with a password may have been given where no URL belongs.
        Self::Value {
            // Names in it are one line already. The place at its end must not be cut off.
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
    /// Validates the `values` of flags and environment, and of the file that they name.
    pub fn load(mut values: Values) -> Result<Self, ConfigError> {
        add_file(&mut values)?;
        Self::validated(&values)
    }

    /// The error that the file of `--state.file` is not as `expected`.
    pub fn refuse_state_file(&self, expected: impl fmt::Display) -> ConfigError {
        self.refused("state.file", expected)
    }

    /// The error that the file of `--web.config.file` is not usable.
    pub fn refuse_web_file(&self, why: &str) -> ConfigError {
        let expected = format!("a valid web configuration file: {why}");
        self.refused("web.config.file", expected)
    }

    /// Refuses actions if some callers do not log in (`anonymous`), unless the configuration accepts such callers
    /// explicitly.
    pub fn admits_actions(&self, anonymous: bool) -> Result<(), ConfigError> {
        if self.web.enable_admin_api && anonymous && !self.web.admin_api_insecure {
            return Err(self.refused(
                ADMIN_API,
                "basic_auth_users or client_auth_type: RequireAndVerifyClientCert in --web.config.file with it, \
                 or --web.admin-api-insecure",
            ));
        }
        Ok(())
    }

    /// Refuses `next` if it changes a setting that only a restart changes.
    pub fn may_become(&self, next: &Self) -> Result<(), String> {
        for flag in FIXED {
            let [now, next] =
                [self, next].map(|config| config.typed.get(flag).map_or("none", Typed::text));
            if now != next {
                return Err(format!(
                    "{flag}: cannot change from {now} to {next} without a restart"
                ));
            }
        }
        Ok(())
    }

    fn refused(&self, flag: &str, expected: impl fmt::Display) -> ConfigError {
        let typed = self.typed.get(flag).cloned().unwrap_or_default();
        typed.refused(expected)
    }

    /// The configuration of `values`, with defaults for the rest.
    fn validated(values: &Values) -> Result<Self, ConfigError> {
        let targets = targets::targets(values)?;
        // It is always there.
        let default = targets.get(DEFAULT_TARGET).cloned();
        let default = default.ok_or_else(|| ConfigError::new("targets", "", "one"))?;
        let kept = FIXED.into_iter().chain([ADMIN_API]);
        Ok(Self {
            observe: default.observe,
            checker: default.checker,
            check_only: values.get("config.check", SWITCH)?,
            state_file: values.path("state.file"),
            targets,
            web: values.web()?,
            log: values.log()?,
            typed: kept
                .filter_map(|flag| Some((flag, values.typed(flag)?)))
                .collect(),
        })
    }
}

/// How to judge a recording, validated. The rest of the configuration is not read: the machine of a replay may not have the
/// files with the limiter's secrets.
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

/// Adds the values of the configuration file, if one is named.
fn add_file(values: &mut Values) -> Result<(), ConfigError> {
    if let Some(named) = values.given("config.file") {
        let file = file::read(named)?;
        values.add_from(&file, |_| true);
    }
    Ok(())
}

/// `text` without what may be a password, even if it is not a URL.
fn without_password(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    let start = before.find("://").map_or(0, |at| at + 3);
    format!("{}<secret>@{after}", &before[..start])
}

#[cfg(test)]
mod tests;
