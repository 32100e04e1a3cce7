//! The description of a kind of limiter. `docs/LIMITERS.md` explains each setting.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::ask::Type;
use super::expiry::{Expiry, WithoutExpiry};
use super::http_limits::Http;
use super::keys::Keys;
use super::limits::Limits;
use super::methods::Method;
use super::nodes::{Nodes, Registry};
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
    /// The value of `limiter.kind`.
    pub name: String,
    /// The programs, for display.
    pub title: String,
    /// The versions of the programs that it was tested with.
    #[serde(default)]
    pub seen: String,
    /// The counters. The first that fits a name and its type is used.
    pub counters: Vec<Counter>,
    /// Names that belong to the limiter and count nothing.
    #[serde(default)]
    pub ignore: Vec<Pattern>,
    /// Sources of limits for all counters, after the counters' own sources.
    #[serde(default)]
    pub limits: Vec<Spanned<Source>>,
    /// The limiter's own processes, if it has any.
    pub nodes: Option<Spanned<Nodes>>,
}

/// A kind of counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// Its name in messages and metrics.
    pub name: Spanned<String>,
    /// The names of its keys.
    pub key: Spanned<Pattern>,
    /// The type of its keys.
    #[serde(rename = "type")]
    pub kind: Type,
    /// The label of a counter. The default is `$key`.
    pub label: Option<Spanned<Template>>,
    /// How it counts.
    pub count: Spanned<Method>,
    /// Whether refused requests are in the count.
    pub refused: Refused,
    /// Whether its keys expire.
    pub expiry: Expiry,
    /// What happens to a counter that should expire and does not.
    pub without_expiry: Option<WithoutExpiry>,
    /// A condition that a key must meet besides its name and type.
    pub when: Option<When>,
    /// The units of the groups in the name.
    #[serde(default)]
    pub units: Units,
    /// Sources of its limits, after rules and its name.
    #[serde(default)]
    pub limits: Vec<Spanned<Source>>,
    /// Keys that must exist beside it.
    #[serde(default)]
    pub companions: Vec<Companion>,
    /// What a malformed value means.
    #[serde(default)]
    pub malformed: Malformed,
}

/// A condition that distinguishes counters with the same names and types.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The key expires at least this many windows after the beginning of the window in its name.
    pub outlives_windows: Option<f64>,
    /// The hash has this field.
    pub field: Option<String>,
    /// The counter is meant for the keys that no earlier counter fits.
    pub otherwise: bool,
}

/// A key beside the key of a counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// Its name, made of the groups of the counter's name.
    pub key: Spanned<Template>,
    /// When it must exist.
    pub needed: Needed,
}

/// When a companion must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needed {
    /// As long as the counter exists.
    Always,
    /// While the count is above the limit.
    OverLimit,
}

/// What a malformed value means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// A counter in a state that its limiter cannot make.
    #[default]
    Invalid,
    /// A key of something else whose name happens to fit.
    Foreign,
    /// The same, unless this key shows that it is a counter.
    ForeignUnless(Spanned<Template>),
}

from_text!(Pattern, |text| Self::compile(text).map_err(
    |error| format!("{text:?}: expected a regular expression: {error}")
));
from_text!(LinePattern, |text| Self::compile(text).map_err(
    |error| format!("{text:?}: expected a regular expression: {error}")
));
from_text!(Template, |text| Self::parse(text));

impl Description {
    /// The limits that the description itself sets for all keys of `counter`, in their order.
    pub fn fixed_limits<'d>(&'d self, counter: &'d Counter) -> impl Iterator<Item = &'d Limits> {
        let sources = counter.limits.iter().chain(&self.limits);
        sources.filter_map(|source| match &source.value {
            Source::Fixed(fixed) => Some(fixed),
            Source::Fields(_) | Source::Key(_) | Source::Http(_) => None,
        })
    }

    /// Whether the description itself sets the limit of all keys of `counter`.
    pub fn has_fixed_limit(&self, counter: &Counter) -> bool {
        let mut fixed = self.fixed_limits(counter);
        fixed.any(|fixed| fixed.limit.is_some())
    }
}

impl Counter {
    /// The condition that its keys must meet, if checking it takes a Redis command.
    pub(super) fn asked_condition(&self) -> Option<&When> {
        self.when.as_ref().filter(|condition| !condition.otherwise)
    }

    /// The type, names and units of its keys.
    pub(super) fn keys(&self) -> Keys<'_> {
        Keys {
            kind: self.kind,
            pattern: &self.key.value,
            units: &self.units,
        }
    }

    /// Whether a key that has lost its required expiry blocks its client for ever.
    pub fn sticks(&self) -> bool {
        self.expiry.required && self.without_expiry == Some(WithoutExpiry::Blocks)
    }
}

impl Description {
    /// The registry of the limiter's nodes.
    pub fn registry(&self) -> Option<&Registry> {
        let registry = self.nodes.as_ref()?.value.registry.as_ref();
        registry.map(|registry| &registry.value)
    }

    /// Whether the limiter's nodes serve the management API.
    pub fn has_management_api(&self) -> bool {
        let nodes = self.nodes.as_ref();
        nodes.is_some_and(|nodes| nodes.value.management_api)
    }

    /// All APIs with limits: those of single counters and those for all counters.
    pub fn apis(&self) -> impl Iterator<Item = &Http> {
        let own = self.counters.iter().flat_map(|counter| &counter.limits);
        own.chain(&self.limits)
            .filter_map(|source| source.value.http())
    }

    /// The APIs that may have the limits of `counter`.
    pub fn apis_of<'d>(&'d self, counter: &'d Counter) -> impl Iterator<Item = &'d Http> {
        let sources = counter.limits.iter().chain(&self.limits);
        sources.filter_map(|source| source.value.http())
    }
}
