//! Which of a node's series are read, as the description of its kind says. Plain data.

use crate::limiters::{Nodes, Results, Selector};
use crate::observe::latency::durations::Durations;
use crate::observe::latency::exposition::Sample;

/// The series that matter.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct WantedSeries {
    /// How long decisions take; the first that counts is used.
    pub(in crate::observe) latency: Vec<Durations>,
    pub(in crate::observe) results: Vec<Results>,
    /// Decisions that failed.
    pub(in crate::observe) errors: Vec<Selector>,
    /// Decisions that Redis answered.
    pub(in crate::observe) answers: Vec<Selector>,
    /// Failures of Redis.
    pub(in crate::observe) redis_errors: Vec<Selector>,
}

impl WantedSeries {
    /// Those of a description.
    pub(in crate::observe) fn new(nodes: &Nodes) -> Self {
        let results = nodes.results.iter().map(|results| results.metric.clone());
        Self {
            latency: nodes.latency.iter().map(Durations::new).collect(),
            results: nodes.results.clone(),
            errors: nodes.errors.clone(),
            answers: if nodes.answers.is_empty() {
                results.collect()
            } else {
                nodes.answers.clone()
            },
            redis_errors: nodes.redis_errors.clone(),
        }
    }

    /// Those that are read by default of the reference limiter.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in crate::observe) fn of_reference() -> Self {
        let text = crate::limiters::built_in("reference").unwrap_or_default();
        let description = crate::limiters::Description::parse(text).ok();
        let nodes = description.and_then(|description| description.nodes);
        nodes
            .map(|nodes| Self::new(&nodes.value))
            .unwrap_or_default()
    }

    /// Whether a series called `name` may be among them.
    pub(in crate::observe) fn wants(&self, name: &str) -> bool {
        let mut counters = [&self.errors, &self.answers, &self.redis_errors]
            .into_iter()
            .flatten()
            .chain(self.results.iter().map(|results| &results.metric));
        counters.any(|selector| selector.metric == name)
            || self.latency.iter().any(|latency| latency.wants(name))
    }

    /// Whether latencies are read by the same series as by `other`.
    pub(in crate::observe) fn same_latency(&self, other: &Self) -> bool {
        let shown = |it: &Self| {
            it.latency
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        shown(self) == shown(other)
    }
}

/// Whether `sample` is one of `selectors`.
pub(in crate::observe) fn is_one_of(selectors: &[Selector], sample: &Sample) -> bool {
    let mut selectors = selectors.iter();
    selectors.any(|selector| selector.selects(&sample.name, |name| sample.label(name)))
}

/// Whether a series of that name is among `selectors`.
pub(in crate::observe) fn is_named(selectors: &[Selector], sample: &Sample) -> bool {
    selectors.iter().any(|it| it.metric == sample.name)
}
