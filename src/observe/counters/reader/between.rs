//! The pass between two collections: goes on for a moment with the servers as the collection before left them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::observe::counters::reader::KeyReader;
use crate::observe::counters::shard_reader::ShardReader;
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep::Sweep;
use crate::observe::counters::sweep_result::{Lane, SweepResult};
use crate::observe::counters::totals::Sample;
use crate::observe::redis::errors::{RedisFailure, not_connected};
use crate::observe::redis::router::{Link, Router, Slots};

/// How long the pass goes on between collections before others have their turn: a collection is kept waiting for as long.
const BETWEEN_SLICE: Duration = Duration::from_millis(100);

/// The servers as a collection left them.
#[derive(Debug)]
pub(in crate::observe) struct Between {
    pub(super) clock_offsets: Vec<SignedDuration>,
    pub(super) dead: BTreeMap<usize, RedisFailure>,
    pub(super) sources: Vec<String>,
    pub(super) slots: Option<Slots>,
    pub(super) alone: bool,
    /// All servers tell what is written.
    pub(super) told: bool,
}

impl KeyReader {
    /// Goes on with the pass for a moment between two collections. Returns whether there is more to do before the next.
    pub(in crate::observe) async fn go_on(
        &mut self,
        clock: &Clock,
        sink: &mut dyn CounterSink,
    ) -> bool {
        if !self.is_due() {
            return false;
        }
        let Some(between) = self.between.take() else {
            return false;
        };
        let mut result = SweepResult {
            failed: between.dead.clone(),
            sources: between.sources.clone(),
            ..SweepResult::default()
        };
        let (mut links, mut lanes) = (Vec::new(), Vec::new());
        for (place, shard) in self.shards.iter().enumerate() {
            let reader = self.readers.get(&shard.primary);
            let reader = reader.filter(|_| !between.dead.contains_key(&place));
            let (scanner, connection) = reader.and_then(ShardReader::current).unzip();
            if scanner.is_none() && !between.dead.contains_key(&place) {
                return false;
            }
            links.push(Link {
                primary: shard.primary.clone(),
                connection: connection.ok_or_else(not_connected),
            });
            lanes.push(Lane {
                scanner,
                clock_offset: between.clock_offsets[place],
                pacer: self.shares.pacer(&between.sources[place], self.share),
            });
        }
        let mut sweep = Sweep {
            router: Router::new(links, between.slots.clone()),
            lanes,
            clock,
            memory: &mut self.memory,
            sample: Sample::new(self.collections),
            sink,
            alone: between.alone,
        };
        let stop = Instant::now() + BETWEEN_SLICE;
        sweep.run(stop, &mut self.pass, &mut result).await;
        self.commands_total += result.commands;
        self.passed(&mut result, between.told);
        if result.stopped.is_none() && !between.alone {
            self.last_full_pass = Some(clock.now().wall);
        }
        let found = &mut self.found_between;
        found.node_ids.append(&mut result.node_ids);
        for (reason, (times, example)) in std::mem::take(&mut result.skipped) {
            found.skipped.entry(reason).or_insert((0, example)).0 += times;
        }
        if result.failed.len() > between.dead.len() {
            self.replace_failed(&result);
            self.begin_anew();
            return false;
        }
        self.between = Some(between);
        self.is_due()
    }
}
