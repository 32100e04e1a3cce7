//! Agreement with a real Prometheus on the p99: the exporter's own arithmetic, and `--prometheus.url`.

use std::time::Duration;

use lab::faults::Faults;
use lab::node::NodeProcess;
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::temp::TempDir;

use crate::bench::{Bench, traffic};
use crate::exporter::Exporter;
use crate::runner::{Scenario, Seen};

/// How often Prometheus and the exporter look.
const EVERY: Duration = Duration::from_secs(5);

/// How far the two may be apart.
const TOLERANCE: f64 = 0.05;

/// The delays of successive checks, in ms, as the traffic meets them: one in five above 25 ms, none above 50.
const DELAYS: [u64; 5] = [0, 3, 7, 15, 38];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
        "p99 beside a real Prometheus (`histogram_quantile(0.99, rate(…[1m]))`), and by --prometheus.url",
        "both within 5 % of Prometheus, nothing reported",
        90,
        || Box::pin(agreement()),
    ).time_critical()]
}

async fn agreement() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    let prometheus = beside(&bench.nodes[0]).await?;
    let node = bench.nodes[0].url();
    let flags = vec![
        format!("--redis.url={}", bench.redis.url()),
        format!("--ratelimiter.url={node}"),
        format!("--prometheus.url={}", prometheus.server.url()),
    ];
    let asking = TempDir::new("truth-asking")?;
    let asking = Exporter::start(asking.path(), flags).await?;
    let traffic = traffic(&bench.nodes, 50, 50.0)?;
    let spread = async {
        loop {
            for check_delay_ms in DELAYS {
                let faults = Faults {
                    check_delay_ms,
                    ..Faults::default()
                };
                bench.nodes[0].set_faults(&faults).await?;
                tokio::time::sleep(Duration::from_millis(130)).await;
            }
        }
    };
    let measured = async {
        let mut ticks = tokio::time::interval(EVERY);
        let (mut own, mut theirs, mut asked) = (0.0, 0.0, 0.0);
        // Fourteen scrapes: the minute is full, and then some.
        for _ in 0..15 {
            ticks.tick().await;
            own = p99(&bench.exporter).await?;
            asked = p99(&asking).await?;
            theirs = query(&prometheus).await?;
        }
        anyhow::Ok((own, theirs, asked))
    };
    let (own, theirs, asked) = tokio::select! {
        measured = measured => measured?,
        failed = spread => return failed,
    };
    traffic.stop().await;
    let apart = |value: f64| (value - theirs).abs() / theirs;
    let what = format!(
        "Prometheus {:.2} ms; exporter {:.2} ms ({:.1} % apart); with --prometheus.url {:.2} ms ({:.1} %)",
        theirs * 1e3,
        own * 1e3,
        apart(own) * 1e2,
        asked * 1e3,
        apart(asked) * 1e2
    );
    // A value that is missing is not a number, and not within anything.
    anyhow::ensure!(
        apart(own) <= TOLERANCE && apart(asked) <= TOLERANCE,
        "{what}"
    );
    Ok(Seen {
        what,
        seconds: None,
        ..Seen::default()
    })
}

/// The exporter's p99 of the node; not a number while it has none.
async fn p99(exporter: &Exporter) -> anyhow::Result<f64> {
    let scrape = exporter.recovers().await?;
    let labels = [("node_id", "node-1")];
    let value = scrape.value("ratelimiter_node_latency_p99_seconds", &labels);
    Ok(value.unwrap_or(f64::NAN))
}

/// Prometheus's p99 of the node; not a number while it has none.
async fn query(prometheus: &Prometheus) -> anyhow::Result<f64> {
    let query = r#"histogram_quantile(0.99, rate(ratelimiter_check_duration_seconds_bucket{node_id="node-1"}[1m]))"#;
    Ok(prometheus.value(query).await?.unwrap_or(f64::NAN))
}

/// A Prometheus that scrapes the node itself.
async fn beside(node: &NodeProcess) -> anyhow::Result<Prometheus> {
    let target = Target {
        job: "ratelimiter".to_owned(),
        address: node.address(),
        labels: vec![("node_id".to_owned(), node.id().to_owned())],
    };
    let options = PrometheusOptions {
        interval: EVERY,
        targets: vec![target],
        rule_files: Vec::new(),
        alertmanager: None,
    };
    Prometheus::start_in(&std::env::temp_dir(), &options).await
}
