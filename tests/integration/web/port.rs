//! What is served, to whom, and by when.

use hyper::Method;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
use lab::seed::Scale;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Cluster, Exporter, PATIENCE, Scrape, base_flags, promtool};

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
async fn unknown_paths_are_404_and_other_methods_405() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let exporter = &cluster.exporter;
    assert_eq!(exporter.get("/nowhere").await?.status, 404);
    // An API answers in JSON, whatever the answer is.
    let unknown = exporter.get("/api/v1/nowhere").await?;
    assert_eq!(
        (unknown.status, unknown.json()?["error"].as_str()),
        (404, Some("not found"))
    );
    for path in [
        "/",
        "/metrics",
        "/-/healthy",
        "/-/ready",
        "/api/v1/violations",
    ] {
        let refused = exporter.send(Method::POST, path, "").await?;
        assert_eq!(refused.status, 405, "{path}");
        assert_eq!(refused.headers["allow"], "GET, HEAD", "{path}");
        let head = exporter.send(Method::HEAD, path, "").await?;
        assert_eq!(head.body.len(), 0, "{path}");
        assert!(matches!(head.status, 200 | 503), "{path}: {}", head.status);
    }
    let refused = exporter.get("/api/v1/actions/reset_counter").await?;
    assert_eq!(
        (refused.status, refused.headers["allow"].to_str()?),
        (405, "POST")
    );
    assert_eq!(refused.json()?["error"], "allowed here: POST");
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
    assert_eq!(violations["invariants"].as_array().map(Vec::len), Some(6));
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
        scrape.assert_reported(&["node_down node-1"]);
    }
    cluster.nodes[0].resume()?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_exporter_scrapes_coalesced_total", &[], 2);
    Ok(())
}

#[tokio::test]
async fn a_scrape_ends_inside_prometheus_timeout_with_what_it_got() -> anyhow::Result<()> {
    let flags = ["--ratelimiter.timeout=60s", "--redis.timeout=60s"];
    let mut cluster = Cluster::start(2, &flags).await?;
    cluster.exporter.scrape().await?;
    cluster.nodes[1].pause()?;
    cluster.redis.pause()?;
    // Neither source would have ended for a minute: what ended this is the client's own word.
    let scrape = cluster.exporter.scrape_within(3.0).await?;
    let took = scrape.value("ratelimiter_scrape_duration_seconds", &[]);
    assert!(took.is_some_and(|took| took < 3.0), "{took:?}");
    assert!(scrape.errors("redis", "deadline") > 0.0, "{}", scrape.text);
    scrape.assert_is("ratelimiter_node_up", &[("node_id", "node-1")], 1);
    Ok(())
}

#[tokio::test]
async fn a_request_without_time_does_not_shorten_the_others() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let exporter = &cluster.exporter;
    let hurried = async {
        loop {
            if let Err(error) = exporter.scrape_within(0.000_001).await {
                return error;
            }
        }
    };
    let patient = async {
        for _ in 0..10 {
            let scrape = exporter.scrape().await?;
            let evaluable = [("name", "ghost_allowing")];
            anyhow::ensure!(scrape.is("ratelimiter_redis_up", &[], 1), "{}", scrape.text);
            anyhow::ensure!(scrape.is("ratelimiter_invariant_evaluable", &evaluable, 1));
        }
        Ok(())
    };
    tokio::select! {
        error = hurried => Err(error),
        done = patient => done,
    }
}

#[tokio::test]
async fn promtool_accepts_the_metrics() -> anyhow::Result<()> {
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

#[tokio::test]
async fn metrics_are_compressed_when_asked_for() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let answer = cluster
        .exporter
        .raw("/metrics", "accept-encoding: gzip\r\n")
        .await?;
    let at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0);
    let head = String::from_utf8_lossy(&answer[..at]).to_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert_eq!(answer[at + 4..at + 6], [0x1f, 0x8b]);
    Ok(())
}

#[tokio::test]
async fn clients_that_stop_reading_delay_nobody_and_are_disconnected() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--keys.max-series=5000"]).await?;
    let mut redis = cluster.redis.connection().await?;
    // An answer of several megabytes: more than the kernel takes off the exporter's hands.
    let keys = Scale {
        keys: 5_000,
        key_length: 300,
        ahead_ms: 600_000,
        ..Scale::default()
    };
    keys.write(&mut redis).await?;
    let all = |scrape: &Scrape| scrape.is("ratelimiter_keys_exported", &[], 5_000);
    cluster.exporter.until("all are exported", all).await?;
    let open_files = || {
        let folder = format!("/proc/{}/fd", cluster.exporter.process.pid());
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    };
    let before = open_files();
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let mut stream = socket.connect(cluster.exporter.address.parse()?).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .await?;
        stalled.push(stream);
    }
    for stream in &stalled {
        // The answer has begun: from here on nothing more is taken.
        stream.peek(&mut [0]).await?;
    }
    // Connections of before may have gone meanwhile.
    assert!(open_files() >= before + 4, "{before}, {}", open_files());
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_keys_exported", &[], 5_000);
    lab::wait_for(PATIENCE, || async { open_files() <= before }).await?;
    drop(stalled);
    Ok(())
}
