//! The nodes of a limiter, which are its own processes: their addresses, and the requests that they answer. Plain data.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::http_limits::{Header, Pointer};
use super::pattern::Pattern;
use super::selector::{Selector, is_name};
use super::template::Template;
use super::units::{Unit, duration};
use super::yaml::{from_text, word_or_mapping};

/// The nodes of a limiter. What a description leaves out does not apply to its nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// How the addresses of nodes follow from `--ratelimiter.url`.
    #[serde(default)]
    pub discover: Discover,
    /// Whether they serve the management API: nodes, counters, the default limit, and the reset of a counter.
    #[serde(default)]
    pub management_api: bool,
    /// The registry of nodes in Redis.
    pub registry: Option<Spanned<Registry>>,
    /// The health request.
    pub health: Option<Health>,
    /// The endpoint of a node's metrics.
    pub metrics: Option<Endpoint>,
    /// Histograms and summaries of the duration of decisions. The first one with samples is used.
    #[serde(default)]
    pub latency: Vec<Latency>,
    /// The label with a node's id in Prometheus. Without it, the label `instance` identifies a node by its address.
    pub id_label: Option<String>,
    /// Counters of decisions that failed.
    #[serde(default)]
    pub errors: Vec<Selector>,
    /// Counters of decisions that failed because Redis did not answer.
    #[serde(default)]
    pub redis_errors: Vec<Selector>,
    /// Counters of decisions that Redis answered. The default is `results`.
    #[serde(default)]
    pub answers: Vec<Selector>,
    /// Counters of decisions, by result.
    #[serde(default)]
    pub results: Vec<Results>,
    /// A test request that passes through the whole limiter.
    pub canary: Option<Canary>,
}

/// How the addresses of nodes are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discover {
    /// Each URL is one node.
    #[default]
    None,
    /// Each DNS address of a name is one node.
    Dns,
}

/// A registry in Redis, with a hash for each node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The names of the hashes: a group `id` between literals.
    pub key: Pattern,
    /// The address, made of fields: `host:port` or a URL.
    #[serde(deserialize_with = "field_or_template")]
    pub address: Template,
    /// The field with the time of registration.
    pub registered_at: Option<String>,
    /// The expiry of a registration, in milliseconds.
    #[serde(deserialize_with = "duration")]
    pub ttl: u64,
    /// The interval at which a registration is renewed, in milliseconds.
    #[serde(deserialize_with = "duration")]
    pub renewed: u64,
}

/// The name of a field, or a text with `$field` in it.
fn field_or_template<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.contains('$') {
        Template::parse(&text).map_err(D::Error::custom)
    } else {
        Ok(Template::of_group(&text))
    }
}

/// The shortest TTL of registrations. Between collections they are read at least every second.
const LEAST_TTL_MS: u64 = 4000;

impl Registry {
    /// The id of the node whose registration has this name.
    pub fn id_of<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        Some(self.key.captures(name)?.name("id")?.as_bytes())
    }

    /// The name of the registration of `id`.
    pub fn name_of(&self, id: &[u8]) -> Vec<u8> {
        let end = self.key.end().unwrap_or_default();
        [self.key.prefix(), id, end].concat()
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if !self.key.groups().eq(["id"]) || self.key.end().is_none() {
            Err("key: expected one group (?P<id>…), and only literal text around it")
        } else if self.name_of(b"").is_empty() {
            Err("key: expected literal text before or after the group: every key would fit")
        } else if !self.address.groups().any(|field| !field.is_empty()) {
            Err("address: expected the name of a field, or a text with $field in it")
        } else if self.ttl < LEAST_TTL_MS {
            Err("ttl: expected 4s or more")
        } else if self.renewed == 0 || self.ttl <= self.renewed.saturating_mul(2) {
            Err("expected a ttl of more than twice renewed")
        } else {
            Ok(())
        }
    }
}

/// The health request of a node. A status from 200 to 299 is healthy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The path.
    pub path: Path,
    /// The port, if it is another one than the node's.
    pub port: Option<u16>,
    /// Where the node's id is in the answer, which must be JSON then.
    pub id: Option<Pointer>,
    /// Whether a healthy answer also proves that the node can reach Redis.
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

/// Series of the duration of decisions.
#[derive(Clone, Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Latency {
    /// The series, without `_bucket`, `_sum` and `_count`.
    pub metric: Selector,
    /// The unit of its values.
    pub unit: Unit,
}

word_or_mapping!(
    Latency,
    "a selector of series in seconds, or {metric: a selector, unit: s, ms, us or ns}",
    |word| {
        let metric = Selector::parse(word).ok()?;
        let unit = Unit::Seconds;
        Some(Latency { metric, unit })
    }
);

/// A counter of decisions.
#[derive(Clone, Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Results {
    /// The series.
    pub metric: Selector,
    /// The result of a decision, made of labels. The default is the label `result`, or else the metric's name.
    pub result: Option<Template>,
}

word_or_mapping!(
    Results,
    "a selector of series, or {metric: a selector, result: a text with $label in it}",
    |word| {
        let metric = Selector::parse(word).ok()?;
        let result = None;
        Some(Results { metric, result })
    }
);

impl Results {
    /// The result of the decisions that a series counts, from its labels.
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

/// A request that the limiter admits or refuses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The method.
    #[serde(default = "post")]
    pub method: String,
    /// The path, in which the same variables are filled in, percent-encoded.
    pub path: Template,
    /// The port, if it is another one than the node's.
    pub port: Option<u16>,
    /// The body. It is JSON unless the headers say otherwise. `$key`, `$limit` and `$window_ms` are filled in.
    pub body: Option<Template>,
    /// The headers. The same variables are filled in.
    #[serde(default)]
    pub headers: BTreeMap<Header, Template>,
    /// The status of a refusal. A status from 200 to 299 admits.
    #[serde(default = "too_many_requests")]
    pub refused: u16,
    /// Where an answer with a status from 200 to 299, which must be JSON then, says whether the request was admitted.
    pub allowed: Option<Pointer>,
    /// Whether the answer shows if the node reaches Redis: it does not if it answers 5xx or not at all.
    #[serde(default)]
    pub covers_redis: bool,
}

/// The variables that are filled in.
const FILLED_IN: [&str; 3] = ["key", "limit", "window_ms"];

impl Canary {
    /// The variables in the request.
    fn groups(&self) -> impl Iterator<Item = &str> {
        let templates = self.body.iter().chain(self.headers.values());
        templates.chain([&self.path]).flat_map(Template::groups)
    }

    /// Whether the request contains the limit to apply. Only then can the exporter make the node refuse.
    pub fn sets_limit(&self) -> bool {
        self.groups().any(|group| group == "limit")
    }

    fn check(&self) -> Result<(), String> {
        if !["GET", "POST", "PUT"].contains(&self.method.as_str()) {
            return Err("method: expected GET, POST or PUT".to_owned());
        }
        if !self.path.beginning().starts_with(b"/") {
            return Err("path: expected a path, such as /check".to_owned());
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
            // Without $key, the limit would apply to other clients' counters.
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
    /// Checks that the parts fit together.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.id_label.as_ref().is_some_and(|it| !is_name(it, false)) {
            return Err("nodes: id_label: expected the name of a label".to_owned());
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
        if self.management_api && self.registry.is_none() {
            return Err(
                "nodes: management_api: expected a registry, which shows that a node has stopped"
                    .to_owned(),
            );
        }
        if self.health.is_none() && self.metrics.is_none() {
            return Err("nodes: expected health or metrics, or no nodes at all".to_owned());
        }
        Ok(())
    }
}
