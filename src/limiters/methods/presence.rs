//! `presence`: a key that blocks its client as long as it exists.

use serde::Deserialize;

use super::{At, Counted, Counting, Not, answer, reply};
use crate::limiters::ask::{Answer, Ask};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Presence {}

impl Counting for Presence {
    fn asks(&self, at: &At<'_>) -> Result<Vec<Ask>, Not> {
        Ok(vec![Ask::Exists(at.name())])
    }

    fn read(&self, _at: &At<'_>, answers: &[Answer]) -> Result<Counted, Not> {
        if reply(answer(answers, 0))? > 0 {
            Ok(Counted::valid(1))
        } else {
            Err(Not::Gone)
        }
    }
}
