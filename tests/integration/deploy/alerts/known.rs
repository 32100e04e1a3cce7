//! What there is to name in an expression: what the exporter exports, what the rules record, and what Prometheus adds.

use std::collections::{BTreeMap, BTreeSet};

use ratelimiter_exporter::export::{DEFINITIONS, Kind};
use ratelimiter_exporter::observation::Collector;
use ratelimiter_exporter::report::InvariantName;

use super::files::Rule;
use super::promql::{Selector, names};

/// Labels of the target, which a scrape configuration or an external label adds.
const TARGET_LABELS: [&str; 8] = [
    "job",
    "namespace",
    "cluster",
    "instance",
    "pod",
    "replica",
    "node",
    "pod_template_hash",
];

/// What Prometheus adds to each scrape, and the client library to each process.
const OF_EVERY_TARGET: [&str; 5] = [
    "up",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

/// An invariant that the rules do not know, for the alert that takes care of such.
const INVARIANTS_TO_COME: [&str; 2] = ["split_brain", "clock_skew"];

/// Metrics by name, with their labels.
#[derive(Debug)]
pub(super) struct Known {
    metrics: BTreeMap<String, BTreeSet<String>>,
    labels: BTreeSet<String>,
}

impl Known {
    /// Everything exported, and recorded by `rules`.
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut known = Self {
            metrics: BTreeMap::new(),
            labels: BTreeSet::new(),
        };
        for definition in DEFINITIONS {
            if definition.kind == Kind::Histogram {
                let name = definition.name;
                known.add(&format!("{name}_sum"), definition.labels);
                known.add(&format!("{name}_count"), definition.labels);
                let labels = [definition.labels, &["le"]].concat();
                known.add(&format!("{name}_bucket"), &labels);
            } else {
                known.add(definition.name, definition.labels);
            }
        }
        for name in OF_EVERY_TARGET {
            known.add(name, &[]);
        }
        // A recording rule has the labels of what it is made from, and those that it copies.
        for rule in rules {
            if let Some(record) = &rule.record {
                let names = names(&rule.expr);
                let mut labels = names.labels;
                for selector in &names.selectors {
                    labels.extend(
                        known
                            .labels_of(&selector.metric)
                            .into_iter()
                            .flatten()
                            .cloned(),
                    );
                }
                known.metrics.insert(record.clone(), labels);
            }
        }
        known
    }

    fn add(&mut self, name: &str, labels: &[&str]) {
        let labels = labels.iter().chain(&TARGET_LABELS);
        let labels: BTreeSet<String> = labels.map(|&label| label.to_owned()).collect();
        self.labels.extend(labels.clone());
        self.metrics.insert(name.to_owned(), labels);
    }

    fn labels_of(&self, metric: &str) -> Option<&BTreeSet<String>> {
        self.metrics.get(metric)
    }

    /// Whether any metric has this label.
    pub(super) fn has_label(&self, label: &str) -> bool {
        self.labels.contains(label)
    }

    /// What is wrong with an expression.
    pub(super) fn objections(&self, expression: &str) -> Vec<String> {
        let names = names(expression);
        let unknown = names.labels.iter().filter(|label| !self.has_label(label));
        let mut objections: Vec<String> = unknown
            .map(|label| format!("no metric has the label {label}"))
            .collect();
        for selector in &names.selectors {
            objections.extend(self.objections_to(selector));
        }
        objections
    }

    fn objections_to(&self, selector: &Selector) -> Vec<String> {
        let metric = &selector.metric;
        let Some(labels) = self.labels_of(metric) else {
            return vec![format!("there is no metric {metric}")];
        };
        let mut objections = Vec::new();
        for matcher in &selector.matchers {
            let (label, value) = (&matcher.label, &matcher.value);
            if !labels.contains(label) {
                objections.push(format!("{metric} has no label {label}"));
            }
            let values = value.split('|').filter(|value| !possible(label, value));
            objections.extend(values.map(|value| format!("{label} is never {value:?}")));
        }
        objections
    }
}

/// Whether a label can have the value, where only some values are possible.
fn possible(label: &str, value: &str) -> bool {
    match label {
        "name" => {
            let mut known = InvariantName::ALL.iter().map(|invariant| invariant.name());
            known.any(|known| known == value) || INVARIANTS_TO_COME.contains(&value)
        }
        "collector" => Collector::ALL
            .iter()
            .any(|collector| collector.name() == value),
        "severity" => ["critical", "warning", "info"].contains(&value),
        _ => true,
    }
}
