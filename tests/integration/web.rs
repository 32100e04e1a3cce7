//! What is served, to whom, and by when.

use hyper::Method;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
use tokio::time::Instant;

use super::harness::{Cluster, Exporter, PATIENCE, base_flags};

#[tokio::test]
async fn it_is_healthy_at_once_and_ready_after_the_first_collection() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let exporter = Exporter::start(&base_flags(&redis.url(), &[node])).await?;
    assert_eq!(exporter.get("/-/healthy").await?.status, 200);
    let page = exporter.get("/").await?;
    assert!(page.text().contains("No collection has finished yet"));
    assert_eq!(exporter.get("/-/ready").await?.status, 503);
    // Being asked is enough: where only what is ready gets scraped, it would wait for itself otherwise.
    lab::wait_for(PATIENCE, || async {
        exporter
            .get("/-/ready")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    assert!(exporter.get("/").await?.text().contains("node_down"));
    Ok(())
}

#[tokio::test]
async fn paths_and_methods_are_told_apart() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let exporter = &cluster.exporter;
    assert_eq!(exporter.get("/nowhere").await?.status, 404);
    let refused = exporter.send(Method::POST, "/metrics", "").await?;
    assert_eq!(refused.status, 405);
    assert_eq!(refused.headers["allow"], "GET, HEAD");
    let refused = exporter.get("/api/v1/actions/reset_counter").await?;
    assert_eq!(
        (refused.status, refused.headers["allow"].to_str()?),
        (405, "POST")
    );
    let head = exporter.send(Method::HEAD, "/metrics", "").await?;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let metrics = exporter.get("/metrics").await?;
    assert_eq!(
        metrics.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let observation = exporter.get("/api/v1/observation").await?.json()?;
    for field in ["nodes", "counters", "node_metrics", "redis_connected"] {
        assert!(observation.get(field).is_some(), "{field}");
    }
    let violations = exporter.get("/api/v1/violations").await?.json()?;
    assert_eq!(violations["invariants"].as_array().map(Vec::len), Some(5));
    Ok(())
}

#[tokio::test]
async fn scrapes_that_arrive_together_share_one_collection() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.exporter.scrape().await?;
    // Something slow to share: a hung node costs a second.
    cluster.nodes[0].pause()?;
    let answers = tokio::join!(
        cluster.exporter.scrape(),
        cluster.exporter.scrape(),
        cluster.exporter.scrape()
    );
    for scrape in [answers.0?, answers.1?, answers.2?] {
        assert_eq!(scrape.reported(), ["node_down node-1"]);
    }
    cluster.nodes[0].resume()?;
    let scrape = cluster.exporter.scrape().await?;
    assert!(scrape.is("ratelimiter_exporter_scrapes_coalesced_total", &[], 2));
    Ok(())
}

#[tokio::test]
async fn a_scrape_ends_inside_prometheus_timeout_with_what_it_got() -> anyhow::Result<()> {
    let flags = ["--ratelimiter.timeout=60s", "--redis.timeout=60s"];
    let mut cluster = Cluster::start(2, &flags).await?;
    cluster.exporter.scrape().await?;
    cluster.nodes[1].pause()?;
    cluster.redis.pause()?;
    let started = Instant::now();
    let answer = with_timeout(&cluster.exporter.address, "2").await?;
    // Without the deadline it would have been a minute.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert!(answer.contains("reason=\"deadline\""), "{answer}");
    assert!(
        answer.contains("ratelimiter_node_up{node_id=\"node-1\"} 1"),
        "{answer}"
    );
    Ok(())
}

/// A scrape as Prometheus sends it.
async fn with_timeout(address: &str, seconds: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-prometheus-scrape-timeout-seconds: {seconds}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_about() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    let traffic = cluster.traffic(100.0)?;
    cluster.exporter.scrape().await?;
    let healthy = cluster.exporter.until("a latency", |scrape| {
        scrape
            .value("ratelimiter_node_latency_p99_seconds", &[])
            .is_some()
    });
    promtool(healthy.await?.text).await?;
    traffic.stop().await;
    let mut redis = cluster.redis.connection().await?;
    lab::seed::fill_to(&mut redis, b"over \"quoted\"\nk\xff", 20).await?;
    cluster.nodes[1].kill();
    let violated = cluster.exporter.scrape().await?;
    assert_eq!(violated.reported().len(), 2);
    promtool(violated.text).await
}

async fn promtool(metrics: String) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let output = tokio::task::spawn_blocking(move || {
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(metrics.as_bytes())?;
        }
        child.wait_with_output()
    });
    let output = output.await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

#[tokio::test]
async fn metrics_are_compressed_when_asked_for() -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cluster = Cluster::start(1, &[]).await?;
    let mut stream = tokio::net::TcpStream::connect(&cluster.exporter.address).await?;
    let request =
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept-encoding: gzip\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0);
    let head = String::from_utf8_lossy(&answer[..at]).to_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert_eq!(answer[at + 4..at + 6], [0x1f, 0x8b]);
    Ok(())
}
