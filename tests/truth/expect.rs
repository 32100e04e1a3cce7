//! What scrapes must report, and when: at once, after a grace period, within a time, or nothing.

use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::time::Instant;

use crate::exporter::Exporter;
use crate::runner::Seen;
use crate::scrape::{Findings, Scrape, findings, shown};

/// Between scrapes while a fault must be found.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// How long the machine may take to become quiet: a slow check stays in the p99 for a minute.
const CALM_WITHIN: Duration = Duration::from_secs(150);

/// Between the scrapes of a watch over something benign.
const WATCH_EVERY: Duration = Duration::from_millis(600);

/// How long nothing else may be reported after a finding.
const STANDS_FOR: Duration = Duration::from_secs(3);

/// What must be found.
#[derive(Debug, Default)]
pub(crate) struct Expect {
    at_once: Findings,
    later: Findings,
    grace: Duration,
    allowed: Findings,
}

impl Expect {
    /// Reported by the first scrape.
    pub(crate) fn at_once<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self {
            at_once: findings(pairs),
            ..Self::default()
        }
    }

    /// Pending at the first scrape, and reported by the first one after `grace`.
    pub(crate) fn after<'a>(
        mut self,
        grace: Duration,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        self.grace = grace;
        self.later = findings(pairs);
        self
    }

    /// May be reported as well: a side effect that is true.
    pub(crate) fn allowing<'a>(
        mut self,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        self.allowed = findings(pairs);
        self
    }

    /// Each of `due` is reported, and nothing that is neither `expected` nor allowed.
    fn check(&self, due: &Findings, expected: &Findings, scrape: &Scrape) -> anyhow::Result<()> {
        let reported = scrape.reported();
        let missing: Findings = due.difference(&reported).cloned().collect();
        ensure!(
            missing.is_empty(),
            "{} not reported; reported: {}; pending: {}",
            shown(&missing),
            shown(&reported),
            shown(&scrape.pending())
        );
        let surplus: Findings = reported
            .difference(expected)
            .filter(|finding| !self.allowed.contains(finding))
            .cloned()
            .collect();
        ensure!(
            surplus.is_empty(),
            "reported without a cause: {}",
            shown(&surplus)
        );
        Ok(())
    }
}

impl Exporter {
    /// Scrapes at once, then every second, and holds what is reported against `expect`.
    pub(crate) async fn finds(&self, fault: Instant, expect: Expect) -> anyhow::Result<Seen> {
        let first = self.scrape().await?;
        expect.check(&expect.at_once, &expect.at_once, &first)?;
        let early: Findings = expect.later.difference(&first.pending()).cloned().collect();
        ensure!(
            early.is_empty(),
            "{} not pending at the first scrape; pending: {}",
            shown(&early),
            shown(&first.pending())
        );
        let all: Findings = expect.at_once.union(&expect.later).cloned().collect();
        let mut found = first.ended;
        if !expect.later.is_empty() {
            let last = self.after_grace(&first, &expect, &all).await?;
            found = last.ended;
        }
        let reported = self.stands(&expect, &all).await?;
        Ok(Seen {
            what: shown(&reported),
            seconds: Some(found.duration_since(fault).as_secs_f64()),
            ..Seen::default()
        })
    }

    /// Waits until nothing is pending or reported: on a machine that is busy with other things, checks may really be slow before
    /// the fault, and its grace period would have begun with them.
    pub(crate) async fn calm(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + CALM_WITHIN;
        loop {
            let scrape = self.scrape().await?;
            let (pending, reported) = (scrape.pending(), scrape.reported());
            if pending.is_empty() && reported.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "without a cause, pending: {}; reported: {}",
                shown(&pending),
                shown(&reported)
            );
            tokio::time::sleep(SCRAPE_EVERY).await;
        }
    }

    /// Scrapes until all that is reported later is. A collection reads one key after the other, so their grace periods end one after
    /// the other, too: a scrape may report some of them.
    async fn after_grace(
        &self,
        first: &Scrape,
        expect: &Expect,
        all: &Findings,
    ) -> anyhow::Result<Scrape> {
        loop {
            tokio::time::sleep(SCRAPE_EVERY).await;
            let scrape = self.scrape().await?;
            expect.check(&expect.at_once, all, &scrape)?;
            let (reported, later) = (scrape.reported(), &expect.later);
            let at_most = scrape.ended - first.began;
            let early: Findings = reported.intersection(later).cloned().collect();
            ensure!(
                at_most >= expect.grace || early.is_subset(&expect.allowed),
                "{} reported after {at_most:?}, inside the grace period",
                shown(&early)
            );
            let missing: Findings = later.difference(&reported).cloned().collect();
            if missing.is_empty() {
                return Ok(scrape);
            }
            let at_least = scrape.began - first.ended;
            ensure!(
                at_least < expect.grace,
                "{} not reported after {at_least:?}",
                shown(&missing)
            );
        }
    }

    /// Scrapes until all of `expect` is reported, at most for `limit` after the fault; nothing else may be meanwhile.
    pub(crate) async fn finds_within(
        &self,
        fault: Instant,
        limit: Duration,
        expect: Expect,
    ) -> anyhow::Result<Seen> {
        let nothing = Findings::new();
        loop {
            let scrape = self.scrape().await?;
            if scrape.reported().is_superset(&expect.at_once) {
                let reported = self.stands(&expect, &expect.at_once).await?;
                return Ok(Seen {
                    what: shown(&reported),
                    seconds: Some(scrape.ended.duration_since(fault).as_secs_f64()),
                    ..Seen::default()
                });
            }
            if let Err(error) = expect.check(&nothing, &expect.at_once, &scrape) {
                bail!("before it was found: {error:#}");
            }
            let waited = scrape.began.duration_since(fault);
            ensure!(
                waited < limit,
                "{} not reported after {waited:?}; pending: {}",
                shown(&expect.at_once),
                shown(&scrape.pending())
            );
            tokio::time::sleep(SCRAPE_EVERY).await;
        }
    }

    /// What the last scrape reports after the finding has stood for a while.
    async fn stands(&self, expect: &Expect, all: &Findings) -> anyhow::Result<Findings> {
        let until = Instant::now() + STANDS_FOR;
        loop {
            tokio::time::sleep(SCRAPE_EVERY).await;
            let scrape = self.scrape().await?;
            expect.check(all, all, &scrape)?;
            if Instant::now() >= until {
                return Ok(scrape.reported());
            }
        }
    }

    /// `expect` at every scrape for `span`.
    pub(crate) async fn keeps(&self, span: Duration, expect: Expect) -> anyhow::Result<()> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            expect.check(&expect.at_once, &expect.at_once, &self.scrape().await?)?;
            tokio::time::sleep(SCRAPE_EVERY).await;
        }
        Ok(())
    }

    /// The next scrape reports nothing: what was wrong is over.
    pub(crate) async fn recovers(&self) -> anyhow::Result<Scrape> {
        let scrape = self.scrape().await?;
        let reported = scrape.reported();
        ensure!(
            reported.is_empty(),
            "still reported at the first scrape after it was over: {}",
            shown(&reported)
        );
        Ok(scrape)
    }

    /// Scrapes while `work` goes on; nothing may be reported at any of them.
    pub(crate) async fn silent_while<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.silent_but(&Findings::new(), work).await
    }

    /// Scrapes while `work` goes on; nothing but `allowed` may be reported.
    pub(crate) async fn silent_but<T>(
        &self,
        allowed: &Findings,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        // A scrape under way is waited for: the next one would share its collection, which began before what is next.
        let ended = std::cell::Cell::new(false);
        let work = async {
            let done = work.await?;
            ended.set(true);
            Ok(done)
        };
        let watching = async {
            while !ended.get() {
                let scrape = self.scrape().await?;
                let reported: Findings = scrape.reported().difference(allowed).cloned().collect();
                ensure!(reported.is_empty(), "false report: {}", shown(&reported));
                let until = Instant::now() + WATCH_EVERY;
                while !ended.get() && Instant::now() < until {
                    tokio::time::sleep(WATCH_EVERY / 20).await;
                }
            }
            Ok(())
        };
        let (done, ()) = tokio::try_join!(work, watching)?;
        Ok(done)
    }

    /// Nothing is reported for `span`.
    pub(crate) async fn silent_for(&self, span: Duration) -> anyhow::Result<()> {
        self.silent_while(async {
            tokio::time::sleep(span).await;
            Ok(())
        })
        .await
    }

    /// What a watch that saw nothing saw.
    pub(crate) fn nothing(&self) -> Seen {
        Seen {
            what: format!("nothing in {} scrapes", self.scrapes()),
            seconds: None,
            ..Seen::default()
        }
    }
}
