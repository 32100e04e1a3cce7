//! `slots`: a counter of several keys, one for each part of the window, or of several fields of a hash.

use serde::Deserialize;

use super::{At, Counted, Counting, Not, answer, counted, integer, optional};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::limits::Limits;
use crate::limiters::reading::Unknown;
use crate::limiters::units::{Number, Unit, duration, float, whole};
use crate::observation::Invalid;

/// The most slots of one window: enough for a minute of tenths of a second, or a quarter of an hour of seconds.
const MOST_SLOTS: u64 = 1024;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slots {
    /// The length of a slot, in milliseconds.
    #[serde(deserialize_with = "duration")]
    each: u64,
    /// For hashes: the unit of the field names, which are times.
    unit: Option<Unit>,
}

impl Slots {
    /// The beginnings of the slots that count now, in milliseconds, the newest first.
    fn begins(&self, at: &At<'_>) -> Result<Vec<u64>, Not> {
        let window_ms = at.limits.window_ms.ok_or(Not::Unknown(Unknown::NoWindow))?;
        let each = self.each.max(1);
        let slots = window_ms.div_ceil(each);
        if slots > MOST_SLOTS {
            return Err(Not::Unknown(Unknown::TooLarge));
        }
        let newest = at.now_ms / each * each;
        Ok((0..slots)
            .map_while(|slot| newest.checked_sub(slot * each))
            .collect())
    }

    /// The beginning of the slot in the name.
    fn own(at: &At<'_>) -> Option<(u64, Unit)> {
        let start = Number::parse(at.matched.group("window_start")?)?.as_f64();
        let unit = Unit::of_time(start);
        Some((whole(unit.to_ms(start)), unit))
    }
}

impl Counting for Slots {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        let begins = self.begins(at)?;
        if at.keys.kind == Type::Hash {
            return Ok(vec![Ask::AllFields(at.name())]);
        }
        let (own, unit) = Self::own(at).ok_or(Not::Garbage(Invalid::NotANumber))?;
        if float(own) > at.latest() {
            return Err(Not::Invalid(Invalid::InTheFuture));
        }
        if begins.last().is_none_or(|oldest| own < *oldest) {
            return Err(Not::Over);
        }
        let name = |begin: u64| {
            let text = whole(unit.of_ms(float(begin))).to_string();
            Ask::Get(at.matched.with_group("window_start", text.as_bytes()))
        };
        Ok(begins.into_iter().map(name).collect())
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        if at.keys.kind == Type::Hash {
            let Answer::Pairs(pairs) = answer(answers, 0) else {
                return super::sum(answer(answers, 0)).map(counted);
            };
            let unit = self.unit.unwrap_or(Unit::Seconds);
            let begin = at.now() - at.window_ms()?;
            let mut sum = 0_i128;
            for (slot, value) in pairs {
                let (Some(slot), Some(Number::Whole(value))) =
                    (Number::parse(slot), Number::parse(value))
                else {
                    return Err(Not::Garbage(Invalid::NotANumber));
                };
                let slot = unit.to_ms(slot.as_f64());
                if slot > at.latest() {
                    return Err(Not::Invalid(Invalid::InTheFuture));
                }
                if slot > begin {
                    sum = sum.saturating_add(value);
                }
            }
            return Ok(counted(sum));
        }
        let (own, _) = Self::own(at).ok_or(Not::Garbage(Invalid::NotANumber))?;
        let mut sum = None;
        for (begin, value) in self.begins(at)?.into_iter().zip(answers) {
            if let Some(value) = optional(integer(value))? {
                // The newest slot that exists reports the sum. Older slots are parts of it.
                if sum.is_none() && begin > own {
                    return Err(Not::Part);
                }
                sum = Some(sum.unwrap_or(0_i128).saturating_add(value));
            }
        }
        sum.map(counted).ok_or(Not::Gone)
    }

    fn drains_ms(&self, _before: &Limits, now: &Limits) -> Option<u64> {
        now.window_ms
    }

    fn knows_windows(&self) -> bool {
        true
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::String, Type::Hash])?;
        let starts = keys.pattern.groups().any(|group| group == "window_start");
        if keys.kind == Type::String && !starts {
            return Err("expected a group window_start in the key".to_owned());
        }
        if (keys.kind == Type::Hash) != self.unit.is_some() {
            return Err("unit: expected for type: hash, and only for it".to_owned());
        }
        Ok(())
    }
}
