//! Chooses the target of a request by `?target=NAME`. Only names are accepted: the owner of a URL would get the credentials,
//! or use the exporter to reach addresses that he cannot.

use std::collections::BTreeMap;

use hyper::StatusCode;
use url::form_urlencoded;

use super::answer::Refusal;

/// A name, and the target that has it.
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

/// The target called `name`. The refusal does not repeat the name, which may be a URL with a password.
pub(super) fn find<'a, T>(
    targets: &'a BTreeMap<String, T>,
    name: &str,
) -> Result<Named<'a, T>, Refusal> {
    let found = targets.get_key_value(name);
    let found = found.map(|(name, target)| (name.as_str(), target));
    found.ok_or_else(|| {
        let known = known(targets);
        let message = format!(
            "no such target: expected the name of a limiter in the configuration, never a URL; one of: {known}"
        );
        (StatusCode::NOT_FOUND, message)
    })
}

/// The refusal of a query that must name one target.
pub(super) fn not_one<T>(targets: &BTreeMap<String, T>) -> Refusal {
    let known = known(targets);
    let message = format!("expected one ?target=NAME, with one of: {known}");
    (StatusCode::BAD_REQUEST, message)
}

fn known<T>(targets: &BTreeMap<String, T>) -> String {
    targets.keys().cloned().collect::<Vec<_>>().join(", ")
}
