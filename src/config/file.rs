//! The configuration file: YAML with any of the settings (nested at the dots of their flags), and three sections
//! that have no flags: `invariants`, `nodes` and `limits`. Unknown keys are refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::ConfigError;
use super::settings::{Values, find};
use crate::invariants::{InvariantName, Severity};

/// The sections that have no flags.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) invariants: BTreeMap<InvariantName, InvariantSection>,
    pub(super) checker: CheckerSection,
    pub(super) nodes: NodesSection,
    pub(super) limits: Vec<LimitSection>,
}

/// `invariants.NAME`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InvariantSection {
    pub(super) enabled: Option<bool>,
    pub(super) grace_period: Option<String>,
    /// A duration for `high_latency`, a ratio for `counter_drift`.
    pub(super) threshold: Option<Value>,
    pub(super) severity: Option<Severity>,
}

/// `checker`: how time is treated, for all invariants.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckerSection {
    pub(super) unknown_hold: Option<String>,
    pub(super) cleared_hold: Option<String>,
    pub(super) lowered_limit_grace: Option<bool>,
}

/// `nodes`: how the limiter's registry works.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodesSection {
    pub(super) registration_ttl: Option<String>,
    pub(super) heartbeat_interval: Option<String>,
    pub(super) forget_after: Option<String>,
}

/// One entry of `limits`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitSection {
    #[serde(rename = "match")]
    pub(super) pattern: String,
    pub(super) limit: u64,
    pub(super) window: String,
}

/// Reads the file at `path` into `values` and the sections.
pub(super) fn read(path: &Path, values: &mut Values) -> Result<Sections, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError::new(
            "--config.file",
            path.display(),
            format!("a readable file ({error})"),
        )
    })?;
    parse(&text, &path.display().to_string(), values)
}

fn parse(text: &str, name: &str, values: &mut Values) -> Result<Sections, ConfigError> {
    let invalid = |error: String| {
        let first = error.lines().next().unwrap_or_default().to_owned();
        ConfigError::new("--config.file", name, format!("valid YAML: {first}"))
    };
    let document: Value = if text.trim().is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(text).map_err(|error| invalid(error.to_string()))?
    };
    let mut sections = Sections::default();
    let map = match document {
        Value::Null => return Ok(sections),
        Value::Object(map) => map,
        other => {
            return Err(ConfigError::new(
                "--config.file",
                name,
                format!("a mapping, not {other}"),
            ));
        }
    };
    for (key, value) in map {
        match key.as_str() {
            "invariants" => sections.invariants = section(&key, value, name)?,
            "checker" => sections.checker = section(&key, value, name)?,
            "nodes" => sections.nodes = section(&key, value, name)?,
            "limits" => sections.limits = section(&key, value, name)?,
            _ => flatten(&key, value, name, values)?,
        }
    }
    Ok(sections)
}

fn section<T: serde::de::DeserializeOwned>(
    key: &str,
    value: Value,
    file: &str,
) -> Result<T, ConfigError> {
    let shown = value.to_string();
    serde_json::from_value(value)
        .map_err(|error| ConfigError::new(format!("{key} in {file}"), shown, error.to_string()))
}

/// Takes the settings below `key`, whose names are joined by dots.
fn flatten(key: &str, value: Value, file: &str, values: &mut Values) -> Result<(), ConfigError> {
    let origin = || format!("{key} in {file}");
    if let Some(setting) = find(key) {
        if key == "config.file" {
            return Err(ConfigError::new(
                origin(),
                value,
                "no file named inside the file",
            ));
        }
        let typed = match value {
            Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
            other => scalar(&other).map(|one| vec![one]),
        };
        let typed = typed.ok_or_else(|| ConfigError::new(origin(), "a mapping", "a value"))?;
        values.add(setting, origin(), typed);
        return Ok(());
    }
    match value {
        Value::Object(map) => map
            .into_iter()
            .try_for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, file, values)),
        other => Err(ConfigError::new(
            origin(),
            other,
            "a known setting: see --help for their names",
        )),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_nest_at_their_dots() {
        let mut values = Values::default();
        let text = "redis:\n  url: redis://r:1\nratelimiter.url: [http://a:1, http://b:1]\nprobe: {nodes: false}\n";
        parse(text, "f.yml", &mut values).unwrap();
        assert_eq!(values.get("redis.url").unwrap().values, ["redis://r:1"]);
        assert_eq!(
            values.get("redis.url").unwrap().origin,
            "redis.url in f.yml"
        );
        assert_eq!(values.get("ratelimiter.url").unwrap().values.len(), 2);
        assert_eq!(values.get("probe.nodes").unwrap().values, ["false"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("redis:\n  urll: x\n", "redis.urll in f.yml"),
            ("invariants:\n  node_dwon: {}\n", "invariants in f.yml"),
            (
                "invariants:\n  node_down: {grace: 1s}\n",
                "unknown field `grace`",
            ),
            (
                "limits:\n- {match: a, limit: -1, window: 1s}\n",
                "limits in f.yml",
            ),
            ("- a\n", "a mapping"),
            ("redis: [\n", "valid YAML"),
            ("config: {file: x}\n", "config.file in f.yml"),
            // Found by fuzzing: names with line ends made errors of many lines.
            ("\"a\\nb\": {c: 1}\n", "a\\nb.c in f.yml"),
            ("nodes: {\"a\\nb\": 1}\n", "unknown field `a\\nb`"),
        ] {
            let error = parse(text, "f.yml", &mut Values::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
