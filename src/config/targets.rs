//! Further limiters: what each has for itself, and what it has from the top of the configuration. Where a limiter is and
//! who logs in there is never taken over: credentials are for the servers that they were given for.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Sections, TargetSection};
use super::settings::Values;
use super::{Config, ConfigError, Reader, checker, registry_timing};
use crate::invariants::CheckerConfig;
use crate::observe::ObserveConfig;
use crate::subject::DEFAULT_TARGET;
use crate::text::without_login;

/// What tells where a limiter is: every target says so itself.
const REQUIRED: [&str; 2] = ["redis.url", "ratelimiter.url"];

/// What a target has from the top unless it says otherwise. Everything else is its own.
const INHERITED: [&str; 10] = [
    "ratelimiter.timeout",
    "probe.nodes",
    "probe.canary",
    "redis.timeout",
    "redis.prefer-replica",
    "latency.metric",
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
pub(super) fn targets(
    typed: &Values,
    sections: &Sections,
) -> Result<BTreeMap<String, TargetConfig>, ConfigError> {
    let mut targets = BTreeMap::new();
    for (name, target) in &sections.targets {
        targets.insert(name.clone(), named(target, typed, sections)?);
    }
    let given = |flag: &&str| typed.get(flag);
    if targets.contains_key(DEFAULT_TARGET) {
        if let Some(lost) = REQUIRED.iter().find_map(given) {
            return Err(ConfigError::new(
                &lost.origin,
                super::without_password(&lost.values.join(",")),
                "it in targets.default alone, which is what is watched",
            ));
        }
        return Ok(targets);
    }
    if let Some(first) = sections.targets.values().next()
        && REQUIRED.iter().any(|flag| given(flag).is_none())
    {
        // The defaults would be watched instead, and be down for ever.
        let names: Vec<&str> = targets.keys().map(String::as_str).collect();
        return Err(ConfigError::new(
            &first.origin,
            names.join(", "),
            "one called default, or redis.url and ratelimiter.url outside of targets: /metrics is about one of them",
        ));
    }
    let mut values = typed.clone();
    values.add_defaults();
    let default = limiter(&Reader(&values), &[sections])?;
    targets.insert(DEFAULT_TARGET.to_owned(), default);
    Ok(targets)
}

fn named(
    target: &TargetSection,
    typed: &Values,
    top: &Sections,
) -> Result<TargetConfig, ConfigError> {
    let has_nodes = Reader(&target.values).limiter_kind()?.has_nodes();
    let missing = REQUIRED
        .iter()
        .filter(|flag| has_nodes || **flag == "redis.url")
        .find(|flag| target.values.get(flag).is_none());
    if let Some(missing) = missing {
        return Err(ConfigError::new(
            &target.origin,
            format!("without {missing}"),
            "redis.url and ratelimiter.url of its own",
        ));
    }
    let mut values = target.values.clone();
    values.add_from(typed, &INHERITED);
    values.add_defaults();
    limiter(&Reader(&values), &[top, &target.sections])
}

fn limiter(read: &Reader<'_>, layers: &[&Sections]) -> Result<TargetConfig, ConfigError> {
    let (max_series, key_label) = (read.max_series()?, read.key_label()?);
    let mut ratelimiter_urls = read.urls("ratelimiter.url")?;
    let mut prometheus_url = read.optional_url("prometheus.url")?;
    let limits = layers.iter().rev().find_map(|layer| layer.limits.clone());
    Ok(TargetConfig {
        observe: ObserveConfig {
            ratelimiter_access: read.ratelimiter_access(&mut ratelimiter_urls)?,
            ratelimiter_urls,
            ratelimiter_timeout: read.timeout("ratelimiter.timeout")?,
            probe_nodes: read.switch("probe.nodes")?,
            probe_canary: read.switch("probe.canary")?,
            redis: read.redis()?,
            prometheus_access: read.http_access("prometheus", prometheus_url.as_mut_slice())?,
            prometheus_url,
            latency_metric: read.selector("latency.metric")?,
            scan_budget: read.timeout("scan.budget")?,
            scan_share: read.share("scan.share")?,
            registry: registry_timing(layers)?,
            key_label,
            max_series,
            named_keys: BTreeSet::new(),
            recording: false,
            kind: read.limiter_kind()?,
            limit_rules: limits.unwrap_or_default(),
        },
        checker: checker(layers, max_series, key_label),
    })
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
