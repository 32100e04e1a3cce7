//! The result of a sweep without the streamed counters, and the servers that it reads.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use redis::RedisError;
use redis::aio::MultiplexedConnection;

use crate::observation::{Failure, Lacks, Reason};
use crate::observe::counters::pace::Pacer;
use crate::observe::counters::totals::{Skipped, Totals};
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

/// The label of a counter that cannot be judged, why, and what it lacks.
pub(in crate::observe) type Unjudged = (Vec<u8>, Reason, Lacks);

/// The result of a sweep, without the streamed counters.
#[derive(Debug, Default)]
pub(in crate::observe) struct SweepResult {
    /// The ids of the registrations that SCAN returned.
    pub(in crate::observe) node_ids: Vec<Vec<u8>>,
    /// The keys that were passed over, by reason.
    pub(in crate::observe) skipped: BTreeMap<Reason, Skipped>,
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
        Skipped::new(key, Lacks::Nothing).add_to(&mut self.skipped, reason);
    }

    /// Notes counters that cannot be judged, each with its label: those of a pass, whose `totals` these are, or those that were
    /// read besides.
    pub(in crate::observe) fn cannot_judge<'a>(
        &mut self,
        unjudged: impl IntoIterator<Item = &'a Unjudged>,
        totals: Option<&mut Totals>,
    ) {
        let all = match totals {
            Some(totals) => &mut totals.unjudged,
            None => &mut self.skipped,
        };
        for (label, reason, lacks) in unjudged {
            Skipped::new(label, *lacks).add_to(all, *reason);
        }
    }

    /// Takes over the counters that `passes` could not judge. Passes and collections read the same counters, so nothing is added
    /// up: of each reason, the number is that of the pass or collection that found most.
    pub(in crate::observe) fn take_over<'a>(&mut self, passes: impl Iterator<Item = &'a Totals>) {
        let mut found: BTreeMap<Reason, Skipped> = BTreeMap::new();
        for (reason, skipped) in passes.flat_map(|totals| &totals.unjudged) {
            let most = found.entry(*reason).or_insert_with(|| skipped.clone());
            most.times = most.times.max(skipped.times);
            most.lacks = most.lacks.max(skipped.lacks);
        }
        for (reason, mut skipped) in found {
            if let Some(besides) = self.skipped.get(&reason) {
                skipped.times = skipped.times.max(besides.times);
                skipped.lacks = skipped.lacks.max(besides.lacks);
            }
            self.skipped.insert(reason, skipped);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_several_passes_and_a_collection_could_not_judge_count_once_and_the_worst_decides()
     {
        let unjudged = |lacks| (b"a".to_vec(), Reason::NoLimit, lacks);
        let mut result = SweepResult::default();
        let [mut last, mut current] = [Totals::default(), Totals::default()];
        let found = [Lacks::Nothing, Lacks::Limit, Lacks::Nothing].map(unjudged);
        result.cannot_judge(&found, Some(&mut last));
        result.cannot_judge(&found[..1], Some(&mut current));
        assert!(result.skipped.is_empty(), "they are the pass's");
        let mut lacking = |besides: &[Unjudged]| {
            result.skipped.clear();
            result.cannot_judge(besides, None);
            result.take_over([&last, &current].into_iter());
            let skipped = &result.skipped[&Reason::NoLimit];
            (skipped.times, skipped.lacks)
        };
        assert_eq!(lacking(&[]), (3, Lacks::Limit));
        let worse = unjudged(Lacks::Count);
        assert_eq!(lacking(&[worse.clone(), worse]), (3, Lacks::Count));
        result.skipped.clear();
        result.cannot_judge(&found, None);
        result.take_over([&current].into_iter());
        let skipped = &result.skipped[&Reason::NoLimit];
        assert_eq!((skipped.times, skipped.lacks), (3, Lacks::Limit));
    }
}
