//! A name that fits a counter, with its groups, limit and window.

use std::ops::Range;
use std::sync::Arc;

use super::limits::Limits;
use super::pattern::Pattern;
use super::units::{Number, Period, Unit, Units, calendar_end, duration_ms, float, whole};

/// A name that fits a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The counter's index in the description.
    pub counter: usize,
    /// The full name.
    pub name: Vec<u8>,
    groups: Vec<(Arc<str>, Range<usize>)>,
}

impl Matched {
    /// `name`, if it fits `pattern`, the key of the counter with this index.
    pub(super) fn of(counter: usize, pattern: &Pattern, name: &[u8]) -> Option<Self> {
        Some(Self {
            counter,
            groups: pattern.ranges(name)?,
            name: name.to_vec(),
        })
    }

    /// A group that took part in the match. `name` is the full name.
    pub fn group(&self, name: &str) -> Option<&[u8]> {
        if name == "name" {
            return Some(&self.name);
        }
        let (_, range) = self.groups.iter().find(|(group, _)| **group == *name)?;
        self.name.get(range.clone())
    }

    /// The limiter's own key.
    pub fn key(&self) -> &[u8] {
        self.group("key").unwrap_or_default()
    }

    /// The name with the group `group` replaced by `text`. Unchanged if there is no such group.
    pub fn with_group(&self, group: &str, text: &[u8]) -> Vec<u8> {
        let Some((_, range)) = self.groups.iter().find(|(name, _)| **name == *group) else {
            return self.name.clone();
        };
        let (before, after) = (&self.name[..range.start], &self.name[range.end..]);
        [before, text, after].concat()
    }

    /// The name without the groups that `out` chooses.
    pub(super) fn without(&self, out: impl Fn(&str) -> bool) -> Vec<u8> {
        let cut: Vec<_> = self.groups.iter().filter(|(group, _)| out(group)).collect();
        let stays = |at: &usize| !cut.iter().any(|(_, range)| range.contains(at));
        let places = (0..self.name.len()).filter(stays);
        places.map(|at| self.name[at]).collect()
    }

    fn whole_number(&self, group: &str) -> Option<u64> {
        match Number::parse(self.group(group)?)? {
            Number::Whole(value) => u64::try_from(value).ok(),
            Number::Fraction(_) => None,
        }
    }

    /// The limits in the name.
    pub fn limits(&self, units: &Units) -> Limits {
        let window = self
            .group("window")
            .and_then(|text| window(text, units.window));
        let unit = self.group("unit").and_then(Period::parse);
        let multiple = match self.group("multiple") {
            Some(_) => self.whole_number("multiple"),
            None => Some(1),
        };
        let by_unit = unit
            .zip(multiple)
            .and_then(|(unit, multiple)| units.length(unit).checked_mul(multiple));
        Limits {
            limit: self.whole_number("limit"),
            window_ms: window.or(by_unit).filter(|window| *window > 0),
            burst: self.whole_number("burst"),
        }
    }

    /// The window in the name, if there is one.
    pub fn span(&self, units: &Units, limits: &Limits) -> Option<Span> {
        let window_ms = limits.window_ms?;
        if let Some(index) = self.whole_number("window_index") {
            let start_ms = index.checked_mul(window_ms)?;
            let end_ms = start_ms.checked_add(window_ms)?;
            return Some(Span { start_ms, end_ms });
        }
        let start_ms = self.start_ms()?;
        let calendar = self
            .group("unit")
            .and_then(Period::parse)
            .filter(|_| units.calendar);
        let end_ms = match calendar {
            Some(period) => calendar_end(start_ms, period)?,
            None => start_ms.checked_add(window_ms)?,
        };
        Some(Span { start_ms, end_ms })
    }

    /// The Unix time at which the window begins, if it is in the name.
    pub(super) fn start_ms(&self) -> Option<u64> {
        let start = float(self.whole_number("window_start")?);
        Some(whole(Unit::of_time(start).to_ms(start)))
    }

    /// Whether the name has a date with hours, such as 2026112704, or more. As a Unix time, it is later than `latest_ms`.
    pub(super) fn has_date(&self, latest_ms: u64) -> bool {
        let is_later = self.start_ms().is_some_and(|start| start > latest_ms);
        let Some(digits) = self.group("window_start").filter(|_| is_later) else {
            return false;
        };
        let part = |at: usize| {
            let digits = std::str::from_utf8(digits.get(at..at + 2)?).ok()?;
            digits.parse::<u8>().ok()
        };
        part(0) == Some(20)
            && part(4).is_some_and(|month| (1..=12).contains(&month))
            && part(6).is_some_and(|day| (1..=31).contains(&day))
            && part(8).is_some_and(|hour| hour < 24)
            && [10, 14].contains(&digits.len())
    }

    /// Whether the name contains the time of its window.
    pub fn has_span(&self) -> bool {
        self.group("window_index").is_some() || self.group("window_start").is_some()
    }

    /// The name of this counter in the previous window (`back`) or the next.
    pub fn neighbour(&self, limits: &Limits, back: bool) -> Option<Vec<u8>> {
        let moved = |value: u64, step: u64| {
            if back {
                value.checked_sub(step)
            } else {
                value.checked_add(step)
            }
        };
        if let Some(index) = self.whole_number("window_index") {
            let text = moved(index, 1)?.to_string();
            return Some(self.with_group("window_index", text.as_bytes()));
        }
        let start = self.whole_number("window_start")?;
        let unit = Unit::of_time(float(start));
        let step = whole(unit.of_ms(float(limits.window_ms?)));
        let text = moved(start, step)?.to_string();
        Some(self.with_group("window_start", text.as_bytes()))
    }

    /// Whether the index is that of a window of a second or more that is shorter than `window_ms`: with `window_ms`, it would begin
    /// months in the future.
    pub fn has_shorter_window(&self, window_ms: u64, now_ms: u64) -> bool {
        let begins = |length: u64| {
            let index = self.whole_number("window_index")?;
            index.checked_mul(length)
        };
        begins(window_ms).is_some_and(|start| start / 101 > now_ms / 100)
            && begins(1_000).is_some_and(|start| start <= now_ms)
    }

    /// The length of the window, if it follows from the index: the only whole number of seconds that gives this index when it
    /// divides the current time.
    pub fn window_by_index(&self, now_ms: u64) -> Option<u64> {
        let index = self
            .whole_number("window_index")
            .filter(|index| *index > 0)?;
        let (least, most) = (now_ms / index.checked_add(1)?, now_ms / index);
        let seconds = most / 1_000;
        let only = seconds * 1_000 > least && seconds.saturating_sub(1) * 1_000 <= least;
        (seconds > 0 && only).then_some(seconds * 1_000)
    }
}

/// Parses the length of a window: digits in `unit`, or a duration.
fn window(text: &[u8], unit: Unit) -> Option<u64> {
    match Number::parse(text) {
        Some(number) if number.as_f64() >= 0.0 => Some(whole(unit.to_ms(number.as_f64()))),
        Some(_) => None,
        None => duration_ms(std::str::from_utf8(text).ok()?),
    }
}

/// The window in a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub start_ms: u64,
    /// When it ends.
    pub end_ms: u64,
}

/// The position of a window relative to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Now is in it.
    Current,
    /// It was the previous one.
    Previous,
    /// It ended earlier than the previous one.
    Over,
    /// It begins further in the future than clocks may differ.
    Future,
}

impl Span {
    /// The position of the window. A window that begins within `tolerance_ms` counts as begun.
    pub fn when(self, now_ms: u64, tolerance_ms: u64) -> When {
        let length = self.end_ms.saturating_sub(self.start_ms);
        if self.start_ms > now_ms.saturating_add(tolerance_ms) {
            When::Future
        } else if now_ms < self.end_ms {
            When::Current
        } else if now_ms < self.end_ms.saturating_add(length) {
            When::Previous
        } else {
            When::Over
        }
    }
}
