//! `--web.config.file`, what the admin API demands of it, and the limits towards clients.

use std::path::Path;

use super::{ConfigError, Reader};
use crate::server::{Guard, Limits};

/// More than any machine has file descriptors for.
const MOST_CONNECTIONS: usize = 1_000_000;

impl Reader<'_> {
    pub(super) fn guard(&self) -> Result<Guard, ConfigError> {
        let (origin, path) = self.text("web.config.file").unzip();
        let path = path.as_deref();
        Guard::new(path.map(Path::new)).map_err(|why| {
            ConfigError::new(
                origin.unwrap_or_default(),
                path.unwrap_or_default(),
                format!("a valid web configuration file: {why}"),
            )
        })
    }

    /// Whether actions are accepted: of everybody only when that is said in so many words.
    pub(super) fn admin_api(&self, guard: &Guard) -> Result<bool, ConfigError> {
        let enabled = self.switch("web.enable-admin-api")?;
        if enabled && !guard.authenticates() && !self.switch("web.admin-api-insecure")? {
            let (origin, text) = self.text("web.enable-admin-api").unwrap_or_default();
            let expected = "basic_auth_users or client_auth_type: RequireAndVerifyClientCert in --web.config.file with it, \
                 or --web.admin-api-insecure";
            return Err(ConfigError::new(origin, text, expected));
        }
        Ok(enabled)
    }

    pub(super) fn limits(&self) -> Result<Limits, ConfigError> {
        Ok(Limits {
            connections: self.parsed(
                "web.max-connections",
                "a whole number from 1 to 1000000",
                |text| {
                    let number = text.parse().ok();
                    number.filter(|number| (1..=MOST_CONNECTIONS).contains(number))
                },
            )?,
            read_timeout: self.timeout("web.read-timeout")?,
        })
    }
}
