//! `--web.*`: the exporter's own port, as data and paths. `serve` reads the file of `--web.config.file`.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::reader::{DURATION, HTTP_URL, Kind, SWITCH, TIMEOUT};
use super::settings::Values;

/// No machine has file descriptors for more.
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

/// The page shows this URL to everybody, and adds to its end.
const RUNBOOK_URL: Kind<String> = (
    "an http:// or https:// URL without user, password, query and fragment",
    |text| {
        let url = (HTTP_URL.1)(text)?;
        let shown = url.username().is_empty() && url.password().is_none();
        (shown && url.fragment().is_none()).then(|| url.into())
    },
);

/// How to serve.
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// The file with TLS and users.
    pub config_file: Option<PathBuf>,
    /// Connections served at once.
    pub max_connections: usize,
    /// How long the head of a request may take to arrive, idle time before it included, and how long its body may.
    pub read_timeout: Duration,
    /// Whether actions are accepted over HTTP.
    pub enable_admin_api: bool,
    /// Whether they are also accepted from callers that do not log in.
    pub admin_api_insecure: bool,
    /// Whether the configuration may be reloaded over HTTP.
    pub enable_lifecycle: bool,
    /// Subtracted from Prometheus's scrape timeout.
    pub timeout_offset: Duration,
    /// The URL of the runbooks, to which the page adds `NAME.md`.
    pub runbook_url: Option<String>,
}

impl Values {
    pub(super) fn web(&self) -> Result<WebConfig, ConfigError> {
        Ok(WebConfig {
            listen: self
                .get("web.listen-address", PORT)
                .and_then(|_| self.get("web.listen-address", ADDRESS))?,
            telemetry_path: self.get("web.telemetry-path", TELEMETRY_PATH)?,
            config_file: self.path("web.config.file"),
            max_connections: self.get("web.max-connections", CONNECTIONS)?,
            read_timeout: self.get("web.read-timeout", TIMEOUT)?,
            enable_admin_api: self.get("web.enable-admin-api", SWITCH)?,
            admin_api_insecure: self.get("web.admin-api-insecure", SWITCH)?,
            enable_lifecycle: self.get("web.enable-lifecycle", SWITCH)?,
            timeout_offset: self.get("web.timeout-offset", DURATION)?,
            runbook_url: self.optional("web.runbook-url", RUNBOOK_URL)?,
        })
    }
}
