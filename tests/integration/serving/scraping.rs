//! A real Prometheus scrapes the exporter by the examples of the documentation as they are: over TLS with a login, several
//! limiters by their names, and plainly. Replaced are only addresses, and how often it scrapes.

use std::path::Path;

use anyhow::Context as _;
use lab::node::{NodeOptions, NodeProcess};
use lab::prometheus::Prometheus;
use lab::redis_server::RedisServer;
use lab::seed::fill_to;
use lab::temp::TempDir;

use crate::certificates::certificates;
use crate::harness::{Cluster, Exporter, PATIENCE};
use crate::repository::{example, text};

/// The page of the documentation that has the examples.
const CONFIGURATION: &str = "docs/CONFIGURATION.md";

/// Two seconds, since the exporter and everything it watches share the machine with other tests.
const GLOBAL: &str = "global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}\n";

/// An example with other names in it, each of which it must have had.
fn replaced(example: &str, names: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut text = example.to_owned();
    for (from, to) in names {
        anyhow::ensure!(text.contains(from), "no {from} in the example: {example}");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// A Prometheus whose configuration, in `folder`, is `more` and the example.
async fn prometheus(folder: &Path, more: &str, example: &str) -> anyhow::Result<Prometheus> {
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, format!("{GLOBAL}{more}{example}"))?;
    Prometheus::start_as_configured(&file).await
}

/// Waits until a query has this one value.
async fn until(prometheus: &Prometheus, query: &str, value: f64) -> anyhow::Result<()> {
    let reached = lab::wait_for(PATIENCE, || async {
        let found = prometheus.value(query).await;
        found.is_ok_and(|found| found == Some(value))
    });
    let failed = || format!("{query} is never {value}");
    if let Err(error) = reached.await {
        let targets = prometheus.server.ask("/api/v1/targets").await?;
        return Err(error.context(format!("{}; {targets:#}", failed())));
    }
    Ok(())
}

#[tokio::test]
async fn over_tls_with_a_certificate_and_a_login_that_changes() -> anyhow::Result<()> {
    let folder = TempDir::new("scraped-tls")?;
    let path = |name: &str| folder.path().join(name);
    let [server_ca, server_cert, server_key] = certificates(folder.path(), "servers")?;
    let [client_ca, client_cert, client_key] = certificates(folder.path(), "clients")?;
    for (from, to) in [
        (server_cert, "server.pem"),
        (server_key, "server.key"),
        (client_ca, "clients.pem"),
        (server_ca, "exporter-ca.pem"),
        (client_cert, "prometheus.pem"),
        (client_key, "prometheus.key"),
    ] {
        std::fs::copy(from, path(to))?;
    }
    let of_server = example(CONFIGURATION, "tls_server_config:")?;
    let documented = of_server
        .split_whitespace()
        .find(|word| word.starts_with("$2y$"));
    let documented = documented.context("no hash in the example")?;
    let set_password = |password: &str| -> anyhow::Result<()> {
        let hash = bcrypt::hash(password, 4)?;
        std::fs::write(path("web.yml"), of_server.replace(documented, &hash))?;
        Ok(())
    };
    set_password("first")?;
    std::fs::write(path("exporter-password"), "first")?;
    let flag = format!("--web.config.file={}", path("web.yml").display());
    let cluster = Cluster::start(1, &[&flag]).await?;

    let address = cluster.exporter.address.as_str();
    let of_prometheus = example(CONFIGURATION, "scheme: https")?;
    let of_prometheus = replaced(&of_prometheus, &[("exporter:9972", address)])?;
    let prometheus = prometheus(folder.path(), "", &of_prometheus).await?;
    let up = format!("up{{job=\"ratelimiter\", instance=\"{address}\"}}");
    until(&prometheus, &up, 1.0).await?;
    let held = format!(
        "invariant_violation{{job=\"ratelimiter\", instance=\"{address}\", name=\"node_down\", subject=\"node-1\"}}"
    );
    until(&prometheus, &held, 0.0).await?;

    // The password changes, here first. Neither side is restarted.
    set_password("second")?;
    until(&prometheus, &up, 0.0).await?;
    std::fs::write(path("exporter-password"), "second")?;
    until(&prometheus, &up, 1.0).await?;
    let refused =
        "ratelimiter_exporter_http_requests_unauthorized_total{credentials=\"wrong\"} > bool 0";
    until(&prometheus, refused, 1.0).await
}

/// A limiter as the example of several has it: a Redis, and this many nodes.
async fn limiter(redis: &[&str], nodes: usize) -> anyhow::Result<(RedisServer, Vec<NodeProcess>)> {
    let redis = RedisServer::start(redis).await?;
    let mut running = Vec::new();
    for number in 1..=nodes {
        let options = NodeOptions::new(format!("node-{number}"), redis.url());
        running.push(NodeProcess::start(options).await?);
    }
    Ok((redis, running))
}

#[tokio::test]
async fn several_limiters_by_their_names_each_a_job_of_its_own() -> anyhow::Result<()> {
    let folder = TempDir::new("scraped-targets")?;
    let path = |name: &str| folder.path().join(name);
    let login = ["--user", "exporter", "on", ">eu", "~*", "+@all"];
    let (default, eu, us) = tokio::try_join!(limiter(&[], 1), limiter(&login, 2), limiter(&[], 1))?;
    let password = path("eu-password").display().to_string();
    std::fs::write(&password, "eu\n")?;
    let (eu_redis, eu_nodes) = &eu;
    let host = |(redis, _): &(RedisServer, Vec<NodeProcess>)| format!("127.0.0.1:{}", redis.port());
    let names = [
        ("redis.internal:6379", host(&default)),
        ("10.0.0.1:8000", default.1[0].address()),
        ("redis.eu.internal:6379", host(&eu)),
        ("/etc/ratelimiter-exporter/eu-password", password),
        ("10.1.0.1:8000", eu_nodes[0].address()),
        ("10.1.0.2:8000", eu_nodes[1].address()),
        ("redis.us.internal:6379", host(&us)),
        ("10.2.0.1:8000", us.1[0].address()),
    ];
    let names: Vec<(&str, &str)> = names
        .iter()
        .map(|(from, to)| (*from, to.as_str()))
        .collect();
    let config = replaced(&example(CONFIGURATION, "targets:\n  eu:")?, &names)?;
    std::fs::write(path("config.yml"), config)?;
    let flag = format!("--config.file={}", path("config.yml").display());
    let exporter = Exporter::start(&[flag]).await?;
    // Of the same name in each of them, and above its limit in one.
    fill_to(&mut eu_redis.connection().await?, b"over", 11).await?;

    let address = exporter.address.as_str();
    let scrape = example(CONFIGURATION, "__param_target")?;
    let scrape = replaced(&scrape, &[("exporter:9972", address)])?;
    let rules = text("alerts/ratelimiter.rules.yml")?.replace("interval: 15s", "interval: 1s");
    std::fs::write(path("rules.yml"), rules)?;
    let prometheus = prometheus(folder.path(), "rule_files: [rules.yml]\n", &scrape).await?;
    for job in ["ratelimiter-exporter", "ratelimiter-eu", "ratelimiter-us"] {
        let of_target = format!("job=\"{job}\", instance=\"{address}\"");
        until(&prometheus, &format!("up{{{of_target}}}"), 1.0).await?;
        let node =
            format!("invariant_violation{{{of_target}, name=\"node_down\", subject=\"node-1\"}}");
        until(&prometheus, &node, 0.0).await?;
    }
    let over = format!(
        "invariant_violation{{job=\"ratelimiter-eu\", instance=\"{address}\", name=\"ghost_allowing\", subject=\"over\"}}"
    );
    until(&prometheus, &over, 1.0).await?;
    let nodes = "count by (job) (ratelimiter_node_up{job=\"ratelimiter-eu\"})";
    until(&prometheus, nodes, 2.0).await?;

    // The alerts take them for what they are: three limiters, one of which is ill, and no replicas that disagree.
    let pages = "ALERTS{alertname=\"RatelimiterGhostAllowing\", alertstate=\"firing\"}";
    let of_eu = pages.replace('}', ", job=\"ratelimiter-eu\"}");
    until(&prometheus, &of_eu, 1.0).await?;
    until(&prometheus, &format!("count({pages})"), 1.0).await?;
    until(&prometheus, "count(ratelimiter:exporter_up:max == 1)", 3.0).await?;
    let disagree = "ALERTS{alertname=\"RatelimiterReplicasDisagree\"}";
    assert_eq!(prometheus.value(disagree).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_prometheus_with_the_configuration_of_the_readme_gets_the_metrics() -> anyhow::Result<()>
{
    let folder = TempDir::new("scraped-plainly")?;
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.exporter.address.as_str();
    let names = [
        ("localhost:9972", address),
        ("scrape_interval: 15s", "scrape_interval: 2s"),
        ("scrape_timeout: 10s", "scrape_timeout: 2s"),
    ];
    let scrape = replaced(&example("README.md", "scrape_configs:")?, &names)?;
    let prometheus = prometheus(folder.path(), "", &scrape).await?;
    until(&prometheus, "up{job=\"ratelimiter\"}", 1.0).await?;
    let held = "invariant_violation{name=\"node_down\", subject=\"node-1\"}";
    until(&prometheus, held, 0.0).await
}
