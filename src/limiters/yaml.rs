//! Parses YAML into types that check themselves. Supports values that are a word or a mapping, and mistakes with line numbers.

use std::fmt;

use serde::Deserialize;

/// The deepest nesting of a description: limits, http, json, match, and some to spare.
const MOST_LEVELS: usize = 12;

/// A mistake in a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1, if it is known.
    pub line: Option<u64>,
    /// What is wrong and what was expected, in one line.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Mistake {}

/// Parses `text`.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Mistake> {
    let options =
        serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: MOST_LEVELS } };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map(|location| location.line());
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        let what = first.split(" at line ").next().unwrap_or(first);
        let text = escaped(&with_nearest(what));
        Mistake { line, text }
    })
}

/// Escapes the control characters in `text`: names in the file may contain any.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Adds the expected name that is nearest to the unknown one, if one is near.
fn with_nearest(text: &str) -> String {
    let unknown = text.split('`').nth(1).filter(|_| text.contains("unknown"));
    let nearest = unknown
        .zip(text.split_once("expected "))
        .and_then(|(unknown, (_, names))| {
            let names = names
                .strip_prefix("one of ")
                .unwrap_or(names)
                .split([',', ' ']);
            nearest(unknown, names.map(|name| name.trim_matches('`')))
        });
    match nearest {
        Some(nearest) => format!("{text} (did you mean {nearest}?)"),
        None => text.to_owned(),
    }
}

/// The name that is most similar to `word`, if one is near.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min_by_key(|(distance, _)| *distance);
    let (distance, name) = near?;
    (distance <= (word.len() / 3).max(1)).then_some(name)
}

/// Implements `Deserialize` for types that are written as one word, which `$word` parses, or as a mapping. The derived one, with
/// `remote = "Self"`, reads the mapping.
macro_rules! word_or_mapping {
    ($type:ty, $expected:expr, $word:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;

                impl<'de> serde::de::Visitor<'de> for Either {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        let word: fn(&str) -> Option<$type> = $word;
                        let expected = || format!("{text:?}: expected {}", $expected);
                        word(text).ok_or_else(|| E::custom(expected()))
                    }

                    fn visit_map<A>(self, map: A) -> Result<$type, A::Error>
                    where
                        A: serde::de::MapAccess<'de>,
                    {
                        <$type>::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }

                deserializer.deserialize_any(Either)
            }
        }
    };
}

/// Implements `Deserialize` for types that `$parse` parses from text. Its error says what was expected.
macro_rules! from_text {
    ($type:ty, $parse:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use {from_text, word_or_mapping};
