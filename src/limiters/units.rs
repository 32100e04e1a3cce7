//! Times, units and numbers as limiters write them. Every function is total: any bytes give a value or nothing.

use serde::Deserialize;

/// The largest count: JSON numbers lose digits above it.
const MOST_COUNT: f64 = 9_007_199_254_740_992.0;

/// A unit of time, as values and names count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Unit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
}

impl Unit {
    /// All units, the longest first.
    pub const ALL: [Self; 4] = [
        Self::Seconds,
        Self::Milliseconds,
        Self::Microseconds,
        Self::Nanoseconds,
    ];

    /// Converts milliseconds to this unit. It divides and never multiplies by a fraction, so that whole seconds stay whole.
    pub fn of_ms(self, ms: f64) -> f64 {
        match self {
            Self::Seconds => ms / 1e3,
            Self::Milliseconds => ms,
            Self::Microseconds => ms * 1e3,
            Self::Nanoseconds => ms * 1e6,
        }
    }

    /// Converts `value` in this unit to milliseconds.
    pub fn to_ms(self, value: f64) -> f64 {
        match self {
            Self::Seconds => value * 1e3,
            Self::Milliseconds => value,
            Self::Microseconds => value / 1e3,
            Self::Nanoseconds => value / 1e6,
        }
    }

    /// The Unix times from 1973 to 5138 in this unit. The ranges of different units do not overlap.
    pub fn range(self) -> (f64, f64) {
        match self {
            Self::Seconds => (1e8, 1e11),
            Self::Milliseconds => (1e11, 1e14),
            Self::Microseconds => (1e14, 1e17),
            Self::Nanoseconds => (1e17, 1e20),
        }
    }

    /// The unit that a Unix time of this size is in.
    pub fn of_time(value: f64) -> Self {
        let fits = |unit: &Self| value < unit.range().1;
        Self::ALL
            .into_iter()
            .find(fits)
            .unwrap_or(Self::Nanoseconds)
    }
}

/// A number as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Digits, with or without a minus.
    Whole(i128),
    /// Anything else that is finite.
    Fraction(f64),
}

impl Number {
    /// Parses the whole of `text`. Neither blanks nor `nan` nor `inf` are numbers.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let first = text.as_bytes().first()?;
        if !(first.is_ascii_digit() || matches!(first, b'-' | b'.')) {
            return None;
        }
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        let value: f64 = text.parse().ok()?;
        value.is_finite().then_some(Self::Fraction(value))
    }

    /// Converts to a floating-point number. Beyond 2^53, the last digits are lost.
    pub fn as_f64(self) -> f64 {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "said in the documentation")]
            Self::Whole(whole) => whole as f64,
            Self::Fraction(value) => value,
        }
    }
}

/// Converts to a floating-point number. Beyond 2^53, the last digits are lost.
#[expect(clippy::cast_precision_loss, reason = "said in the documentation")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

/// Rounds down, to at least 0 and at most 2^53. NaN is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what fits"
)]
pub(super) fn whole(value: f64) -> u64 {
    value.clamp(0.0, MOST_COUNT) as u64
}

/// A duration in milliseconds: `500ms`, `60s`, `1m0s`, `5m`, `1h`, `30d`.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, tail) = tail.split_at(letters.unwrap_or(tail.len()));
        let unit = match unit {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 6e4,
            "h" => 36e5,
            "d" => 864e5,
            "w" => 6048e5,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        sum = sum.checked_add(whole(number * unit))?;
        rest = tail.trim_start();
    }
    Some(sum)
}

/// The words for units of time in names and rules, in any case, in the singular or plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// `second`, `s`.
    Second,
    /// `minute`, `m`.
    Minute,
    /// `hour`, `h`.
    Hour,
    /// `day`, `d`.
    Day,
    /// `week`.
    Week,
    /// `month`.
    Month,
    /// `year`.
    Year,
}

impl Period {
    /// Parses the word.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let word = std::str::from_utf8(word).ok()?.to_ascii_lowercase();
        let word = match word.strip_suffix('s') {
            Some(singular) if !singular.is_empty() => singular,
            _ => &word,
        };
        Some(match word {
            "second" | "sec" | "s" => Self::Second,
            "minute" | "min" | "m" => Self::Minute,
            "hour" | "h" => Self::Hour,
            "day" | "d" => Self::Day,
            "week" | "w" => Self::Week,
            "month" => Self::Month,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// Its length in milliseconds. A month has 30 days here, and a year 365.
    pub fn ms(self) -> u64 {
        const DAY: u64 = 86_400_000;
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY,
        }
    }
}

/// The end of a calendar month or year in UTC that begins at `start_ms`.
pub(super) fn calendar_end(start_ms: u64, period: Period) -> Option<u64> {
    let begun = jiff::Timestamp::from_millisecond(i64::try_from(start_ms).ok()?).ok()?;
    let begun = begun.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let length = match period {
        Period::Month => jiff::Span::new().try_months(1).ok()?,
        Period::Year => jiff::Span::new().try_years(1).ok()?,
        other => return start_ms.checked_add(other.ms()),
    };
    let end = begun.checked_add(length).ok()?;
    u64::try_from(end.timestamp().as_millisecond()).ok()
}

/// The units of the groups in a name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Units {
    /// The unit of the group `window`, if it has only digits.
    pub window: Unit,
    /// The length of a month, in milliseconds.
    #[serde(deserialize_with = "duration")]
    pub month: u64,
    /// The length of a year, in milliseconds.
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
    /// The length of a period, in milliseconds.
    pub fn length(&self, period: Period) -> u64 {
        match period {
            Period::Month => self.month,
            Period::Year => self.year,
            other => other.ms(),
        }
    }
}

/// Deserializes a duration in milliseconds, which is not 0.
pub(super) fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration_ms(&text).filter(|ms| *ms > 0).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?}: expected a duration of 1ms or more, such as 500ms, 60s or 1h"
        ))
    })
}

/// Deserializes a whole number that may be left out.
pub(super) fn some_count<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let count = value
        .as_u64()
        .or(value.as_str().and_then(|text| text.parse().ok()));
    if count.is_none() && !value.is_null() {
        let text = format!("{value}: expected a whole number, 0 or more");
        return Err(serde::de::Error::custom(text));
    }
    Ok(count)
}

/// Deserializes a duration in milliseconds that may be left out.
pub(super) fn some_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_number_is_none() {
        for text in [
            &b""[..],
            b" 1",
            b"1 ",
            b"nan",
            b"NaN",
            b"inf",
            b"-inf",
            b"1e999",
            b"0x10",
            b"ten",
            b"\xff",
            b"-",
            b"+1",
        ] {
            assert_eq!(Number::parse(text), None, "{text:?}");
        }
        assert_eq!(Number::parse(b"-3"), Some(Number::Whole(-3)));
        assert_eq!(
            Number::parse(b"9007199254740993"),
            Some(Number::Whole(9_007_199_254_740_993))
        );
        assert_eq!(Number::parse(b"1.5"), Some(Number::Fraction(1.5)));
    }

    #[test]
    fn whole_seconds_stay_whole() {
        for seconds in 1_795_691_000..1_795_692_000 {
            let ms = Unit::Seconds.of_ms(float(seconds * 1_000));
            assert_eq!(whole(ms), seconds);
            assert_eq!(whole(Unit::Seconds.to_ms(float(seconds))), seconds * 1_000);
        }
    }

    #[test]
    fn durations_are_read_as_they_are_written_in_yaml_and_in_go() {
        for (text, ms) in [
            ("60s", 60_000),
            ("1m0s", 60_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("30d", 2_592_000_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 parsecs",
            "-1s",
            "99999999999999999999999d 1s 1s 1s x",
        ] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn the_unit_of_a_time_follows_from_its_size() {
        for (value, unit) in [
            (1.79e9, Unit::Seconds),
            (1.79e12, Unit::Milliseconds),
            (1.79e15, Unit::Microseconds),
            (1.79e18, Unit::Nanoseconds),
        ] {
            assert_eq!(Unit::of_time(value), unit);
        }
    }

    #[test]
    fn calendar_months_have_their_real_lengths() {
        // 1 January, 1 February 2027.
        let (january, february) = (1_798_761_600_000, 1_801_440_000_000);
        assert_eq!(calendar_end(january, Period::Month), Some(february));
        assert_eq!(calendar_end(u64::MAX, Period::Month), None);
    }
}
