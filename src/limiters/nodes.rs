//! A limiter's own processes, its nodes: where they are, and which requests they answer. Plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::http_limits::Header;
use super::pattern::Pattern;
use super::selector::Selector;
use super::template::Template;
use super::units::{Unit, duration};
use super::yaml::{Word, from_text, word_or_mapping};

/// The nodes of a limiter. What a description does not have is not applicable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Whether a name in `--ratelimiter.url` has several addresses, one for each node.
    #[serde(default)]
    pub discover: Discover,
    /// Where nodes register themselves.
    pub registry: Option<Registry>,
    /// The health request.
    pub health: Option<Health>,
    /// Where a node's metrics are.
    pub metrics: Option<Endpoint>,
    /// Histograms and summaries of how long a decision takes; the first that counts is used.
    #[serde(default)]
    pub latency: Vec<Latency>,
    /// Counters of decisions that failed.
    #[serde(default)]
    pub errors: Vec<Selector>,
    /// Counters of decisions that failed because Redis did not answer.
    #[serde(default)]
    pub redis_errors: Vec<Selector>,
    /// Counters of decisions that Redis answered. Without them, those of `results`.
    #[serde(default)]
    pub answers: Vec<Selector>,
    /// Counters of decisions, by result.
    #[serde(default)]
    pub results: Vec<Results>,
    /// A request that passes through the whole limiter.
    pub canary: Option<Canary>,
}

/// How addresses are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discover {
    /// Each is one node.
    #[default]
    None,
    /// A name is as many nodes as it has addresses.
    Dns,
}

/// A registry in Redis: a hash for each node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The names of the hashes, with a group `id`.
    pub key: Pattern,
    /// The field with the address.
    pub address: String,
    /// The field with the time of registration.
    pub registered_at: Option<String>,
    /// The expiry that a registration gets, in milliseconds.
    #[serde(deserialize_with = "duration")]
    pub ttl: u64,
    /// How often it is renewed, in milliseconds.
    #[serde(deserialize_with = "duration")]
    pub renewed: u64,
}

/// The health request of a node: a status of 200 to 299 is healthy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The path.
    pub path: Path,
    /// The port, if it is another one than the node's.
    pub port: Option<u16>,
    /// Where the node's id is in the answer. The answer is JSON then.
    pub id: Option<Pointer>,
    /// Whether a healthy node can reach Redis.
    #[serde(default)]
    pub covers_redis: bool,
}

/// A path and port of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The path.
    #[serde(default)]
    pub path: Path,
    /// The port, if it is another one than the node's.
    pub port: Option<u16>,
}

/// A path of a URL: it begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(pub String);

impl Default for Path {
    fn default() -> Self {
        Self("/metrics".to_owned())
    }
}

from_text!(Path, |text| {
    let fits = text.starts_with('/') && !text.contains(|c: char| c.is_ascii_control() || c == ' ');
    fits.then(|| Self(text.to_owned()))
        .ok_or_else(|| format!("{text:?}: expected a path, such as /health"))
});

/// A JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(pub String);

from_text!(Pointer, |text| {
    let fits = text.is_empty() || text.starts_with('/');
    fits.then(|| Self(text.to_owned()))
        .ok_or_else(|| format!("{text:?}: expected a JSON pointer, such as /node/id"))
});

/// Series of how long decisions take.
#[derive(Clone, Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Latency {
    /// The series, without `_bucket`, `_sum` and `_count`.
    pub metric: Selector,
    /// The unit of its values.
    pub unit: Unit,
}

impl Word for Latency {
    const EXPECTED: &'static str =
        "a selector of series in seconds, or {metric: a selector, unit: s, ms, us or ns}";

    fn word(word: &str) -> Option<Self> {
        let metric = Selector::parse(word).ok()?;
        let unit = Unit::Seconds;
        Some(Self { metric, unit })
    }

    fn mapping<'de, D: Deserializer<'de>>(mapping: D) -> Result<Self, D::Error> {
        Self::deserialize(mapping)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word_or_mapping(deserializer)
    }
}

/// A counter of decisions.
#[derive(Clone, Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Results {
    /// The series.
    pub metric: Selector,
    /// The result of a decision, made of labels. Without it, the label `result`, or the metric's name.
    pub result: Option<Template>,
}

impl Word for Results {
    const EXPECTED: &'static str =
        "a selector of series, or {metric: a selector, result: a text with $label in it}";

    fn word(word: &str) -> Option<Self> {
        let metric = Selector::parse(word).ok()?;
        let result = None;
        Some(Self { metric, result })
    }

    fn mapping<'de, D: Deserializer<'de>>(mapping: D) -> Result<Self, D::Error> {
        Self::deserialize(mapping)
    }
}

impl<'de> Deserialize<'de> for Results {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word_or_mapping(deserializer)
    }
}

impl Results {
    /// The result of a series' decisions, by its labels.
    pub fn name<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> String {
        match (&self.result, label("result")) {
            (Some(result), _) => {
                let filled = result.fill(|name| label(name).map(str::as_bytes));
                String::from_utf8_lossy(&filled).into_owned()
            }
            (None, Some(result)) => result.to_owned(),
            (None, None) => self.metric.metric.clone(),
        }
    }
}

/// A request that the limiter decides on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The method.
    #[serde(default = "post")]
    pub method: String,
    /// The path.
    pub path: Path,
    /// The port, if it is another one than the node's.
    pub port: Option<u16>,
    /// The body, of JSON unless the headers say otherwise. `$key`, `$limit` and `$window_ms` are filled in.
    pub body: Option<Template>,
    /// Headers, filled in likewise.
    #[serde(default)]
    pub headers: BTreeMap<Header, Template>,
    /// The status of a refusal. A status from 200 to 299 admits.
    #[serde(default = "too_many_requests")]
    pub refused: u16,
    /// Where in an answer that admits by its status, which is JSON then, is whether it admits.
    pub allowed: Option<Pointer>,
    /// Whether a node that answers has reached Redis, and one that answers 5xx or not at all has not.
    #[serde(default)]
    pub covers_redis: bool,
}

/// What is filled in.
const FILLED_IN: [&str; 3] = ["key", "limit", "window_ms"];

impl Canary {
    /// What of [`FILLED_IN`] the request has in it.
    fn groups(&self) -> impl Iterator<Item = &str> {
        let templates = self.body.iter().chain(self.headers.values());
        templates.flat_map(Template::groups)
    }

    /// Whether the request says under which limit it is decided: only then can the node be made to refuse.
    pub fn sets_limit(&self) -> bool {
        self.groups().any(|group| group == "limit")
    }

    fn check(&self) -> Result<(), String> {
        if !["GET", "POST", "PUT"].contains(&self.method.as_str()) {
            return Err("method: expected GET, POST or PUT".to_owned());
        }
        if !(400..600).contains(&self.refused) {
            return Err("refused: expected a status from 400 to 599".to_owned());
        }
        if let Some(unknown) = self.groups().find(|group| !FILLED_IN.contains(group)) {
            return Err(format!(
                "unknown ${unknown}: expected $key, $limit or $window_ms"
            ));
        }
        if self.sets_limit() && !self.groups().any(|group| group == "key") {
            // Counters of other keys would be judged by it.
            return Err("expected $key beside $limit".to_owned());
        }
        Ok(())
    }
}

fn post() -> String {
    "POST".to_owned()
}

fn too_many_requests() -> u16 {
    429
}

impl Nodes {
    /// Whether the parts go together.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(registry) = &self.registry {
            if !registry.key.groups().any(|group| group == "id") {
                return Err(
                    "nodes: registry: key: expected a group (?P<id>…) in the pattern".to_owned(),
                );
            }
            if registry.renewed == 0 || registry.ttl <= registry.renewed {
                return Err(
                    "nodes: registry: expected a ttl that is longer than renewed".to_owned(),
                );
            }
        }
        let counters = [&self.errors, &self.redis_errors, &self.answers];
        let reads_metrics = counters.iter().any(|it| !it.is_empty()) || !self.results.is_empty();
        if (reads_metrics || !self.latency.is_empty()) && self.metrics.is_none() {
            return Err(
                "nodes: expected metrics beside latency, errors, redis_errors, answers and results"
                    .to_owned(),
            );
        }
        if let Some(canary) = &self.canary {
            canary
                .check()
                .map_err(|wrong| format!("nodes: canary: {wrong}"))?;
        }
        if self.health.is_none() && self.metrics.is_none() {
            return Err("nodes: expected health or metrics, or no nodes at all".to_owned());
        }
        Ok(())
    }
}
