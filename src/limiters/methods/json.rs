//! `json`: a number in JSON, or the length of a list in it.

use serde::Deserialize;

use super::{At, Counted, Counting, Moment, Not, answer, counted, is_over, text};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::limits::of_json;
use crate::limiters::units::{Number, whole};
use crate::observation::Invalid;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Json {
    /// Where the number is.
    number: Option<String>,
    /// Where the list is.
    length: Option<String>,
    /// When its window began.
    started: Option<Moment>,
    /// When its window ends.
    ends: Option<Moment>,
}

impl Counting for Json {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        Ok(vec![Ask::Get(at.name())])
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        let malformed = Not::Garbage(Invalid::Malformed);
        let value = text(answer(answers, 0))?;
        let value: serde_json::Value = serde_json::from_slice(value).map_err(|_| malformed)?;
        let moment = |moment: &Option<Moment>| match moment {
            Some(moment) => {
                let pointer = moment.field.as_deref().unwrap_or_default();
                moment.read(of_json(&value, pointer).as_deref())
            }
            None => Ok(None),
        };
        let count = match (&self.number, &self.length) {
            (_, Some(pointer)) => {
                let list = value.pointer(pointer).and_then(serde_json::Value::as_array);
                Counted::valid(u64::try_from(list.ok_or(malformed)?.len()).unwrap_or(u64::MAX))
            }
            (pointer, None) => {
                let pointer = pointer.as_deref().unwrap_or_default();
                let number = of_json(&value, pointer).ok_or(malformed)?;
                match Number::parse(&number).ok_or(Not::Garbage(Invalid::NotANumber))? {
                    Number::Whole(value) => counted(value),
                    Number::Fraction(value) if value < 0.0 => counted(-1),
                    Number::Fraction(value) => Counted::valid(whole(value.ceil())),
                }
            }
        };
        let (started, ends) = (moment(&self.started)?, moment(&self.ends)?);
        Ok(if is_over(at, started, ends)? {
            Counted::valid(0)
        } else {
            count
        })
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::String])?;
        if self.number.is_some() == self.length.is_some() {
            return Err("expected one of number and length".to_owned());
        }
        super::are_in(false, self.started.iter().chain(&self.ends))
    }
}
