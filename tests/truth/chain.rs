//! The whole chain: a limiter, its exporter, a Prometheus with the rules and an Alertmanager with the configuration of
//! `alerts/`, and a receiver instead of pager, chat and dead man's switch.
//!
//! The files in `alerts/` are used unchanged, except for the URLs and secrets of the receivers.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lab::alertmanager::{Alertmanager, AlertmanagerConfig};
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use lab::traffic::Traffic;
use lab::webhook::{Alert, Inbox, Status, Webhook};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bench::{Bench, secs};

/// The interval of scrapes and of evaluations: the documentation recommends it and the rules are written for it.
pub(crate) const INTERVAL: Duration = secs(15);

/// The delay that a busy machine may add to the configured intervals, from the fault to the receiver.
const SLACK: Duration = secs(10);

/// The greatest difference between two clocks, or between two timers of one clock.
const TICK: Duration = Duration::from_millis(500);

/// An alert and its receiver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Page {
    receiver: String,
    alert: String,
    subject: String,
}

impl Page {
    /// `receiver` gets the alert `Ratelimiter…` of this subject.
    pub(crate) fn new(receiver: &str, alert: &str, subject: &str) -> Self {
        Self {
            receiver: receiver.to_owned(),
            alert: format!("Ratelimiter{alert}"),
            subject: subject.to_owned(),
        }
    }

    /// The alert that always fires, at the dead man's switch.
    fn watchdog() -> Self {
        Self::new("deadman", "Watchdog", "")
    }

    fn of(receiver: &str, alert: &Alert) -> Self {
        Self {
            receiver: receiver.to_owned(),
            alert: alert.name().to_owned(),
            subject: alert.subject().to_owned(),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}{{{}}}`", self.receiver, self.alert, self.subject)
    }
}

/// The intervals between a fault and its page, as the exporter, the rules and Alertmanager are configured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// The exporter's grace period.
    pub(crate) grace: u64,
    /// `for` of the alert.
    pub(crate) hold: u64,
    /// How long the exporter still reports a fault that is over, as far as that is known beforehand.
    pub(crate) fades: u64,
    /// `keep_firing_for` of the alert.
    pub(crate) keep: u64,
    /// `group_wait` of the route.
    pub(crate) wait: u64,
    /// `group_interval` of the route.
    pub(crate) interval: u64,
}

/// The shortest and the longest time that the configured intervals allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) best: Duration,
    pub(crate) latest: Duration,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (best, latest) = (self.best.as_secs_f64(), self.latest.as_secs_f64());
        write!(f, "{best:.0} / {latest:.0}")
    }
}

impl Timing {
    /// From the fault to its page. The grace period, `for` and `group_wait` always pass. At the latest, the fault comes
    /// just after a scrape and an evaluation, and the grace period ends between two scrapes.
    fn to_page(self) -> Bounds {
        let best = secs(self.grace + self.hold + self.wait);
        let scrapes = if self.grace > 0 { 2 } else { 1 };
        Bounds {
            best,
            latest: best + (scrapes + 1) * INTERVAL,
        }
    }

    /// From the repair to its resolution. The repair comes `since_page` after the page. Alertmanager sends the changes
    /// of a group every `group_interval` after the page: the first such moment counts at which the alert is over.
    fn to_resolution(self, since_page: Duration) -> Bounds {
        let interval = secs(self.interval);
        let next = |over: Duration| {
            let mut moment = interval;
            while moment < since_page + over {
                moment += interval;
            }
            moment.saturating_sub(since_page)
        };
        Bounds {
            best: next(secs(self.keep)),
            latest: next(secs(self.fades + self.keep) + 2 * INTERVAL),
        }
    }
}

/// A page that was sent and resolved, how long both took, and the bounds for that.
#[derive(Debug)]
pub(crate) struct PageTimes {
    pub(crate) page: Page,
    pub(crate) paged: Duration,
    pub(crate) paged_bounds: Bounds,
    pub(crate) resolved: Duration,
    pub(crate) resolved_bounds: Bounds,
}

/// The running chain. Fields are dropped in this order, so that no part notices the end of another.
#[derive(Debug)]
pub(crate) struct Chain {
    prometheus: Prometheus,
    alertmanager: Alertmanager,
    _webhook: Webhook,
    inbox: watch::Receiver<Inbox>,
    _traffic: Option<Traffic>,
    pub(crate) bench: Bench,
    _folder: TempDir,
}

impl Chain {
    /// Three nodes under traffic that keeps every key far below its limit, and everything behind them.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let bench = Bench::start(3, &[]).await?;
        let traffic = bench.traffic(1_000, 30.0)?;
        Self::behind(bench, Some(traffic)).await
    }

    /// A limiter of another kind, a library without nodes, with its keys in Redis, and everything behind it.
    pub(crate) async fn of_kind(kind: &str) -> anyhow::Result<Self> {
        let redis = RedisServer::start(&[]).await?;
        let (url, flag) = (redis.url(), format!("--limiter.kind={kind}"));
        let bench = Bench::untold(redis, Vec::new(), &url, &[&flag]).await?;
        Self::behind(bench, None).await
    }

    /// Starts everything behind `bench`. When this returns, the rules have been evaluated and no page has arrived.
    async fn behind(bench: Bench, traffic: Option<Traffic>) -> anyhow::Result<Self> {
        let folder = TempDir::new("truth-chain")?;
        let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts");
        let webhook = Webhook::start().await?;
        let routes = alerts.join("alertmanager.yml");
        let config = AlertmanagerConfig::redirected(&routes, |name| webhook.url(name))?;
        let alertmanager = Alertmanager::start_in(folder.path(), &config).await?;
        let target = Target {
            job: "ratelimiter".to_owned(),
            address: bench.exporter.address().to_owned(),
            labels: vec![("cluster".to_owned(), "lab".to_owned())],
        };
        let options = PrometheusOptions {
            interval: INTERVAL,
            targets: vec![target],
            rule_files: vec![alerts.join("ratelimiter.rules.yml")],
            alertmanager: Some(alertmanager.server.address().to_owned()),
        };
        let prometheus = Prometheus::start_in(folder.path(), &options).await?;
        let chain = Self {
            prometheus,
            alertmanager,
            inbox: webhook.inbox(),
            _webhook: webhook,
            _traffic: traffic,
            bench,
            _folder: folder,
        };
        // The rules must have seen a healthy limiter before the first fault.
        let scraped = "sum(ratelimiter:scrape_duration_seconds:max)";
        lab::wait_for(2 * INTERVAL + SLACK, || async {
            matches!(chain.prometheus.value(scraped).await, Ok(Some(_)))
        })
        .await
        .context("no rule has seen a scrape")?;
        // Not right after an evaluation: the fault must come at a moment like any other.
        tokio::time::sleep(INTERVAL / 2).await;
        chain.nothing_but(&BTreeSet::new())?;
        Ok(chain)
    }

    /// Waits for these pages, which a fault at `fault` must bring, and no others.
    pub(crate) async fn paged(
        &self,
        fault: Instant,
        pages: &[(Page, Timing)],
    ) -> anyhow::Result<()> {
        let deadlines = pages.iter().map(|(_, timing)| timing.to_page().latest);
        let deadline = fault + deadlines.max().unwrap_or_default() + SLACK;
        let outcome = self.arrive(deadline, pages, Status::Firing).await;
        self.explained(outcome).await
    }

    /// Waits until every receiver of the pages has their resolutions after the repair at `repair`, and returns how long
    /// everything took.
    pub(crate) async fn resolved(
        &self,
        fault: Instant,
        repair: Instant,
        pages: &[(Page, Timing)],
    ) -> anyhow::Result<Vec<PageTimes>> {
        let outcome = self.wait_for_resolution(fault, repair, pages).await;
        self.explained(outcome).await
    }

    async fn wait_for_resolution(
        &self,
        fault: Instant,
        repair: Instant,
        pages: &[(Page, Timing)],
    ) -> anyhow::Result<Vec<PageTimes>> {
        let bounds = |(page, timing): &(Page, Timing)| {
            let inbox = self.inbox.borrow();
            let at = since(&inbox, page, Status::Firing).context("never paged")?;
            anyhow::Ok((
                at,
                timing.to_resolution(repair.saturating_duration_since(at)),
            ))
        };
        let bounds: Vec<(Instant, Bounds)> = pages.iter().map(bounds).collect::<Result<_, _>>()?;
        let latest = bounds.iter().map(|(_, bounds)| bounds.latest).max();
        let deadline = repair + latest.unwrap_or_default() + SLACK;
        self.arrive(deadline, pages, Status::Resolved).await?;

        let mut firing = self.prometheus.alerts().await?;
        let notified = |alert: &Value| {
            let severity = &alert["labels"]["severity"];
            alert["state"] == "firing" && (severity == "critical" || severity == "warning")
        };
        firing.retain(notified);
        ensure!(
            firing.is_empty(),
            "still firing after the last resolution: {firing:?}"
        );
        let inbox = self.inbox.borrow();
        let watchdog = since(&inbox, &Page::watchdog(), Status::Firing);
        ensure!(watchdog.is_some(), "the watchdog did not arrive");
        let mut all = Vec::new();
        for ((page, timing), (paged_at, resolved_bounds)) in pages.iter().zip(bounds) {
            let statuses = statuses(&inbox, page);
            ensure!(
                statuses == [Status::Firing, Status::Resolved],
                "{page} came and went: {statuses:?}"
            );
            let resolved_at = since(&inbox, page, Status::Resolved).context("never resolved")?;
            let times = PageTimes {
                page: page.clone(),
                paged: paged_at.duration_since(fault),
                paged_bounds: timing.to_page(),
                resolved: resolved_at.saturating_duration_since(repair),
                resolved_bounds,
            };
            times.within_bounds()?;
            all.push(times);
        }
        Ok(all)
    }

    async fn arrive(
        &self,
        deadline: Instant,
        pages: &[(Page, Timing)],
        status: Status,
    ) -> anyhow::Result<()> {
        let expected: BTreeSet<Page> = pages.iter().map(|(page, _)| page.clone()).collect();
        let all = |inbox: &Inbox| {
            let mut expected = expected.iter();
            expected.all(|page| since(inbox, page, status).is_some())
        };
        let waiting = self.until(deadline, |inbox| {
            surplus(inbox, &expected).is_some() || all(inbox)
        });
        let waited = waiting.await;
        self.nothing_but(&expected)?;
        waited.with_context(|| {
            let inbox = self.inbox.borrow();
            let missing = expected.iter();
            let missing = missing.filter(|page| since(&inbox, page, status).is_none());
            let missing: Vec<String> = missing.map(ToString::to_string).collect();
            format!("not {status:?} in time: {}", missing.join(", "))
        })
    }

    async fn until(
        &self,
        deadline: Instant,
        condition: impl Fn(&Inbox) -> bool,
    ) -> anyhow::Result<()> {
        let mut inbox = self.inbox.clone();
        let arrived = inbox.wait_for(|inbox| condition(inbox));
        tokio::time::timeout_at(deadline, arrived).await??;
        Ok(())
    }

    /// No other page arrived, and the watchdog reached the dead man's switch only.
    fn nothing_but(&self, expected: &BTreeSet<Page>) -> anyhow::Result<()> {
        let inbox = self.inbox.borrow();
        let surplus = surplus(&inbox, expected);
        ensure!(surplus.is_none(), "{}", surplus.unwrap_or_default());
        Ok(())
    }

    /// Adds to an error what Prometheus and Alertmanager know: without this it could not be understood afterwards.
    async fn explained<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        let Err(error) = outcome else {
            return outcome;
        };
        let known = |alerts: anyhow::Result<Vec<Value>>, state: &str| match alerts {
            Ok(alerts) => {
                let line = |alert: &Value| {
                    format!(
                        "\n  {} {}",
                        alert.pointer(state).unwrap_or(&Value::Null),
                        alert["labels"]
                    )
                };
                alerts.iter().map(line).collect::<String>()
            }
            Err(error) => format!(" {error:#}"),
        };
        let prometheus = known(self.prometheus.alerts().await, "/state");
        let alertmanager = known(self.alertmanager.alerts().await, "/status/state");
        bail!("{error:#}\nPrometheus:{prometheus}\nAlertmanager:{alertmanager}")
    }
}

impl PageTimes {
    fn within_bounds(&self) -> anyhow::Result<()> {
        for (what, took, bounds) in [
            ("paged", self.paged, self.paged_bounds),
            ("resolved", self.resolved, self.resolved_bounds),
        ] {
            ensure!(
                took + TICK >= bounds.best && took <= bounds.latest + SLACK,
                "{} {what} after {took:?}, which the configured intervals do not allow: {bounds:?}",
                self.page
            );
        }
        Ok(())
    }
}

/// When the receiver first got the page with this status.
fn since(inbox: &Inbox, page: &Page, status: Status) -> Option<Instant> {
    let mut notifications = inbox.notifications.iter();
    let notification = notifications.find(|notification| {
        let mut alerts = notification.alerts.iter();
        alerts
            .any(|alert| alert.status == status && Page::of(&notification.receiver, alert) == *page)
    });
    notification.map(|notification| Instant::from_std(notification.at))
}

/// The statuses that the receiver got of the page, without repetitions.
fn statuses(inbox: &Inbox, page: &Page) -> Vec<Status> {
    let mut statuses: Vec<Status> = inbox
        .notifications
        .iter()
        .flat_map(|notification| {
            let alerts = notification.alerts.iter();
            let same = alerts.filter(|alert| Page::of(&notification.receiver, alert) == *page);
            same.map(|alert| alert.status)
        })
        .collect();
    statuses.dedup();
    statuses
}

/// The first page that must not have arrived.
fn surplus(inbox: &Inbox, expected: &BTreeSet<Page>) -> Option<String> {
    if let Some(refused) = inbox.refused.first() {
        return Some(format!("not a notification: {refused}"));
    }
    let mut all = inbox.notifications.iter().flat_map(|notification| {
        let alerts = notification.alerts.iter();
        alerts.map(|alert| (alert.status, Page::of(&notification.receiver, alert)))
    });
    let wrong = all.find(|(_, page)| *page != Page::watchdog() && !expected.contains(page));
    wrong.map(|(status, page)| format!("{page} arrived without a cause ({status:?})"))
}
