//! What the configuration says of the exporter's own port: data and paths. What stands in `--web.config.file`, and whether
//! that will do, `serve` finds out.

use std::fmt;
use std::path::PathBuf;

use super::{ConfigError, Reader, WebConfig, without_password};

/// More than any machine has file descriptors for.
const MOST_CONNECTIONS: usize = 1_000_000;

/// A setting of which it shows later whether it can be meant: who gave it, and what as.
#[derive(Clone, Default)]
pub(super) struct Given {
    origin: String,
    text: String,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_password(&self.text).fmt(f)
    }
}

impl Given {
    fn refused(&self, expected: &str) -> ConfigError {
        ConfigError::new(&self.origin, &self.text, expected)
    }
}

impl WebConfig {
    /// The file of `--web.config.file`, if there is one.
    pub fn config_file(&self) -> Option<PathBuf> {
        let given = self.config_file.as_ref();
        given.map(|given| PathBuf::from(&given.text))
    }

    /// What is to be said of a file of `--web.config.file` that is not usable.
    pub fn refuse_config_file(&self, why: &str) -> ConfigError {
        let given = self.config_file.clone().unwrap_or_default();
        given.refused(&format!("a valid web configuration file: {why}"))
    }

    /// Whether actions are accepted of callers of whom some are not known (`anonymous`): only when that is said in so many
    /// words.
    pub fn admits_actions(&self, anonymous: bool) -> Result<(), ConfigError> {
        if self.enable_admin_api && anonymous && !self.admin_api_insecure {
            return Err(self.admin_api.refused(
                "basic_auth_users or client_auth_type: RequireAndVerifyClientCert in --web.config.file with it, \
                 or --web.admin-api-insecure",
            ));
        }
        Ok(())
    }
}

impl Reader<'_> {
    pub(super) fn given(&self, flag: &str) -> Option<Given> {
        let (origin, text) = self.text(flag)?;
        Some(Given { origin, text })
    }

    pub(super) fn max_connections(&self) -> Result<usize, ConfigError> {
        self.parsed(
            "web.max-connections",
            "a whole number from 1 to 1000000",
            |text| {
                let number = text.parse().ok();
                number.filter(|number| (1..=MOST_CONNECTIONS).contains(number))
            },
        )
    }
}
