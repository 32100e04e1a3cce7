//! `two_windows`: the requests of the current window, plus those of the previous one, weighted by the part of it that still
//! counts.

use serde::Deserialize;

use super::{At, Counted, Counting, Not, answer, counted, integer, optional, reply, sum};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::limits::Limits;
use crate::limiters::matched::When;
use crate::limiters::reading::Unknown;
use crate::limiters::units::{Number, float, whole};
use crate::observation::Invalid;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TwoWindows {
    /// What determines how much of the previous window counts.
    weight: Weight,
    /// For `ttl`: the suffix of the previous window's name, which is the group `previous`.
    previous: Option<String>,
    /// Whether the previous window counts at most its limit.
    #[serde(default)]
    cap_previous: bool,
    /// Whether requests can be given back, so that a count may be below 0.
    #[serde(default)]
    refunds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Weight {
    /// The clock, and the time of the window in the name.
    Clock,
    /// The expiry of the previous window's key. A current key with less than a window left counts as the previous one.
    Ttl,
}

impl TwoWindows {
    fn get(at: &At<'_>, name: Vec<u8>) -> Ask {
        match at.keys.kind {
            Type::Hash => Ask::AllFields(name),
            Type::String | Type::List | Type::Zset => Ask::Get(name),
        }
    }

    fn value(at: &At<'_>, answer: &Answer) -> Result<Option<i128>, Not> {
        optional(match at.keys.kind {
            Type::Hash => sum(answer),
            Type::String | Type::List | Type::Zset => integer(answer),
        })
    }

    /// Whether the name is that of the previous window.
    fn is_previous(at: &At<'_>) -> bool {
        at.matched
            .group("previous")
            .is_some_and(|group| !group.is_empty())
    }

    fn current_name(at: &At<'_>) -> Vec<u8> {
        if Self::is_previous(at) {
            at.matched.with_group("previous", b"")
        } else {
            at.name()
        }
    }

    /// The count from both windows. `share` is the part of the previous one that counts.
    fn add(&self, at: &At<'_>, current: i128, previous: i128, share: f64) -> Counted {
        let share = share.clamp(0.0, 1.0);
        if self.refunds {
            // What was given back in one window counts in both.
            let weighted = (Number::Whole(previous).as_f64() * share + 1e-9).floor();
            return Counted::valid(whole(Number::Whole(current).as_f64() + weighted));
        }
        let mut previous = counted(previous);
        if let Some(limit) = at.limits.limit.filter(|_| self.cap_previous) {
            previous.count = previous.count.min(limit);
        }
        let weighted = whole((float(previous.count) * share + 1e-9).floor());
        let current = counted(current);
        Counted {
            count: current.count.saturating_add(weighted),
            invalid: current.invalid.or(previous.invalid),
        }
    }

    fn by_expiry(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        let window = at.window_ms()?;
        let current = Self::value(at, answer(answers, 0))?;
        if Self::is_previous(at) && current.is_some() {
            return Err(Not::Part);
        }
        let previous = Self::value(at, answer(answers, 2))?;
        let share = |index: usize| {
            let left = reply(answer(answers, index)).unwrap_or(0);
            float(u64::try_from(left).unwrap_or(0)) / window
        };
        match (current, previous) {
            (None, None) => Err(Not::Gone),
            // The next request will move it to the previous window.
            (Some(current), _) if (f64::MIN_POSITIVE..1.0).contains(&share(1)) => {
                Ok(self.add(at, 0, current, share(1)))
            }
            (current, previous) => {
                Ok(self.add(at, current.unwrap_or(0), previous.unwrap_or(0), share(3)))
            }
        }
    }

    fn by_clock(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        let span = at.matched.span(at.keys.units, at.limits);
        let span = span.ok_or(Not::Unknown(Unknown::NoWindow))?;
        let window = at.window_ms()?;
        let first = Self::value(at, answer(answers, 0))?;
        match at.when {
            Some(When::Current) => {
                let current = first.ok_or(Not::Gone)?;
                let previous = Self::value(at, answer(answers, 1))?.unwrap_or(0);
                let elapsed = float(at.now_ms.saturating_sub(span.start_ms));
                Ok(self.add(at, current, previous, 1.0 - elapsed / window))
            }
            Some(When::Previous) => {
                if reply(answer(answers, 1))? > 0 {
                    return Err(Not::Part);
                }
                let previous = first.ok_or(Not::Gone)?;
                let elapsed = float(at.now_ms.saturating_sub(span.end_ms));
                Ok(self.add(at, 0, previous, 1.0 - elapsed / window))
            }
            Some(When::Future) => Err(Not::Invalid(Invalid::InTheFuture)),
            Some(When::Over) | None => Err(Not::Over),
        }
    }
}

impl Counting for TwoWindows {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        at.window_ms()?;
        if self.weight == Weight::Ttl {
            let current = Self::current_name(at);
            let previous = match &self.previous {
                Some(more) => [&current, more.as_bytes()].concat(),
                None => at.name(),
            };
            return Ok(vec![
                Self::get(at, current.clone()),
                Ask::Pttl(current),
                Self::get(at, previous.clone()),
                Ask::Pttl(previous),
            ]);
        }
        let own = Self::get(at, at.name());
        let neighbour = |back: bool| {
            let name = at.matched.neighbour(at.limits, back);
            name.ok_or(Not::Garbage(Invalid::Malformed))
        };
        match at.when {
            Some(When::Current) => Ok(vec![own, Self::get(at, neighbour(true)?)]),
            Some(When::Previous) => Ok(vec![own, Ask::Exists(neighbour(false)?)]),
            Some(When::Future) => Err(Not::Invalid(Invalid::InTheFuture)),
            Some(When::Over) | None => Err(Not::Over),
        }
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        match self.weight {
            Weight::Ttl => self.by_expiry(at, answers),
            Weight::Clock => self.by_clock(at, answers),
        }
    }

    fn drains_ms(&self, before: &Limits, now: &Limits) -> Option<u64> {
        let window_ms = before.window_ms.max(now.window_ms);
        window_ms.map(|window_ms| window_ms.saturating_mul(2))
    }

    fn knows_windows(&self) -> bool {
        true
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::String, Type::Hash])?;
        if self.refunds && self.cap_previous {
            return Err("cap_previous: expected no refunds beside it".to_owned());
        }
        let has_previous = keys.pattern.groups().any(|group| group == "previous");
        match self.weight {
            Weight::Ttl if self.previous.is_none() || !has_previous => Err(
                "expected previous, and a group (?P<previous>…)? in the key, beside weight: ttl"
                    .to_owned(),
            ),
            Weight::Clock if self.previous.is_some() => {
                Err("previous: expected weight: ttl".to_owned())
            }
            Weight::Clock if !super::names_window(keys) => {
                Err("expected a group window_index or window_start in the key".to_owned())
            }
            _ => Ok(()),
        }
    }
}
