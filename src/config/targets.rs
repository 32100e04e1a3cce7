//! The targets: limiters by name. Each has settings of its own, and inherits others from the top of the configuration. Addresses
//! and credentials are never inherited: credentials are used only for the servers that they were given for.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::{HTTP_URL, KEY_LABEL, LATENCY_WINDOW, METRIC, SERIES, SHARE, SWITCH, TIMEOUT};
use super::settings::{Typed, Values};
use super::{Config, ConfigError};
use crate::invariants::CheckerConfig;
use crate::observe::ObserveConfig;
use crate::subject::DEFAULT_TARGET;
use crate::text::without_login;

/// The addresses of a limiter, of which every target has its own.
const REQUIRED: [&str; 2] = ["redis.url", "ratelimiter.url"];

/// What a target inherits from the top unless it has its own, besides the sections without flags.
const INHERITED: [&str; 11] = [
    "ratelimiter.timeout",
    "probe.nodes",
    "probe.canary",
    "redis.timeout",
    "redis.prefer-replica",
    "latency.metric",
    "latency.window",
    "keys.max-series",
    "keys.label",
    "scan.budget",
    "scan.share",
];

/// One target: what to observe, and how to judge and show it.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What to observe.
    pub observe: ObserveConfig,
    /// How to judge it.
    pub checker: CheckerConfig,
}

/// All targets by name, the default one among them.
pub(super) fn targets(values: &Values) -> Result<BTreeMap<String, TargetConfig>, ConfigError> {
    let given = values.iter().filter_map(|(name, target)| {
        let name = name.strip_prefix("targets.")?;
        (!name.contains('.')).then_some((name, target))
    });
    let given: Vec<(&str, &Typed)> = given.collect();
    // These must be valid even if every target has its own.
    values.checker()?;
    values.limit_rules()?;
    let mut targets = BTreeMap::new();
    for (name, target) in &given {
        targets.insert((*name).to_owned(), target_of(name, target, values)?);
    }
    if targets.contains_key(DEFAULT_TARGET) {
        if let Some(lost) = REQUIRED.iter().find_map(|flag| values.given(flag)) {
            return Err(lost.refused_url("it in targets.default alone, which replaces it"));
        }
        return Ok(targets);
    }
    let needs_url = values.needs_url(&*values.limiter_kind()?);
    if let Some((_, first)) = given.first()
        && missing(values, needs_url).is_some()
    {
        let needed = needed(needs_url).join(" and ");
        // Otherwise the exporter would watch the default addresses, where there may be no limiter.
        let names: Vec<&str> = targets.keys().map(String::as_str).collect();
        return Err(ConfigError::new(
            &first.origin,
            names.join(", "),
            format!(
                "one called default, or {needed} outside of targets: /metrics shows the default limiter"
            ),
        ));
    }
    targets.insert(DEFAULT_TARGET.to_owned(), values.target()?);
    Ok(targets)
}

/// The target called `name`: its own values, then those that it inherits from `top`, then the defaults.
fn target_of(name: &str, target: &Typed, top: &Values) -> Result<TargetConfig, ConfigError> {
    let mut values = top.below(&format!("targets.{name}."));
    let description = values.limiter_kind()?;
    let needs_url = values.needs_url(&description);
    let nodes = description.nodes.as_ref();
    let has_canary = nodes.is_some_and(|nodes| nodes.value.canary.is_some())
        && (values.given("ratelimiter.url").is_some() || description.registry().is_some());
    if let Some(missing) = missing(&values, needs_url) {
        return Err(ConfigError::new(
            &target.origin,
            format!("without {missing}"),
            format!("{} of its own", needed(needs_url).join(" and ")),
        ));
    }
    // The order of rules matters, so the rules of the top are not added to its own.
    let own_limits = values.given("limits").is_some();
    values.add_from(top, |name| {
        let section = ["invariants.", "checker.", "nodes."];
        let limits = name.starts_with("limits") && !own_limits;
        // A canary for all targets does not apply to a kind without one.
        let inherited = INHERITED.contains(&name) && (has_canary || name != "probe.canary");
        inherited || limits || section.iter().any(|it| name.starts_with(it))
    });
    values.target()
}

/// The addresses that a limiter must have: of most kinds, only Redis must be known.
fn needed(url: bool) -> &'static [&'static str] {
    if url { &REQUIRED } else { &REQUIRED[..1] }
}

/// The address that a limiter lacks.
fn missing(values: &Values, needs_url: bool) -> Option<&'static str> {
    let mut needed = needed(needs_url).iter();
    needed.find(|flag| values.given(flag).is_none()).copied()
}

impl Values {
    fn target(&self) -> Result<TargetConfig, ConfigError> {
        let mut ratelimiter_urls = self.node_urls()?;
        let mut prometheus_url = self.optional("prometheus.url", HTTP_URL)?;
        let description = self.limiter_kind()?;
        if !self.needs_url(&description) && self.given("ratelimiter.url").is_none() {
            // The default is the address of the reference limiter.
            ratelimiter_urls.clear();
        }
        self.check_kind(&description, &ratelimiter_urls)?;
        Ok(TargetConfig {
            observe: ObserveConfig {
                ratelimiter_access: self.ratelimiter_access(&mut ratelimiter_urls)?,
                ratelimiter_urls,
                ratelimiter_timeout: self.get("ratelimiter.timeout", TIMEOUT)?,
                probe_nodes: self.get("probe.nodes", SWITCH)?,
                probe_canary: self.get("probe.canary", SWITCH)?,
                redis: self.redis()?,
                prometheus_access: self.http_access("prometheus", prometheus_url.as_mut_slice())?,
                prometheus_url,
                latency_metric: self.optional("latency.metric", METRIC)?,
                latency_window: self.get("latency.window", LATENCY_WINDOW)?,
                scan_budget: self.get("scan.budget", TIMEOUT)?,
                scan_share: self.get("scan.share", SHARE)?,
                registry: self.registry(description.registry())?,
                key_label: self.get("keys.label", KEY_LABEL)?,
                max_series: self.get("keys.max-series", SERIES)?,
                named_keys: BTreeSet::new(),
                recording: false,
                description,
                limit_rules: self.limit_rules()?,
            },
            checker: self.checker()?,
        })
    }
}

impl Config {
    /// The configuration with the target called `name` in place of the default target.
    pub fn select(self, name: &str) -> Result<Self, String> {
        let Some(target) = self.targets.get(name).cloned() else {
            let names: Vec<&str> = self.targets.keys().map(String::as_str).collect();
            let (name, names) = (without_login(name), names.join(", "));
            return Err(format!(
                "--target: no target called {name:?}: expected one of {names}"
            ));
        };
        Ok(Self {
            observe: target.observe,
            checker: target.checker,
            ..self
        })
    }
}
