//! Validates values one by one, and names the one that is wrong, wherever it is from.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::settings::{Typed, Values};
use super::{ConfigError, LogConfig, without_password};
use crate::credentials::SecretSource;
use crate::invariants::CheckerConfig;
use crate::observation::{KeyLabel, LatencyWindow, Limit};
use crate::observe::{LimitRule, RegistryTiming};
use crate::report::{InvariantName, Severity};

/// The most keys that may be exported: every one costs Prometheus four series.
pub(super) const MOST_SERIES: usize = 100_000;

/// Shorter, and scrapes find no two samples in it; longer, and what is slow now is not seen for what was fast before.
const LATENCY_WINDOWS: RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(600);

pub(super) const DURATION: &str = "a duration such as 500ms, 1.5s or 2m";
const TIMEOUT: &str = "a duration above zero, such as 500ms, 1.5s or 2m";
const SWITCH: &str = "true or false";
const HTTP_URL: &str = "an http:// or https:// URL such as http://localhost:8000";

/// Reads values by name.
pub(super) struct Reader<'a>(pub(super) &'a Values);

impl Reader<'_> {
    pub(super) fn typed(&self, name: &str) -> Option<&Typed> {
        self.0.get(name)
    }

    pub(super) fn optional<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let read = |typed: &Typed| parse(typed.text()).ok_or_else(|| typed.refused(expected));
        self.typed(name).map(read).transpose()
    }

    /// The same of what has a default.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let read = self.optional(name, expected, parse)?;
        read.ok_or_else(|| ConfigError::new(format!("--{name}"), "nothing", expected))
    }

    /// The same where the default is in `into`.
    fn replace<T>(
        &self,
        into: &mut T,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<(), ConfigError> {
        if let Some(value) = self.optional(name, expected, parse)? {
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

    pub(super) fn switch(&self, name: &str) -> Result<bool, ConfigError> {
        self.parsed(name, SWITCH, parse_switch)
    }

    pub(super) fn timeout(&self, name: &str) -> Result<Duration, ConfigError> {
        self.parsed(name, TIMEOUT, parse_timeout)
    }

    pub(super) fn latency_window(&self) -> Result<LatencyWindow, ConfigError> {
        self.parsed("latency.window", "a duration from 10s to 10m", |text| {
            let span = parse_duration(text).filter(|span| LATENCY_WINDOWS.contains(span))?;
            Some(LatencyWindow::new(span))
        })
    }

    pub(super) fn share(&self, name: &str) -> Result<f64, ConfigError> {
        let expected = "a number above 0, and 1 at the most";
        self.parsed(name, expected, |text| {
            let share: f64 = text.parse().ok()?;
            (share > 0.0 && share <= 1.0).then_some(share)
        })
    }

    pub(super) fn secret(&self, name: &str) -> Result<Option<SecretSource>, ConfigError> {
        let Some(typed) = self.typed(name) else {
            return Ok(None);
        };
        let source = SecretSource::file(&typed.origin, Path::new(typed.text()));
        let source = source.map_err(|error| typed.refused(format!("a readable file ({error})")));
        source.map(Some)
    }

    /// URLs, which repeat and are separated by commas.
    pub(super) fn urls(&self, name: &str) -> Result<Vec<Url>, ConfigError> {
        let Some(typed) = self.typed(name) else {
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

    pub(super) fn url(&self, name: &str) -> Result<Option<Url>, ConfigError> {
        let read =
            |typed: &Typed| http_url(typed.text()).ok_or_else(|| typed.refused_url(HTTP_URL));
        self.typed(name).map(read).transpose()
    }

    pub(super) fn max_series(&self) -> Result<usize, ConfigError> {
        let expected = "a whole number from 0 to 100000";
        self.parsed("keys.max-series", expected, |text| {
            text.parse().ok().filter(|n| *n <= MOST_SERIES)
        })
    }

    pub(super) fn key_label(&self) -> Result<KeyLabel, ConfigError> {
        self.parsed("keys.label", "plain or hash", |text| match text {
            "plain" => Some(KeyLabel::Plain),
            "hash" => Some(KeyLabel::Hash),
            _ => None,
        })
    }

    pub(super) fn log(&self) -> Result<LogConfig, ConfigError> {
        let levels = ["error", "warn", "info", "debug", "trace"];
        Ok(LogConfig {
            level: self.parsed("log.level", "error, warn, info, debug or trace", |text| {
                levels.contains(&text).then(|| text.parse().ok())?
            })?,
            json: self.parsed("log.format", "logfmt or json", |text| match text {
                "logfmt" => Some(false),
                "json" => Some(true),
                _ => None,
            })?,
        })
    }

    /// `checker` and `invariants`.
    pub(super) fn checker(&self) -> Result<CheckerConfig, ConfigError> {
        let mut checker = CheckerConfig {
            max_listed: self.max_series()?,
            key_label: self.key_label()?,
            ..CheckerConfig::default()
        };
        let (unknown, cleared) = (&mut checker.unknown_hold, &mut checker.cleared_hold);
        self.replace(unknown, "checker.unknown_hold", DURATION, parse_duration)?;
        self.replace(cleared, "checker.cleared_hold", DURATION, parse_duration)?;
        let grace = &mut checker.lowered_limit_grace;
        self.replace(grace, "checker.lowered_limit_grace", SWITCH, parse_switch)?;
        for name in InvariantName::ALL {
            let config = checker.of_mut(name);
            let field = |field| format!("invariants.{name}.{field}");
            self.replace(&mut config.enabled, &field("enabled"), SWITCH, parse_switch)?;
            let grace = &mut config.grace_period;
            self.replace(grace, &field("grace_period"), DURATION, parse_duration)?;
            let (expected, threshold) = threshold_of(name);
            let threshold_field = &mut config.threshold;
            self.replace(threshold_field, &field("threshold"), expected, threshold)?;
            let severity = |text: &str| {
                let all = [Severity::Critical, Severity::Warning, Severity::Info];
                all.into_iter().find(|severity| severity.name() == text)
            };
            let expected = "critical, warning or info";
            self.replace(&mut config.severity, &field("severity"), expected, severity)?;
        }
        Ok(checker)
    }

    /// `nodes`: how the limiter's registry works.
    pub(super) fn registry(&self) -> Result<RegistryTiming, ConfigError> {
        let [ttl, heartbeat, forget_after] =
            ["registration_ttl", "heartbeat_interval", "forget_after"]
                .map(|it| format!("nodes.{it}"));
        let mut timing = RegistryTiming::default();
        self.replace(&mut timing.ttl, &ttl, TIMEOUT, parse_timeout)?;
        self.replace(&mut timing.heartbeat, &heartbeat, TIMEOUT, parse_timeout)?;
        self.replace(
            &mut timing.forget_after,
            &forget_after,
            TIMEOUT,
            parse_timeout,
        )?;
        if timing.heartbeat * 2 < timing.ttl {
            return Ok(timing);
        }
        // The one that a target set for itself made it wrong, else the interval is most likely.
        let typed = [&ttl, &heartbeat].map(|name| self.typed(name));
        let own = typed.into_iter().flatten();
        let own = own.max_by_key(|typed| typed.origin.starts_with("targets."));
        let expected = format!(
            "{heartbeat} to be less than half of {ttl} ({:?})",
            timing.ttl
        );
        let origin = own.map_or(&*heartbeat, |typed| &typed.origin);
        Err(ConfigError::new(
            origin,
            format!("{:?}", timing.heartbeat),
            expected,
        ))
    }

    /// `limits`.
    pub(super) fn limit_rules(&self) -> Result<Vec<LimitRule>, ConfigError> {
        let names = (0..).map(|index| format!("limits[{index}]"));
        let rules = names.map_while(|name| self.typed(&name).map(|rule| (name, rule)));
        rules
            .map(|(name, rule)| self.limit_rule(&name, rule))
            .collect()
    }

    fn limit_rule(&self, name: &str, rule: &Typed) -> Result<LimitRule, ConfigError> {
        let [pattern, limit, window] =
            ["match", "limit", "window"].map(|field| format!("{name}.{field}"));
        let pattern = self.text(&pattern);
        let limit = self.optional(&limit, "a whole number from 0 on", |text| text.parse().ok())?;
        let expected = "a duration of 1 ms or more, such as 1m";
        let window_ms = self.optional(&window, expected, |text| {
            let ms = u64::try_from(parse_duration(text)?.as_millis());
            ms.ok().filter(|ms| *ms > 0)
        })?;
        let (Some(pattern), Some(limit), Some(window_ms)) = (pattern, limit, window_ms) else {
            return Err(rule.refused("match, limit and window, all three"));
        };
        let limit = Limit { limit, window_ms };
        Ok(LimitRule { pattern, limit })
    }
}

/// What a threshold of this invariant is: seconds for `high_latency`, a ratio for `counter_drift`.
fn threshold_of(name: InvariantName) -> (&'static str, fn(&str) -> Option<f64>) {
    match name {
        InvariantName::HighLatency => ("a duration such as 50ms", |text| {
            Some(parse_duration(text)?.as_secs_f64())
        }),
        InvariantName::CounterDrift => ("a share of the limit such as 0.1", |text| {
            let ratio: f64 = text.parse().ok()?;
            (ratio.is_finite() && ratio >= 0.0).then_some(ratio)
        }),
        InvariantName::NodeDown
        | InvariantName::RedisDisconnected
        | InvariantName::GhostAllowing
        | InvariantName::StuckCounter
        | InvariantName::InvalidCounter => ("no threshold: this invariant has none", |_| None),
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// A duration in Prometheus's way of writing (`1m30s`, `500ms`, `0.5s`); never negative.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
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

fn parse_timeout(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|duration| !duration.is_zero())
}

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https") && url.query().is_none();
    let host = url.host_str().is_some_and(|host| !host.is_empty());
    (plain && host).then_some(url)
}
