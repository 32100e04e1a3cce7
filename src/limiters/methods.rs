//! The counting methods. Each returns the commands for one key and counts by their answers. No method depends on a certain
//! limiter. Any bytes give a count or a named reason.

mod bucket;
mod gcra;
mod hash;
mod json;
mod log;
mod pickle;
mod presence;
mod slots;
mod two_windows;
mod value;

use std::fmt::Debug;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_saphyr::Spanned;

use self::bucket::Bucket;
use self::gcra::Gcra;
use self::hash::Hash;
use self::json::Json;
use self::log::Log;
use self::presence::Presence;
use self::slots::Slots;
use self::two_windows::TwoWindows;
use self::value::Value;
use super::ask::{Answer, Ask, Type};
use super::keys::Keys;
use super::limits::Limits;
use super::matched::{Matched, When};
use super::reading::Unknown;
use super::template::Template;
use super::units::{Number, Unit, float, whole};
use crate::observation::Invalid;

/// Where a stored time is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Moment {
    /// The key that has the time, for strings.
    pub(super) key: Option<Spanned<Template>>,
    /// The field or pointer that has the time.
    pub(super) field: Option<String>,
    /// Its unit. Without it, the unit follows from the size of the time.
    pub(super) unit: Option<Unit>,
    /// What a missing time means.
    #[serde(default)]
    pub(super) missing: Missing,
}

/// What it means that something is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Missing {
    /// It is unknown.
    #[default]
    Nothing,
    /// The window is over.
    Over,
    /// The state is invalid: the limiter cannot make it.
    Invalid,
}

impl Missing {
    /// Why there is no count then.
    fn consequence(self) -> Option<Not> {
        match self {
            Self::Nothing => None,
            Self::Over => Some(Not::Over),
            Self::Invalid => Some(Not::Invalid(Invalid::CompanionMissing)),
        }
    }
}

/// One name, and what is known before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) keys: Keys<'a>,
    pub(super) matched: &'a Matched,
    pub(super) limits: &'a Limits,
    pub(super) when: Option<When>,
    pub(super) now_ms: u64,
    pub(super) tolerance_ms: u64,
}

impl At<'_> {
    fn name(&self) -> Vec<u8> {
        self.matched.name.clone()
    }

    fn fill(&self, template: &Spanned<Template>) -> Vec<u8> {
        template.value.fill(|group| self.matched.group(group))
    }

    fn window_ms(&self) -> Result<f64, Not> {
        self.limits
            .window_ms
            .map(float)
            .ok_or(Not::Unknown(Unknown::NoWindow))
    }

    fn limit(&self) -> Result<f64, Not> {
        self.limits
            .limit
            .map(float)
            .ok_or(Not::Unknown(Unknown::NoLimit))
    }

    fn capacity(&self) -> Result<f64, Not> {
        self.limits
            .capacity()
            .map(float)
            .ok_or(Not::Unknown(Unknown::NoLimit))
    }

    fn now(&self) -> f64 {
        float(self.now_ms)
    }

    /// The latest time that is not in the future, in milliseconds.
    fn latest(&self) -> f64 {
        float(self.now_ms.saturating_add(self.tolerance_ms))
    }
}

/// A count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counted {
    pub(super) count: u64,
    pub(super) invalid: Option<Invalid>,
}

impl Counted {
    pub(super) fn valid(count: u64) -> Self {
        let invalid = None;
        Self { count, invalid }
    }

    /// The same count. If requests can be given back (`refunds`), fewer than none is a valid 0.
    fn with_refunds(self, refunds: bool) -> Self {
        let below = matches!(
            self.invalid,
            Some(Invalid::Negative | Invalid::AboveCapacity)
        );
        if refunds && below && self.count == 0 {
            Self::valid(0)
        } else {
            self
        }
    }
}

/// Why there is no count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Not {
    Over,
    Part,
    /// It counts nothing.
    Ignored,
    Gone,
    WrongType,
    Unknown(Unknown),
    Invalid(Invalid),
    /// The value is malformed. The counter's setting says what that means.
    Garbage(Invalid),
}

/// A counting method.
pub(super) trait Counting: Debug + Send + Sync {
    /// The commands for a name.
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not>;

    /// The count, from the answers to [`Self::asks`].
    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not>;

    /// The highest count that was legal under the limits `before`, as it counts under those of `now`, up to a difference of clocks.
    fn legal(&self, before: &Limits, _now: &Limits, _tolerance_ms: u64) -> Option<u64> {
        before.capacity()
    }

    /// How long a count may be left over after the limits fell from `before` to `now`, in milliseconds. `None`: until its key
    /// expires.
    fn drains_ms(&self, _before: &Limits, _now: &Limits) -> Option<u64> {
        None
    }

    /// The key that has the counter's expiry.
    fn expiring(&self, at: &At<'_>) -> Vec<u8> {
        at.name()
    }

    /// The commands that count times in the future. Each answer is an [`Answer::Integer`].
    fn future_asks(&self, _at: &At<'_>) -> Vec<Ask> {
        Vec::new()
    }

    /// Whether it also counts names of windows other than the current one.
    fn knows_windows(&self) -> bool {
        false
    }

    /// Whether the count is the number of scores in the window, in milliseconds.
    fn counts_scores_in_ms(&self) -> bool {
        false
    }

    /// The templates in its settings.
    fn templates(&self) -> Vec<&Spanned<Template>> {
        Vec::new()
    }

    /// Checks that it fits the rest of the counter. The error says what was expected.
    fn check(&self, _keys: &Keys<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// A counting method with its settings.
#[derive(Clone, Debug)]
pub struct Method {
    name: String,
    counting: Arc<dyn Counting>,
}

/// The names of the methods.
const METHODS: &[&str] = &[
    "value",
    "two_windows",
    "log",
    "hash",
    "json",
    "token_bucket",
    "leaky_bucket",
    "slots",
    "gcra",
    "presence",
];

impl Method {
    /// The name of the method, as written in `count`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn counting(&self) -> &dyn Counting {
        &*self.counting
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOf;

        impl<'de> Visitor<'de> for OneOf {
            type Value = Method;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a method, or {a method: its settings}")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Method, E> {
                let counting: Arc<dyn Counting> = match word {
                    "value" => Arc::<Value>::default(),
                    "log" => Arc::<Log>::default(),
                    "presence" => Arc::<Presence>::default(),
                    other if METHODS.contains(&other) => {
                        let text = format!("{other}: expected its settings: {{{other}: {{…}}}}");
                        return Err(E::custom(text));
                    }
                    other => return Err(E::unknown_variant(other, METHODS)),
                };
                let name = word.to_owned();
                Ok(Method { name, counting })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Method, A::Error> {
                let Some(name) = map.next_key::<String>()? else {
                    return Err(A::Error::custom("expected a method"));
                };
                let counting: Arc<dyn Counting> = match name.as_str() {
                    "value" => Arc::new(map.next_value::<Value>()?),
                    "two_windows" => Arc::new(map.next_value::<TwoWindows>()?),
                    "log" => Arc::new(map.next_value::<Log>()?),
                    "hash" => Arc::new(map.next_value::<Hash>()?),
                    "json" => Arc::new(map.next_value::<Json>()?),
                    "token_bucket" => Arc::new(map.next_value::<Bucket>()?),
                    "leaky_bucket" => Arc::new(map.next_value::<Bucket>()?.leaky()),
                    "slots" => Arc::new(map.next_value::<Slots>()?),
                    "gcra" => Arc::new(map.next_value::<Gcra>()?),
                    "presence" => Arc::new(map.next_value::<Presence>()?),
                    other => return Err(A::Error::unknown_variant(other, METHODS)),
                };
                match map.next_key::<String>()? {
                    None => Ok(Method { name, counting }),
                    Some(more) => Err(A::Error::custom(format!(
                        "unexpected {more:?}: expected one method"
                    ))),
                }
            }
        }

        deserializer.deserialize_any(OneOf)
    }
}

/// The answer at `index`.
fn answer(answers: &[Answer], index: usize) -> &Answer {
    answers.get(index).unwrap_or(&Answer::Missing)
}

/// The text of an answer.
fn text(answer: &Answer) -> Result<&[u8], Not> {
    match answer {
        Answer::Text(text) => Ok(text),
        other => Err(not(other)),
    }
}

/// Why there is no value of the expected form in `answer`.
fn not(answer: &Answer) -> Not {
    match answer {
        Answer::Missing => Not::Gone,
        Answer::TooLarge => Not::Unknown(Unknown::TooLarge),
        Answer::WrongType
        | Answer::Type(_)
        | Answer::Integer(_)
        | Answer::Text(_)
        | Answer::Fields(_)
        | Answer::Long(..)
        | Answer::Pairs(_) => Not::WrongType,
    }
}

/// A value whose key may be missing.
fn optional<T>(value: Result<T, Not>) -> Result<Option<T>, Not> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Not::Gone) => Ok(None),
        Err(not) => Err(not),
    }
}

/// The number in an answer.
fn number(answer: &Answer) -> Result<Number, Not> {
    match text(answer) {
        Ok(text) => Number::parse(text).ok_or(Not::Garbage(Invalid::NotANumber)),
        Err(Not::Unknown(Unknown::TooLarge)) => Err(Not::Garbage(Invalid::TooLarge)),
        Err(not) => Err(not),
    }
}

/// The whole number in an answer, as INCR writes it.
fn integer(answer: &Answer) -> Result<i128, Not> {
    match number(answer)? {
        Number::Whole(value) => Ok(value),
        Number::Fraction(_) => Err(Not::Garbage(Invalid::NotANumber)),
    }
}

/// The integer in an answer.
fn reply(answer: &Answer) -> Result<i64, Not> {
    match answer {
        Answer::Integer(value) => Ok(*value),
        other => Err(not(other)),
    }
}

/// The fields of an answer. If all are missing, the key is missing.
fn fields(answer: &Answer) -> Result<&[Option<Vec<u8>>], Not> {
    match answer {
        Answer::Fields(fields) if fields.iter().all(Option::is_none) => Err(Not::Gone),
        Answer::Fields(fields) => Ok(fields),
        // The fields are numbers, so a long value is malformed.
        Answer::TooLarge => Err(Not::Garbage(Invalid::TooLarge)),
        other => Err(not(other)),
    }
}

/// The sum of the fields of a hash. Each field is a count.
fn sum(answer: &Answer) -> Result<i128, Not> {
    match answer {
        Answer::Pairs(pairs) if pairs.is_empty() => Err(Not::Gone),
        Answer::Pairs(pairs) => {
            pairs
                .iter()
                .try_fold(0_i128, |sum, (_, value)| match Number::parse(value) {
                    Some(Number::Whole(value)) => Ok(sum.saturating_add(value)),
                    _ => Err(Not::Garbage(Invalid::NotANumber)),
                })
        }
        other => Err(not(other)),
    }
}

/// Converts an integer to a count. A negative one counts 0 and is reported as invalid.
fn counted(value: i128) -> Counted {
    match u64::try_from(value) {
        Ok(count) => Counted::valid(count),
        Err(_) if value < 0 => Counted {
            count: 0,
            invalid: Some(Invalid::Negative),
        },
        Err(_) => Counted {
            count: u64::MAX,
            invalid: Some(Invalid::AboveCapacity),
        },
    }
}

/// How much of the limit is used if `left` remains. `negative`: whether `left` may be below 0.
fn used_of_limit(at: &At<'_>, left: i128, negative: bool) -> Result<Counted, Not> {
    let capacity = i128::from(whole(at.capacity()?));
    let invalid = if left > capacity {
        Some(Invalid::AboveCapacity)
    } else if left < 0 && !negative {
        Some(Invalid::Negative)
    } else {
        None
    };
    let count = counted(capacity.saturating_sub(left).max(0)).count;
    Ok(Counted { count, invalid })
}

/// How much of the capacity is used if `left` remains. A part of a request counts as a whole one.
fn used(capacity: f64, left: f64) -> u64 {
    // A rounding error in the last digits must not count as a request.
    whole((capacity - left - 1e-6).ceil())
}

impl Moment {
    /// The time in milliseconds, if it exists.
    fn read(&self, value: Option<&[u8]>) -> Result<Option<f64>, Not> {
        let Some(value) = value else {
            return self.missing.consequence().map_or(Ok(None), Err);
        };
        let number = Number::parse(value).ok_or(Not::Garbage(Invalid::NotANumber))?;
        let time = number.as_f64();
        let unit = self.unit.unwrap_or(Unit::of_time(time));
        Ok(Some(unit.to_ms(time)))
    }
}

/// Whether the window that began at `started`, or ends at `ends`, is over.
fn is_over(at: &At<'_>, started: Option<f64>, ends: Option<f64>) -> Result<bool, Not> {
    if let Some(started) = started {
        if started > at.latest() {
            return Err(Not::Invalid(Invalid::InTheFuture));
        }
        if at.now() >= started + at.window_ms()? {
            return Ok(true);
        }
    }
    if let (Some(ends), Some(window_ms)) = (ends, at.limits.window_ms)
        && ends > at.latest() + float(window_ms)
    {
        return Err(Not::Invalid(Invalid::InTheFuture));
    }
    Ok(ends.is_some_and(|ends| at.now() > ends))
}

/// Checks that `moments` are in keys, or else in fields.
fn are_in<'a>(keys: bool, moments: impl Iterator<Item = &'a Moment>) -> Result<(), String> {
    let fits = |moment: &Moment| moment.key.is_some() == keys && moment.field.is_some() != keys;
    let mut wrong = moments.filter(|moment| !fits(moment));
    let place = if keys { "key" } else { "field" };
    match wrong.next() {
        Some(_) => Err(format!("expected a {place} in started and ends")),
        None => Ok(()),
    }
}

/// Checks that the counter has one of the types that the method supports.
fn needs(keys: &Keys<'_>, kinds: &[Type]) -> Result<(), String> {
    if kinds.contains(&keys.kind) {
        return Ok(());
    }
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    Err(format!("expected type: {}", names.join(" or ")))
}

/// Whether the name contains the time of its window.
fn names_window(keys: &Keys<'_>) -> bool {
    let mut groups = keys.pattern.groups();
    groups.any(|group| ["window_index", "window_start"].contains(&group))
}
