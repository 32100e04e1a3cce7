//! Which limiter a request is about: `?target=NAME`. Only names are taken: whoever could name a URL here would be sent the
//! credentials for it, or have the exporter ask where they cannot.

use std::collections::BTreeMap;

use hyper::StatusCode;
use url::form_urlencoded;

use super::answer::Refusal;

/// A name, and what there is for it.
pub(super) type Named<'a, T> = (&'a str, &'a T);

/// The target that the query names, if it names one.
pub(super) fn named<'a, T>(
    targets: &'a BTreeMap<String, T>,
    query: Option<&str>,
) -> Result<Option<Named<'a, T>>, Refusal> {
    let mut names = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter_map(|(name, value)| (name == "target").then_some(value));
    match (names.next(), names.next()) {
        (None, _) => Ok(None),
        (Some(name), None) => find(targets, &name).map(Some),
        (Some(_), Some(_)) => Err(not_one(targets)),
    }
}

/// The target called `name`.
pub(super) fn find<'a, T>(
    targets: &'a BTreeMap<String, T>,
    name: &str,
) -> Result<Named<'a, T>, Refusal> {
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

/// That the query must name one target.
pub(super) fn not_one<T>(targets: &BTreeMap<String, T>) -> Refusal {
    let known = known(targets);
    let message = format!("expected one ?target=NAME, with one of: {known}");
    (StatusCode::BAD_REQUEST, message)
}

fn known<T>(targets: &BTreeMap<String, T>) -> String {
    targets.keys().cloned().collect::<Vec<_>>().join(", ")
}
