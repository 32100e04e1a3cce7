//! Which of a node's series are read, by the description of its kind. Plain data.

use crate::limiters::{Latency, Nodes, Results, Selector};
use crate::observe::latency::exposition::Sample;

/// The series that are read.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct WantedSeries {
    /// The durations of decisions. The first one with samples is used.
    pub(in crate::observe) latency: Vec<Latency>,
    pub(in crate::observe) results: Vec<Results>,
    /// The counts of failed decisions.
    pub(in crate::observe) errors: Vec<Selector>,
    /// The counts of decisions that Redis answered.
    pub(in crate::observe) answers: Vec<Selector>,
    /// The counts of Redis's failures.
    pub(in crate::observe) redis_errors: Vec<Selector>,
}

impl WantedSeries {
    /// The series of a description.
    pub(in crate::observe) fn new(nodes: &Nodes) -> Self {
        let results = nodes.results.iter().map(|results| results.metric.clone());
        Self {
            latency: nodes.latency.clone(),
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

    /// The series of the reference limiter.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in crate::observe) fn of_reference() -> Self {
        let text = crate::limiters::built_in("reference").unwrap_or_default();
        let description = crate::limiters::Description::parse(text).ok();
        let nodes = description.and_then(|description| description.nodes);
        nodes
            .map(|nodes| Self::new(&nodes.value))
            .unwrap_or_default()
    }

    /// Whether a series with this name may be among them.
    pub(in crate::observe) fn wants(&self, name: &str) -> bool {
        let mut counters = [&self.errors, &self.answers, &self.redis_errors]
            .into_iter()
            .flatten()
            .chain(self.results.iter().map(|results| &results.metric));
        counters.any(|selector| selector.metric == name)
            || self.latency.iter().any(|latency| latency.wants(name))
    }

    /// Whether `other` reads latencies from the same series.
    pub(in crate::observe) fn same_latency(&self, other: &Self) -> bool {
        let shown = |it: &Latency| it.metric.to_string();
        let (ours, theirs) = (self.latency.iter(), other.latency.iter());
        ours.map(shown).eq(theirs.map(shown))
    }
}

/// Whether one of `selectors` selects `sample`.
pub(in crate::observe) fn is_one_of(selectors: &[Selector], sample: &Sample) -> bool {
    let mut selectors = selectors.iter();
    selectors.any(|selector| selector.selects(&sample.name, |name| sample.label(name)))
}

/// Whether one of `selectors` has the metric of `sample`, whatever its labels.
pub(in crate::observe) fn is_named(selectors: &[Selector], sample: &Sample) -> bool {
    selectors.iter().any(|it| it.metric == sample.name)
}
