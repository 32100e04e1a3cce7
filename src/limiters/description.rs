//! A kind of limiter as its file describes it. `docs/LIMITERS.md` says what each setting means.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::ask::Type;
use super::expiry::{Expiry, WithoutExpiry};
use super::http_limits::Http;
use super::keys::Keys;
use super::methods::Method;
use super::nodes::Nodes;
use super::pattern::{LinePattern, Pattern};
use super::source::Source;
use super::template::Template;
use super::units::Units;
use super::yaml::from_text;
use crate::observation::Refused;

/// A kind of limiter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What `limiter.kind` says.
    pub name: String,
    /// The programs, for people.
    pub title: String,
    /// The versions that it was checked with.
    #[serde(default)]
    pub seen: String,
    /// What counts; the first that fits a name and its type wins.
    pub counters: Vec<Counter>,
    /// Names that belong to the limiter and count nothing.
    #[serde(default)]
    pub ignore: Vec<Pattern>,
    /// Where limits are that the counters do not name themselves.
    #[serde(default)]
    pub limits: Vec<Spanned<Source>>,
    /// The limiter's own processes. Without it, the limiter has none.
    pub nodes: Option<Spanned<Nodes>>,
}

/// A kind of counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// What it is called in messages and metrics.
    pub name: Spanned<String>,
    /// The names of its keys.
    pub key: Spanned<Pattern>,
    /// The type of its keys.
    #[serde(rename = "type")]
    pub kind: Type,
    /// How a counter is called; `$key` without it.
    pub label: Option<Spanned<Template>>,
    /// How it counts.
    pub count: Spanned<Method>,
    /// Whether requests that were refused are in the count.
    pub refused: Refused,
    /// Whether its keys expire.
    pub expiry: Expiry,
    /// What a counter does that should expire and does not.
    pub without_expiry: Option<WithoutExpiry>,
    /// What, besides name and type, a key must be.
    pub when: Option<When>,
    /// How the groups of the name are written.
    #[serde(default)]
    pub units: Units,
    /// Where its limits are, if not in rules and in its name.
    #[serde(default)]
    pub limits: Vec<Spanned<Source>>,
    /// Keys that must be there beside it.
    #[serde(default)]
    pub companions: Vec<Companion>,
    /// What a value is that cannot be read.
    #[serde(default)]
    pub malformed: Malformed,
}

/// What distinguishes counters with the same names and types.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The key expires at least so many windows after the beginning of the window in its name.
    pub outlives_windows: Option<f64>,
    /// The hash has this field.
    pub field: Option<String>,
    /// On purpose: the keys that no counter before this one fits.
    pub otherwise: bool,
}

/// A key beside a counter's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// Its name, from the groups of the counter's.
    pub key: Spanned<Template>,
    /// When it must be there.
    pub needed: Needed,
}

/// When a companion must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needed {
    /// As long as the counter is there.
    Always,
    /// While the count is above the limit.
    OverLimit,
}

/// What a key is whose value cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// A counter in a state that its limiter cannot make.
    #[default]
    Invalid,
    /// Something else whose name fits.
    Foreign,
}

from_text!(Pattern, |text| Self::compile(text).map_err(
    |error| format!("{text:?}: expected a regular expression: {error}")
));
from_text!(LinePattern, |text| Self::compile(text).map_err(
    |error| format!("{text:?}: expected a regular expression: {error}")
));
from_text!(Template, |text| Self::parse(text));

impl When {
    /// Whether Redis is asked for it.
    pub(super) fn is_asked(&self) -> bool {
        !self.otherwise
    }
}

impl Description {
    /// Whether the description itself sets the limit of all such counters.
    pub fn has_fixed_limit(&self, counter: &Counter) -> bool {
        let mut sources = counter.limits.iter().chain(&self.limits);
        sources.any(|source| matches!(&source.value, Source::Fixed(fixed) if fixed.limit.is_some()))
    }
}

impl Counter {
    /// What its keys are.
    pub(super) fn keys(&self) -> Keys<'_> {
        Keys {
            kind: self.kind,
            pattern: &self.key.value,
            units: &self.units,
        }
    }

    /// Whether a key without its required expiry blocks its client for ever.
    pub fn sticks(&self) -> bool {
        self.expiry.required && self.without_expiry == Some(WithoutExpiry::Blocks)
    }
}

impl Description {
    /// The APIs with limits, of its counters and of all of them.
    pub fn apis(&self) -> impl Iterator<Item = &Http> {
        let own = self.counters.iter().flat_map(|counter| &counter.limits);
        own.chain(&self.limits)
            .filter_map(|source| source.value.http())
    }

    /// Those that may have the limits of a counter.
    pub fn apis_of<'d>(&'d self, counter: &'d Counter) -> impl Iterator<Item = &'d Http> {
        let sources = counter.limits.iter().chain(&self.limits);
        sources.filter_map(|source| source.value.http())
    }
}
