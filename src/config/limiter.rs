//! The kind of limiter: one that is built in, or a description in a file, checked here.

use std::sync::Arc;

use reqwest::Url;

use super::reader::SWITCH;
use super::{ConfigError, Reader};
use crate::limiters::{Description, built_in};
use crate::observe::Kind;

/// The kind that the exporter watches unless it is told another.
const REFERENCE: &str = "reference";

impl Reader<'_> {
    /// What `limiter.file`, or else `limiter.kind`, says.
    pub(super) fn limiter_kind(&self) -> Result<Kind, ConfigError> {
        if let Some(typed) = self.typed("limiter.file") {
            let path = self.text("limiter.file").unwrap_or_default();
            let description = of_file(&typed.origin, &path)?;
            return Ok(Kind::Described(Arc::new(description)));
        }
        let origin = self.typed("limiter.kind").map(|typed| typed.origin.clone());
        let origin = origin.unwrap_or_default();
        let name = self.text("limiter.kind");
        let name = name.unwrap_or_else(|| REFERENCE.to_owned());
        let text =
            built_in(&name).map_err(|expected| ConfigError::new(&origin, &name, expected))?;
        let description = described(text)
            .map(Arc::new)
            .map_err(|mistakes| ConfigError::new(&origin, &name, mistakes))?;
        Ok(match name.as_str() {
            REFERENCE => Kind::Reference(description),
            _ => Kind::Described(description),
        })
    }
}

impl Reader<'_> {
    /// That what is switched on for `kind`, whose nodes are at `urls`, is something that its description has.
    pub(super) fn check_kind(&self, kind: &Kind, urls: &[Url]) -> Result<(), ConfigError> {
        if kind.is_reference() {
            return Ok(());
        }
        let description = kind.description();
        let nodes = description.nodes.as_ref().map(|nodes| &nodes.value);
        let name = &description.name;
        let wrong = |flag, expected| match self.typed(flag) {
            Some(typed) => Err(typed.refused(expected)),
            None => Ok(()),
        };
        if nodes.is_some_and(|nodes| nodes.registry.is_some()) {
            let expected =
                "a description without nodes.registry: only that of limiter.kind reference is read";
            return wrong("limiter.file", expected.to_owned());
        }
        let has_latency = nodes.is_some_and(|nodes| !nodes.latency.is_empty());
        for (flag, on, known, lacks) in [
            (
                "probe.canary",
                self.get("probe.canary", SWITCH)?,
                nodes.is_some_and(|nodes| nodes.canary.is_some()),
                "nodes.canary",
            ),
            (
                "prometheus.url",
                self.typed("prometheus.url").is_some(),
                has_latency || (nodes.is_some() && self.typed("latency.metric").is_some()),
                "nodes.latency",
            ),
        ] {
            if !on {
                continue;
            }
            if !known {
                let expected =
                    format!("a limiter whose description has {lacks}; that of {name} has none");
                return wrong(flag, expected);
            }
            if urls.is_empty() {
                return wrong(flag, "ratelimiter.url beside it: the nodes".to_owned());
            }
        }
        Ok(())
    }
}

/// The description in the file at `path`, which `origin` names.
fn of_file(origin: &str, path: &str) -> Result<Description, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(origin, path, format!("a readable file ({error})")))?;
    described(&text).map_err(|mistakes| ConfigError::new(origin, path, mistakes))
}

/// The description that `limiters --check` names: a kind that is built in, or else a file.
pub fn description_of(named: &str) -> Result<Description, ConfigError> {
    const ORIGIN: &str = "--check";
    match built_in(named) {
        Ok(text) => described(text).map_err(|mistakes| ConfigError::new(ORIGIN, named, mistakes)),
        Err(unknown) if !std::path::Path::new(named).exists() => {
            let expected = format!("a file, or a kind that is built in ({unknown})");
            Err(ConfigError::new(ORIGIN, named, expected))
        }
        Err(_) => of_file(ORIGIN, named),
    }
}

/// The description in `text`, or all of its mistakes.
fn described(text: &str) -> Result<Description, String> {
    Description::parse(text).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        format!("a valid description: {}", mistakes.join("; "))
    })
}
