//! What to observe: the settings of one limiter, validated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use crate::limiters::{Canary, Description, Selector};
use crate::observation::{KeyLabel, LatencyWindow, LimiterKind};
use crate::observe::actor::LimiterActor;
use crate::observe::counters::described::counter_kinds;
use crate::observe::counters::limits::LimitRule;
use crate::observe::http::access::HttpAccess;
use crate::observe::nodes::state::RegistryTiming;
use crate::observe::redis::deployment::RedisDeployment;

/// What to observe, validated.
#[derive(Clone, Debug)]
pub struct ObserveConfig {
    /// Base URLs of nodes. Any of them can answer for the API, and all are probed.
    pub ratelimiter_urls: Vec<Url>,
    /// The login at the nodes.
    pub ratelimiter_access: HttpAccess,
    /// The timeout of one request to a node.
    pub ratelimiter_timeout: Duration,
    /// Whether nodes are probed.
    pub probe_nodes: bool,
    /// Whether the exporter sends canary requests to the nodes.
    pub probe_canary: bool,
    /// The servers of Redis, and the login.
    pub redis: RedisDeployment,
    /// The Prometheus that is asked for latencies instead of the nodes.
    pub prometheus_url: Option<Url>,
    /// The login at Prometheus.
    pub prometheus_access: HttpAccess,
    /// The one histogram that is used instead of the default list.
    pub latency_metric: Option<Selector>,
    /// The span over which latencies are computed.
    pub latency_window: LatencyWindow,
    /// How long the sweep of the counters may take in one collection.
    pub scan_budget: Duration,
    /// The share of each server's time that sweeps may take: 0.001 to 1.
    pub scan_share: f64,
    /// The timing of the limiter's registry.
    pub registry: RegistryTiming,
    /// How keys are shown.
    pub key_label: KeyLabel,
    /// How many of the fullest keys are listed.
    pub max_series: usize,
    /// Keys that are counted and listed in any case.
    pub named_keys: BTreeSet<Box<[u8]>>,
    /// For a recording: every key above its limit is listed, with all that a replay needs to know.
    pub recording: bool,
    /// The kind of limiter.
    pub description: Arc<Description>,
    /// Limits by key, from the configuration.
    pub limit_rules: Vec<LimitRule>,
}

impl ObserveConfig {
    /// The kind, as observations describe it.
    pub(in crate::observe) fn limiter_kind(&self) -> LimiterKind {
        let description = &self.description;
        let nodes = description.nodes.as_ref();
        LimiterKind {
            name: description.name.clone(),
            nodes: description.registry().is_some()
                || (nodes.is_some() && !self.ratelimiter_urls.is_empty()),
            latency: self.latency_metric.is_some()
                || self.probe_canary
                || nodes.is_some_and(|it| !it.value.latency.is_empty()),
            canary: self.probe_canary
                && nodes.is_some_and(|it| it.value.canary.as_ref().is_some_and(Canary::sets_limit)),
            counters: counter_kinds(description),
        }
    }

    /// The actor for this limiter.
    pub fn actor(&self) -> LimiterActor {
        LimiterActor {
            urls: (self.description.has_management_api()).then(|| self.ratelimiter_urls.clone()),
            access: self.ratelimiter_access.clone(),
            timeout: self.ratelimiter_timeout,
            key_label: self.key_label,
        }
    }
}
