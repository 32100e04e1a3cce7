//! Further limiters: what each has for itself, and what it has from the top of the configuration. Where a limiter is and
//! who logs in there is never taken over: credentials are for the servers that they were given for.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::{KEY_LABEL, LATENCY_WINDOW, METRIC, SERIES, SHARE, SWITCH, TIMEOUT};
use super::settings::{Typed, Values};
use super::{Config, ConfigError, Reader};
use crate::invariants::CheckerConfig;
use crate::observe::ObserveConfig;
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
    let kind = Reader(&values).limiter_kind()?;
    let is_reference = kind.is_reference();
    let nodes = kind.description().nodes.as_ref();
    let has_canary = nodes.is_some_and(|nodes| nodes.value.canary.is_some())
        && values.get("ratelimiter.url").is_some();
    let missing = REQUIRED
        .iter()
        .filter(|flag| is_reference || **flag == "redis.url")
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
        // The canary of the others is none of a kind that has none.
        let inherited = INHERITED.contains(&name) && (has_canary || name != "probe.canary");
        inherited || limits || section.iter().any(|it| name.starts_with(it))
    });
    values.add_defaults();
    Reader(&values).limiter()
}

impl Reader<'_> {
    fn limiter(&self) -> Result<TargetConfig, ConfigError> {
        let mut ratelimiter_urls = self.urls("ratelimiter.url")?;
        let mut prometheus_url = self.url("prometheus.url")?;
        let kind = self.limiter_kind()?;
        if !kind.is_reference() && self.is_default("ratelimiter.url") {
            // It is where the reference limiter is.
            ratelimiter_urls.clear();
        }
        self.check_kind(&kind, &ratelimiter_urls)?;
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
                registry: self.registry()?,
                key_label: self.get("keys.label", KEY_LABEL)?,
                max_series: self.get("keys.max-series", SERIES)?,
                named_keys: BTreeSet::new(),
                recording: false,
                kind,
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
