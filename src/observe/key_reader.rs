//! The counters' line of a collection: waits for Redis's clock and the default limit, then sweeps.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connector::Connector;
use super::counters::{Pass, Sweep, SweepResult};
use super::deadline::Deadline;
use super::limits::{LimitMemory, LimitRule};
use super::redis::reason_of;
use crate::clock::Clock;
use crate::observation::{Collector, CountersRead, Failure, Limit, Reason, encode_key};
use crate::subject::CounterSink;

/// Reads counters and remembers limits.
#[derive(Debug)]
pub(super) struct KeyReader {
    pub(super) connector: Connector,
    pub(super) limits: LimitMemory,
    pub(super) rules: Vec<LimitRule>,
    pub(super) budget: Duration,
    /// The pass that goes on in the next collection.
    pub(super) pass: Option<Pass>,
    /// Commands sent since the start.
    pub(super) commands_total: u64,
    pub(super) last_full_pass: Option<Timestamp>,
}

/// What the line brought, besides the counters that it streamed.
#[derive(Debug)]
pub(super) struct KeysRead {
    pub(super) read: CountersRead,
    pub(super) failures: Vec<Failure>,
    /// Ids of the registrations that the sweep came across, escaped.
    pub(super) node_ids: Vec<String>,
    pub(super) coverage: Option<f64>,
    pub(super) seconds: f64,
}

impl KeyReader {
    pub(super) async fn run(
        &mut self,
        clock: &Clock,
        deadline: &Deadline,
        offset: oneshot::Receiver<SignedDuration>,
        default: oneshot::Receiver<Option<Limit>>,
        watched: Vec<Box<[u8]>>,
        sink: &mut dyn CounterSink,
    ) -> KeysRead {
        let started = Instant::now();
        let mut result = SweepResult {
            stopped: Some(Reason::Deadline),
            ..SweepResult::default()
        };
        let line = self.sweep(clock, offset, default, &watched, sink, &mut result);
        if deadline.cut(line).await.is_none() {
            // The connection may have an answer on the way that nobody waits for any more.
            self.connector.replace();
        }
        self.commands_total += result.commands;
        if result.stopped.is_none() {
            self.last_full_pass = Some(clock.now().wall);
        }
        let coverage = match &self.pass {
            None if result.stopped.is_none() => Some(1.0),
            pass => pass.as_ref().and_then(Pass::coverage),
        };
        KeysRead {
            node_ids: result.node_ids.iter().map(|id| encode_key(id)).collect(),
            failures: failures(&result),
            read: counters_read(&result),
            coverage,
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    async fn sweep(
        &mut self,
        clock: &Clock,
        offset: oneshot::Receiver<SignedDuration>,
        default: oneshot::Receiver<Option<Limit>>,
        watched: &[Box<[u8]>],
        sink: &mut dyn CounterSink,
        result: &mut SweepResult,
    ) {
        let Ok(clock_offset) = offset.await else {
            result.stopped = Some(Reason::RedisDown);
            return;
        };
        if let Ok(Some(limit)) = default.await {
            self.limits.set_default(limit, clock.now().steady);
        }
        let started = Instant::now();
        let connection = match self.connector.ping().await {
            Ok((connection, _)) => connection,
            Err(failure) => {
                result.stopped = Some(failure.reason);
                result.error = Some(failure.message);
                return;
            }
        };
        let mut sweep = Sweep {
            connection,
            clock,
            clock_offset,
            limits: &mut self.limits,
            rules: &self.rules,
            sink,
        };
        let swept = match sweep.recheck(watched, result).await {
            Ok(()) => {
                sweep
                    .run(started + self.budget, &mut self.pass, result)
                    .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            self.connector.note(&error);
            result.stopped = Some(reason_of(&error));
            result.error = Some(format!("SCAN and ZCOUNT: {error}"));
        }
    }
}

fn counters_read(result: &SweepResult) -> CountersRead {
    let partial = |reason| CountersRead::Partial {
        gone: result.gone.iter().map(|key| encode_key(key)).collect(),
        reason,
    };
    match result.stopped {
        Some(reason) if result.commands == 0 => CountersRead::Failed { reason },
        Some(reason) => partial(reason),
        None if result.skipped.contains_key(&Reason::NoDefaultLimit) => {
            partial(Reason::NoDefaultLimit)
        }
        None => CountersRead::Full,
    }
}

fn failures(result: &SweepResult) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (reason, (times, example)) in &result.skipped {
        let example = encode_key(example);
        let expected = match reason {
            Reason::WrongType => "a sorted set under ratelimit:, a hash under ratelimit:limit:",
            Reason::InvalidLimit => "limit to be a whole number from 0 on",
            Reason::InvalidWindow => "window_ms to be a whole number from 1 on",
            _ => "a default limit from GET /api/limits, or one in the configuration",
        };
        let mut failure = Failure::new(
            Collector::Counters,
            &example,
            *reason,
            format!(
                "{times} keys passed over ({reason}), key {example:?} among them: expected {expected}"
            ),
        );
        failure.times = *times;
        failures.push(failure);
    }
    match (result.stopped, &result.error) {
        // That Redis is down is told by PING; a budget that is used up is no failure.
        (None | Some(Reason::RedisDown | Reason::Budget), _) => {}
        (Some(reason), error) => {
            let message = error
                .clone()
                .unwrap_or_else(|| "the sweep of the counters was cut off".to_owned());
            failures.push(Failure::new(Collector::Counters, "", reason, message));
        }
    }
    failures
}
