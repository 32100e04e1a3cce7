//! Where the nodes of a kind register and what they are asked, by its description.

use std::sync::Arc;

use crate::limiters::{Canary, Description, Endpoint, Health, Registry};
use crate::observe::latency::wanted::WantedSeries;

/// The registry, the requests, and the series to read in the answers.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct NodeRequests {
    pub(in crate::observe) registry: Option<Registry>,
    /// The label with a node's id in Prometheus.
    pub(in crate::observe) id_label: Option<String>,
    pub(in crate::observe) health: Option<Health>,
    pub(in crate::observe) metrics: Option<Endpoint>,
    pub(in crate::observe) series: WantedSeries,
    pub(in crate::observe) canary: Option<Arc<Canary>>,
}

impl NodeRequests {
    pub(in crate::observe) fn new(description: &Description) -> Self {
        let nodes = description.nodes.as_ref().map(|nodes| &nodes.value);
        nodes.map_or_else(Self::default, |nodes| Self {
            registry: description.registry().cloned(),
            id_label: nodes.id_label.clone(),
            health: nodes.health.clone(),
            metrics: nodes.metrics.clone(),
            series: WantedSeries::new(nodes),
            canary: nodes.canary.clone().map(Arc::new),
        })
    }

    /// Whether a node's counters show that it lost Redis. Of failing checks only heartbeats show that Redis is the cause.
    pub(in crate::observe) fn counts_failures(&self) -> bool {
        let checks = self.registry.is_some() && !self.series.answers.is_empty();
        self.metrics.is_some() && (checks || !self.series.redis_errors.is_empty())
    }

    /// Whether anything shows if a node reaches Redis.
    pub(in crate::observe) fn cover_redis(&self) -> bool {
        let health = self.health.as_ref().is_some_and(|it| it.covers_redis);
        let canary = self.canary.as_ref().is_some_and(|it| it.covers_redis);
        self.registry.is_some() || self.counts_failures() || health || canary
    }

    /// The path whose answer shows whether a node is up.
    pub(in crate::observe) fn health_path(&self) -> &str {
        let metrics = self.metrics.as_ref().map(|metrics| metrics.path.0.as_str());
        let health = self.health.as_ref().map(|health| health.path.0.as_str());
        health.or(metrics).unwrap_or("/health")
    }
}
