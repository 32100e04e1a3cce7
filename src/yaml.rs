//! The YAML parser's errors, in words for the author of the YAML. The parser's own are about its options and types.

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

/// The parser's error `message` in plain words, without its place.
pub(crate) fn plainly(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let what = first
        .split_once(" at line ")
        .map_or(first, |(what, _)| what);
    // The hint at its end is about the parser's options.
    let what = what
        .split_once(", set DuplicateKeyPolicy")
        .map_or(what, |(what, _)| what);
    let found = PLAINLY.iter().find(|(theirs, _)| what.contains(theirs));
    found.map_or(what, |(_, ours)| ours).to_owned()
}
