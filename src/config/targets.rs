//! Further limiters: what each has for itself, and what it has from the top of the configuration. Where a limiter is and
//! who logs in there is never taken over: credentials are for the servers that they were given for.

use std::collections::{BTreeMap, BTreeSet};

use super::settings::{Typed, Values};
use super::{Config, ConfigError, Reader};
use crate::invariants::CheckerConfig;
use crate::observe::{ObserveConfig, Selector};
use crate::subject::DEFAULT_TARGET;
use crate::text::without_login;

/// What tells where a limiter is: every target says so itself.
const REQUIRED: [&str; 2] = ["redis.url", "ratelimiter.url"];

/// What a target has from the top unless it says otherwise. Everything else is its own.
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

/// One limiter: what to observe, and how to judge and show it.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What to observe.
    pub observe: ObserveConfig,
    /// How to judge it.
    pub checker: CheckerConfig,
}

/// All limiters by name, the default one among them. `typed` is what was given, without defaults.
pub(super) fn targets(typed: &Values) -> Result<BTreeMap<String, TargetConfig>, ConfigError> {
    let given = typed.iter().filter_map(|(name, target)| {
        let name = name.strip_prefix("targets.")?;
        (!name.contains('.') && !name.contains('[')).then_some((name, target))
    });
    let given: Vec<(&str, &Typed)> = given.collect();
    let mut values = typed.clone();
    values.add_defaults();
    let top = Reader(&values);
    // Also where every target says otherwise.
    top.checker()?;
    top.limit_rules()?;
    let mut targets = BTreeMap::new();
    for (name, target) in &given {
        targets.insert((*name).to_owned(), limiter_of(name, target, typed)?);
    }
    if targets.contains_key(DEFAULT_TARGET) {
        if let Some(lost) = REQUIRED.iter().find_map(|flag| typed.get(flag)) {
            return Err(lost.refused_url("it in targets.default alone, which is what is watched"));
        }
        return Ok(targets);
    }
    if let Some((_, first)) = given.first()
        && REQUIRED.iter().any(|flag| typed.get(flag).is_none())
    {
        // The defaults would be watched instead, and be down for ever.
        let names: Vec<&str> = targets.keys().map(String::as_str).collect();
        return Err(ConfigError::new(
            &first.origin,
            names.join(", "),
            "one called default, or redis.url and ratelimiter.url outside of targets: /metrics is about one of them",
        ));
    }
    targets.insert(DEFAULT_TARGET.to_owned(), top.limiter()?);
    Ok(targets)
}

/// The limiter called `name`: what it says for itself, then what it has from the top, then the defaults.
fn limiter_of(name: &str, target: &Typed, typed: &Values) -> Result<TargetConfig, ConfigError> {
    let mut values = typed.below(&format!("targets.{name}."));
    let has_nodes = Reader(&values).limiter_kind()?.has_nodes();
    let missing = REQUIRED
        .iter()
        .filter(|flag| has_nodes || **flag == "redis.url")
        .find(|flag| values.get(flag).is_none());
    if let Some(missing) = missing {
        return Err(ConfigError::new(
            &target.origin,
            format!("without {missing}"),
            "redis.url and ratelimiter.url of its own",
        ));
    }
    // Rules count in their order, so those of the top are not mixed into its own.
    let own_limits = values.get("limits").is_some();
    values.add_from(typed, |name| {
        let section = ["invariants.", "checker.", "nodes."];
        let limits = name.starts_with("limits") && !own_limits;
        INHERITED.contains(&name) || limits || section.iter().any(|it| name.starts_with(it))
    });
    values.add_defaults();
    Reader(&values).limiter()
}

impl Reader<'_> {
    fn limiter(&self) -> Result<TargetConfig, ConfigError> {
        let mut ratelimiter_urls = self.urls("ratelimiter.url")?;
        let mut prometheus_url = self.url("prometheus.url")?;
        Ok(TargetConfig {
            observe: ObserveConfig {
                ratelimiter_access: self.ratelimiter_access(&mut ratelimiter_urls)?,
                ratelimiter_urls,
                ratelimiter_timeout: self.timeout("ratelimiter.timeout")?,
                probe_nodes: self.switch("probe.nodes")?,
                probe_canary: self.switch("probe.canary")?,
                redis: self.redis()?,
                prometheus_access: self.http_access("prometheus", prometheus_url.as_mut_slice())?,
                prometheus_url,
                latency_metric: self.optional(
                    "latency.metric",
                    "NAME or NAME{label=\"value\"}",
                    Selector::parse,
                )?,
                latency_window: self.latency_window()?,
                scan_budget: self.timeout("scan.budget")?,
                scan_share: self.share("scan.share")?,
                registry: self.registry()?,
                key_label: self.key_label()?,
                max_series: self.max_series()?,
                named_keys: BTreeSet::new(),
                recording: false,
                kind: self.limiter_kind()?,
                limit_rules: self.limit_rules()?,
            },
            checker: self.checker()?,
        })
    }
}

impl Config {
    /// The configuration with the target called `name` in the place of the default one.
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
