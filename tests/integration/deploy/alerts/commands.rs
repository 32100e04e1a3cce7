//! The commands and queries of the runbooks do what they are written down for: each is run against a limiter with an
//! exporter, a Prometheus and an Alertmanager.

use std::time::Duration;

use anyhow::Context as _;
use lab::alertmanager::Alertmanager;
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::seed::fill_to;

use super::files::{blocks, files, path, text};
use crate::harness::{Cluster, PATIENCE, said, shell};

/// What redis-cli prints, with exit status 0, when a command was not to its server's liking.
const COMPLAINTS: [&str; 3] = ["ERR ", "WRONGTYPE", "Could not connect"];

/// Everything that runbooks speak of.
struct Place {
    cluster: Cluster,
    prometheus: Prometheus,
    alertmanager: Alertmanager,
}

impl Place {
    /// One node of two is dead and one key is above its limit, so that there is something to be found.
    async fn start() -> anyhow::Result<Self> {
        let mut cluster = Cluster::start(2, &[]).await?;
        cluster.exporter.scrape().await?;
        cluster.nodes[1].kill();
        let mut redis = cluster.redis.connection().await?;
        fill_to(&mut redis, b"over", 11).await?;
        let routes = path("alerts/alertmanager.yml");
        let alertmanager = Alertmanager::start_as_configured(&routes).await?;
        let options = PrometheusOptions {
            interval: Duration::from_secs(1),
            targets: vec![Target {
                job: "ratelimiter".to_owned(),
                address: cluster.exporter.address.clone(),
                labels: Vec::new(),
            }],
            rule_files: vec![path("alerts/ratelimiter.rules.yml")],
            alertmanager: Some(alertmanager.server.address().to_owned()),
        };
        Ok(Self {
            prometheus: Prometheus::start_in(&std::env::temp_dir(), &options).await?,
            cluster,
            alertmanager,
        })
    }

    /// A command with the addresses of this place.
    fn here(&self, command: &str) -> String {
        command
            .replace("localhost:9972", &self.cluster.exporter.address)
            .replace("EXPORTER_ADDRESS", &self.cluster.exporter.address)
            .replace("localhost:9090", self.prometheus.server.address())
            .replace("localhost:9093", self.alertmanager.server.address())
            .replace("redis://localhost:6379", &self.cluster.redis.url())
            .replace("NODE_ADDRESS", &self.cluster.nodes[0].address())
            .replace("NODE_ID", self.cluster.nodes[0].id())
            .replace("KEY", "over")
    }

    /// What a command of a shell prints; an error if it, or anything in its pipe, failed.
    async fn run(&self, command: &str) -> anyhow::Result<String> {
        let output = shell(&self.here(command), &path("")).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        // `check` says by its status that something is violated, as it is here.
        let status = i32::from(command.starts_with("ratelimiter-exporter check"));
        let complains = COMPLAINTS.iter().any(|start| printed.starts_with(start));
        anyhow::ensure!(
            output.status.code() == Some(status) && !complains,
            "{command}\n{}\n{printed}{}",
            output.status,
            said(&output),
        );
        Ok(printed)
    }
}

#[tokio::test]
async fn every_command_and_query_in_the_runbooks_works() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut printed = Vec::new();
    let mut queries = 0;
    for file in files("alerts/runbooks", ".md")? {
        let text = text(&file)?;
        for command in blocks(&text, "sh") {
            let said = place.run(&command).await.context(file.clone())?;
            printed.push((command, said));
        }
        for query in blocks(&text, "promql") {
            let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
            let ask = format!("/api/v1/query?query={query}");
            let answer = lab::http::get(place.prometheus.server.address(), &ask, PATIENCE).await?;
            assert_eq!(answer.status, 200, "{file}: {query}: {}", answer.text());
            queries += 1;
        }
    }
    assert!(
        printed.len() > 50 && queries > 50,
        "{} and {queries}",
        printed.len()
    );
    // They do not only succeed, they find what is wrong here.
    let found = |command: &str, what: &str| {
        let mut matching = printed.iter().filter(|(asked, _)| asked.contains(command));
        matching.any(|(_, said)| said.contains(what))
    };
    for (command, what) in [
        ("select(.name == \"node_down\")", "node-2"),
        (
            "select(.name == \"ghost_allowing\")",
            "11 admitted, limit 10",
        ),
        ("zcount", "11"),
        ("select(.count > .limit)", "over"),
        (".failures[]?", "refused"),
        ("pttl", ""),
        ("ratelimiter-exporter check", "ghost_allowing      VIOLATED"),
        ("reset-counter", "accepted"),
        ("api/v1/alertmanagers", "activeAlertmanagers"),
        ("silence add", "-"),
    ] {
        assert!(found(command, what), "{command}: {what}: {printed:#?}");
    }
    Ok(())
}
