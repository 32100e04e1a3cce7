//! Continues the pass between two collections, for a moment, with the connections that the previous collection left.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::observe::counters::pass::{MOST_HELD, Pass};
use crate::observe::counters::reader::KeyReader;
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::sweep_result::{Lane, SweepResult};
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::router::Router;

/// How long the pass continues between collections, until it is compared with its schedule.
const BETWEEN_SLICE: Duration = Duration::from_millis(100);

/// The servers of a collection, with their connections.
pub(in crate::observe) struct Servers {
    pub(super) router: Router,
    /// One for each link of the router.
    pub(super) lanes: Vec<Lane>,
    /// Whether some servers are unknown.
    pub(super) alone: bool,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.router.fmt(f)
    }
}

/// The state that a collection leaves for continuing its pass.
#[derive(Debug)]
pub(in crate::observe) struct Between {
    pub(super) servers: Arc<Servers>,
    pub(super) dead: BTreeMap<usize, RedisFailure>,
    pub(super) sources: Vec<String>,
    /// Whether all servers report writes.
    pub(super) all_report: bool,
}

impl KeyReader {
    /// Continues the pass for a moment between two collections, or until `give_way`. A step that was interrupted several times in
    /// a row may be completed first. Returns whether there is more to do before the next collection.
    pub(in crate::observe) async fn go_on(
        &mut self,
        clock: &Clock,
        sink: &mut dyn CounterSink,
        give_way: impl Future<Output = ()> + Send,
    ) -> bool {
        if !self.is_due() {
            return false;
        }
        let Some(between) = self.between.take() else {
            return false;
        };
        if let Some(api) = self.api() {
            api.begin(clock.now().steady);
        }
        let mut result = SweepResult {
            failed: between.dead.clone(),
            sources: between.sources.clone(),
            ..SweepResult::default()
        };
        let at_once = self.pass.as_ref().is_none_or(Pass::gives_way);
        let give_way = async move {
            give_way.await;
            if !at_once {
                tokio::time::sleep(MOST_HELD).await;
            }
        };
        let stop = Instant::now() + BETWEEN_SLICE;
        let mut sweep = self.sweep_of(&between.servers, clock, sink);
        sweep.run(stop, pin!(give_way), &mut result).await;
        self.commands_total += result.commands;
        self.is_owed = false;
        self.passed(&mut result, between.all_report);
        if result.stopped.is_none() && !between.servers.alone {
            self.note_full_pass(clock);
        }
        let found = &mut self.found_between;
        found.node_ids.append(&mut result.node_ids);
        for (reason, skipped) in std::mem::take(&mut result.skipped) {
            skipped.add_to(&mut found.skipped, reason);
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
