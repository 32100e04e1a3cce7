//! What the configuration says of the exporter's own port: data and paths. What is written in the file of
//! `--web.config.file`, and whether it is enough, `serve` finds out.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::reader::{DURATION, Reader, parse_duration};
use super::settings::Typed;

/// More than any machine has file descriptors for.
const MOST_CONNECTIONS: usize = 1_000_000;

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
            listen: self.listen("web.listen-address")?,
            telemetry_path: self.parsed(
                "web.telemetry-path",
                "a path that starts with / and is no other endpoint's",
                telemetry_path,
            )?,
            config_file: self.typed("web.config.file").cloned(),
            max_connections: self.parsed(
                "web.max-connections",
                "a whole number from 1 to 1000000",
                |text| {
                    text.parse()
                        .ok()
                        .filter(|number| (1..=MOST_CONNECTIONS).contains(number))
                },
            )?,
            read_timeout: self.timeout("web.read-timeout")?,
            enable_admin_api: self.switch("web.enable-admin-api")?,
            admin_api: self
                .typed("web.enable-admin-api")
                .cloned()
                .unwrap_or_default(),
            admin_api_insecure: self.switch("web.admin-api-insecure")?,
            enable_lifecycle: self.switch("web.enable-lifecycle")?,
            timeout_offset: self.parsed("web.timeout-offset", DURATION, parse_duration)?,
            runbook_url: self.url("web.runbook-url")?.map(String::from),
        })
    }

    fn listen(&self, flag: &str) -> Result<SocketAddr, ConfigError> {
        let expected = "HOST:PORT such as 127.0.0.1:9972, or :9972 for every address";
        let address = self.parsed(flag, expected, |text| {
            let (host, port) = text.rsplit_once(':')?;
            Some((host.to_owned(), port.parse::<u16>().ok()?))
        })?;
        if address.0.is_empty() {
            return Ok((Ipv6Addr::UNSPECIFIED, address.1).into());
        }
        let expected =
            "a host that resolves to an address of this machine: the name does not resolve";
        self.parsed(flag, expected, |text| text.to_socket_addrs().ok()?.next())
    }
}

fn telemetry_path(text: &str) -> Option<String> {
    let taken = text == "/probe" || text.starts_with("/-/") || text.starts_with("/api/");
    let plain = |c: u8| c.is_ascii_graphic() && !b"?#%".contains(&c);
    let valid = text.starts_with('/') && text.len() > 1 && !taken && text.bytes().all(plain);
    valid.then(|| text.to_owned())
}
