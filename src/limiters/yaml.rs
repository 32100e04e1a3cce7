//! Parses YAML into types that check themselves. Supports values that are a word or a mapping, and mistakes with line numbers.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, Visitor};

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

/// A type that is written as one word, or as a mapping. Its `Deserialize` is that of [`word_or_mapping`]; the derived one, with
/// `remote = "Self"`, reads the mapping.
pub(super) trait Word: Sized {
    /// The expected forms, for the error.
    const EXPECTED: &'static str;

    /// Parses `word`.
    fn word(word: &str) -> Option<Self>;

    /// Deserializes a mapping.
    fn mapping<'de, D: Deserializer<'de>>(mapping: D) -> Result<Self, D::Error>;
}

/// Deserializes `T` from a word or a mapping.
pub(super) fn word_or_mapping<'de, D: Deserializer<'de>, T: Word>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Either<T>(PhantomData<T>);

    impl<'de, T: Word> Visitor<'de> for Either<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
            T::word(word).ok_or_else(|| E::custom(format!("{word:?}: expected {}", T::EXPECTED)))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::mapping(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Either::<T>(PhantomData))
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

pub(super) use from_text;
