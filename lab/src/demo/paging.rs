//! A Prometheus and an Alertmanager beside the demo, and their pages.
//!
//! The rules and routes are those of `alerts/`; only the addresses of the receivers are the demo's. It leaves out repetitions:
//! an alert is printed when it fires and when it is resolved.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use super::record::Record;
use super::screen::Screen;
use crate::alertmanager::{Alertmanager, AlertmanagerConfig};
use crate::prometheus::{Prometheus, PrometheusOptions, Target};
use crate::temp::TempDir;
use crate::webhook::{Alert, Inbox, Status, Webhook};

/// Between scrapes: shorter than recommended, because somebody is waiting. The rules have their own interval.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(5);

/// The running servers, in the order in which they are to end.
#[derive(Debug)]
pub(super) struct Paging {
    prometheus: Prometheus,
    alertmanager: Alertmanager,
    webhook: Webhook,
    _folder: TempDir,
}

impl Paging {
    /// The programs that are not installed.
    pub(super) fn missing() -> Vec<&'static str> {
        let programs = [
            ("prometheus", Prometheus::installed()),
            ("alertmanager", Alertmanager::installed()),
        ];
        let missing = programs.into_iter().filter(|(_, path)| path.is_none());
        missing.map(|(name, _)| name).collect()
    }

    /// Starts everything with the files in the folder `alerts`, beside an exporter.
    pub(super) async fn start(
        dir: &Path,
        alerts: &Path,
        exporter: SocketAddr,
    ) -> anyhow::Result<Self> {
        let alerts = alerts
            .canonicalize()
            .with_context(|| format!("no folder {} with the rules", alerts.display()))?;
        let folder = TempDir::new_in(dir, "demo")?;
        let webhook = Webhook::start().await?;
        let routes = alerts.join("alertmanager.yml");
        let config = AlertmanagerConfig::redirected(&routes, |name| webhook.url(name))?;
        let alertmanager = Alertmanager::start_in(folder.path(), &config).await?;
        let options = PrometheusOptions {
            interval: SCRAPE_INTERVAL,
            targets: vec![Target {
                job: "ratelimiter".to_owned(),
                address: exporter.to_string(),
                labels: Vec::new(),
            }],
            rule_files: vec![alerts.join("ratelimiter.rules.yml")],
            alertmanager: Some(alertmanager.server.address().to_owned()),
        };
        let prometheus = Prometheus::start_in(folder.path(), &options).await?;
        Ok(Self {
            prometheus,
            alertmanager,
            webhook,
            _folder: folder,
        })
    }

    /// The notifications that have arrived, and a way to wait for more.
    pub(super) fn inbox(&self) -> watch::Receiver<Inbox> {
        self.webhook.inbox()
    }

    /// The URLs of Prometheus and Alertmanager.
    pub(super) fn urls(&self) -> (String, String) {
        (self.prometheus.server.url(), self.alertmanager.server.url())
    }

    /// Ends everything in order; what does not end in time is killed.
    pub(super) async fn shut_down(&mut self) {
        let _ = self.prometheus.server.stop().await;
        let _ = self.alertmanager.server.stop().await;
    }
}

/// Prints each page as it arrives and keeps the record, for as long as there is anything to arrive.
pub(super) async fn print_pages(
    mut inbox: watch::Receiver<Inbox>,
    screen: &Screen,
    record: &watch::Sender<Record>,
    started: Instant,
) {
    let (mut seen, mut refused) = (0, 0);
    let mut told = BTreeMap::new();
    loop {
        {
            let inbox = inbox.borrow_and_update();
            for notification in &inbox.notifications[seen..] {
                let elapsed = notification.at.saturating_duration_since(started);
                for alert in &notification.alerts {
                    let what = (notification.receiver.clone(), alert.labels.clone());
                    if told.insert(what, alert.status) != Some(alert.status) {
                        let page = Page(&notification.receiver, alert);
                        screen.say(format!("{:>4} s  {page}", elapsed.as_secs()));
                        record.send_modify(|record| record.note_page(alert, elapsed));
                    }
                }
            }
            for error in &inbox.refused[refused..] {
                screen.say(format!("        not a page: {error}"));
            }
            (seen, refused) = (inbox.notifications.len(), inbox.refused.len());
        }
        if inbox.changed().await.is_err() {
            return;
        }
    }
}

/// A notification of one alert: one line for people.
struct Page<'a>(&'a str, &'a Alert);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(receiver, alert) = self;
        let status = match alert.status {
            Status::Firing => "FIRED",
            Status::Resolved => "RESOLVED",
        };
        write!(f, "{receiver:>7} <- {status:<8} {}", alert.name())?;
        if !alert.subject().is_empty() {
            write!(f, " {:?}", alert.subject())?;
        }
        // It holds the subject as it is, which may be any text.
        let summary = alert.annotations.get("summary");
        let summary = summary.map_or("", String::as_str);
        write!(f, ": {}", summary.replace(char::is_control, " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_line_whatever_its_subject() {
        let text = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let alert = Alert {
            status: Status::Resolved,
            labels: text(&[("alertname", "A"), ("subject", "x\ny")]),
            annotations: text(&[("summary", "S of x\ny")]),
        };
        let line = Page("pager", &alert).to_string();
        assert_eq!(line, r#"  pager <- RESOLVED A "x\ny": S of x y"#);
    }
}
