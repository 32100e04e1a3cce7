//! Whether the keys of a counter expire, by when, and what one does that should and does not.

use serde::Deserialize;

use super::limits::Limits;
use super::units::{duration_ms, float, whole};
use super::yaml::{Word, from_text, word_or_mapping};

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

impl Longest {
    /// How long it is under `limits`, in milliseconds, if they tell.
    pub fn most_ms(&self, limits: &Limits) -> Option<u64> {
        let window = float(limits.window_ms?);
        let (limit, capacity) = (limits.limit.map(float), limits.capacity().map(float));
        let fill = match (limit, capacity) {
            (Some(limit), Some(capacity)) if limit > 0.0 => window * capacity / limit,
            _ if self.fills == 0.0 => 0.0,
            _ => return None,
        };
        Some(whole(self.windows * window + self.fills * fill).saturating_add(self.plus_ms))
    }
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
