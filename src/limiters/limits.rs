//! Limits and windows, and how to read them from fields and JSON.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::units::{Number, Unit, duration_ms, float, some_count, some_duration, whole};

/// A counter's limit, window and burst, as far as they are known. Each is from the first source that has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// How many requests a window admits.
    #[serde(default, deserialize_with = "some_count")]
    pub limit: Option<u64>,
    /// How long the window is. A description writes it as a duration.
    #[serde(default, rename = "window", skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "in_ms", deserialize_with = "some_duration")]
    pub window_ms: Option<u64>,
    /// How many requests may come at once, if that differs from the limit.
    #[serde(default, deserialize_with = "some_count")]
    pub burst: Option<u64>,
}

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn in_ms<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}ms", ms.unwrap_or_default()))
}

impl Limits {
    /// Fills what is unknown from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            limit: self.limit.or(other.limit),
            window_ms: self.window_ms.or(other.window_ms),
            burst: self.burst.or(other.burst),
        }
    }

    /// The count of a full counter: the burst, or else the limit.
    pub fn capacity(&self) -> Option<u64> {
        self.burst.or(self.limit)
    }

    /// How long an empty bucket takes to fill, or a full one to drain, in milliseconds: the window × capacity ÷ limit.
    pub fn fill_ms(&self) -> Option<f64> {
        let limit = self.limit.filter(|limit| *limit > 0)?;
        Some(float(self.window_ms?) * float(self.capacity()?) / float(limit))
    }

    /// How long one request takes to drain, in milliseconds: the window ÷ limit.
    pub(super) fn interval_ms(&self) -> Option<f64> {
        let limit = self.limit.filter(|limit| *limit > 0)?;
        Some(float(self.window_ms?) / float(limit))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.limit.is_some() && self.window_ms.is_some()
    }
}

/// The limits of a counter before they fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// The limits.
    pub limits: Limits,
    /// How long ago they fell, in milliseconds.
    pub ago_ms: u64,
}

/// Counts that may be left over from limits before they fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The highest of them. Where a count is a time, such as for `gcra`, in intervals of the limits of now.
    pub limit: u64,
    /// How long ago the limits fell, in milliseconds.
    pub ago_ms: u64,
    /// How long after the fall such a count may be left over, in milliseconds.
    pub lasts_ms: u64,
}

/// Fields of a hash, or pointers into JSON, and the unit of the window.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// The field of the limit.
    pub limit: Option<String>,
    /// The field of the window.
    pub window: Option<String>,
    /// The field of the burst.
    pub burst: Option<String>,
    /// The unit of the window.
    pub unit: Option<Unit>,
}

impl Fields {
    pub(super) fn names(&self) -> Vec<&str> {
        let names = [&self.limit, &self.window, &self.burst];
        names.into_iter().flatten().map(String::as_str).collect()
    }

    /// The limits, from the text that `text` returns for each field. The window is in the unit, or names its own.
    pub(super) fn limits(&self, text: impl Fn(&str) -> Option<Vec<u8>>) -> Limits {
        let at = |place: &Option<String>| place.as_deref().and_then(&text);
        let unit = self.unit.unwrap_or(Unit::Seconds);
        let window = at(&self.window).and_then(|text| match Number::parse(&text) {
            Some(number) => Some(whole(unit.to_ms(number.as_f64()))),
            None => duration_ms(std::str::from_utf8(&text).ok()?),
        });
        Limits {
            limit: at(&self.limit).and_then(|text| count(&text)),
            window_ms: window.filter(|window| *window > 0),
            burst: at(&self.burst).and_then(|text| count(&text)),
        }
    }
}

/// The number, text or boolean at `pointer`, as text.
pub(super) fn of_json(value: &Value, pointer: &str) -> Option<Vec<u8>> {
    match value.pointer(pointer)? {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Number(number) => Some(number.to_string().into_bytes()),
        Value::Bool(value) => Some(value.to_string().into_bytes()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Parses `text` as a count.
pub(super) fn count(text: &[u8]) -> Option<u64> {
    match Number::parse(text)? {
        Number::Whole(value) => u64::try_from(value).ok(),
        Number::Fraction(value) if value >= 0.0 => Some(whole(value)),
        Number::Fraction(_) => None,
    }
}
