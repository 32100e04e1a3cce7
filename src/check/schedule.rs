//! Repeats collections until the schedule or a signal ends them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, MissedTickBehavior};

use crate::collect::Collect;
use crate::snapshot::Snapshot;
use crate::stop_signals::StopSignals;
use crate::subject::{InvariantChecker, Subject};

/// The longest time that one collection may take, however far apart they are.
pub(super) const MOST_TIME: Duration = Duration::from_secs(30);

/// The time that one collection may always take, however close they are.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// How often to collect, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time from one collection to the next.
    pub every: Duration,
    /// How long; `None` until a signal.
    pub length: Option<Duration>,
}

/// Calls `each` with every collection. SIGINT or SIGTERM ends it between two calls; a collection under way is
/// abandoned.
pub(super) async fn repeat<S: Subject + 'static, C: InvariantChecker + 'static>(
    collect: &Arc<Collect<S, C>>,
    schedule: Schedule,
    mut each: impl FnMut(&Snapshot) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    collect.glance_at_times();
    let repeating = async {
        let end = schedule.length.map(|length| Instant::now() + length);
        let mut ticks = tokio::time::interval(schedule.every);
        // A late collection is left out.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let tick = ticks.tick().await;
            if end.is_some_and(|end| tick >= end) {
                return Ok(());
            }
            let deadline = Instant::now() + schedule.every.clamp(LEAST_TIME, MOST_TIME);
            let snapshot = collect.snapshot(deadline).await;
            each(&*snapshot.context("the collection failed")?)?;
        }
    };
    tokio::select! {
        ended = repeating => ended,
        () = signals.recv() => Ok(()),
    }
}
