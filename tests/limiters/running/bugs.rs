//! Bugs in released libraries: each is reproduced with the library itself, and the exporter must show it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use crate::app::Outcome;
use crate::applications::{APPLICATIONS, Application};
use crate::course::Bench;
use crate::expect::Expect;
use crate::table::Row;

/// The grace period of `invalid_counter`.
const GRACE: Duration = Duration::from_secs(60);

/// A scrape must show the bug within this time: the exporter scans all keys in each scrape.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// The time between two scrapes.
const SCRAPE_EVERY: Duration = Duration::from_millis(500);

/// A bug, and how the exporter shows it.
#[derive(Debug)]
pub(crate) struct Bug {
    /// What is wrong.
    pub(crate) what: &'static str,
    /// The file of the application with the bug.
    pub(crate) file: &'static str,
    /// The endpoint that triggers the bug.
    path: &'static str,
    shows: Shows,
}

/// How the exporter shows a bug.
#[derive(Debug)]
enum Shows {
    /// One request leaves a key of this counter without expiry.
    KeysWithoutExpiry(&'static str),
    /// One request leaves an invalid state under this label.
    Invalid(&'static str),
    /// The requests of these clients are counted together under this label.
    Together(&'static [(&'static str, u32)], &'static str),
}

/// bull, whose queue is not part of the course: `bullmq.js` covers its kind.
const BULL: Application = Application {
    file: "bull.js",
    packages: &["bull"],
    kind: "bullmq",
    limit_is_configured: true,
    strategies: &[],
};

/// All bugs.
pub(crate) const BUGS: &[Bug] = &[
    Bug {
        what: "the leaking bucket of a client that asks once never expires",
        file: "throttled-py.py",
        path: "leaking-bucket",
        shows: Shows::KeysWithoutExpiry("leaking-bucket"),
    },
    Bug {
        what: "keys of cachedFixedWindow never expire",
        file: "upstash.js",
        path: "cached-fixed-window",
        shows: Shows::KeysWithoutExpiry("fixed-window"),
    },
    Bug {
        what: "a request that is taken back after its window leaves -1",
        file: "express-rate-limit.js",
        path: "late-decrement",
        shows: Shows::Invalid("once"),
    },
    Bug {
        what: "groups are what follows the last colon of a key",
        file: "bull.js",
        path: "group",
        shows: Shows::Together(&[("user:1", 3), ("2001:db8::1", 2)], "mail 1"),
    },
];

impl Bug {
    /// The application with the bug.
    pub(crate) fn application(&self) -> &'static Application {
        let mut all = APPLICATIONS.iter().chain([&BULL]);
        all.find(|one| one.file == self.file).unwrap_or(&BULL)
    }

    /// Triggers the bug, and returns what was seen.
    pub(crate) async fn run(&self) -> anyhow::Result<Row> {
        let bench = Bench::start(self.application(), true).await?;
        let outcome = match self.shows {
            Shows::Together(..) => bench.within_window(async || self.on(&bench).await).await,
            // The states that these leave do not expire.
            Shows::KeysWithoutExpiry(_) | Shows::Invalid(_) => self.on(&bench).await,
        };
        bench.explain(outcome)
    }

    async fn on(&self, bench: &Bench) -> anyhow::Result<Row> {
        match self.shows {
            Shows::KeysWithoutExpiry(counter) => {
                bench.quiet(self.asks(bench, "once", 1)).await?;
                let series = "ratelimiter_keys_without_expiry";
                let labels = [("counter", counter)];
                self.shown(bench, series, &labels, 1).await?;
                Ok(self.row(format!("`{series}{{{counter}}}` 1")))
            }
            Shows::Invalid(label) => {
                // Without scrapes: one before the answer may see the bug, and its grace period begins then.
                self.asks(bench, "once", 1).await?;
                let fault = Instant::now();
                let exporter = bench.exporter.as_ref().context("no exporter")?;
                let found = [("invalid_counter", label)];
                let expect = Expect::at_once([]).after(GRACE, found);
                let seen = exporter.finds(fault, expect).await?;
                let found = [("invalid_counter", label.to_owned())];
                Ok(Row::after_grace(self.what, &found, &seen))
            }
            Shows::Together(clients, label) => {
                for (client, times) in clients {
                    bench.quiet(self.asks(bench, client, *times)).await?;
                }
                let sum = clients.iter().map(|(_, times)| times).sum();
                let series = "ratelimiter_key_requests";
                self.shown(bench, series, &[("key", label)], sum).await?;
                let keys = self.shown(bench, "ratelimiter_keys_exported", &[], 1);
                keys.await?;
                Ok(self.row(format!("`{series}{{{label}}}` {sum}, and no other key")))
            }
        }
    }

    fn row(&self, seen: String) -> Row {
        Row {
            event: self.what,
            expected: seen.clone(),
            seen,
        }
    }

    async fn asks(&self, bench: &Bench, client: &str, times: u32) -> anyhow::Result<()> {
        for _ in 0..times {
            let outcome = bench.app.ask(self.path, client).await;
            ensure!(outcome == Outcome::Allowed, "a request is {outcome:?}");
        }
        Ok(())
    }

    /// Scrapes until the series has this value. Nothing may be reported meanwhile.
    async fn shown(
        &self,
        bench: &Bench,
        series: &str,
        labels: &[(&str, &str)],
        value: u32,
    ) -> anyhow::Result<()> {
        let exporter = bench.exporter.as_ref().context("no exporter")?;
        let since = Instant::now();
        loop {
            let scrape = exporter.scrape().await?;
            let reported = scrape.reported();
            ensure!(reported.is_empty(), "false report: {reported:?}");
            let seen = scrape.value(series, labels);
            if seen == Some(f64::from(value)) {
                return Ok(());
            }
            ensure!(
                since.elapsed() < SHOWN_WITHIN,
                "{series} with {labels:?} is {seen:?}; expected {value}"
            );
            sleep(SCRAPE_EVERY).await;
        }
    }
}
