//! The result of a sweep without the streamed counters, and the servers that it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use crate::observation::{Failure, Lacks, Reason};
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

/// This many counters that could not be judged are read again in the next collection. The others wait for the next pass.
const MOST_AGAIN: usize = 100;

/// Keys that were passed over for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Skipped {
    pub(in crate::observe) times: u64,
    pub(in crate::observe) example: Vec<u8>,
    /// What is unknown about at least one of them; `Nothing` if none of them is a counter to judge.
    pub(in crate::observe) lacks: Lacks,
}

impl Skipped {
    /// Adds them to those that were passed over for the same reason.
    pub(in crate::observe) fn add_to(self, all: &mut BTreeMap<Reason, Self>, reason: Reason) {
        match all.get_mut(&reason) {
            Some(skipped) => {
                skipped.times += self.times;
                skipped.lacks = skipped.lacks.max(self.lacks);
            }
            None => {
                all.insert(reason, self);
            }
        }
    }
}

/// The result of a sweep, without the streamed counters.
#[derive(Debug, Default)]
pub(in crate::observe) struct SweepResult {
    /// The ids of the registrations that SCAN returned.
    pub(in crate::observe) node_ids: Vec<Vec<u8>>,
    /// The keys that were passed over, by reason.
    pub(in crate::observe) skipped: BTreeMap<Reason, Skipped>,
    /// The names of counters that could not be judged and are read again in the next collection.
    pub(in crate::observe) again: BTreeSet<Vec<u8>>,
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
        self.skip_lacking(reason, key, Lacks::Nothing);
    }

    fn skip_lacking(&mut self, reason: Reason, key: &[u8], lacks: Lacks) {
        let skipped = Skipped {
            times: 1,
            example: key.to_vec(),
            lacks,
        };
        skipped.add_to(&mut self.skipped, reason);
    }

    /// Notes that the counter `name`, which is shown as `label`, cannot be judged because of what it `lacks`.
    pub(in crate::observe) fn cannot_judge(
        &mut self,
        (name, label): (&[u8], &[u8]),
        reason: Reason,
        lacks: Lacks,
    ) {
        self.skip_lacking(reason, label, lacks);
        if self.again.len() < MOST_AGAIN {
            self.again.insert(name.to_vec());
        }
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
