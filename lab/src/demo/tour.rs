//! The tour: faults in an order in which each is seen and recovered from.
//!
//! A step ends when its effect is seen, or when it has taken too long. Faults that do not hide each
//! other run side by side, because grace periods and pagers take their minute. Without Redis
//! nothing else can be seen: that fault comes last.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Mutex;

use super::cluster::Cluster;
use super::control::{self, DemoCommand};
use super::record::ENDS_SOON;
use super::seen::Seen;
use super::view::View;
use crate::webhook::Status;

/// How long the exporter may take to see what it sees at once: a few scrapes, some of them slow.
const SOON: Duration = Duration::from_secs(20);

/// The grace period of `counter_drift` is 30 s.
const DRIFT: Duration = Duration::from_secs(50);

/// The grace period of `high_latency` is 60 s, and so is the window of the percentile.
const LATENCY: Duration = Duration::from_secs(90);

/// Alertmanager sends the end of a page with the next `group_interval`, of a minute, after a scrape and an evaluation.
const END_OF_PAGE: Duration = Duration::from_secs(100);

/// Well above the 50 ms at which the invariant is violated, well below the client's timeout.
const SLOW_MS: u64 = 120;

const KILLED_NODE: &str = "node-3";
const SLOW_NODE: &str = "node-2";
const OVER_KEY: &str = "user:7";

/// Over the limit by more than `counter_drift` tolerates, which is 10 %.
const OVER_PERCENT: u32 = 15;

pub(super) struct Tour<'a> {
    cluster: &'a Mutex<Cluster>,
    seen: Seen<'a>,
    dir: PathBuf,
}

impl<'a> Tour<'a> {
    pub(super) fn new(cluster: &'a Mutex<Cluster>, seen: Seen<'a>, dir: PathBuf) -> Self {
        Self { cluster, seen, dir }
    }

    pub(super) async fn run(&self) {
        self.seen
            .until("nothing is violated", SOON, View::is_quiet)
            .await;
        tokio::join!(self.slow_node(), self.dead_node(), self.over_limit());
        // The percentile covers a minute, which is long enough for Redis.
        tokio::join!(self.seen.until_holds("high_latency", LATENCY), self.redis());
        for name in ENDS_SOON {
            self.seen
                .until_paged(name, Status::Resolved, END_OF_PAGE)
                .await;
        }
    }

    async fn slow_node(&self) {
        let slow = |ms| DemoCommand::SlowChecks {
            id: SLOW_NODE.to_owned(),
            ms,
        };
        self.act(slow(SLOW_MS)).await;
        self.seen.until_violated("high_latency", LATENCY).await;
        self.act(slow(0)).await;
    }

    async fn dead_node(&self) {
        let id = || KILLED_NODE.to_owned();
        self.act(DemoCommand::KillNode { id: id() }).await;
        self.seen.until_violated("node_down", SOON).await;
        self.act(DemoCommand::StartNode { id: id() }).await;
        self.seen.until_holds("node_down", SOON).await;
    }

    async fn over_limit(&self) {
        let key = || OVER_KEY.to_owned();
        self.act(DemoCommand::OverLimit {
            key: key(),
            percent: OVER_PERCENT,
        })
        .await;
        self.seen.until_violated("ghost_allowing", SOON).await;
        self.seen.until_violated("counter_drift", DRIFT).await;
        self.act(DemoCommand::ClearOverLimit { key: key() }).await;
        self.seen.until_holds("ghost_allowing", SOON).await;
        self.seen.until_holds("counter_drift", SOON).await;
    }

    /// Stopped, not paused: checks that wait for a Redis that hangs are slow checks, and rightly
    /// `high_latency` a minute later.
    async fn redis(&self) {
        self.act(DemoCommand::StopRedis).await;
        self.seen.until_violated("redis_disconnected", SOON).await;
        self.act(DemoCommand::StartRedis).await;
        self.seen.until_holds("redis_disconnected", SOON).await;
    }

    async fn act(&self, command: DemoCommand) {
        match control::act(self.cluster, &self.dir, command).await {
            Ok(done) => self.seen.screen.say(format!("        {done}")),
            Err(error) => self.seen.screen.say(format!("        failed: {error:#}")),
        }
    }
}
