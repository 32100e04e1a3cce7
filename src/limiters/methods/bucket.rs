//! `token_bucket` and `leaky_bucket`: the tokens that are left, or the requests in the bucket, and the time of that level. The
//! rate is the limit for each window. The capacity is the burst, or else the limit.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{At, Counted, Counting, Not, Number, answer, fields, optional, text, used};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::limits::Limits;
use crate::limiters::template::Template;
use crate::limiters::units::{Unit, float, whole};
use crate::observation::Invalid;

/// How far above the capacity or below 0 a level may be because of rounding.
const ROUNDING: f64 = 1e-3;

/// Where level and time are, and how the level changes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting in the description"
)]
pub(super) struct Bucket {
    /// Whether the level is the requests in the bucket, not the tokens that are left.
    #[serde(skip)]
    leaky: bool,
    /// The field of the level; for strings, the key.
    level: Spanned<Template>,
    /// The field of the time of the level; for strings, the key.
    at: Spanned<Template>,
    /// The unit of the time. Without it, the unit follows from the size of the time.
    unit: Option<Unit>,
    /// Whether only whole units of time count.
    #[serde(default)]
    whole_units: bool,
    /// When the bucket is refilled or drained.
    #[serde(default)]
    refill: Refill,
    /// Whether only whole tokens are added or drained.
    #[serde(default)]
    whole_tokens: bool,
    /// The value of one request.
    #[serde(default = "one")]
    scale: f64,
    /// How far below 0 the level may be, in requests.
    #[serde(default)]
    debt: f64,
    /// Whether requests can be given back, so that there may be more tokens than the capacity.
    #[serde(default)]
    refunds: bool,
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Refill {
    /// Continuously.
    #[default]
    Continuous,
    /// By the whole limit, at the end of each window since the time.
    Steps,
}

impl Bucket {
    /// The same settings, with the requests in the bucket as its level.
    pub(super) fn leaky(self) -> Self {
        Self {
            leaky: true,
            ..self
        }
    }

    /// The stored level, in requests, and how much was added or drained since.
    fn level(&self, at: &At<'_>, answers: &[Answer]) -> Result<(f64, f64), Not> {
        let number = |value: Option<&[u8]>| {
            let value = value.ok_or(Not::Invalid(Invalid::CompanionMissing))?;
            let number = Number::parse(value).ok_or(Not::Garbage(Invalid::NotANumber))?;
            Ok(number.as_f64())
        };
        let (level, time) = if at.keys.kind == Type::Hash {
            let fields = fields(answer(answers, 0))?;
            let field = |index: usize| fields.get(index).and_then(Option::as_deref);
            (number(field(0))?, number(field(1))?)
        } else {
            let value = |index: usize| optional(text(answer(answers, index)));
            let (level, time) = (value(0)?, value(1)?);
            if level.is_none() && time.is_none() {
                return Err(Not::Gone);
            }
            (number(level)?, number(time)?)
        };
        let unit = self.unit.unwrap_or(Unit::of_time(time));
        if unit.to_ms(time) > at.latest() {
            return Err(Not::Invalid(Invalid::InTheFuture));
        }
        let (limit, window) = (at.limit()?, at.window_ms()?);
        let mut elapsed = unit.of_ms(at.now()) - time;
        if self.whole_units && time.fract() == 0.0 {
            // A clock of whole units shows the beginning of the current unit. A fraction comes from another clock.
            elapsed = unit.of_ms(at.now()).floor() - time;
        }
        let elapsed_ms = unit.to_ms(elapsed.max(0.0));
        let moved = match self.refill {
            Refill::Continuous => elapsed_ms / window * limit,
            Refill::Steps => (elapsed_ms / window + 1e-9).floor() * limit,
        };
        let moved = if self.whole_tokens {
            (moved + 1e-9).floor()
        } else {
            moved
        };
        Ok((level / self.scale, moved))
    }

    /// The invalid state of a stored level, if it has one.
    fn invalid(&self, level: f64, capacity: f64) -> Option<Invalid> {
        if level < -self.debt - ROUNDING {
            Some(Invalid::Negative)
        } else if level > capacity + ROUNDING {
            Some(Invalid::AboveCapacity)
        } else {
            None
        }
    }
}

impl Counting for Bucket {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        let names = [at.fill(&self.level), at.fill(&self.at)];
        Ok(match at.keys.kind {
            Type::Hash => vec![Ask::Fields(at.name(), names.to_vec())],
            Type::String | Type::List | Type::Zset => names.into_iter().map(Ask::Get).collect(),
        })
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        let (level, moved) = self.level(at, answers)?;
        let capacity = at.capacity()?;
        let count = if self.leaky {
            whole(((level - moved).max(0.0) - 1e-6).ceil())
        } else {
            // A request that waits in debt uses tokens of the next ones, but not more than the capacity.
            used(capacity, (level + moved).clamp(0.0, capacity))
        };
        let invalid = self.invalid(level, capacity);
        Ok(Counted { count, invalid }.with_refunds(self.refunds))
    }

    fn drains_ms(&self, before: &Limits, now: &Limits) -> Option<u64> {
        let level = float(before.capacity()?);
        let drained_ms = now
            .interval_ms()
            .map(|interval_ms| whole(level * interval_ms));
        drained_ms.map(|drained_ms| drained_ms.max(now.window_ms.unwrap_or(0)))
    }

    fn templates(&self) -> Vec<&Spanned<Template>> {
        vec![&self.level, &self.at]
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::Hash, Type::String])?;
        let (scale, debt) = (self.scale, self.debt);
        if !(scale.is_finite() && scale > 0.0 && debt.is_finite() && debt >= 0.0) {
            return Err("expected a scale above 0 and a debt of 0 or more".to_owned());
        }
        Ok(())
    }
}
