//! The sources of limits besides rules and names: fields of the value, another key, the description itself, an API.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::ask::{Answer, Ask};
use super::http_limits::Http;
use super::limits::{Fields, Limits, count, of_json};
use super::matched::Matched;
use super::template::Template;
use super::units::Unit;

/// A source of limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Fields of the counter's own hash.
    Fields(Fields),
    /// A key beside the key of the counter.
    Key(Box<Beside>),
    /// Limits in the description, the same for all keys.
    Fixed(Limits),
    /// An API.
    Http(Box<Http>),
}

/// A key beside the key of the counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Its name, made of the groups of the counter's name.
    pub name: Spanned<Template>,
    /// The form of its value.
    #[serde(rename = "type")]
    pub form: Form,
    /// The field or pointer of the limit. The limit is the whole value of a string.
    pub limit: Option<String>,
    /// The field or pointer of the window.
    pub window: Option<String>,
    /// The field or pointer of the burst.
    pub burst: Option<String>,
    /// The unit of the window.
    pub unit: Option<Unit>,
}

/// The form of a value that contains limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Fields of a hash.
    Hash,
    /// A string that is the limit.
    String,
    /// JSON in a string.
    Json,
}

impl Source {
    /// The template of the other key's name, if it is a key.
    pub(super) fn template(&self) -> Option<&Spanned<Template>> {
        match self {
            Self::Key(beside) => Some(&beside.name),
            Self::Fields(_) | Self::Fixed(_) | Self::Http(_) => None,
        }
    }

    /// The Redis command, unless everything is known `already`.
    pub(super) fn ask(&self, matched: &Matched, already: &Limits) -> Option<Ask> {
        if already.is_complete() && (already.burst.is_some() || !self.has_burst()) {
            return None;
        }
        let fields = |limit: &Option<String>, window: &Option<String>, burst: &Option<String>| {
            let fields = [limit, window, burst].into_iter().flatten();
            fields.map(|field| field.clone().into_bytes()).collect()
        };
        match self {
            Self::Fields(it) => {
                let fields = fields(&it.limit, &it.window, &it.burst);
                Some(Ask::Fields(matched.name.clone(), fields))
            }
            Self::Key(it) => {
                let name = it.name.value.fill(|group| matched.group(group));
                Some(match it.form {
                    Form::Hash => Ask::Fields(name, fields(&it.limit, &it.window, &it.burst)),
                    Form::String | Form::Json => Ask::Get(name),
                })
            }
            Self::Fixed(_) | Self::Http(_) => None,
        }
    }

    /// Whether it is the default limit that the management API has.
    pub(super) fn is_default_of_management_api(&self) -> bool {
        self.http().is_some_and(Http::is_default_of_management_api)
    }

    /// The API, if it is one.
    pub(super) fn http(&self) -> Option<&Http> {
        match self {
            Self::Http(http) => Some(http),
            Self::Fields(_) | Self::Key(_) | Self::Fixed(_) => None,
        }
    }

    fn has_burst(&self) -> bool {
        match self {
            Self::Fields(it) => it.burst.is_some(),
            Self::Key(it) => it.burst.is_some(),
            Self::Fixed(_) | Self::Http(_) => false,
        }
    }

    /// The limits in `answer`. Empty if it cannot be read.
    pub(super) fn read(&self, answer: &Answer) -> Limits {
        match self {
            Self::Fields(it) => of_hash(it, answer),
            Self::Key(it) => it.read(answer),
            Self::Fixed(_) | Self::Http(_) => Limits::default(),
        }
    }
}

impl Beside {
    fn read(&self, answer: &Answer) -> Limits {
        let places = Fields {
            limit: self.limit.clone(),
            window: self.window.clone(),
            burst: self.burst.clone(),
            unit: self.unit,
        };
        let text = match answer {
            Answer::Text(text) => text.as_slice(),
            _ => &[],
        };
        match self.form {
            Form::Hash => of_hash(&places, answer),
            Form::String => Limits {
                limit: count(text),
                ..Limits::default()
            },
            Form::Json => serde_json::from_slice(text)
                .map(|value| places.limits(|pointer| of_json(&value, pointer)))
                .unwrap_or_default(),
        }
    }
}

/// The limits in the fields of a hash, which were asked for in their order.
fn of_hash(places: &Fields, answer: &Answer) -> Limits {
    let Answer::Fields(values) = answer else {
        return Limits::default();
    };
    let names = places.names();
    places.limits(|place| {
        let at = names.iter().position(|name| *name == place)?;
        values.get(at)?.clone()
    })
}
