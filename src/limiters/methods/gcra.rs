//! `gcra`: the time at which all admitted requests will have drained. The count is the number of intervals until then.

use serde::Deserialize;

use super::{At, Counted, Counting, Not, Number, answer, fields, number};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::limits::Limits;
use crate::limiters::units::{Unit, float, whole};
use crate::observation::Invalid;

/// The part of an interval that is ignored, as a difference of clocks or a rounding error.
const ROUNDING: f64 = 0.01;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gcra {
    /// The unit of the time.
    unit: Unit,
    /// The origin of the time, in Unix seconds.
    #[serde(default)]
    epoch: u64,
    /// The field of the time, for hashes.
    field: Option<String>,
    /// How many intervals too early a request may be admitted.
    #[serde(default)]
    early: f64,
}

impl Gcra {
    fn early_ms(&self, limits: &Limits) -> f64 {
        self.early * limits.interval_ms().unwrap_or_default()
    }
}

impl Counting for Gcra {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        Ok(vec![match &self.field {
            Some(field) => Ask::Fields(at.name(), vec![field.clone().into_bytes()]),
            None => Ask::Get(at.name()),
        }])
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        let value = if self.field.is_some() {
            let fields = fields(answer(answers, 0))?;
            let value = fields
                .first()
                .and_then(Option::as_deref)
                .unwrap_or_default();
            Number::parse(value).ok_or(Not::Garbage(Invalid::NotANumber))?
        } else {
            number(answer(answers, 0))?
        };
        if value.as_f64() < 0.0 {
            return Err(Not::Garbage(Invalid::Negative));
        }
        let drained_ms = self.unit.to_ms(value.as_f64()) + float(self.epoch) * 1e3;
        let ahead_ms = drained_ms - at.now();
        if ahead_ms <= 0.0 {
            return Ok(Counted::valid(0));
        }
        let interval_ms = at.window_ms()? / at.limit()?.max(f64::MIN_POSITIVE);
        let intervals = ahead_ms / interval_ms;
        let capacity = at.capacity()?;
        let beyond_ms = (intervals - capacity - self.early) * interval_ms;
        // A difference of clocks must not count as a request above the limit.
        let above = beyond_ms > float(at.tolerance_ms).max(interval_ms * ROUNDING);
        let most = if above { f64::INFINITY } else { capacity };
        Ok(Counted {
            count: whole((intervals - ROUNDING).ceil().min(most)),
            invalid: above.then_some(Invalid::AboveCapacity),
        })
    }

    /// The time ahead counts in intervals of now: with a higher rate, the same time is more of them.
    fn legal(&self, before: &Limits, now: &Limits, tolerance_ms: u64) -> Option<u64> {
        let ahead_ms = before.fill_ms()? + self.early_ms(before) + float(tolerance_ms);
        Some(whole((ahead_ms / now.interval_ms()?).ceil()))
    }

    fn drains_ms(&self, before: &Limits, now: &Limits) -> Option<u64> {
        let ahead_ms = before.fill_ms()? + self.early_ms(before);
        Some(whole(ahead_ms)).max(now.window_ms)
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::String, Type::Hash])?;
        if (keys.kind == Type::Hash) != self.field.is_some() {
            return Err("field: expected for type: hash, and only for it".to_owned());
        }
        if !(0.0..=1.0).contains(&self.early) {
            return Err("early: expected a number from 0 to 1".to_owned());
        }
        Ok(())
    }
}
