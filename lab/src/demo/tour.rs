//! The tour: faults in an order in which each is seen and recovered from, and the record of that.
//!
//! A step ends when its effect is seen on `/metrics`, or when it has taken too long; the tour then
//! goes on, and the record tells. Slow checks run beside everything else, because their grace and
//! the window of their percentile take a minute each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex as SyncMutex;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::cluster::Cluster;
use super::control::{self, Fault};
use super::screen::Screen;
use super::view::View;

/// The invariants of the exporter, in the order in which the tour shows them.
const INVARIANTS: [&str; 5] = [
    "node_down",
    "redis_disconnected",
    "ghost_allowing",
    "counter_drift",
    "high_latency",
];

/// How long the exporter may take to see what it sees at once: a few scrapes, some of them slow.
const SOON: Duration = Duration::from_secs(20);

/// The grace period of `counter_drift` is 30 s.
const DRIFT: Duration = Duration::from_secs(50);

/// The grace period of `high_latency` is 60 s, and so is the window of the percentile.
const LATENCY: Duration = Duration::from_secs(90);

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
    screen: &'a Screen,
    dir: PathBuf,
}

impl<'a> Tour<'a> {
    pub(super) fn new(
        cluster: &'a Mutex<Cluster>,
        view: watch::Receiver<View>,
        screen: &'a Screen,
        dir: PathBuf,
    ) -> Self {
        Self {
            cluster,
            view,
            screen,
            dir,
        }
    }

    pub(super) async fn run(&self) {
        self.until("nothing is violated", SOON, View::is_quiet)
            .await;
        tokio::join!(self.latency(), self.others());
    }

    async fn latency(&self) {
        let slow = |ms| Fault::SlowChecks {
            id: SLOW_NODE.to_owned(),
            ms,
        };
        self.act(slow(SLOW_MS)).await;
        self.until_violated("high_latency", LATENCY).await;
        self.act(slow(0)).await;
        self.until_holds("high_latency", LATENCY).await;
    }

    async fn others(&self) {
        let id = || KILLED_NODE.to_owned();
        self.act(Fault::KillNode { id: id() }).await;
        self.until_violated("node_down", SOON).await;
        self.act(Fault::StartNode { id: id() }).await;
        self.until_holds("node_down", SOON).await;

        self.act(Fault::PauseRedis).await;
        self.until_violated("redis_disconnected", SOON).await;
        self.act(Fault::ResumeRedis).await;
        self.until_holds("redis_disconnected", SOON).await;

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

    async fn act(&self, fault: Fault) {
        match control::act(self.cluster, &self.dir, fault).await {
            Ok(done) => self.screen.say(format!("        {done}")),
            Err(error) => self.screen.say(format!("        failed: {error:#}")),
        }
    }

    async fn until_violated(&self, name: &str, patience: Duration) {
        let what = format!("{name} is violated");
        self.until(&what, patience, |view| view.is_violated(name))
            .await;
    }

    async fn until_holds(&self, name: &str, patience: Duration) {
        let what = format!("{name} holds again");
        let holds = |view: &View| view.is_read() && !view.is_violated(name);
        self.until(&what, patience, holds).await;
    }

    async fn until(&self, what: &str, patience: Duration, condition: impl Fn(&View) -> bool) {
        let mut view = self.view.clone();
        let seen = view.wait_for(|view| condition(view));
        if tokio::time::timeout(patience, seen).await.is_err() {
            let seconds = patience.as_secs();
            self.screen.say(format!(
                "        going on after waiting {seconds} s until {what}"
            ));
        }
    }
}

/// When each invariant was first seen violated, and when it first held again after that.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    seen: BTreeMap<&'static str, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    violated: Duration,
    holds_again: Option<Duration>,
}

impl Record {
    pub(super) fn update(record: &SyncMutex<Self>, view: &View, elapsed: Duration) {
        if let Ok(mut record) = record.lock() {
            record.note(view, elapsed);
        }
    }

    pub(super) fn of(record: &SyncMutex<Self>) -> Self {
        record
            .lock()
            .map(|record| record.clone())
            .unwrap_or_default()
    }

    fn note(&mut self, view: &View, elapsed: Duration) {
        for name in INVARIANTS {
            if view.is_violated(name) {
                self.seen.entry(name).or_insert(Seen {
                    violated: elapsed,
                    holds_again: None,
                });
            } else if let Some(seen) = self.seen.get_mut(name) {
                seen.holds_again.get_or_insert(elapsed);
            }
        }
    }

    /// Every invariant was violated once, and held again.
    pub(super) fn is_complete(&self) -> bool {
        let complete = |name| self.seen.get(name).is_some_and(|s| s.holds_again.is_some());
        INVARIANTS.iter().all(complete)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, violated, again) = ("invariant", "first at 1", "back at 0");
        writeln!(f, "{name:<20} {violated:>12} {again:>12}")?;
        let show = |time: Option<Duration>| {
            time.map_or_else(
                || "never".to_owned(),
                |time| format!("{} s", time.as_secs()),
            )
        };
        for name in INVARIANTS {
            let seen = self.seen.get(name);
            let violated = show(seen.map(|seen| seen.violated));
            let again = show(seen.and_then(|seen| seen.holds_again));
            writeln!(f, "{name:<20} {violated:>12} {again:>12}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(violated: &[&str]) -> View {
        let line =
            |name: &&str| format!("invariant_violation{{name=\"{name}\",subject=\"x\"}} 1\n");
        View::parse(&violated.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn the_record_is_complete_once_everything_failed_and_recovered() {
        let mut record = Record::default();
        record.note(&view(&[]), Duration::from_secs(1));
        assert!(!record.is_complete());
        record.note(&view(&INVARIANTS), Duration::from_secs(2));
        assert!(!record.is_complete());
        record.note(&view(&["high_latency"]), Duration::from_secs(4));
        assert!(!record.is_complete());
        record.note(&view(&[]), Duration::from_secs(6));
        assert!(record.is_complete());
        let table = record.to_string();
        assert!(
            table.contains("node_down                     2 s          4 s"),
            "{table}"
        );
        assert!(
            table.contains("high_latency                  2 s          6 s"),
            "{table}"
        );
    }
}
