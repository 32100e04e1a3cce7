//! Why a subject is reported, or is not: everything that a report and its observation say about it. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Decision, Evidence, InvariantConfig, InvariantName, REDIS, Report, Severity, Violation,
};
use crate::observation::{
    Condition, Counter, CountersRead, Lacks, Node, NodeMetrics, Observation, Reason, RedisReading,
    Refused,
};

/// What is known of a subject after a collection.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// The node id, `redis`, or the key as it is shown.
    pub subject: String,
    /// When the checker evaluated the collection, by the wall clock.
    pub judged_at: Timestamp,
    /// The decision of each invariant that the subject may belong to.
    pub invariants: Vec<Explanation>,
    /// What was read about it as a node.
    pub node: Option<Node>,
    /// What the node's own metrics say.
    pub node_metrics: Option<NodeMetrics>,
    /// What was read about it as a key.
    pub counter: Option<Counter>,
    /// What was read about Redis, if that is the subject.
    pub redis: Option<RedisReading>,
}

/// Why one invariant is reported for the subject, or is not.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Which invariant.
    pub name: InvariantName,
    /// The reason.
    pub decision: Decision,
    /// The reason with its figures, for people.
    pub why: String,
    /// What would be reported, and when; `None` if it is switched off.
    pub rule: Option<Rule>,
    /// The violation in progress.
    pub violation: Option<Violation>,
    /// Where its evidence comes from.
    pub source: Option<String>,
    /// How much longer it must last before it is reported, in seconds; `None` without a violation in progress.
    pub grace_left_seconds: Option<f64>,
}

/// An invariant's settings in words and figures.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// When it is reported.
    #[serde(flatten)]
    pub terms: Terms,
    /// How bad it is then.
    pub severity: Severity,
}

/// When an invariant is reported, in words and figures.
#[derive(Clone, Debug, Serialize)]
pub struct Terms {
    /// When it is violated.
    pub violated_when: String,
    /// The threshold: seconds for `high_latency`, a share of the limit for `counter_drift`, none for the others.
    pub threshold: Option<f64>,
    /// How long a violation must last, in seconds.
    pub grace_period_seconds: f64,
}

impl From<&InvariantConfig> for Rule {
    fn from(config: &InvariantConfig) -> Self {
        let unit = config.name.threshold_unit();
        Self {
            terms: Terms {
                violated_when: config.violated_when(),
                threshold: unit.map(|_| config.threshold),
                grace_period_seconds: config.grace_period.as_secs_f64(),
            },
            severity: config.severity,
        }
    }
}

/// Where the evidence of a violation comes from.
pub fn source<'a>(evidence: &'a Evidence, observation: &Observation) -> &'a str {
    match evidence {
        Evidence::NodeState { reason: from, .. }
        | Evidence::NodeRedis { reason: from }
        | Evidence::Latency { source: from, .. } => from.as_deref().unwrap_or("the observation"),
        Evidence::RedisPing { .. } => "PING",
        Evidence::Count { .. } => match observation.counters_read {
            CountersRead::Partial {
                reason: Reason::RedisDown,
                ..
            } => "GET /api/counters",
            _ if observation.is_described() => "the key in Redis",
            CountersRead::Full | CountersRead::Partial { .. } | CountersRead::Failed { .. } => {
                "ZCOUNT"
            }
        },
        Evidence::FailOpen => "canary",
        Evidence::NeverExpires { .. } => "PTTL",
        Evidence::InvalidState { .. } => "the key in Redis",
    }
}

impl Report {
    /// Everything about the subject that has one of `names`. The first name is shown.
    pub fn explain(&self, observation: &Observation, names: &[String]) -> Explained {
        let is_it = |subject: &str| names.iter().any(|name| name == subject);
        let node = observation.nodes.iter().find(|node| is_it(&node.id));
        let mut counters = observation.counters.iter();
        let counter = counters.find(|counter| is_it(&counter.key));
        let mut metrics = observation.node_metrics.iter();
        let metrics = metrics.find(|(id, _)| is_it(id));
        // `check --explain` counts its key whether it exists or not.
        let counter =
            counter.filter(|counter| counter.count > 0 || counter.condition.invalid.is_some());
        let mut invariants: Vec<Explanation> = InvariantName::ALL
            .into_iter()
            .map(|name| self.explanation(name, &is_it, counter, observation))
            .collect();
        let seen = |explanation: &Explanation| {
            !matches!(
                explanation.decision,
                Decision::NotSeen | Decision::SwitchedOff | Decision::NotApplicable
            )
        };
        if invariants.iter().any(seen) {
            let concerns = |name: InvariantName| {
                if name.about_keys() {
                    counter.is_some()
                } else {
                    node.is_some() || is_it(REDIS)
                }
            };
            let is_said = |decision| match decision {
                Decision::NotApplicable => observation.is_described(),
                decision => decision == Decision::SwitchedOff,
            };
            invariants.retain(|it| seen(it) || (is_said(it.decision) && concerns(it.name)));
        }
        Explained {
            subject: names.first().cloned().unwrap_or_default(),
            judged_at: self.at.wall,
            invariants,
            node: node.cloned(),
            node_metrics: metrics.map(|(_, metrics)| metrics.clone()),
            counter: counter.cloned(),
            redis: is_it(REDIS).then(|| observation.redis.clone()),
        }
    }

    fn explanation(
        &self,
        name: InvariantName,
        is_it: &dyn Fn(&str) -> bool,
        counter: Option<&Counter>,
        observation: &Observation,
    ) -> Explanation {
        let mut violations = self.violations.iter().chain(&self.pending);
        let violation =
            violations.find(|violation| violation.name == name && is_it(&violation.subject));
        let status = self.status(name);
        let mut cleared = self.cleared.iter();
        let cleared = cleared.any(|(of, subject)| *of == name && is_it(subject));
        // A key is unknown if the whole sweep failed. Each node is unknown for itself.
        let unknown = status.and_then(|status| {
            let whole = |subject: &str| subject.is_empty() && counter.is_none();
            let mut unknown = status.unknown.iter();
            unknown.find(|it| is_it(&it.subject) || whole(&it.subject))
        });
        let inconclusive = status.and_then(|status| {
            let mut inconclusive = status.inconclusive.iter();
            inconclusive.find(|it| is_it(&it.subject))
        });
        let evaluated = status.is_some_and(|status| status.subjects.iter().any(|it| is_it(it)))
            || (name.about_keys() && counter.is_some());
        let mut not_applicable = self.not_applicable.iter();
        let not_applicable = not_applicable.find(|it| it.name == name).map(|it| it.why);
        let not_judged = counter.and_then(|counter| not_judged(name, counter.condition));
        let decision = match (status, violation) {
            (None, _) if not_applicable.is_some() => Decision::NotApplicable,
            (None, _) => Decision::SwitchedOff,
            (_, Some(violation)) => violation.decision,
            _ if unknown.is_some() => Decision::Unknown,
            _ if inconclusive.is_some() => Decision::Inconclusive,
            _ if cleared => Decision::Cleared,
            _ if evaluated => not_judged.map_or(Decision::Holds, |(decision, _)| decision),
            _ => Decision::NotSeen,
        };
        let left = violation.map(|violation| violation.grace_left);
        let reason = unknown.or(inconclusive).map(|it| it.reason.as_str());
        let reason = reason.or(not_applicable).or(not_judged.map(|(_, why)| why));
        Explanation {
            name,
            decision,
            why: why(decision, left.unwrap_or_default(), reason),
            rule: status.map(|status| Rule::from(&status.config)),
            source: violation.map(|it| source(&it.evidence, observation).to_owned()),
            grace_left_seconds: left.map(|left| left.as_secs_f64()),
            violation: violation.cloned(),
        }
    }
}

/// Why a counter that was read is not judged for `name`: the decision and its reason.
fn not_judged(name: InvariantName, condition: Condition) -> Option<(Decision, &'static str)> {
    match condition.lacks {
        _ if name == InvariantName::InvalidCounter => None,
        Lacks::Count => Some((Decision::Inconclusive, "its value is not a count")),
        Lacks::Limit => Some((Decision::Unknown, Reason::NoLimit.name())),
        Lacks::Nothing if name.compares_counts() && condition.refused == Refused::Counted => {
            Some((
                Decision::NotApplicable,
                "this count includes refused requests: a count above the limit is demand",
            ))
        }
        Lacks::Nothing => None,
    }
}

/// The decision with its figures, for people.
fn why(decision: Decision, left: Duration, reason: Option<&str>) -> String {
    let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
    // Tenths of seconds are enough for people.
    let left =
        Duration::from_millis(u64::try_from(left.as_millis() / 100 * 100).unwrap_or(u64::MAX));
    match decision {
        Decision::Reported => "violated for its whole grace period".to_owned(),
        Decision::InGrace => format!("violated; reported if that lasts another {left:?}"),
        Decision::Draining => format!(
            "the count was legal under the limit before it fell; reported if that lasts another {left:?}"
        ),
        Decision::HeldUnknown => format!("was reported; could not be evaluated this time{reason}"),
        Decision::PendingUnknown => {
            format!("was pending; could not be evaluated this time{reason}")
        }
        Decision::Holds => "evaluated; the invariant holds".to_owned(),
        Decision::Cleared => "was reported; the invariant holds again".to_owned(),
        Decision::Unknown => format!("could not be evaluated{reason}"),
        Decision::Inconclusive => {
            format!("was read, and does not prove whether the invariant holds{reason}")
        }
        Decision::NotSeen => {
            "there is no node of this name, and no key of this name with requests in its window"
                .to_owned()
        }
        Decision::NotApplicable => format!("not applicable{reason}"),
        Decision::SwitchedOff => "switched off in the configuration".to_owned(),
    }
}

#[cfg(test)]
mod tests;
