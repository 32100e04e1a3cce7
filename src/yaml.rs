//! Parses YAML, and says what is wrong with it in words for its author: the parser's own are about its options and types.

use serde::de::DeserializeOwned;
use serde_saphyr::Location;

/// How deep a document may nest, since every level takes some of the stack. Nothing that is read nests deeper than eight levels.
const MOST_LEVELS: usize = 16;

/// What an error of the parser contains, and what is reported instead.
const PLAINLY: [(&str, &str); 8] = [
    (
        "multiple YAML documents",
        "one document, not several divided by ---",
    ),
    (
        "weak recursion types",
        "an alias that is not inside of its own anchor",
    ),
    ("budget breached: Depth", "nested less deeply"),
    (
        "budget breached",
        "less of it, also once aliases are put in",
    ),
    ("cannot deserialize null", "text, not nothing"),
    ("expected string scalar", "names that are text"),
    ("non-finite float", "a finite number"),
    ("invalid u64", "a whole number, as its tag says"),
];

/// Parses `text`. An error has its place, if that is known, and the reason in one line, without an excerpt of the text, which
/// may contain a secret.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, (Option<Location>, String)> {
    // The parser refuses a text of nothing.
    let text = if text.trim().is_empty() { "null" } else { text };
    let options =
        serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: MOST_LEVELS } };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        (error.location(), plainly(&error.to_string()))
    })
}

/// The parser's error `message` in plain words, without its place.
fn plainly(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let what = first.strip_prefix("error: ").unwrap_or(first);
    let what = what.split(" at line ").next().unwrap_or(what);
    // The hint at its end is about the parser's options.
    let what = what.split(", set DuplicateKeyPolicy").next();
    let what = what.unwrap_or_default();
    let found = PLAINLY.iter().find(|(theirs, _)| what.contains(theirs));
    found.map_or(what, |(_, ours)| ours).to_owned()
}
