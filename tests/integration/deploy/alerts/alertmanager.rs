//! A real Alertmanager with `alerts/alertmanager.yml`: which alerts it mutes and groups, and with which token it notifies.
//! The tests wait for no time to pass: Alertmanager shows at once that an alert is muted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use hyper::Method;
use lab::temp::TempDir;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::files::{alerts, path, text};
use crate::harness::PATIENCE;

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

/// The labels that distinguish limiters.
const LIMITER: [&str; 3] = ["cluster", "namespace", "job"];

/// A limiter that has this value of one label; all limiters share the values of the other two.
#[derive(Clone, Copy)]
struct Limiter<'a>(&'a str, &'a str);

/// `NAME`, `NAME subject` or `NAME collector=COLLECTOR` of a limiter.
fn alert(limiter: Limiter<'_>, what: &str) -> Alert {
    let (name, subject) = what.split_once(' ').unwrap_or((what, ""));
    let (label, value) = subject.split_once('=').unwrap_or(("subject", subject));
    let mut labels = Alert::from(LIMITER.map(|label| {
        let own = label == limiter.0;
        let value = if own { limiter.1 } else { "shared" };
        (label.to_owned(), value.to_owned())
    }));
    labels.insert("alertname".to_owned(), name.to_owned());
    if !value.is_empty() {
        labels.insert(label.to_owned(), value.to_owned());
    }
    labels
}

/// Alerts that fire at once: some of them are muted, the others reach a receiver.
struct Scenario {
    name: &'static str,
    muted: &'static [&'static str],
    sent: &'static [&'static str],
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
        sent: &[
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
        name: "Redis answers again, for less than 90 s",
        muted: &[
            "RatelimiterRedisDisconnected node-1",
            "RatelimiterManyNodesWithoutRedis",
            "RatelimiterHighLatency node-1",
        ],
        sent: &[
            "RatelimiterRedisUnavailable redis",
            "RatelimiterGhostAllowing key",
        ],
    },
    Scenario {
        name: "one node lost Redis, which answers",
        muted: &[],
        sent: &[
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
        sent: &[
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
        sent: &[
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
        sent: &[
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
        sent: &[
            "RatelimiterHighLatency node-1",
            "RatelimiterLatencyNearThreshold node-2",
            "RatelimiterCollectionStale collector=counters",
            "RatelimiterCollectorFailing collector=probes",
        ],
    },
];

#[tokio::test]
async fn an_alert_mutes_those_that_follow_from_it_and_none_of_another_limiter() -> anyhow::Result<()>
{
    let alertmanager = Alertmanager::start(&path("alerts/alertmanager.yml")).await?;
    let mut expected = BTreeMap::new();
    // Each scenario has a limiter of its own, which differs from the others in one label.
    for label in LIMITER {
        for scenario in &SCENARIOS {
            let of = |what: &&str| alert(Limiter(label, scenario.name), what);
            expected.extend(scenario.muted.iter().map(|what| (of(what), true)));
            expected.extend(scenario.sent.iter().map(|what| (of(what), false)));
        }
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
async fn limiters_that_differ_in_one_label_have_pages_of_their_own() -> anyhow::Result<()> {
    let alertmanager = Alertmanager::start(&path("alerts/alertmanager.yml")).await?;
    let limiters = LIMITER.map(|label| ["one", "other"].map(|value| Limiter(label, value)));
    let mut expected = BTreeSet::new();
    let mut all = Vec::new();
    for limiter in limiters.into_iter().flatten() {
        expected.insert(alert(limiter, "RatelimiterNodeDown"));
        all.push(alert(limiter, "RatelimiterNodeDown node-1"));
        all.push(alert(limiter, "RatelimiterNodeDown node-2"));
    }
    alertmanager.post(&all).await?;
    let groups = async || -> anyhow::Result<BTreeSet<Alert>> {
        let groups = alertmanager.0.server.ask("/api/v2/alerts/groups").await?;
        let groups = groups.as_array().context("no list of groups")?.iter();
        let labels = groups.map(|group| Ok(serde_json::from_value(group["labels"].clone())?));
        labels.collect()
    };
    let seen = lab::wait_for(PATIENCE, || async {
        groups().await.is_ok_and(|found| found == expected)
    });
    if seen.await.is_err() {
        assert_eq!(groups().await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn no_alert_mutes_ghost_allowing() -> anyhow::Result<()> {
    let alertmanager = Alertmanager::start(&path("alerts/alertmanager.yml")).await?;
    let mut all = Vec::new();
    for name in alerts()?.iter().map(super::files::Rule::alert) {
        for what in ["", " redis", " node-1", " collector=counters"] {
            all.push(alert(Limiter("job", "any"), &format!("{name}{what}")));
        }
    }
    alertmanager.post(&all).await?;
    let found = lab::wait_for_some(PATIENCE, || async {
        let found = alertmanager.alerts().await.ok()?;
        // Some are muted by now, so Alertmanager has applied the rules.
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
    // Only the addresses, as the comments in the file say.
    let url = format!("http://{}", receiver.local_addr()?);
    std::fs::write(
        &config,
        text("alerts/alertmanager.yml")?.replace("http://127.0.0.1:9095", &url),
    )?;
    std::fs::create_dir(folder.path().join("secrets"))?;
    std::fs::write(folder.path().join("secrets/pager-token"), "a-token\n")?;

    let alertmanager = Alertmanager::start(&config).await?;
    let mut page = alert(Limiter("job", "any"), "RatelimiterGhostAllowing key");
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
