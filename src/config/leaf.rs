//! Single values of the file's sections, each with its place, and what each may be.

use std::time::Duration;

use serde_json::Value;

use super::tree::{Kind, Node};
use super::{ConfigError, DURATION, TIMEOUT, parse_duration};
use crate::report::{InvariantName, Severity};

/// One value, and how it is called where it stands.
pub(super) struct Leaf<'a> {
    pub(super) origin: String,
    pub(super) node: &'a Node,
}

impl Leaf<'_> {
    fn parsed<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let parsed = match &self.node.kind {
            Kind::Scalar(value) => parse(value),
            _ => None,
        };
        parsed.ok_or_else(|| ConfigError::new(&self.origin, shown(&self.node.kind), expected))
    }

    pub(super) fn text(&self) -> Result<String, ConfigError> {
        self.parsed("text", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn whole_number(&self) -> Result<u64, ConfigError> {
        self.parsed("a whole number from 0 on", Value::as_u64)
    }

    pub(super) fn switch(&self) -> Result<bool, ConfigError> {
        self.parsed("true or false", Value::as_bool)
    }

    pub(super) fn duration(&self) -> Result<Duration, ConfigError> {
        self.parsed(DURATION, |value| parse_duration(&text_of(value)?))
    }

    pub(super) fn timeout(&self) -> Result<Duration, ConfigError> {
        self.parsed(TIMEOUT, |value| {
            parse_duration(&text_of(value)?).filter(|duration| !duration.is_zero())
        })
    }

    pub(super) fn millis(&self) -> Result<u64, ConfigError> {
        self.parsed("a duration of 1 ms or more, such as 1m", |value| {
            let window = parse_duration(&text_of(value)?)?;
            u64::try_from(window.as_millis()).ok().filter(|ms| *ms > 0)
        })
    }

    pub(super) fn severity(&self) -> Result<Severity, ConfigError> {
        self.parsed("critical, warning or info", |value| {
            serde_json::from_value(value.clone()).ok()
        })
    }

    pub(super) fn threshold(&self, name: InvariantName) -> Result<f64, ConfigError> {
        match name {
            InvariantName::HighLatency => self.parsed("a duration such as 50ms", |value| {
                Some(parse_duration(value.as_str()?)?.as_secs_f64())
            }),
            InvariantName::CounterDrift => self
                .parsed("a share of the limit such as 0.1", |value| {
                    value.as_f64().filter(|ratio| *ratio >= 0.0)
                }),
            InvariantName::NodeDown
            | InvariantName::RedisDisconnected
            | InvariantName::GhostAllowing
            | InvariantName::StuckCounter
            | InvariantName::InvalidCounter => {
                self.parsed("no threshold: this invariant has none", |_| None)
            }
        }
    }
}

pub(super) fn as_text(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Scalar(value) => text_of(value),
        _ => None,
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

pub(super) fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Scalar(value) => text_of(value).unwrap_or_else(|| "nothing".to_owned()),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a mapping".to_owned(),
    }
}
