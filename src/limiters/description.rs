//! A kind of limiter as its file describes it: typed, and checked as it is read. What the words mean is said in
//! `docs/LIMITERS.md`.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::ask::Type;
use super::limits::Source;
use super::methods::Method;
use super::nodes::Nodes;
use super::pattern::{LinePattern, Pattern};
use super::template::Template;
use super::units::{Period, Unit, duration_ms};
use super::yaml::{Mistake, Word, from_text, parse, word_or_mapping};
use crate::observation::Refused;

/// A kind of limiter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What `limiter.kind` says.
    pub name: String,
    /// The programs that are meant, for people.
    pub title: String,
    /// The versions that it was checked with.
    #[serde(default)]
    pub seen: String,
    /// What counts; the first that fits a name and its type wins.
    pub counters: Vec<Counter>,
    /// Names that belong to the limiter and count nothing.
    #[serde(default)]
    pub ignore: Vec<Pattern>,
    /// Where limits are that the counters do not name themselves.
    #[serde(default)]
    pub limits: Vec<Spanned<Source>>,
    /// The limiter's own processes; without it, there are none that could be asked.
    pub nodes: Option<Spanned<Nodes>>,
}

/// A kind of counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// What it is called in messages and metrics.
    pub name: Spanned<String>,
    /// The names of its keys.
    pub key: Spanned<Pattern>,
    /// The type of its keys.
    #[serde(rename = "type")]
    pub kind: Type,
    /// How a counter is called; `$key` without it.
    pub label: Option<Spanned<Template>>,
    /// How it counts.
    pub count: Spanned<Method>,
    /// Whether requests that were refused are in the count.
    pub refused: Refused,
    /// Whether its keys expire.
    pub expiry: Expiry,
    /// What a counter does that should expire and does not.
    pub without_expiry: Option<WithoutExpiry>,
    /// What, besides name and type, a key must be.
    pub when: Option<When>,
    /// How the groups of the name are written.
    #[serde(default)]
    pub units: Units,
    /// Where its limits are, if not in rules and in its name.
    #[serde(default)]
    pub limits: Vec<Spanned<Source>>,
    /// Keys that must be there beside it.
    #[serde(default)]
    pub companions: Vec<Companion>,
    /// What a value is that cannot be read.
    #[serde(default)]
    pub malformed: Malformed,
}

/// What a counter does that should expire and does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutExpiry {
    /// At its limit, it refuses its client for ever.
    Blocks,
    /// It takes memory for ever and harms nobody else.
    Leaks,
    /// The limiter sets the expiry at the next request.
    Heals,
}

/// Whether the keys of a counter expire, and by when.
#[derive(Clone, Debug, PartialEq)]
pub struct Expiry {
    /// Whether each must have an expiry.
    pub required: bool,
    /// The longest that it can have, where that is known.
    pub max: Option<Longest>,
    /// Whether a count above the limit may have a longer one.
    pub longer_over_limit: bool,
}

/// `expiry` in its long form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiryRaw {
    is: ExpiryWord,
    max: Option<Longest>,
    #[serde(default)]
    longer_over_limit: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExpiryWord {
    Required,
    NormalWithout,
}

impl From<ExpiryRaw> for Expiry {
    fn from(raw: ExpiryRaw) -> Self {
        Self {
            required: matches!(raw.is, ExpiryWord::Required),
            max: raw.max,
            longer_over_limit: raw.longer_over_limit,
        }
    }
}

impl Word for Expiry {
    const EXPECTED: &'static str =
        "required, normal_without, or {is: one of them, max: 1 window + 5s}";

    fn word(word: &str) -> Option<Self> {
        let is = match word {
            "required" => ExpiryWord::Required,
            "normal_without" => ExpiryWord::NormalWithout,
            _ => return None,
        };
        let (max, longer_over_limit) = (None, false);
        Some(
            ExpiryRaw {
                is,
                max,
                longer_over_limit,
            }
            .into(),
        )
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word_or_mapping::<_, ExpiryRaw, _>(deserializer)
    }
}

/// The longest expiry: so many windows, so many times as long as filling or draining a bucket takes, and some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Longest {
    /// Windows.
    pub windows: f64,
    /// Times that filling the whole bucket takes: the window × burst ÷ limit.
    pub fills: f64,
    /// Milliseconds.
    pub plus_ms: u64,
}

from_text!(Longest, |text| {
    let expected =
        || format!("{text:?}: expected windows, fills and a duration, such as 2 windows + 1s");
    let mut longest = Self::default();
    for term in text.split('+') {
        let term = term.trim();
        let (number, word) = term.split_once(' ').unwrap_or((term, ""));
        match word {
            "window" | "windows" => longest.windows += factor(number).ok_or_else(expected)?,
            "fill" | "fills" => longest.fills += factor(number).ok_or_else(expected)?,
            _ => {
                let plus = duration_ms(term).ok_or_else(expected)?;
                longest.plus_ms = longest.plus_ms.saturating_add(plus);
            }
        }
    }
    Ok(longest)
});

fn factor(text: &str) -> Option<f64> {
    let factor: f64 = text.parse().ok()?;
    (0.0..=1000.0).contains(&factor).then_some(factor)
}

/// What tells counters apart whose names and types are the same.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The key expires at least so many windows after the beginning of the window in its name.
    pub outlives_windows: Option<f64>,
    /// The hash has this field.
    pub field: Option<String>,
}

/// How the groups of a name are written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Units {
    /// The unit of the group `window`, where it is digits alone.
    pub window: Unit,
    /// How long a month is.
    #[serde(deserialize_with = "duration")]
    pub month: u64,
    /// How long a year is.
    #[serde(deserialize_with = "duration")]
    pub year: u64,
    /// Whether months and years are those of the calendar, in UTC.
    pub calendar: bool,
}

impl Default for Units {
    fn default() -> Self {
        Self {
            window: Unit::Seconds,
            month: Period::Month.ms(),
            year: Period::Year.ms(),
            calendar: false,
        }
    }
}

impl Units {
    /// How long a period is.
    pub fn length(&self, period: Period) -> u64 {
        match period {
            Period::Month => self.month,
            Period::Year => self.year,
            other => other.ms(),
        }
    }
}

/// Deserializes a duration in milliseconds.
pub(super) fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration_ms(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?}: expected a duration, such as 500ms, 60s or 1h"
        ))
    })
}

/// Deserializes a duration in milliseconds that may be left out.
pub(super) fn some_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration(deserializer).map(Some)
}

/// A key beside a counter's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// Its name, from the groups of the counter's.
    pub key: Spanned<Template>,
    /// When it must be there.
    pub needed: Needed,
}

/// When a companion must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needed {
    /// As long as the counter is there.
    Always,
    /// While the count is above the limit.
    OverLimit,
}

/// What a value is that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// A counter in a state that its limiter cannot make.
    #[default]
    Invalid,
    /// Something else whose name fits.
    Foreign,
}

from_text!(Pattern, |text| Self::compile(text).map_err(
    |error| format!("{text:?}: expected a regular expression: {error}")
));
from_text!(LinePattern, |text| Self::compile(text).map_err(
    |error| format!("{text:?}: expected a regular expression: {error}")
));
from_text!(Template, |text| Self::parse(text));

impl Counter {
    /// Whether one that should expire and does not blocks its client for ever.
    pub fn sticks(&self) -> bool {
        self.expiry.required && self.without_expiry == Some(WithoutExpiry::Blocks)
    }
}

impl Description {
    /// Parses and checks `text`. The mistakes are those of the whole text, unless it cannot be read as far as that.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let description: Self = parse(text).map_err(|mistake| vec![mistake])?;
        let mistakes = super::checks::mistakes(&description);
        if mistakes.is_empty() {
            Ok(description)
        } else {
            Err(mistakes)
        }
    }
}
