//! `hash`: a field of a hash that has the used or the remaining requests, or the sum of all fields.

use serde::Deserialize;

use super::{
    At, Counted, Counting, Moment, Not, answer, counted, fields, is_over, sum, used_of_limit,
};
use crate::limiters::ask::{Answer, Ask, Type};
use crate::limiters::keys::Keys;
use crate::limiters::units::Number;
use crate::observation::Invalid;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting in the description"
)]
pub(super) struct Hash {
    /// The field that counts.
    field: Option<String>,
    /// Whether the count is the sum of all fields.
    sum: bool,
    /// Whether the field has the remaining requests.
    down: bool,
    /// Whether an empty field means that nothing is counted.
    may_be_empty: bool,
    /// Whether requests can be given back, so that the count may be below 0.
    refunds: bool,
    /// When its window began.
    started: Option<Moment>,
    /// When its window ends.
    ends: Option<Moment>,
}

impl Hash {
    fn fields(&self) -> Vec<Vec<u8>> {
        let moments = self.started.iter().chain(&self.ends);
        let fields = moments.filter_map(|moment| moment.field.as_ref());
        self.field
            .iter()
            .chain(fields)
            .map(|field| field.clone().into_bytes())
            .collect()
    }
}

impl Counting for Hash {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        Ok(vec![if self.sum {
            Ask::AllFields(at.name())
        } else {
            Ask::Fields(at.name(), self.fields())
        }])
    }

    fn read(&self, at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        if self.sum {
            let counted = counted(sum(answer(answers, 0))?);
            return Ok(counted.with_refunds(self.refunds));
        }
        let fields = fields(answer(answers, 0))?;
        let mut values = fields.iter().map(Option::as_deref);
        let value = values.next().flatten();
        if self.may_be_empty && value.is_some_and(<[u8]>::is_empty) {
            return Err(Not::Ignored);
        }
        let value = value.ok_or(Not::Garbage(Invalid::CompanionMissing))?;
        let Some(Number::Whole(value)) = Number::parse(value) else {
            return Err(Not::Garbage(Invalid::NotANumber));
        };
        let mut moment = |moment: &Option<Moment>| match moment {
            Some(moment) => moment.read(values.next().flatten()),
            None => Ok(None),
        };
        let (started, ends) = (moment(&self.started)?, moment(&self.ends)?);
        if is_over(at, started, ends)? {
            return Ok(Counted::valid(0));
        }
        let counted = if self.down {
            used_of_limit(at, value, false)?
        } else {
            counted(value)
        };
        Ok(counted.with_refunds(self.refunds))
    }

    fn check(&self, keys: &Keys<'_>) -> Result<(), String> {
        super::needs(keys, &[Type::Hash])?;
        if self.field.is_some() == self.sum {
            return Err("expected one of field and sum: true".to_owned());
        }
        super::are_in(false, self.started.iter().chain(&self.ends))
    }
}
