//! The tour: faults in an order in which each is seen and recovered from.
//!
//! A step ends when its effect is seen on `/metrics`, and on the pager where there is one, or when
//! it has taken too long; the tour then goes on, and the record tells. Faults that do not hide each
//! other run side by side, because grace periods and pagers take their minute. Without Redis
//! nothing else can be seen: that fault comes last.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::cluster::Cluster;
use super::control::{self, Fault};
use super::record::{ENDS_SOON, Record};
use super::screen::Screen;
use super::view::View;
use crate::webhook::Status;

/// How long the exporter may take to see what it sees at once: a few scrapes, some of them slow.
const SOON: Duration = Duration::from_secs(20);

/// The grace period of `counter_drift` is 30 s.
const DRIFT: Duration = Duration::from_secs(50);

/// The grace period of `high_latency` is 60 s, and so is the window of the percentile.
const LATENCY: Duration = Duration::from_secs(90);

/// From the moment an invariant is seen violated to its page: `for`, `group_wait`, a scrape and an
/// evaluation are 65 s at the most.
const PAGE: Duration = Duration::from_secs(90);

/// The end of a page is told with the next `group_interval`, of a minute, after a scrape and an evaluation.
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
    view: watch::Receiver<View>,
    pages: Option<watch::Receiver<Record>>,
    screen: &'a Screen,
    dir: PathBuf,
}

impl<'a> Tour<'a> {
    pub(super) fn new(
        cluster: &'a Mutex<Cluster>,
        view: watch::Receiver<View>,
        pages: Option<watch::Receiver<Record>>,
        screen: &'a Screen,
        dir: PathBuf,
    ) -> Self {
        Self {
            cluster,
            view,
            pages,
            screen,
            dir,
        }
    }

    pub(super) async fn run(&self) {
        self.until("nothing is violated", SOON, View::is_quiet)
            .await;
        tokio::join!(self.slow_node(), self.dead_node(), self.over_limit());
        // The percentile covers a minute, which is long enough for Redis.
        tokio::join!(self.until_holds("high_latency", LATENCY), self.redis());
        for name in ENDS_SOON {
            self.until_paged(name, Status::Resolved, END_OF_PAGE).await;
        }
    }

    async fn slow_node(&self) {
        let slow = |ms| Fault::SlowChecks {
            id: SLOW_NODE.to_owned(),
            ms,
        };
        self.act(slow(SLOW_MS)).await;
        self.until_violated("high_latency", LATENCY).await;
        self.act(slow(0)).await;
    }

    async fn dead_node(&self) {
        let id = || KILLED_NODE.to_owned();
        self.act(Fault::KillNode { id: id() }).await;
        self.until_violated("node_down", SOON).await;
        self.act(Fault::StartNode { id: id() }).await;
        self.until_holds("node_down", SOON).await;
    }

    async fn over_limit(&self) {
        let key = || OVER_KEY.to_owned();
        self.act(Fault::OverLimit {
            key: key(),
            percent: OVER_PERCENT,
        })
        .await;
        self.until_violated("ghost_allowing", SOON).await;
        self.until_violated("counter_drift", DRIFT).await;
        self.act(Fault::ClearOverLimit { key: key() }).await;
        self.until_holds("ghost_allowing", SOON).await;
        self.until_holds("counter_drift", SOON).await;
    }

    /// Stopped, not paused: checks that wait for a Redis that hangs are slow checks, and rightly
    /// `high_latency` a minute later.
    async fn redis(&self) {
        self.act(Fault::StopRedis).await;
        self.until_violated("redis_disconnected", SOON).await;
        self.act(Fault::StartRedis).await;
        self.until_holds("redis_disconnected", SOON).await;
    }

    async fn act(&self, fault: Fault) {
        match control::act(self.cluster, &self.dir, fault).await {
            Ok(done) => self.screen.say(format!("        {done}")),
            Err(error) => self.screen.say(format!("        failed: {error:#}")),
        }
    }

    /// Seen on `/metrics`, and then by whoever is told.
    async fn until_violated(&self, name: &str, patience: Duration) {
        let what = format!("{name} is violated");
        self.until(&what, patience, |view| view.is_violated(name))
            .await;
        self.until_paged(name, Status::Firing, PAGE).await;
    }

    /// Until somebody was told so, where there is anybody.
    async fn until_paged(&self, name: &str, status: Status, patience: Duration) {
        let Some(mut pages) = self.pages.clone() else {
            return;
        };
        let told = pages.wait_for(|record| record.was_told(name, status));
        let told = tokio::time::timeout(patience, told).await.is_ok();
        self.go_on(told, &format!("{name} is told ({status:?})"), patience);
    }

    async fn until_holds(&self, name: &str, patience: Duration) {
        let what = format!("{name} holds again");
        let holds = |view: &View| view.is_read() && !view.is_violated(name);
        self.until(&what, patience, holds).await;
    }

    async fn until(&self, what: &str, patience: Duration, condition: impl Fn(&View) -> bool) {
        let mut view = self.view.clone();
        let seen = view.wait_for(|view| condition(view));
        let seen = tokio::time::timeout(patience, seen).await.is_ok();
        self.go_on(seen, what, patience);
    }

    fn go_on(&self, happened: bool, what: &str, patience: Duration) {
        if !happened {
            let seconds = patience.as_secs();
            self.screen.say(format!(
                "        going on after waiting {seconds} s until {what}"
            ));
        }
    }
}
