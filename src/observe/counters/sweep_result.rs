//! The result of a sweep, without the counters that it streams, and the servers that it reads.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use crate::observation::{Failure, Reason};
use crate::observe::counters::pace::Pacer;
use crate::observe::redis::errors::RedisFailure;

/// One server: what is scanned there is counted there.
pub(in crate::observe) struct Lane {
    /// `None` if the server cannot be read.
    pub(in crate::observe) scanner: Option<MultiplexedConnection>,
    /// The server's clock minus ours.
    pub(in crate::observe) clock_offset: SignedDuration,
    /// What it may take of the server's time.
    pub(in crate::observe) pacer: Pacer,
}

/// The result of a sweep, without the counters that it streamed.
#[derive(Debug, Default)]
pub(in crate::observe) struct SweepResult {
    /// The ids of the registrations that it came across.
    pub(in crate::observe) node_ids: Vec<Vec<u8>>,
    /// Keys that were passed over, by reason, with one of them as an example.
    pub(in crate::observe) skipped: BTreeMap<Reason, (u64, Vec<u8>)>,
    /// Watched keys that do not exist any more.
    pub(in crate::observe) gone: Vec<Box<[u8]>>,
    /// Watched keys that cannot be judged, and why.
    pub(in crate::observe) unjudged: Vec<(Vec<u8>, Reason)>,
    /// Not all watched keys had their turn.
    pub(in crate::observe) postponed: bool,
    /// Commands sent.
    pub(in crate::observe) commands: u64,
    /// What the pass took of Redis's time.
    pub(in crate::observe) pass_took: Duration,
    /// Keys of any kind that the pass walked by, if it ended.
    pub(in crate::observe) pass_scanned: u64,
    /// How far the pass came, if it did not end.
    pub(in crate::observe) coverage: Option<f64>,
    /// Why it stopped early; `None` after a full pass.
    pub(in crate::observe) stopped: Option<Reason>,
    /// The servers that could not be read, or not to the end, by their place, and why.
    pub(in crate::observe) failed: BTreeMap<usize, RedisFailure>,
    /// Which server is read, by its place.
    pub(in crate::observe) sources: Vec<String>,
    /// There are counters at servers that are not known, and why those are not.
    pub(in crate::observe) alone: Option<RedisFailure>,
    /// What is missing and optional, by server: it makes no collection fail.
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
