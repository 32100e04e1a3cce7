//! Parses and validates the values, one by one. An error names the value and its origin.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::settings::{Typed, Values};
use super::{ConfigError, LogConfig, without_password};
use crate::credentials::SecretSource;
use crate::invariants::CheckerConfig;
use crate::limiters::Registry;
use crate::limiters::Selector;
use crate::observation::{KeyLabel, LatencyWindow, Limit};
use crate::observe::{LimitRule, RegistryTiming, address_of};
use crate::report::{InvariantName, Severity, Unit};

/// The most keys that may be exported: each one costs Prometheus four series.
pub(super) const MOST_SERIES: usize = 100_000;

/// A shorter window often has fewer than two samples. In a longer one, old checks hide that a node is slow now.
const LATENCY_WINDOWS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(600)];

/// The longest duration: a hundred years. With much longer ones, sums of times would exceed what clocks can represent.
const MOST_TIME: Duration = Duration::from_secs(876_000 * 60 * 60);

/// What a value must be, and the function that parses it.
pub(super) type Kind<T> = (&'static str, fn(&str) -> Option<T>);

pub(super) const SWITCH: Kind<bool> = ("true or false", |text| text.parse().ok());

pub(super) const DURATION: Kind<Duration> = (
    "a duration such as 500ms, 1.5s or 2m, up to a hundred years",
    parse_duration,
);

pub(super) const TIMEOUT: Kind<Duration> =
    ("a duration above zero, such as 500ms, 1.5s or 2m", |text| {
        parse_duration(text).filter(|duration| !duration.is_zero())
    });

pub(super) const HTTP_URL: Kind<Url> = (
    "an http:// or https:// URL such as http://localhost:8000",
    |text| {
        let url = Url::parse(text).ok()?;
        let plain = matches!(url.scheme(), "http" | "https") && url.query().is_none();
        let host = url.host_str().is_some_and(|host| !host.is_empty());
        (plain && host).then_some(url)
    },
);

pub(super) const SHARE: Kind<f64> = ("a number from 0.001 to 1", |text| {
    let share: f64 = text.parse().ok()?;
    (0.001..=1.0).contains(&share).then_some(share)
});

pub(super) const SERIES: Kind<usize> = ("a whole number from 0 to 100000", |text| {
    text.parse().ok().filter(|n| *n <= MOST_SERIES)
});

pub(super) const KEY_LABEL: Kind<KeyLabel> = ("plain or hash", |text| match text {
    "plain" => Some(KeyLabel::Plain),
    "hash" => Some(KeyLabel::Hash),
    _ => None,
});

pub(super) const METRIC: Kind<Selector> = ("NAME or NAME{label=\"value\"}", |text| {
    Selector::parse(text).ok()
});

pub(super) const LATENCY_WINDOW: Kind<LatencyWindow> = ("a duration from 10s to 10m", |text| {
    let [least, most] = LATENCY_WINDOWS;
    let span = parse_duration(text).filter(|span| (least..=most).contains(span));
    span.map(LatencyWindow::new)
});

const LEVEL: Kind<tracing::Level> = ("error, warn, info, debug or trace", |text| {
    let levels = ["error", "warn", "info", "debug", "trace"];
    levels.contains(&text).then(|| text.parse().ok())?
});

const FORMAT_IS_JSON: Kind<bool> = ("logfmt or json", |text| match text {
    "logfmt" => Some(false),
    "json" => Some(true),
    _ => None,
});

const SEVERITY: Kind<Severity> = ("critical, warning or info", |text| {
    let mut all = Severity::ALL.into_iter();
    all.find(|severity| severity.name() == text)
});

const COUNT: Kind<u64> = ("a whole number from 0 on", |text| text.parse().ok());

const WINDOW_MS: Kind<u64> = ("a duration of 1 ms or more, such as 1m", |text| {
    let ms = u64::try_from(parse_duration(text)?.as_millis());
    ms.ok().filter(|ms| *ms > 0)
});

/// What a threshold of this invariant is.
fn threshold_of(name: InvariantName) -> Kind<f64> {
    match name.threshold_unit() {
        Some(Unit::Seconds) => ("a duration such as 50ms", |text| {
            Some(parse_duration(text)?.as_secs_f64())
        }),
        Some(Unit::Ratio) => ("a share of the limit such as 0.1", |text| {
            let ratio: f64 = text.parse().ok()?;
            (ratio.is_finite() && ratio >= 0.0).then_some(ratio)
        }),
        None => ("no threshold: this invariant has none", |_| None),
    }
}

impl Values {
    pub(super) fn optional<T>(
        &self,
        name: &str,
        (expected, parse): Kind<T>,
    ) -> Result<Option<T>, ConfigError> {
        let read = |typed: Typed| parse(typed.text()).ok_or_else(|| typed.refused_url(expected));
        self.typed(name).map(read).transpose()
    }

    /// The same for a value that is always there.
    pub(super) fn get<T>(&self, name: &str, kind: Kind<T>) -> Result<T, ConfigError> {
        let read = self.optional(name, kind)?;
        read.ok_or_else(|| ConfigError::new(format!("--{name}"), "nothing", kind.0))
    }

    /// The same for a value whose default is in `into`.
    fn replace<T>(&self, into: &mut T, name: &str, kind: Kind<T>) -> Result<(), ConfigError> {
        if let Some(value) = self.optional(name, kind)? {
            *into = value;
        }
        Ok(())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.typed(name).map(|typed| typed.text().to_owned())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub(super) fn secret(&self, name: &str) -> Result<Option<SecretSource>, ConfigError> {
        let read = |typed: Typed| {
            let source = SecretSource::file(&typed.origin, Path::new(typed.text()));
            source.map_err(|error| typed.refused(format!("a readable file ({error})")))
        };
        self.typed(name).map(read).transpose()
    }

    /// The URLs of nodes: several values, each of which may have several URLs, separated by commas.
    pub(super) fn node_urls(&self) -> Result<Vec<Url>, ConfigError> {
        let (expected, parse) = HTTP_URL;
        let typed = self.typed("ratelimiter.url").unwrap_or_default();
        let mut urls: Vec<Url> = Vec::new();
        for value in &typed.values {
            for part in value.split(',') {
                let refused =
                    |expected| ConfigError::new(&typed.origin, without_password(value), expected);
                let url = parse(part.trim()).ok_or_else(|| refused(expected))?;
                let whole = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
                let mut others = urls
                    .iter()
                    .filter(|other| address_of(other) == address_of(&url));
                if others.any(|other| whole(other) != whole(&url)) {
                    return Err(refused(
                        "one URL for each host and port, by which a node is known",
                    ));
                }
                urls.push(url);
            }
        }
        Ok(urls)
    }

    pub(super) fn log(&self) -> Result<LogConfig, ConfigError> {
        Ok(LogConfig {
            level: self.get("log.level", LEVEL)?,
            json: self.get("log.format", FORMAT_IS_JSON)?,
        })
    }

    /// `checker` and `invariants`.
    pub(super) fn checker(&self) -> Result<CheckerConfig, ConfigError> {
        let mut checker = CheckerConfig {
            max_listed: self.get("keys.max-series", SERIES)?,
            key_label: self.get("keys.label", KEY_LABEL)?,
            ..CheckerConfig::default()
        };
        self.replace(&mut checker.unknown_hold, "checker.unknown_hold", DURATION)?;
        self.replace(&mut checker.cleared_hold, "checker.cleared_hold", DURATION)?;
        let grace = &mut checker.lowered_limit_grace;
        self.replace(grace, "checker.lowered_limit_grace", SWITCH)?;
        for name in InvariantName::ALL {
            let config = checker.of_mut(name);
            let field = |field: &str| format!("invariants.{name}.{field}");
            self.replace(&mut config.enabled, &field("enabled"), SWITCH)?;
            self.replace(&mut config.grace_period, &field("grace_period"), DURATION)?;
            let threshold = threshold_of(name);
            self.replace(&mut config.threshold, &field("threshold"), threshold)?;
            self.replace(&mut config.severity, &field("severity"), SEVERITY)?;
        }
        Ok(checker)
    }

    /// `nodes`: the times of the limiter's registry. Those of the description are the defaults.
    pub(super) fn registry(
        &self,
        registry: Option<&Registry>,
    ) -> Result<RegistryTiming, ConfigError> {
        let [ttl, heartbeat] = ["nodes.registration_ttl", "nodes.heartbeat_interval"];
        let mut timing = RegistryTiming::new(registry);
        self.replace(&mut timing.ttl, ttl, TIMEOUT)?;
        self.replace(&mut timing.heartbeat, heartbeat, TIMEOUT)?;
        self.replace(&mut timing.forget_after, "nodes.forget_after", TIMEOUT)?;
        if registry.is_none() || timing.heartbeat * 2 < timing.ttl {
            return Ok(timing);
        }
        // If the target has a value of its own, the error names that one; else it names the interval.
        let given = [ttl, heartbeat].map(|name| self.given(name));
        let given = given.into_iter().flatten();
        let own = given.max_by_key(|typed| typed.origin.starts_with("targets."));
        let origin = own.map_or(heartbeat, |typed| &typed.origin);
        let expected = format!(
            "{heartbeat} to be less than half of {ttl} ({:?})",
            timing.ttl
        );
        Err(ConfigError::new(
            origin,
            format!("{:?}", timing.heartbeat),
            expected,
        ))
    }

    /// `limits`.
    pub(super) fn limit_rules(&self) -> Result<Vec<LimitRule>, ConfigError> {
        let mut rules = Vec::new();
        for index in 0.. {
            let name = format!("limits[{index}]");
            let Some(rule) = self.given(&name) else { break };
            let fields = ["match", "limit", "window"].map(|field| format!("{name}.{field}"));
            if let Some(missing) = fields.iter().find(|field| self.given(field).is_none()) {
                let missing = format!("without {missing}");
                let expected = "match, limit and window, all three";
                return Err(ConfigError::new(&rule.origin, missing, expected));
            }
            rules.push(LimitRule {
                pattern: self.text(&fields[0]).unwrap_or_default(),
                limit: Limit {
                    limit: self.get(&fields[1], COUNT)?,
                    window_ms: self.get(&fields[2], WINDOW_MS)?,
                },
                burst: self.optional(&format!("{name}.burst"), COUNT)?,
            });
        }
        Ok(rules)
    }
}

/// A duration as Prometheus writes it (`1m30s`, `500ms`, `0.5s`); never negative, and a hundred years at the most.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.bytes().any(|c| c.is_ascii_alphabetic());
    let plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.');
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if !unit || !plain {
        return None;
    }
    let parsed: jiff::SignedDuration = text.parse().ok()?;
    let duration = Duration::try_from(parsed).ok();
    duration.filter(|duration| *duration <= MOST_TIME)
}
