//! `value`: a string with an integer: the used or the remaining requests.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    At, Counted, Counting, Moment, Not, Number, answer, counted, is_over, number, optional, reply,
    text, used_of_limit,
};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::template::Template;
use crate::limiters::units::{some_duration, whole};
use crate::observation::Invalid;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Value {
    /// Whether it is the remaining requests.
    down: bool,
    /// The key that has the value, if it is another one.
    at: Option<Spanned<Template>>,
    /// Values that mean "full", regardless of the limit.
    full: Vec<u64>,
    /// Whether it may be below 0.
    negative: bool,
    /// Whether it may be a fraction.
    fraction: bool,
    /// When its window began.
    started: Option<Moment>,
    /// When its window ends.
    ends: Option<Moment>,
    /// A window is over if its key expires within this time.
    #[serde(deserialize_with = "some_duration")]
    over_below: Option<u64>,
}

impl Value {
    fn moments(&self) -> impl Iterator<Item = &Moment> {
        self.started.iter().chain(&self.ends)
    }
}

impl Counting for Value {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        let mut asks = vec![Ask::Get(self.expiring(at))];
        let keys = self.moments().filter_map(|moment| moment.key.as_ref());
        asks.extend(keys.map(|key| Ask::Get(at.fill(key))));
        if self.over_below.is_some() {
            asks.push(Ask::Pttl(self.expiring(at)));
        }
        Ok(asks)
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        let value = number(answer(answers, 0))?;
        let value = match value {
            Number::Whole(value) => value,
            Number::Fraction(value) if self.fraction && value < 0.0 => -i128::from(whole(-value)),
            Number::Fraction(value) if self.fraction => i128::from(whole(value.ceil())),
            Number::Fraction(_) => return Err(Not::Garbage(Invalid::NotANumber)),
        };
        let mut times = Vec::new();
        for (index, moment) in self.moments().enumerate() {
            let given = text(answer(answers, 1 + index));
            times.push(moment.read(optional(given)?)?);
        }
        let mut times = times.into_iter();
        let started = self.started.as_ref().and_then(|_| times.next().flatten());
        let ends = self.ends.as_ref().and_then(|_| times.next().flatten());
        if is_over(at, started, ends)? {
            return Ok(Counted::valid(0));
        }
        if let Some(over_below) = self.over_below {
            let left = reply(answer(answers, 1 + self.moments().count()))?;
            if u64::try_from(left).is_ok_and(|left| left <= over_below) {
                return Err(Not::Over);
            }
        }
        if self.full.iter().any(|full| i128::from(*full) == value) {
            return Ok(Counted::valid(at.limits.capacity().unwrap_or(0)));
        }
        if !self.down {
            let counted = counted(value);
            let legal = self.negative && counted.invalid == Some(Invalid::Negative);
            return Ok(if legal { Counted::valid(0) } else { counted });
        }
        used_of_limit(at, value, self.negative)
    }

    fn expiring(&self, at: &At<'_>) -> Vec<u8> {
        self.at
            .as_ref()
            .map_or_else(|| at.name(), |key| at.fill(key))
    }

    fn templates(&self) -> Vec<&Spanned<Template>> {
        let keys = self.moments().filter_map(|moment| moment.key.as_ref());
        self.at.iter().chain(keys).collect()
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::String])?;
        super::are_in(true, self.moments())
    }
}
