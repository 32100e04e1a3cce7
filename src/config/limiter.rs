//! The kind of limiter: one that is built in, or a description in a file, checked here.

use std::sync::Arc;

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
