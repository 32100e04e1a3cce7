//! `log`: an entry with a time for each request. The entries inside the window count.

use serde::Deserialize;

use super::{At, Counted, Counting, Missing, Not, answer, pickle, reply, text};
use crate::limiters::ask::{Answer, Ask, MOST_ENTRIES, Type};
use crate::limiters::keys::Keys;
use crate::limiters::limits::Limits;
use crate::limiters::reading::Unknown;
use crate::limiters::units::{Number, Unit};
use crate::observation::Invalid;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// The unit of the times. Without it, the unit follows from the size of each time.
    unit: Option<Unit>,
    /// The format of a string.
    form: Option<Form>,
    /// For `json`: the pointer to the list.
    at: Option<String>,
    /// The meaning of the times.
    times: Times,
    /// The number of requests of an entry.
    weight: Weight,
    /// What it means that the window is unknown.
    missing_window: Missing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Json,
    /// Python's pickle of a list of floats.
    Pickle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Times {
    /// The times of requests.
    #[default]
    Requests,
    /// The times at which entries end.
    Ends,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Weight {
    #[default]
    One,
    /// The last four bytes of the member, the lowest first.
    LastFourBytes,
}

/// The first bytes of values that the exporter does not read: compressed ones, `MessagePack`, and pickles that are text.
const UNREADABLE: [&[u8]; 10] = [
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"\xfd7zXZ",
    b"\xdc",
    b"(lp",
];

impl Log {
    /// The time from which entries count, in milliseconds.
    fn begin_ms(&self, at: &At<'_>) -> Result<f64, Not> {
        Ok(match self.times {
            Times::Requests => {
                // If the limit is known, the window is malformed where it is stored.
                let missing = |not| match at.limits.limit {
                    Some(_) => not,
                    None => self.missing_window.consequence().unwrap_or(not),
                };
                at.now() - at.window_ms().map_err(missing)?
            }
            Times::Ends => at.now(),
        })
    }

    /// The latest time that an entry can have, in milliseconds.
    fn end_ms(&self, at: &At<'_>) -> Option<f64> {
        match self.times {
            Times::Requests => Some(at.latest()),
            Times::Ends => Some(at.latest() + at.window_ms().ok()?),
        }
    }

    /// The ranges of scores from `begin_ms` on, one for each possible unit.
    fn ranges(&self, begin_ms: f64) -> Vec<(f64, f64)> {
        if let Some(unit) = self.unit {
            return vec![(unit.of_ms(begin_ms), f64::INFINITY)];
        }
        let range = |unit: Unit| {
            let (least, most) = unit.range();
            // The range of a unit ends where that of the next larger numbers begins.
            let begin = unit.of_ms(begin_ms).max(least);
            (begin, most * (1.0 - f64::EPSILON))
        };
        Unit::ALL.into_iter().map(range).collect()
    }

    fn asks_for(&self, at: &At<'_>, begin_ms: f64) -> Vec<Ask> {
        let count = |(min, max)| Ask::Count {
            key: at.name(),
            min,
            max,
        };
        self.ranges(begin_ms).into_iter().map(count).collect()
    }

    /// Counts `times`, which are in the stored unit.
    fn count(&self, at: &At<'_>, times: &[f64]) -> Result<Counted, Not> {
        let (begin, end) = (self.begin_ms(at)?, self.end_ms(at));
        let mut counted = Counted::valid(0);
        for time in times {
            let unit = self.unit.unwrap_or(Unit::of_time(*time));
            let time = unit.to_ms(*time);
            if time >= begin {
                counted.count += 1;
            }
            if end.is_some_and(|end| time > end) {
                counted.invalid = Some(Invalid::InTheFuture);
            }
        }
        Ok(counted)
    }

    fn of_string(&self, at: &At<'_>, value: &Answer) -> Result<Counted, Not> {
        let value = text(value)?;
        let short_message_pack = value.first().is_some_and(|first| first >> 4 == 9);
        if short_message_pack || UNREADABLE.iter().any(|begin| value.starts_with(begin)) {
            return Err(Not::Unknown(Unknown::Unreadable));
        }
        // Django's caches can be configured to write JSON instead of a pickle.
        let is_json = self.form == Some(Form::Json) || value.starts_with(b"[");
        let times = if is_json {
            self.of_json(value)
                .ok_or(Not::Garbage(Invalid::Malformed))?
        } else {
            pickle::floats(value).ok_or(Not::Garbage(Invalid::Malformed))?
        };
        self.count(at, &times)
    }

    fn of_json(&self, value: &[u8]) -> Option<Vec<f64>> {
        let value: serde_json::Value = serde_json::from_slice(value).ok()?;
        let list = value
            .pointer(self.at.as_deref().unwrap_or(""))?
            .as_array()?;
        list.iter().map(serde_json::Value::as_f64).collect()
    }

    fn of_list(&self, at: &At<'_>, list: &Answer) -> Result<Counted, Not> {
        let oldest;
        let (entries, length) = match list {
            Answer::Fields(entries) if entries.is_empty() => return Err(Not::Gone),
            Answer::Fields(entries) => (&entries[..], None),
            Answer::Long(length, entry) => {
                oldest = [Some(entry.clone())];
                (&oldest[..], Some(*length))
            }
            other => return Err(text(other).err().unwrap_or(Not::WrongType)),
        };
        let time = |entry: &Option<Vec<u8>>| Number::parse(entry.as_deref()?).map(Number::as_f64);
        let times: Option<Vec<f64>> = entries.iter().map(time).collect();
        let counted = self.count(at, &times.ok_or(Not::Garbage(Invalid::NotANumber))?)?;
        match length {
            None => Ok(counted),
            // The list is ordered: if the last entry is inside the window, so are all.
            Some(count) if counted.count > 0 => Ok(Counted { count, ..counted }),
            Some(_) => Err(Not::Unknown(Unknown::TooLarge)),
        }
    }

    fn of_members(answer: &Answer) -> Result<Counted, Not> {
        let members = match answer {
            Answer::Fields(members) => members,
            Answer::Missing => return Ok(Counted::valid(0)),
            other => return Err(text(other).err().unwrap_or(Not::WrongType)),
        };
        if members.len() >= MOST_ENTRIES {
            return Err(Not::Unknown(Unknown::TooLarge));
        }
        let mut count: u64 = 0;
        for member in members {
            let last = member
                .as_deref()
                .and_then(|member| member.last_chunk::<4>());
            let last = last.ok_or(Not::Garbage(Invalid::Malformed))?;
            count = count.saturating_add(u64::from(u32::from_le_bytes(*last)));
        }
        Ok(Counted::valid(count))
    }
}

impl Counting for Log {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        let begin_ms = self.begin_ms(at)?;
        Ok(match (at.keys.kind, self.weight) {
            (Type::Zset, Weight::One) => self.asks_for(at, begin_ms),
            (Type::Zset, Weight::LastFourBytes) => {
                let min = self.unit.unwrap_or(Unit::Milliseconds).of_ms(begin_ms);
                vec![Ask::Members {
                    key: at.name(),
                    min,
                }]
            }
            (Type::List, _) => vec![Ask::List(at.name())],
            (Type::String | Type::Hash, _) => vec![Ask::Get(at.name())],
        })
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        match (at.keys.kind, self.weight) {
            (Type::Zset, Weight::One) => {
                let mut count: u64 = 0;
                for answer in answers {
                    let some = u64::try_from(reply(answer)?).unwrap_or(0);
                    count = count.saturating_add(some);
                }
                Ok(Counted::valid(count))
            }
            (Type::Zset, Weight::LastFourBytes) => Self::of_members(answer(answers, 0)),
            (Type::List, _) => self.of_list(at, answer(answers, 0)),
            (Type::String | Type::Hash, _) => self.of_string(at, answer(answers, 0)),
        }
    }

    fn drains_ms(&self, _before: &Limits, now: &Limits) -> Option<u64> {
        now.window_ms.filter(|_| self.times == Times::Requests)
    }

    fn future_asks(&self, at: &At<'_>) -> Vec<Ask> {
        match self.end_ms(at).filter(|_| at.keys.kind == Type::Zset) {
            Some(end_ms) => self.asks_for(at, end_ms + 1.0),
            None => Vec::new(),
        }
    }

    fn counts_scores_in_ms(&self) -> bool {
        self.unit == Some(Unit::Milliseconds)
            && self.times == Times::Requests
            && self.weight == Weight::One
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::Zset, Type::List, Type::String])?;
        if (keys.kind == Type::String) != self.form.is_some() {
            return Err(
                "expected form: json or form: pickle for strings, and none for others".to_owned(),
            );
        }
        if self.at.is_some() && self.form != Some(Form::Json) {
            return Err("at: expected form: json".to_owned());
        }
        if self.weight != Weight::One && keys.kind != Type::Zset {
            return Err("weight: expected type: zset".to_owned());
        }
        Ok(())
    }
}
