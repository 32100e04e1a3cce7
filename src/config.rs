//! File, environment and flags become one validated [`Config`]. Nothing downstream sees what was typed.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod redis;
mod secret;
mod settings;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

pub use secret::Secret;
pub use settings::{SETTINGS, Setting, Values, env_name, find};

use crate::invariants::{CheckerConfig, InvariantName};
use crate::observation::{KeyLabel, Limit};
use crate::observe::{LimitRule, ObserveConfig, RegistryTiming, Selector};
use crate::text::one_line;

/// The most keys that may be exported: every one costs Prometheus four series.
const MOST_SERIES: usize = 100_000;

/// The whole configuration, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to observe.
    pub observe: ObserveConfig,
    /// How to judge it.
    pub checker: CheckerConfig,
    /// How keys are shown.
    pub key_label: KeyLabel,
    /// How many keys are exported.
    pub max_series: usize,
    /// Where state survives a restart.
    pub state_file: Option<PathBuf>,
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
    /// Whether actions are accepted over HTTP.
    pub enable_admin_api: bool,
    /// Taken off Prometheus's scrape timeout.
    pub timeout_offset: Duration,
    /// Where the page's links to runbooks lead: `NAME.md` is added.
    pub runbook_url: Option<String>,
}

/// What to log, and how.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// JSON instead of logfmt.
    pub json: bool,
}

/// A setting that is not valid: one line that names it, the value, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: invalid value {value:?}: expected {expected}")]
pub struct ConfigError {
    origin: String,
    value: String,
    expected: String,
}

impl ConfigError {
    fn new(
        origin: impl fmt::Display,
        value: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self {
            origin: one_line(&origin.to_string()),
            value: one_line(&value.to_string()),
            expected: one_line(&expected.to_string()),
        }
    }
}

impl Config {
    /// Validates `values` (flags, to which environment, file and defaults are added here).
    pub fn load(
        mut values: Values,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        values.add_environment(environment);
        let sections = match values
            .get("config.file")
            .map(|typed| typed.values[0].clone())
        {
            Some(path) => file::read(Path::new(&path), &mut values)?,
            None => file::Sections::default(),
        };
        values.add_defaults();
        let read = Reader(&values);
        let max_series = read.parsed(
            "keys.max-series",
            "a whole number from 0 to 100000",
            |text| text.parse().ok().filter(|n| *n <= MOST_SERIES),
        )?;
        let key_label = read.parsed("keys.label", "plain or hash", |text| match text {
            "plain" => Some(KeyLabel::Plain),
            "hash" => Some(KeyLabel::Hash),
            _ => None,
        })?;
        Ok(Self {
            observe: ObserveConfig {
                ratelimiter_urls: read.urls("ratelimiter.url")?,
                ratelimiter_timeout: read.timeout("ratelimiter.timeout")?,
                probe_nodes: read.switch("probe.nodes")?,
                probe_canary: read.switch("probe.canary")?,
                redis: read.redis()?,
                prometheus_url: read.optional_url("prometheus.url")?,
                latency_metric: read.selector("latency.metric")?,
                scan_budget: read.timeout("scan.budget")?,
                registry: registry_timing(&sections.nodes)?,
                key_label,
                limit_rules: limit_rules(&sections.limits)?,
            },
            checker: checker(&sections, max_series)?,
            key_label,
            max_series,
            check_only: read.switch("config.check")?,
            state_file: read.text("state.file").map(|(_, path)| PathBuf::from(path)),
            web: WebConfig {
                listen: read.listen("web.listen-address")?,
                telemetry_path: read.parsed(
                    "web.telemetry-path",
                    "a path that starts with / and is no other endpoint's",
                    |text| {
                        let free = text.len() > 1
                            && !text.starts_with("/-/")
                            && !text.starts_with("/api/");
                        let plain = text
                            .bytes()
                            .all(|c| c.is_ascii_graphic() && !b"?#%".contains(&c));
                        (text.starts_with('/') && free && plain).then(|| text.to_owned())
                    },
                )?,
                enable_admin_api: read.switch("web.enable-admin-api")?,
                timeout_offset: read.duration("web.timeout-offset")?,
                runbook_url: read.optional_url("web.runbook-url")?.map(String::from),
            },
            log: LogConfig {
                level: read.parsed("log.level", "error, warn, info, debug or trace", |text| {
                    ["error", "warn", "info", "debug", "trace"]
                        .contains(&text)
                        .then(|| text.parse().ok())
                        .flatten()
                })?,
                json: read.parsed("log.format", "logfmt or json", |text| match text {
                    "logfmt" => Some(false),
                    "json" => Some(true),
                    _ => None,
                })?,
            },
        })
    }
}

fn checker(sections: &file::Sections, max_series: usize) -> Result<CheckerConfig, ConfigError> {
    let mut checker = CheckerConfig {
        max_listed: max_series,
        ..CheckerConfig::default()
    };
    let optional = |name: &str, text: &Option<String>, into: &mut Duration| {
        if let Some(text) = text {
            *into = parse_duration(text).ok_or_else(|| ConfigError::new(name, text, DURATION))?;
        }
        Ok(())
    };
    optional(
        "checker.unknown_hold",
        &sections.checker.unknown_hold,
        &mut checker.unknown_hold,
    )?;
    optional(
        "checker.cleared_hold",
        &sections.checker.cleared_hold,
        &mut checker.cleared_hold,
    )?;
    if let Some(grace) = sections.checker.lowered_limit_grace {
        checker.lowered_limit_grace = grace;
    }
    for (name, section) in &sections.invariants {
        let config = checker.of_mut(*name);
        let grace = format!("invariants.{name}.grace_period");
        optional(&grace, &section.grace_period, &mut config.grace_period)?;
        if let Some(threshold) = &section.threshold {
            config.threshold = parse_threshold(*name, threshold)?;
        }
        config.severity = section.severity.unwrap_or(config.severity);
        config.enabled = section.enabled.unwrap_or(config.enabled);
    }
    Ok(checker)
}

fn parse_threshold(name: InvariantName, value: &serde_json::Value) -> Result<f64, ConfigError> {
    let origin = format!("invariants.{name}.threshold");
    let (parsed, expected) = match name {
        InvariantName::HighLatency => (
            value
                .as_str()
                .and_then(parse_duration)
                .map(|duration| duration.as_secs_f64()),
            "a duration such as 50ms",
        ),
        InvariantName::CounterDrift => (
            value.as_f64().filter(|ratio| *ratio >= 0.0),
            "a share of the limit such as 0.1",
        ),
        _ => (None, "no threshold: this invariant has none"),
    };
    parsed.ok_or_else(|| ConfigError::new(origin, value, expected))
}

fn registry_timing(section: &file::NodesSection) -> Result<RegistryTiming, ConfigError> {
    let mut timing = RegistryTiming::default();
    for (name, text, into) in [
        (
            "nodes.registration_ttl",
            &section.registration_ttl,
            &mut timing.ttl,
        ),
        (
            "nodes.heartbeat_interval",
            &section.heartbeat_interval,
            &mut timing.heartbeat,
        ),
        (
            "nodes.forget_after",
            &section.forget_after,
            &mut timing.forget_after,
        ),
    ] {
        if let Some(text) = text {
            *into = parse_duration(text)
                .filter(|duration| !duration.is_zero())
                .ok_or_else(|| ConfigError::new(name, text, TIMEOUT))?;
        }
    }
    if timing.heartbeat * 2 >= timing.ttl {
        return Err(ConfigError::new(
            "nodes.heartbeat_interval",
            format!("{:?}", timing.heartbeat),
            format!(
                "less than half of nodes.registration_ttl ({:?})",
                timing.ttl
            ),
        ));
    }
    Ok(timing)
}

fn limit_rules(sections: &[file::LimitSection]) -> Result<Vec<LimitRule>, ConfigError> {
    let rules = sections.iter().enumerate().map(|(index, section)| {
        let window = parse_duration(&section.window)
            .and_then(|window| u64::try_from(window.as_millis()).ok())
            .filter(|window| *window > 0)
            .ok_or_else(|| {
                ConfigError::new(format!("limits[{index}].window"), &section.window, TIMEOUT)
            })?;
        Ok(LimitRule {
            pattern: section.pattern.clone(),
            limit: Limit {
                limit: section.limit,
                window_ms: window,
            },
        })
    });
    rules.collect()
}

/// Reads a secret from a file; the newline that editors leave at its end is not part of it.
fn read_secret(origin: &str, path: &str) -> Result<Secret, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(origin, path, format!("a readable file ({error})")))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
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

    fn listen(&self, flag: &str) -> Result<SocketAddr, ConfigError> {
        self.parsed(flag, "HOST:PORT such as 0.0.0.0:9972 or :9972", |text| {
            let text = match text.strip_prefix(':') {
                Some(port) => format!("0.0.0.0:{port}"),
                None => text.to_owned(),
            };
            text.to_socket_addrs().ok()?.next()
        })
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
            http_url(&typed.origin, part.trim()).map_err(|error| ConfigError {
                value: without_password(value),
                ..error
            })
        });
        urls.collect()
    }

    fn optional_url(&self, flag: &str) -> Result<Option<Url>, ConfigError> {
        self.text(flag)
            .map(|(origin, text)| http_url(&origin, &text))
            .transpose()
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

fn http_url(origin: &str, text: &str) -> Result<Url, ConfigError> {
    let expected = "an http:// or https:// URL such as http://localhost:8000";
    let invalid = || ConfigError::new(origin, without_password(text), expected);
    let url = Url::parse(text).map_err(|_| invalid())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.query().is_none();
    if plain && url.host_str().is_some_and(|host| !host.is_empty()) {
        Ok(url)
    } else {
        Err(invalid())
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
