//! Which limiter a request is about: `?target=NAME`. Only names are taken: whoever could name a URL here would be sent the
//! credentials for it, or have the exporter ask where they cannot.
//!
//! `/probe?target=NAME` are the metrics of one configured limiter, for Prometheus' multi-target pattern.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use url::form_urlencoded;

use super::routes::{Answer, App, exposition};
use crate::collect::Collect;
use crate::config::DEFAULT_TARGET;
use crate::export::render_target;
use crate::subject::Subject;

/// Why a request is about no limiter: the status, and a line.
pub(super) type NoTarget = (StatusCode, String);

/// A limiter's name and its collections.
type Named<'a, S> = (&'a str, &'a Arc<Collect<S>>);

impl<S: Subject + 'static> App<S> {
    /// Answers `/probe`, which must be told a target.
    pub(super) async fn probe(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Answer, NoTarget> {
        let named = self.named(query)?;
        named.ok_or_else(|| not_one(&self.targets))?;
        let snapshot = self.snapshot(query, headers).await?;
        Ok(exposition(render_target(&snapshot), headers))
    }

    /// The limiter that the query names, else the default one.
    pub(super) fn about(&self, query: Option<&str>) -> Result<Named<'_, S>, NoTarget> {
        let named = self.named(query)?;
        Ok(named.unwrap_or((DEFAULT_TARGET, &self.collect)))
    }

    /// The limiter that the query names, if it names one.
    pub(super) fn named(&self, query: Option<&str>) -> Result<Option<Named<'_, S>>, NoTarget> {
        let mut names = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .filter_map(|(name, value)| (name == "target").then_some(value));
        match (names.next(), names.next()) {
            (None, _) => Ok(None),
            (Some(name), None) => find(&self.targets, &name).map(Some),
            (Some(_), Some(_)) => Err(not_one(&self.targets)),
        }
    }
}

/// What is there for the target called `name`.
pub(super) fn find<'a, T>(
    targets: &'a BTreeMap<String, T>,
    name: &str,
) -> Result<(&'a str, &'a T), NoTarget> {
    if let Some((name, target)) = targets.get_key_value(name) {
        return Ok((name, target));
    }
    let known = known(targets);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.chars().all(plain) {
        // Not repeated: it may hold a password.
        let message = format!(
            "target is the name of a limiter in the configuration, not its URL, which would hand credentials to whoever \
             asks; expected one of: {known}"
        );
        return Err((StatusCode::BAD_REQUEST, message));
    }
    let message = format!("no target called {name}; expected one of: {known}");
    Err((StatusCode::NOT_FOUND, message))
}

fn not_one<T>(targets: &BTreeMap<String, T>) -> NoTarget {
    let known = known(targets);
    let message = format!("expected one ?target=NAME, with one of: {known}");
    (StatusCode::BAD_REQUEST, message)
}

fn known<T>(targets: &BTreeMap<String, T>) -> String {
    targets.keys().cloned().collect::<Vec<_>>().join(", ")
}
