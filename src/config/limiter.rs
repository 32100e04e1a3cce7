//! The kind of limiter: a kind that is built in, or a description in a file, which is checked here.

use std::path::Path;
use std::sync::Arc;

use reqwest::Url;

use super::ConfigError;
use super::reader::SWITCH;
use super::settings::{Typed, Values};
use crate::files;
use crate::limiters::{Description, built_in};

impl Values {
    /// The kind that `limiter.file` describes, or else `limiter.kind` names.
    pub(super) fn limiter_kind(&self) -> Result<Arc<Description>, ConfigError> {
        if let Some(typed) = self.typed("limiter.file") {
            return Ok(Arc::new(of_file(&typed)?));
        }
        let typed = self.typed("limiter.kind").unwrap_or_default();
        let text = built_in(typed.text()).map_err(|expected| typed.refused(expected))?;
        Ok(Arc::new(described(&typed, text)?))
    }

    /// Whether a target of this kind must have the URL of a node: for the kind that is watched by default, this setting has a
    /// default, which must not be used for a target by mistake.
    pub(super) fn needs_url(&self, kind: &Description) -> bool {
        kind.has_management_api() && self.typed("limiter.file").is_none()
    }

    /// Refuses settings that `description`, whose nodes are at `urls`, has nothing for.
    pub(super) fn check_kind(
        &self,
        description: &Description,
        urls: &[Url],
    ) -> Result<(), ConfigError> {
        let nodes = description.nodes.as_ref().map(|nodes| &nodes.value);
        let name = &description.name;
        let wrong = |flag, expected: &str| match self.given(flag) {
            Some(typed) => Err(typed.refused(expected)),
            None => Ok(()),
        };
        let needs = |flag, known: bool, part| {
            if !known {
                let expected = "a limiter whose description has";
                return wrong(flag, &format!("{expected} {part}; that of {name} has none"));
            }
            if urls.is_empty() && description.registry().is_none() {
                return wrong(flag, "ratelimiter.url beside it: the nodes");
            }
            Ok(())
        };
        if self.get("probe.canary", SWITCH)? {
            let known = nodes.is_some_and(|nodes| nodes.canary.is_some());
            needs("probe.canary", known, "nodes.canary")?;
        }
        if self.given("prometheus.url").is_some() {
            let named = self.given("latency.metric").is_some();
            let known = nodes.is_some_and(|nodes| named || !nodes.latency.is_empty());
            needs("prometheus.url", known, "nodes.latency")?;
        }
        Ok(())
    }
}

/// The description that `limiters --check` names: a kind that is built in, or else a file.
pub fn description_of(named: &str) -> Result<Description, ConfigError> {
    let typed = Typed::new("--check", named);
    match built_in(named) {
        Ok(text) => described(&typed, text),
        Err(expected) if !Path::new(named).exists() => {
            Err(typed.refused(format!("a file, or {expected}")))
        }
        Err(_) => of_file(&typed),
    }
}

/// The description in the file that `typed` names.
fn of_file(typed: &Typed) -> Result<Description, ConfigError> {
    let text = files::read_text_of_file(Path::new(typed.text()))
        .map_err(|error| typed.refused(format!("a readable file ({error})")))?;
    described(typed, &text)
}

/// The description in `text`, or all of its mistakes as an error of `typed`.
fn described(typed: &Typed, text: &str) -> Result<Description, ConfigError> {
    Description::parse(text).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        typed.refused(format!("a valid description: {}", mistakes.join("; ")))
    })
}
