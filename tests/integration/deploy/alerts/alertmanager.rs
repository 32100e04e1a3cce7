//! A real Alertmanager with the configuration as it is: what mutes what, asked of itself, and who is told with which
//! token. Time is not waited for: an alert that is muted says so at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use hyper::Method;
use lab::temp::TempDir;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::files::{alerts, path, text};
use crate::harness::PATIENCE;

/// A running Alertmanager, ended with its handle.
#[derive(Debug)]
struct Alertmanager(lab::alertmanager::Alertmanager);

impl Alertmanager {
    async fn start(config: &Path) -> anyhow::Result<Self> {
        let started = lab::alertmanager::Alertmanager::start_as_configured(config).await;
        Ok(Self(started?))
    }

    async fn post(&self, alerts: &[Alert]) -> anyhow::Result<()> {
        let body: Vec<Value> = alerts
            .iter()
            .map(|labels| json!({ "labels": labels }))
            .collect();
        let body = Value::from(body).to_string();
        let answer = lab::http::request(
            self.0.server.address(),
            Method::POST,
            "/api/v2/alerts",
            body,
            PATIENCE,
        );
        let answer = answer.await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    }

    /// The alerts that it holds, and whether each is muted.
    async fn alerts(&self) -> anyhow::Result<BTreeMap<Alert, bool>> {
        let mut alerts = BTreeMap::new();
        for alert in self.0.alerts().await? {
            let labels = serde_json::from_value(alert["labels"].clone())?;
            let by = alert["status"]["inhibitedBy"].as_array();
            alerts.insert(labels, !by.context("no status")?.is_empty());
        }
        Ok(alerts)
    }
}

/// An alert is its labels.
type Alert = BTreeMap<String, String>;

/// `NAME`, `NAME subject` or `NAME collector=COLLECTOR` of a limiter.
fn alert(job: &str, what: &str) -> Alert {
    let (name, subject) = what.split_once(' ').unwrap_or((what, ""));
    let (label, value) = subject.split_once('=').unwrap_or(("subject", subject));
    let mut labels = vec![("alertname", name), ("cluster", "eu"), ("job", job)];
    if !value.is_empty() {
        labels.push((label, value));
    }
    let owned = labels
        .into_iter()
        .map(|(label, value)| (label.to_owned(), value.to_owned()));
    owned.collect()
}

/// What fires, what of it is muted, and what is not.
struct Scenario {
    name: &'static str,
    muted: &'static [&'static str],
    told: &'static [&'static str],
}

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "Redis does not answer",
        muted: &[
            "RatelimiterRedisDisconnected node-1",
            "RatelimiterManyNodesWithoutRedis",
            "RatelimiterHighLatency node-1",
            "RatelimiterLatencyNearThreshold node-1",
            "RatelimiterManagementApiDown",
            "RatelimiterCollectionStale collector=counters",
            "RatelimiterCollectorFailing collector=counters",
            "RatelimiterInvariantNotEvaluable",
            "RatelimiterCoverageBehind",
            "RatelimiterRedisMemoryHigh",
        ],
        told: &[
            "RatelimiterRedisDisconnected redis",
            "RatelimiterNodeDown node-1",
            "RatelimiterCollectorFailing collector=prometheus",
            "RatelimiterGhostAllowing key",
            "RatelimiterGhostAllowing redis",
            "RatelimiterGhostAllowing canary:node-1",
            "RatelimiterOverAdmission key",
            "RatelimiterCounterDrift key",
        ],
    },
    Scenario {
        name: "Redis answers again, since a moment",
        muted: &[
            "RatelimiterRedisDisconnected node-1",
            "RatelimiterManyNodesWithoutRedis",
            "RatelimiterHighLatency node-1",
        ],
        told: &[
            "RatelimiterRedisUnavailable redis",
            "RatelimiterGhostAllowing key",
        ],
    },
    Scenario {
        name: "one node lost Redis, which answers",
        muted: &[],
        told: &[
            "RatelimiterRedisDisconnected node-1",
            "RatelimiterHighLatency node-1",
            "RatelimiterHighLatency node-2",
            "RatelimiterCoverageBehind",
        ],
    },
    Scenario {
        name: "a node is down",
        muted: &[
            "RatelimiterHighLatency node-1",
            "RatelimiterLatencyNearThreshold node-1",
            "RatelimiterRedisDisconnected node-1",
            "RatelimiterCollectorFailing collector=probes",
        ],
        told: &[
            "RatelimiterNodeDown node-1",
            "RatelimiterNodeDown node-2",
            "RatelimiterHighLatency node-3",
            "RatelimiterRedisDisconnected node-3",
            "RatelimiterCollectorFailing collector=counters",
            "RatelimiterGhostAllowing node-1",
            "RatelimiterGhostAllowing canary:node-1",
        ],
    },
    Scenario {
        name: "half of the nodes are down",
        muted: &[
            "RatelimiterNodeDown node-1",
            "RatelimiterNodeDown node-2",
            "RatelimiterHighLatency node-1",
        ],
        told: &[
            "RatelimiterManyNodesDown",
            "RatelimiterHighLatency node-3",
            "RatelimiterGhostAllowing node-1",
        ],
    },
    Scenario {
        name: "half of the nodes lost Redis, which answers",
        muted: &[
            "RatelimiterRedisDisconnected node-1",
            "RatelimiterRedisDisconnected node-2",
        ],
        told: &[
            "RatelimiterManyNodesWithoutRedis",
            "RatelimiterNodeDown node-3",
            "RatelimiterGhostAllowing node-1",
        ],
    },
    Scenario {
        name: "two alerts about the same",
        muted: &[
            "RatelimiterLatencyNearThreshold node-1",
            "RatelimiterCollectorFailing collector=counters",
        ],
        told: &[
            "RatelimiterHighLatency node-1",
            "RatelimiterLatencyNearThreshold node-2",
            "RatelimiterCollectionStale collector=counters",
            "RatelimiterCollectorFailing collector=probes",
        ],
    },
];

#[tokio::test]
async fn what_follows_from_something_else_is_muted_and_nothing_else() -> anyhow::Result<()> {
    let alertmanager = Alertmanager::start(&path("alerts/alertmanager.yml")).await?;
    let mut expected = BTreeMap::new();
    // Each is a limiter of its own, so that all of them also show that one limiter never mutes another.
    for scenario in &SCENARIOS {
        let of = |what: &&str| alert(scenario.name, what);
        expected.extend(scenario.muted.iter().map(|what| (of(what), true)));
        expected.extend(scenario.told.iter().map(|what| (of(what), false)));
    }
    let all: Vec<Alert> = expected.keys().cloned().collect();
    alertmanager.post(&all).await?;
    let seen = lab::wait_for(PATIENCE, || async {
        let found = alertmanager.alerts().await;
        found.is_ok_and(|found| found == expected)
    });
    if seen.await.is_err() {
        assert_eq!(alertmanager.alerts().await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn whatever_fires_ghost_allowing_is_told() -> anyhow::Result<()> {
    let alertmanager = Alertmanager::start(&path("alerts/alertmanager.yml")).await?;
    let mut all = Vec::new();
    for name in alerts()?.iter().map(super::files::Rule::alert) {
        for what in ["", " redis", " node-1", " collector=counters"] {
            all.push(alert("limiter", &format!("{name}{what}")));
        }
    }
    alertmanager.post(&all).await?;
    let found = lab::wait_for_some(PATIENCE, || async {
        let found = alertmanager.alerts().await.ok()?;
        // Some are muted by now, so Alertmanager knows what mutes.
        let muted = found.values().filter(|muted| **muted).count();
        (found.len() == all.len() && muted > 10).then_some(found)
    })
    .await?;
    let mut ghosts = found
        .iter()
        .filter(|(alert, _)| alert["alertname"] == "RatelimiterGhostAllowing");
    assert!(ghosts.all(|(_, muted)| !muted), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_page_carries_the_token_of_the_file() -> anyhow::Result<()> {
    let receiver = TcpListener::bind("127.0.0.1:0").await?;
    let folder = TempDir::new("configuration")?;
    let config = folder.path().join("alertmanager.yml");
    // The two places that are marked to be changed, and nothing else.
    let url = format!("http://{}", receiver.local_addr()?);
    std::fs::write(
        &config,
        text("alerts/alertmanager.yml")?.replace("http://127.0.0.1:9095", &url),
    )?;
    std::fs::create_dir(folder.path().join("secrets"))?;
    std::fs::write(folder.path().join("secrets/pager-token"), "a-token\n")?;

    let alertmanager = Alertmanager::start(&config).await?;
    let mut page = alert("limiter", "RatelimiterGhostAllowing key");
    page.insert("severity".to_owned(), "critical".to_owned());
    alertmanager.post(&[page]).await?;
    let head = tokio::time::timeout(PATIENCE, async {
        let (mut stream, _) = receiver.accept().await?;
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            anyhow::ensure!(
                stream.read_buf(&mut head).await? > 0,
                "the request ended early"
            );
        }
        anyhow::Ok(String::from_utf8_lossy(&head).to_ascii_lowercase())
    });
    let head = head.await??;
    assert!(head.starts_with("post /pager "), "{head}");
    assert!(head.contains("authorization: bearer a-token\r\n"), "{head}");
    Ok(())
}
