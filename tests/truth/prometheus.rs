//! Agreement with a real Prometheus on the p99: the exporter's own arithmetic, and `--prometheus.url`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use lab::faults::Faults;
use lab::node::NodeProcess;
use lab::ports::free_port;
use lab::process::Process;
use lab::temp::TempDir;

use crate::bench::{Bench, secs, traffic};
use crate::exporter::Exporter;
use crate::runner::{Scenario, Seen};

/// How often Prometheus and the exporter look.
const EVERY: Duration = Duration::from_secs(5);

/// How far the two may be apart.
const TOLERANCE: f64 = 0.05;

/// The delays of successive checks, in ms, as the traffic meets them: one in five above 25 ms, none above 50.
const DELAYS: [u64; 5] = [0, 3, 7, 15, 38];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "p99 beside a real Prometheus (`histogram_quantile(0.99, rate(…[1m]))`), and by --prometheus.url",
        "both within 5 % of Prometheus, nothing reported",
        90,
        || Box::pin(agreement()),
    )]
}

async fn agreement() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    let folder = TempDir::new("truth-prometheus")?;
    let (_prometheus, address) = start_prometheus(folder.path(), &bench.nodes[0]).await?;
    let node = bench.nodes[0].url();
    let flags = vec![
        format!("--redis.url={}", bench.redis.url()),
        format!("--ratelimiter.url={node}"),
        format!("--prometheus.url=http://{address}"),
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
            theirs = query(&address).await?;
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
async fn query(address: &str) -> anyhow::Result<f64> {
    let query = r#"histogram_quantile(0.99, rate(ratelimiter_check_duration_seconds_bucket{node_id="node-1"}[1m]))"#;
    let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let path = format!("/api/v1/query?query={query}");
    let answer = lab::http::get(address, &path, secs(5)).await?.json()?;
    let value = answer["data"]["result"][0]["value"][1].as_str();
    Ok(value.map_or(Ok(f64::NAN), str::parse)?)
}

async fn start_prometheus(folder: &Path, node: &NodeProcess) -> anyhow::Result<(Process, String)> {
    let config = format!(
        "scrape_configs:\n- job_name: ratelimiter\n  scrape_interval: 5s\n  scrape_timeout: 2s\n  static_configs:\n  \
         - targets: ['{}']\n    labels: {{node_id: '{}'}}\n",
        node.address(),
        node.id()
    );
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let address = format!("127.0.0.1:{}", free_port());
    let args = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", folder.join("data").display()),
        format!("--web.listen-address={address}"),
        "--log.level=warn".to_owned(),
    ];
    let log = folder.join("prometheus.log");
    let mut process = Process::spawn(Path::new("prometheus"), args, Some(&log))?;
    lab::wait_for(secs(20), || {
        let (running, address) = (process.is_running(), address.clone());
        async move {
            let ready = lab::http::get(&address, "/-/ready", secs(1)).await;
            running && ready.is_ok_and(|answer| answer.status == 200)
        }
    })
    .await
    .with_context(|| format!("Prometheus is not ready; it says:\n{}", process.output()))?;
    Ok((process, address))
}
