//! Turns the result of a sweep into the collection's report: how far it came, and which keys could not be judged. Pure.

use std::collections::BTreeMap;

use crate::observation::{Collector, CountersRead, Failure, KeyLabel, Reason};
use crate::observe::counters::sweep_result::SweepResult;

/// Whether the counters were read completely, partially or not at all.
pub(super) fn counters_read(result: &SweepResult, label: KeyLabel) -> CountersRead {
    let partial = |reason| CountersRead::Partial {
        gone: result.gone.iter().map(|key| label.of(key)).collect(),
        reason,
    };
    match result.stopped {
        Some(reason) if result.commands == 0 => CountersRead::Failed { reason },
        Some(reason) => partial(reason),
        None => {
            // Keys that could not be judged are not gone.
            let unjudged = [Reason::NoDefaultLimit, Reason::Resharding];
            let mut unjudged = unjudged.into_iter();
            match unjudged.find(|reason| result.skipped.contains_key(reason)) {
                Some(reason) => partial(reason),
                // A key that was not read may still be in violation.
                None if result.postponed => partial(Reason::Budget),
                None => CountersRead::Full,
            }
        }
    }
}

/// The labels of watched keys that could not be judged, and why.
pub(super) fn unjudged(result: &SweepResult, label: KeyLabel) -> BTreeMap<String, Reason> {
    let unjudged = result.unjudged.iter();
    unjudged
        .map(|(key, reason)| (label.of(key), *reason))
        .collect()
}

/// The keys that were passed over, by reason. `to_set` says what to set so that all APIs with limits can be asked.
pub(super) fn passed_over(
    result: &SweepResult,
    label: KeyLabel,
    to_set: Option<&str>,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (reason, skipped) in &result.skipped {
        let (times, example) = (skipped.times, label.of(&skipped.example));
        let expected = match reason {
            Reason::WrongType => "a sorted set under ratelimit:, a hash under ratelimit:limit:",
            Reason::InvalidLimit => "limit to be a whole number from 0 on",
            Reason::Resharding => "the keys on the servers that own their slots; they are moving",
            Reason::InvalidWindow => "window_ms to be a whole number from 1 on",
            Reason::NoLimit | Reason::NoWindow | Reason::LimitsUnread if to_set.is_some() => {
                to_set.unwrap_or_default()
            }
            Reason::NoLimit => {
                "a limit in a rule of the configuration, the name, or the limiter's settings or API (--ratelimiter.url)"
            }
            Reason::NoWindow => {
                "a window in a rule of the configuration, the name, or the limiter's settings or API (--ratelimiter.url)"
            }
            Reason::LimitsUnread => "their limits from the limiter's API",
            Reason::TooLarge => "no more entries than the exporter reads",
            Reason::Unreadable => "a pickle or JSON that is not compressed",
            Reason::NoDefaultLimit => {
                "a default limit from GET /api/limits, or one in the configuration"
            }
            Reason::Timeout
            | Reason::Deadline
            | Reason::Refused
            | Reason::Dns
            | Reason::Tls
            | Reason::Network
            | Reason::Truncated
            | Reason::HttpStatus
            | Reason::InvalidJson
            | Reason::InvalidMetrics
            | Reason::Loading
            | Reason::Oom
            | Reason::Readonly
            | Reason::Auth
            | Reason::Noperm
            | Reason::Masterdown
            | Reason::ReplicaStale
            | Reason::Busy
            | Reason::Clusterdown
            | Reason::RedisError
            | Reason::Budget
            | Reason::RedisDown
            | Reason::Unexpected => "a counter that Redis lets the exporter read",
        };
        let mut failure = Failure::new(
            Collector::Counters,
            &example,
            *reason,
            format!(
                "{times} keys skipped ({reason}), for example {example:?}: expected {expected}"
            ),
        );
        failure.times = times;
        failure.lacks = Some(skipped.lacks);
        failures.push(failure);
    }
    failures
}
