//! Whether and when the keys of a counter expire, and what happens if a key has lost its required expiry.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::limits::Limits;
use super::units::{duration_ms, float, whole};
use super::yaml::{from_text, word_or_mapping};

/// What happens to a counter without its required expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutExpiry {
    /// At its limit, it blocks its client for ever.
    Blocks,
    /// It takes memory for ever, but blocks nobody.
    Leaks,
    /// The limiter sets the expiry at the next request.
    Heals,
}

/// Whether the keys of a counter expire, and when.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Expiry {
    /// Whether each key must have an expiry.
    #[serde(rename = "is", deserialize_with = "is_required")]
    pub required: bool,
    /// The longest possible expiry, if it is known.
    pub max: Option<Longest>,
    /// Whether a counter above its limit may have a longer expiry.
    #[serde(default)]
    pub longer_over_limit: bool,
}

const EXPIRIES: [&str; 2] = ["required", "normal_without"];

fn is_required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let word = String::deserialize(deserializer)?;
    let expiry = Expiry::word(&word);
    let expiry = expiry.ok_or_else(|| Error::unknown_variant(&word, &EXPIRIES))?;
    Ok(expiry.required)
}

impl Expiry {
    fn word(word: &str) -> Option<Self> {
        EXPIRIES.contains(&word).then_some(Self {
            required: word == EXPIRIES[0],
            max: None,
            longer_over_limit: false,
        })
    }
}

word_or_mapping!(
    Expiry,
    "required, normal_without, or {is: one of them, max: 1 window + 5s}",
    Expiry::word
);

/// The longest expiry: the sum of a number of windows, a multiple of the time to fill or drain a bucket, and a fixed time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Longest {
    /// Windows.
    pub windows: f64,
    /// Multiples of the time to fill the bucket: the window × burst ÷ limit.
    pub fills: f64,
    /// Milliseconds.
    pub plus_ms: u64,
}

impl Longest {
    /// The longest expiry under `limits` in milliseconds, if they are known well enough.
    pub fn most_ms(&self, limits: &Limits) -> Option<u64> {
        let of_windows = match limits.window_ms {
            Some(window_ms) => self.windows * float(window_ms),
            None if self.windows == 0.0 => 0.0,
            None => return None,
        };
        let of_fills = match limits.fill_ms() {
            Some(fill_ms) => self.fills * fill_ms,
            None if self.fills == 0.0 => 0.0,
            None => return None,
        };
        Some(whole(of_windows + of_fills).saturating_add(self.plus_ms))
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
