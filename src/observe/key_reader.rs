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
use super::tracker::{Changes, Tracker};
use crate::clock::Clock;
use crate::observation::{Collector, CountersRead, Failure, KeyLabel, Limit, Reason, encode_key};
use crate::subject::CounterSink;

/// In the steady state a pass is spread over this many collections.
const SLICES: u32 = 10;

/// The least that a collection spends on the pass: small key spaces are passed whole.
const LEAST_SLICE: Duration = Duration::from_millis(50);

/// When more than one in this many of all keys was written, a whole pass costs little more and tells all.
const STORM: u64 = 4;

/// Reads counters and remembers limits.
#[derive(Debug)]
pub(super) struct KeyReader {
    pub(super) tracker: Tracker,
    pub(super) scanner: Connector,
    pub(super) connector: Connector,
    pub(super) limits: LimitMemory,
    pub(super) rules: Vec<LimitRule>,
    pub(super) budget: Duration,
    pub(super) label: KeyLabel,
    /// The pass that goes on in the next collection.
    pub(super) pass: Option<Pass>,
    /// What the pass under way has taken so far.
    pub(super) pass_took: Duration,
    /// A full pass is behind us, and every write since is known.
    pub(super) steady: Option<Steady>,
    /// Commands sent since the start.
    pub(super) commands_total: u64,
    pub(super) last_full_pass: Option<Timestamp>,
}

/// What the last full pass took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    took: Duration,
    /// Keys of any kind that it looked at.
    scanned: u64,
}

/// What the line waits for, and the keys to look at in any case.
#[derive(Debug)]
pub(super) struct Needs {
    /// Redis's clock minus ours; it is never sent if Redis does not answer.
    pub(super) offset: oneshot::Receiver<SignedDuration>,
    /// The default limit, or that it could not be read.
    pub(super) default: oneshot::Receiver<Option<Limit>>,
    pub(super) watched: Vec<Box<[u8]>>,
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
        needs: Needs,
        sink: &mut dyn CounterSink,
    ) -> KeysRead {
        let started = Instant::now();
        let mut result = SweepResult {
            stopped: Some(Reason::Deadline),
            ..SweepResult::default()
        };
        let line = self.sweep(clock, deadline, needs, sink, &mut result);
        let cut_off = deadline.cut(line).await.is_none();
        if cut_off {
            // The connections may have answers on the way that nobody waits for any more.
            self.scanner.replace();
            self.connector.replace();
        }
        if cut_off || result.error.is_some() {
            // What was written was perhaps told and not looked at.
            self.begin_anew();
        }
        self.commands_total += result.commands;
        if result.stopped.is_none() {
            self.last_full_pass = Some(clock.now().wall);
        }
        if self.steady.is_some() && result.stopped == Some(Reason::Budget) {
            // The rest of the pass is for the next collections: what was written was looked at.
            result.stopped = None;
        }
        let coverage = match &self.pass {
            _ if result.stopped.is_none() => Some(1.0),
            pass => pass.as_ref().and_then(Pass::coverage),
        };
        KeysRead {
            node_ids: result.node_ids.iter().map(|id| encode_key(id)).collect(),
            failures: failures(&result, self.label),
            read: counters_read(&result),
            coverage,
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    /// Nothing that was seen before counts any more: the next pass looks at every key.
    fn begin_anew(&mut self) {
        self.pass = None;
        self.pass_took = Duration::ZERO;
        self.steady = None;
    }

    async fn sweep(
        &mut self,
        clock: &Clock,
        deadline: &Deadline,
        needs: Needs,
        sink: &mut dyn CounterSink,
        result: &mut SweepResult,
    ) {
        let offset = needs.offset.await;
        // Before giving up on Redis: the API may be gone by the time that Redis returns.
        if let Ok(Some(limit)) = needs.default.await
            && self.limits.set_default(limit, clock.now().steady)
        {
            // Keys that nobody wrote to may be above it now.
            self.begin_anew();
        }
        let Ok(clock_offset) = offset else {
            result.stopped = Some(Reason::RedisDown);
            return;
        };
        // Inside the deadline, so that a pass can be laid aside whole rather than be cut off and void.
        let margin = deadline.left() / 10;
        let stop = Instant::now() + self.budget.min(deadline.left().saturating_sub(margin));
        let pings = tokio::try_join!(self.scanner.ping(), self.connector.ping());
        let (scanner, connection) = match pings {
            Ok(((scanner, _), (connection, _))) => (scanner, connection),
            Err(failure) => {
                result.stopped = Some(failure.reason);
                result.error = Some(failure.message);
                return;
            }
        };
        let (listening, written) = match self.tracker.changes().await {
            Changes::Names(names) => {
                let many = |steady: Steady| names.len() as u64 > steady.scanned / STORM;
                if self.steady.is_some_and(many) {
                    self.begin_anew();
                }
                (true, names)
            }
            Changes::Unknown => {
                self.begin_anew();
                (true, Vec::new())
            }
            Changes::Untold => {
                if self.steady.is_some() {
                    // The pass under way relied on being told.
                    self.begin_anew();
                }
                (false, Vec::new())
            }
        };
        let mut sweep = Sweep {
            scanner,
            connection,
            clock,
            clock_offset,
            limits: &mut self.limits,
            rules: &self.rules,
            sink,
        };
        let slice = match self.steady {
            Some(last) => stop.min(Instant::now() + (last.took / SLICES).max(LEAST_SLICE)),
            None => stop,
        };
        let begun = Instant::now();
        let swept = async {
            sweep.recheck(&needs.watched, result).await?;
            sweep.look_at(written, result).await?;
            sweep.run(slice, &mut self.pass, result).await
        };
        let swept = swept.await;
        self.pass_took += begun.elapsed();
        if swept.is_ok() && result.stopped.is_none() {
            self.steady = listening.then_some(Steady {
                took: self.pass_took,
                scanned: result.pass_scanned,
            });
            self.pass_took = Duration::ZERO;
        }
        if let Err(error) = swept {
            self.scanner.note(&error);
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

fn failures(result: &SweepResult, label: KeyLabel) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (reason, (times, example)) in &result.skipped {
        let example = label.of(example);
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
