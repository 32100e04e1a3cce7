//! `token_bucket` and `leaky_bucket`: what is left, or what is in it, and when that was written. The rate is the limit
//! for each window, the whole is the burst, or the limit without one.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{At, Counted, Counting, Not, Number, answer, fields, text, used};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::template::Template;
use crate::limiters::units::{Unit, whole};
use crate::observation::Invalid;

/// How far beyond the whole or below nothing rounding may be.
const ROUNDING: f64 = 1e-3;

/// Where level and time are, and how both move on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bucket {
    /// Whether the level is what is in the bucket, not what is left.
    #[serde(skip)]
    leaky: bool,
    /// The field, or for strings the key, with the level.
    level: Spanned<Template>,
    /// The field, or for strings the key, with the time of the level.
    at: Spanned<Template>,
    /// What the time is in.
    unit: Unit,
    /// Whether only whole units of time count.
    #[serde(default)]
    whole_units: bool,
    /// How it is refilled or drained.
    #[serde(default)]
    refill: Refill,
    /// Whether only whole tokens move.
    #[serde(default)]
    whole_tokens: bool,
    /// What one request is written as.
    #[serde(default = "one")]
    scale: f64,
    /// How far below nothing it may be, in requests.
    #[serde(default)]
    debt: f64,
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Refill {
    /// All the time.
    #[default]
    Continuous,
    /// By the limit, at the end of each window since the time.
    Steps,
}

impl Bucket {
    /// The same settings for a bucket whose level is what is in it.
    pub(super) fn leaky(self) -> Self {
        Self {
            leaky: true,
            ..self
        }
    }

    /// The level, in requests, as it was written, and how much moved since.
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
            let value = |index: usize| match text(answer(answers, index)) {
                Ok(text) => Ok(Some(text)),
                Err(Not::Gone) => Ok(None),
                Err(not) => Err(not),
            };
            let (level, time) = (value(0)?, value(1)?);
            if level.is_none() && time.is_none() {
                return Err(Not::Gone);
            }
            (number(level)?, number(time)?)
        };
        if self.unit.to_ms(time) > at.latest() {
            return Err(Not::Invalid(Invalid::InTheFuture));
        }
        let (limit, window) = (at.limit()?, at.window_ms()?);
        let mut elapsed = self.unit.of_ms(at.now()) - time;
        if self.whole_units {
            // A clock that counts whole units shows the beginning of the one that it is in.
            elapsed = (self.unit.of_ms(at.now())).floor() - time;
        }
        let elapsed_ms = self.unit.to_ms(elapsed.max(0.0));
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

    /// What is wrong with a level as it was written.
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
            // A request that waits in debt takes what the next ones would get, not more than the whole.
            used(capacity, (level + moved).clamp(0.0, capacity))
        };
        Ok(Counted {
            count,
            invalid: self.invalid(level, capacity),
        })
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
