//! The result of a sweep without the streamed counters, and the servers that it reads.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use crate::observation::{Failure, Reason};
use crate::observe::counters::pace::Pacer;
use crate::observe::redis::errors::RedisFailure;

/// One server: keys that are scanned there are counted there.
pub(in crate::observe) struct Lane {
    /// `None` if the server cannot be read.
    pub(in crate::observe) scanner: Option<MultiplexedConnection>,
    /// The server's clock minus the exporter's.
    pub(in crate::observe) clock_offset: SignedDuration,
    /// Limits the share of the server's time.
    pub(in crate::observe) pacer: Pacer,
}

/// The result of a sweep, without the streamed counters.
#[derive(Debug, Default)]
pub(in crate::observe) struct SweepResult {
    /// The ids of the registrations that SCAN returned.
    pub(in crate::observe) node_ids: Vec<Vec<u8>>,
    /// The number of keys that were passed over, by reason, with one of them as an example.
    pub(in crate::observe) skipped: BTreeMap<Reason, (u64, Vec<u8>)>,
    /// Watched keys that no longer exist.
    pub(in crate::observe) gone: Vec<Box<[u8]>>,
    /// Watched keys that cannot be judged, and why.
    pub(in crate::observe) unjudged: Vec<(Vec<u8>, Reason)>,
    /// Whether some watched keys were not read.
    pub(in crate::observe) postponed: bool,
    /// Commands sent.
    pub(in crate::observe) commands: u64,
    /// How much of Redis's time the pass took.
    pub(in crate::observe) pass_took: Duration,
    /// How many keys of any kind the pass walked over, if it ended.
    pub(in crate::observe) pass_scanned: u64,
    /// The share of the key space that the pass has covered, if it did not end.
    pub(in crate::observe) coverage: Option<f64>,
    /// Why the sweep stopped early. `None` after a full pass.
    pub(in crate::observe) stopped: Option<Reason>,
    /// Why servers could not be read, or not completely, by their index.
    pub(in crate::observe) failed: BTreeMap<usize, RedisFailure>,
    /// The address of each server that is read, by its index.
    pub(in crate::observe) sources: Vec<String>,
    /// Why servers with counters are unknown, if some are.
    pub(in crate::observe) alone: Option<RedisFailure>,
    /// Failures of optional commands, by server. No collection fails because of them.
    pub(in crate::observe) missing: Vec<(String, RedisFailure)>,
    /// APIs with limits that could not be read.
    pub(in crate::observe) api: Vec<Failure>,
}

impl SweepResult {
    pub(in crate::observe) fn source(&self, lane: usize) -> &str {
        self.sources.get(lane).map_or("", String::as_str)
    }

    pub(in crate::observe) fn skip(&mut self, reason: Reason, key: &[u8]) {
        self.skipped
            .entry(reason)
            .or_insert_with(|| (0, key.to_vec()))
            .0 += 1;
    }
}

/// Notes that a server cannot be read any further in this collection.
pub(in crate::observe) fn fail(lane: usize, error: &RedisError, result: &mut SweepResult) {
    let what = format!("SCAN and ZCOUNT {}", result.source(lane));
    result
        .failed
        .entry(lane)
        .or_insert_with(|| RedisFailure::of(&what, error));
}
