//! Looks at a limiter again and again, at a steady pace, until the time is up or somebody says stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use crate::collect::Collect;
use crate::snapshot::Snapshot;
use crate::subject::{InvariantChecker, Subject};

/// What one collection may take, however far apart they are.
pub(super) const MOST_TIME: Duration = Duration::from_secs(30);

/// What one collection gets, however close they are.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// How often to look, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From one look to the next.
    pub every: Duration,
    /// How long; until it is stopped if `None`.
    pub length: Option<Duration>,
}

/// Calls `each` with every collection. SIGINT or SIGTERM ends it between two calls; a collection under way is given up.
pub(super) async fn look<S: Subject + 'static, C: InvariantChecker + 'static>(
    collect: &Arc<Collect<S, C>>,
    pace: Schedule,
    mut each: impl FnMut(&Snapshot) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let looking = async {
        let end = pace.length.map(|length| Instant::now() + length);
        let mut ticks = tokio::time::interval(pace.every);
        // Late looks are left out, not made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let tick = ticks.tick().await;
            if end.is_some_and(|end| tick >= end) {
                return Ok(());
            }
            let deadline = Instant::now() + pace.every.clamp(LEAST_TIME, MOST_TIME);
            let snapshot = collect.snapshot(deadline).await;
            each(&*snapshot.context("the collection failed")?)?;
        }
    };
    tokio::select! {
        ended = looking => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = collect.glance_at_times() => Ok(()),
    }
}
