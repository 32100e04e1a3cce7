//! What the configuration says of the exporter's own port: data and paths. What is written in the file of
//! `--web.config.file`, and whether it is enough, `serve` finds out.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::reader::{DURATION, Kind, Reader, SWITCH, TIMEOUT};
use super::settings::Typed;

/// At most more than any machine has file descriptors for.
const CONNECTIONS: Kind<usize> = ("a whole number from 1 to 1000000", |text| {
    let number = text.parse().ok();
    number.filter(|number| (1..=1_000_000).contains(number))
});

const TELEMETRY_PATH: Kind<String> = (
    "a path that starts with / and is no other endpoint's",
    |text| {
        let taken = text == "/probe" || text.starts_with("/-/") || text.starts_with("/api/");
        let plain = |c: u8| c.is_ascii_graphic() && !b"?#%".contains(&c);
        let valid = text.starts_with('/') && text.len() > 1 && !taken && text.bytes().all(plain);
        valid.then(|| text.to_owned())
    },
);

const PORT: Kind<u16> = (
    "HOST:PORT such as 127.0.0.1:9972, or :9972 for every address",
    |text| text.rsplit_once(':')?.1.parse().ok(),
);

const ADDRESS: Kind<SocketAddr> = (
    "a host that resolves to an address of this machine: the name does not resolve",
    |text| match text.strip_prefix(':') {
        Some(port) => Some((Ipv6Addr::UNSPECIFIED, port.parse().ok()?).into()),
        None => text.to_socket_addrs().ok()?.next(),
    },
);

/// How to serve.
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// The file that says who is let in.
    config_file: Option<Typed>,
    /// Connections served at once.
    pub max_connections: usize,
    /// How long a request may take to arrive, head and body each, idling before it included.
    pub read_timeout: Duration,
    /// Whether actions are accepted over HTTP.
    pub enable_admin_api: bool,
    /// Who said so.
    admin_api: Typed,
    /// Whether they are accepted of callers who are not known, too.
    pub admin_api_insecure: bool,
    /// Whether the configuration may be read anew over HTTP.
    pub enable_lifecycle: bool,
    /// Taken off Prometheus's scrape timeout.
    pub timeout_offset: Duration,
    /// Where the page's links to runbooks lead: `NAME.md` is added.
    pub runbook_url: Option<String>,
}

impl WebConfig {
    /// The file of `--web.config.file`, if there is one.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config_file.as_ref().map(|typed| typed.text().into())
    }

    /// The error for a file of `--web.config.file` that is not usable.
    pub fn refuse_config_file(&self, why: &str) -> ConfigError {
        self.config_file
            .clone()
            .unwrap_or_default()
            .refused(format!("a valid web configuration file: {why}"))
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
    pub(super) fn web(&self) -> Result<WebConfig, ConfigError> {
        Ok(WebConfig {
            listen: self
                .get("web.listen-address", PORT)
                .and_then(|_| self.get("web.listen-address", ADDRESS))?,
            telemetry_path: self.get("web.telemetry-path", TELEMETRY_PATH)?,
            config_file: self.typed("web.config.file").cloned(),
            max_connections: self.get("web.max-connections", CONNECTIONS)?,
            read_timeout: self.get("web.read-timeout", TIMEOUT)?,
            enable_admin_api: self.get("web.enable-admin-api", SWITCH)?,
            admin_api: self
                .typed("web.enable-admin-api")
                .cloned()
                .unwrap_or_default(),
            admin_api_insecure: self.get("web.admin-api-insecure", SWITCH)?,
            enable_lifecycle: self.get("web.enable-lifecycle", SWITCH)?,
            timeout_offset: self.get("web.timeout-offset", DURATION)?,
            runbook_url: self.url("web.runbook-url")?.map(String::from),
        })
    }
}
