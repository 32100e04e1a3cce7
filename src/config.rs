//! File, environment and flags become one validated [`Config`]. Nothing downstream sees what was typed.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod judging;
mod leaf;
mod limiter;
mod redis;
mod settings;
mod targets;
mod tree;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

pub use judging::Judging;
pub use settings::{Environment, SETTINGS, Setting, Values, env_name, find, may_repeat};
pub use targets::TargetConfig;

use crate::invariants::CheckerConfig;
use crate::observation::KeyLabel;
use crate::observe::{ObserveConfig, RegistryTiming, Selector};
use crate::subject::DEFAULT_TARGET;
use crate::text::{one_line, without_login};

/// The most keys that may be exported: every one costs Prometheus four series.
const MOST_SERIES: usize = 100_000;

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

/// How to serve.
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// The file that says who is let in.
    config_file: Option<web::Given>,
    /// Connections served at once.
    pub max_connections: usize,
    /// How long a request may take to arrive, head and body each, idling before it included.
    pub read_timeout: Duration,
    /// Whether actions are accepted over HTTP.
    pub enable_admin_api: bool,
    /// Who said so.
    admin_api: web::Given,
    /// Whether they are accepted of callers who are not known, too.
    pub admin_api_insecure: bool,
    /// Whether the configuration may be read anew over HTTP.
    pub enable_lifecycle: bool,
    /// Taken off Prometheus's scrape timeout.
    pub timeout_offset: Duration,
    /// Where the page's links to runbooks lead: `NAME.md` is added.
    pub runbook_url: Option<String>,
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
    /// Validates `values` (flags, to which environment, file and defaults are added here).
    pub fn load(mut values: Values, environment: &Environment) -> Result<Self, ConfigError> {
        let sections = complete(&mut values, environment)?;
        Self::validated(values, &sections)
    }

    /// What is to be said of `--state.file` where state cannot be kept at `path`.
    pub fn refuse_state_file(&self, path: &Path, expected: &str) -> ConfigError {
        ConfigError::new(&self.state_origin, path.display(), expected)
    }

    /// What flags, environment and file say, over the defaults.
    fn validated(mut values: Values, sections: &file::Sections) -> Result<Self, ConfigError> {
        let targets = targets::targets(&values, sections)?;
        // It is always there.
        let default = targets.get(DEFAULT_TARGET).cloned();
        let default = default.ok_or_else(|| ConfigError::new("targets", "", "one"))?;
        values.add_defaults();
        let read = Reader(&values);
        Ok(Self {
            observe: default.observe,
            checker: default.checker,
            check_only: read.switch("config.check")?,
            state_file: read.text("state.file").map(|(_, path)| PathBuf::from(path)),
            state_origin: read.text("state.file").unwrap_or_default().0,
            targets,
            web: WebConfig {
                config_file: read.given("web.config.file"),
                max_connections: read.max_connections()?,
                read_timeout: read.timeout("web.read-timeout")?,
                listen: read.listen("web.listen-address")?,
                telemetry_path: read.parsed(
                    "web.telemetry-path",
                    "a path that starts with / and is no other endpoint's",
                    |text| {
                        let free = text.len() > 1
                            && text != "/probe"
                            && !text.starts_with("/-/")
                            && !text.starts_with("/api/");
                        let plain = text
                            .bytes()
                            .all(|c| c.is_ascii_graphic() && !b"?#%".contains(&c));
                        (text.starts_with('/') && free && plain).then(|| text.to_owned())
                    },
                )?,
                enable_admin_api: read.switch("web.enable-admin-api")?,
                admin_api: read.given("web.enable-admin-api").unwrap_or_default(),
                admin_api_insecure: read.switch("web.admin-api-insecure")?,
                enable_lifecycle: read.switch("web.enable-lifecycle")?,
                timeout_offset: read.duration("web.timeout-offset")?,
                runbook_url: read.optional_url("web.runbook-url")?.map(String::from),
            },
            log: read.log()?,
        })
    }
}

/// Adds to the flags what environment and file have. Defaults are not added: they are below what targets inherit.
fn complete(values: &mut Values, environment: &Environment) -> Result<file::Sections, ConfigError> {
    values.add_environment(environment);
    match values.get("config.file").cloned() {
        Some(named) => file::read(&named.origin, Path::new(&named.values[0]), values),
        None => Ok(file::Sections::default()),
    }
}

/// What the layers say, the later ones above the earlier ones, over the defaults.
fn checker(layers: &[&file::Sections], max_series: usize, key_label: KeyLabel) -> CheckerConfig {
    let mut checker = CheckerConfig {
        max_listed: max_series,
        key_label,
        ..CheckerConfig::default()
    };
    for sections in layers {
        let section = &sections.checker;
        checker.unknown_hold = section.unknown_hold.unwrap_or(checker.unknown_hold);
        checker.cleared_hold = section.cleared_hold.unwrap_or(checker.cleared_hold);
        let grace = section.lowered_limit_grace;
        checker.lowered_limit_grace = grace.unwrap_or(checker.lowered_limit_grace);
        for (name, section) in &sections.invariants {
            let config = checker.of_mut(*name);
            config.grace_period = section.grace_period.unwrap_or(config.grace_period);
            config.threshold = section.threshold.unwrap_or(config.threshold);
            config.severity = section.severity.unwrap_or(config.severity);
            config.enabled = section.enabled.unwrap_or(config.enabled);
        }
    }
    checker
}

fn registry_timing(layers: &[&file::Sections]) -> Result<RegistryTiming, ConfigError> {
    let mut timing = RegistryTiming::default();
    let mut origin = None;
    for file::NodesSection {
        registration_ttl,
        heartbeat_interval,
        forget_after,
        origin: set_at,
    } in layers.iter().map(|sections| &sections.nodes)
    {
        timing.ttl = registration_ttl.unwrap_or(timing.ttl);
        timing.heartbeat = heartbeat_interval.unwrap_or(timing.heartbeat);
        timing.forget_after = forget_after.unwrap_or(timing.forget_after);
        origin = set_at.as_ref().or(origin);
    }
    if timing.heartbeat * 2 >= timing.ttl {
        return Err(ConfigError::new(
            origin.map_or("nodes.heartbeat_interval", String::as_str),
            format!("{:?}", timing.heartbeat),
            format!(
                "nodes.heartbeat_interval to be less than half of nodes.registration_ttl ({:?})",
                timing.ttl
            ),
        ));
    }
    Ok(timing)
}

const DURATION: &str = "a duration such as 500ms, 1.5s or 2m";
const TIMEOUT: &str = "a duration above zero, such as 500ms, 1.5s or 2m";

/// A duration in Prometheus's way of writing (`1m30s`, `500ms`, `0.5s`); never negative.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.bytes().any(|c| c.is_ascii_alphabetic());
    let plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.');
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if !unit || !plain {
        return None;
    }
    let parsed: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(parsed).ok()
}

/// Reads values, and names the one that is wrong.
struct Reader<'a>(&'a Values);

impl Reader<'_> {
    fn text(&self, flag: &str) -> Option<(String, String)> {
        let typed = self.0.get(flag)?;
        Some((typed.origin.clone(), typed.values.last()?.clone()))
    }

    fn parsed<T>(
        &self,
        flag: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.text(flag).unwrap_or_default();
        parse(&text).ok_or_else(|| ConfigError::new(origin, text, expected))
    }

    fn max_series(&self) -> Result<usize, ConfigError> {
        self.parsed(
            "keys.max-series",
            "a whole number from 0 to 100000",
            |text| text.parse().ok().filter(|n| *n <= MOST_SERIES),
        )
    }

    fn key_label(&self) -> Result<KeyLabel, ConfigError> {
        self.parsed("keys.label", "plain or hash", |text| match text {
            "plain" => Some(KeyLabel::Plain),
            "hash" => Some(KeyLabel::Hash),
            _ => None,
        })
    }

    fn log(&self) -> Result<LogConfig, ConfigError> {
        Ok(LogConfig {
            level: self.parsed("log.level", "error, warn, info, debug or trace", |text| {
                ["error", "warn", "info", "debug", "trace"]
                    .contains(&text)
                    .then(|| text.parse().ok())
                    .flatten()
            })?,
            json: self.parsed("log.format", "logfmt or json", |text| match text {
                "logfmt" => Some(false),
                "json" => Some(true),
                _ => None,
            })?,
        })
    }

    fn switch(&self, flag: &str) -> Result<bool, ConfigError> {
        self.parsed(flag, "true or false", |text| text.parse().ok())
    }

    fn duration(&self, flag: &str) -> Result<Duration, ConfigError> {
        self.parsed(flag, DURATION, parse_duration)
    }

    fn timeout(&self, flag: &str) -> Result<Duration, ConfigError> {
        self.parsed(flag, TIMEOUT, |text| {
            parse_duration(text).filter(|duration| !duration.is_zero())
        })
    }

    fn share(&self, flag: &str) -> Result<f64, ConfigError> {
        let expected = "a number above 0, and 1 at the most";
        self.parsed(flag, expected, |text| {
            text.parse()
                .ok()
                .filter(|share| *share > 0.0 && *share <= 1.0)
        })
    }

    fn listen(&self, flag: &str) -> Result<SocketAddr, ConfigError> {
        let (origin, text) = self.text(flag).unwrap_or_default();
        let expected = "HOST:PORT such as 127.0.0.1:9972, or :9972 for every address";
        let wrong = |expected| ConfigError::new(&origin, &text, expected);
        if let Some(port) = text.strip_prefix(':') {
            let port = port.parse().map_err(|_| wrong(expected))?;
            return Ok((Ipv6Addr::UNSPECIFIED, port).into());
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong(expected))?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong(expected));
        }
        let mut found = text.to_socket_addrs().map_err(|_| {
            wrong("a host that resolves to an address of this machine: the name does not resolve")
        })?;
        found.next().ok_or_else(|| wrong(expected))
    }

    fn urls(&self, flag: &str) -> Result<Vec<Url>, ConfigError> {
        let Some(typed) = self.0.get(flag) else {
            return Ok(Vec::new());
        };
        let parts = typed
            .values
            .iter()
            .flat_map(|value| value.split(',').map(move |part| (value, part)));
        let urls = parts.map(|(value, part)| {
            http_url(part.trim())
                .ok_or_else(|| ConfigError::new(&typed.origin, without_password(value), HTTP_URL))
        });
        urls.collect()
    }

    fn optional_url(&self, flag: &str) -> Result<Option<Url>, ConfigError> {
        let Some((origin, text)) = self.text(flag) else {
            return Ok(None);
        };
        match http_url(&text) {
            Some(url) => Ok(Some(url)),
            None => Err(ConfigError::new(origin, without_password(&text), HTTP_URL)),
        }
    }

    fn selector(&self, flag: &str) -> Result<Option<Selector>, ConfigError> {
        let Some((origin, text)) = self.text(flag) else {
            return Ok(None);
        };
        match Selector::parse(&text) {
            Some(selector) => Ok(Some(selector)),
            None => Err(ConfigError::new(
                origin,
                text,
                "NAME or NAME{label=\"value\"}",
            )),
        }
    }
}

const HTTP_URL: &str = "an http:// or https:// URL such as http://localhost:8000";

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https") && url.query().is_none();
    let host = url.host_str().is_some_and(|host| !host.is_empty());
    (plain && host).then_some(url)
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
