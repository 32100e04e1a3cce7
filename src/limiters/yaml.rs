//! Parses YAML into types that check themselves. Supports values that are a word or a mapping, and mistakes with line numbers.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::text::{nearest, one_line};

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
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    crate::yaml::parse(text).map_err(|(at, what)| Mistake {
        line: at.map(|at| at.line()),
        text: with_nearest(&one_line(&what)),
    })
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
