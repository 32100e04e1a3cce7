//! Whatever a source answers, it is a named failure of that source, bounded in time and memory, and the rest is still
//! there.

use std::time::Duration;

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Cluster, Exporter, PATIENCE, base_flags, client};

/// Resident memory in MiB.
fn rss(exporter: &Exporter) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.unwrap_or(u64::MAX) / 1024)
}

#[tokio::test]
async fn every_bad_answer_of_the_api_has_a_name() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let exporter = &cluster.exporter;
    exporter.scrape().await?;
    let body = |text: &str| Faults {
        api_body: Some(text.to_owned()),
        ..Faults::default()
    };
    let cases = [
        (
            Faults {
                api_status: Some(500),
                ..Faults::default()
            },
            "http_status",
            "answered 500",
        ),
        (
            Faults {
                api_status: Some(307),
                ..Faults::default()
            },
            "http_status",
            "answered 307",
        ),
        (body("no json"), "invalid_json", "at line 1 column"),
        (
            body("{\"default_limit\":\"ten\",\"default_window_ms\":1}"),
            "invalid_json",
            "default_limit: invalid type: string",
        ),
        (
            body("{\"default_limit\":10}"),
            "invalid_json",
            "default_window_ms",
        ),
        (
            body("{\"default_limit\":-1,\"default_window_ms\":1}"),
            "invalid_json",
            "default_limit is -1",
        ),
        (
            Faults {
                api_truncate: true,
                ..Faults::default()
            },
            "truncated",
            "broke off",
        ),
        (
            Faults {
                api_hang: true,
                ..Faults::default()
            },
            "timeout",
            "no complete answer",
        ),
        (
            Faults {
                api_endless: true,
                ..Faults::default()
            },
            "too_large",
            "larger than",
        ),
    ];
    for (faults, reason, message) in cases {
        cluster.nodes[0].set_faults(&faults).await?;
        let before = exporter.scrape().await?.errors("management_api", reason);
        let scrape = exporter.scrape().await?;
        assert!(
            scrape.errors("management_api", reason) > before,
            "{reason}: {}",
            scrape.text
        );
        assert_eq!(scrape.reported(), [""; 0], "{reason}");
        if reason == "timeout" {
            // The default limit is remembered, so that the counters do not wait for the answer.
            let took = |collector: &str| {
                let seconds = "ratelimiter_scrape_collector_duration_seconds";
                scrape.value(seconds, &[("collector", collector)])
            };
            let (counters, api) = (took("counters"), took("management_api"));
            assert!(counters.is_some() && counters < api, "{counters:?} {api:?}");
        }
        assert!(
            scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1),
            "{reason}"
        );
        let observation = exporter.get("/api/v1/observation").await?.text();
        assert!(observation.contains(message), "{reason}: {observation}");
    }
    assert!(rss(exporter)? < 200, "{} MiB", rss(exporter)?);
    cluster.nodes[0].set_faults(&Faults::default()).await?;
    assert!(exporter.scrape().await?.is("ratelimiter_up", &[], 1));
    Ok(())
}

#[tokio::test]
async fn an_api_that_is_slow_is_up_and_one_that_is_gone_is_named() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    let slow = Faults {
        api_delay_ms: 200,
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&slow).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_up", &[], 1);
    cluster.nodes[0].kill();
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_up", &[], 0);
    // Once each: that a node which is gone has no metrics either is no news.
    for collector in ["management_api", "probes"] {
        assert!(scrape.errors(collector, "refused") > 0.0, "{collector}");
        let labels = [("collector", collector)];
        assert!(
            scrape.is("ratelimiter_scrape_collector_success", &labels, 0),
            "{collector}"
        );
    }
    scrape.assert_is("ratelimiter_redis_up", &[], 1);
    Ok(())
}

/// The number of requests for `handler`, by the node's own counter.
async fn asked(node: &NodeProcess, handler: &str) -> anyhow::Result<u64> {
    let url = format!("http://{}/metrics", node.address());
    let text = client()?.get(url).send().await?.text().await?;
    let start =
        format!("http_requests_total{{handler=\"{handler}\",method=\"GET\",status=\"2xx\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    Ok(line.map_or(Ok(0), str::parse)?)
}

#[tokio::test]
async fn lists_that_cost_a_node_its_time_are_asked_for_seldom() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (node, exporter) = (&cluster.nodes[0], &cluster.exporter);
    let faults = |node_state: Option<&str>| Faults {
        api_delay_ms: 100,
        node_state: node_state.map(str::to_owned),
        ..Faults::default()
    };
    node.set_faults(&faults(Some("Draining"))).await?;
    for _ in 0..3 {
        let scrape = exporter.scrape().await?;
        // What the list said holds, and that it is not asked for is no failure.
        scrape.assert_reported(&["node_down node-1"]);
        scrape.assert_is("ratelimiter_up", &[], 1);
        let labels = [("collector", "management_api")];
        scrape.assert_is("ratelimiter_scrape_collector_success", &labels, 1);
    }
    assert_eq!(asked(node, "/api/nodes").await?, 1);
    assert!(asked(node, "/api/limits").await? >= 3);

    // Another exporter, which cannot reach Redis: it has the counters from the API.
    let exporter = Exporter::start(&base_flags("redis://127.0.0.1:1", &cluster.nodes)).await?;
    for _ in 0..3 {
        let scrape = exporter.scrape().await?;
        scrape.assert_is("ratelimiter_redis_up", &[], 0);
    }
    assert_eq!(asked(node, "/api/counters").await?, 1);
    assert_eq!(asked(node, "/api/nodes").await?, 2);
    assert_eq!(asked(node, "/api/blocks").await?, 0);
    Ok(())
}

#[tokio::test]
async fn nodes_that_answer_badly_are_named() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let metrics = |text: &str| Faults {
        metrics_body: Some(text.to_owned()),
        ..Faults::default()
    };
    let cases = [
        (
            metrics("ratelimiter_requests_checked_total{result=\"x} 1\n"),
            "node_metrics",
            "invalid_metrics",
        ),
        (
            metrics("ratelimiter_requests_checked_total{result=\"x\"} many\n"),
            "node_metrics",
            "invalid_metrics",
        ),
        (
            metrics("<!DOCTYPE html>\n<html><body>Please log in.</body></html>\n"),
            "node_metrics",
            "invalid_metrics",
        ),
        (metrics(""), "node_metrics", "invalid_metrics"),
        (
            metrics("{\"error\":\"not found\"}"),
            "node_metrics",
            "invalid_metrics",
        ),
        (
            Faults {
                metrics_status: Some(500),
                ..Faults::default()
            },
            "node_metrics",
            "http_status",
        ),
        (
            Faults {
                health_status: Some(503),
                ..Faults::default()
            },
            "probes",
            "http_status",
        ),
        (
            Faults {
                health_delay_ms: 20_000,
                ..Faults::default()
            },
            "probes",
            "timeout",
        ),
    ];
    for (faults, collector, reason) in cases {
        cluster.nodes[0].set_faults(&faults).await?;
        let before = cluster.exporter.scrape().await?.errors(collector, reason);
        let scrape = cluster.exporter.scrape().await?;
        assert!(
            scrape.errors(collector, reason) > before,
            "{faults:?}: {}",
            scrape.text
        );
        // The node's own metrics cannot be read, and everything else can.
        let up = u32::from(collector != "probes");
        scrape.assert_is("ratelimiter_node_up", &[("node_id", "node-1")], up);
        scrape.assert_is("ratelimiter_redis_up", &[], 1);
    }
    cluster.nodes[0].set_faults(&Faults::default()).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn without_probes_node_metrics_that_fail_are_named_all_the_same() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &["--probe.nodes=false"]).await?;
    let faults = Faults {
        metrics_status: Some(500),
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&faults).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert!(
        scrape.errors("node_metrics", "http_status") > 0.0,
        "{}",
        scrape.text
    );
    let labels = [("collector", "node_metrics")];
    scrape.assert_is("ratelimiter_scrape_collector_success", &labels, 0);
    scrape.assert_is("ratelimiter_node_up", &[("node_id", "node-1")], 1);
    // Of probes nothing is said: neither that they succeeded, nor that they were late.
    cluster.nodes[0].pause()?;
    let scrape = cluster.exporter.scrape_within(0.6).await?;
    cluster.nodes[0].resume()?;
    assert!(scrape.errors("node_metrics", "deadline") > 0.0);
    assert!(!scrape.text.contains("collector=\"probes\""));
    Ok(())
}

#[tokio::test]
async fn a_default_limit_that_was_read_while_redis_was_down_outlives_the_api() -> anyhow::Result<()>
{
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.redis.stop().await?;
    let observation = cluster.exporter.get("/api/v1/observation").await?.json()?;
    assert_eq!(observation["default_limit"]["limit"], 10, "{observation}");
    let broken = Faults {
        api_status: Some(500),
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&broken).await?;
    cluster.redis.restart().await?;
    let mut redis = cluster.redis.connection().await?;
    lab::seed::fill_to(&mut redis, b"over", 11).await?;
    // Nothing has listed the nodes yet: until the first pass is over, another one may have a higher default.
    cluster.exporter.scrape().await?.assert_reported(&[]);
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing over"]);
    Ok(())
}

/// Something on a port that is no Redis.
async fn impostor(
    answer: &'static [u8],
    for_ever: bool,
) -> anyhow::Result<(String, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("redis://{}", listener.local_addr()?);
    let task = tokio::spawn(async move {
        let mut clients = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            clients.spawn(async move {
                let mut request = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut request).await {
                    // One answer to each command: each begins with its number of words.
                    let request = String::from_utf8_lossy(&request[..read]);
                    let commands = request.matches('*').count();
                    if stream.write_all(&answer.repeat(commands)).await.is_err() {
                        return;
                    }
                    let junk = vec![b'x'; 1 << 20];
                    // Bounded: the client hangs up long before.
                    for _ in 0..if for_ever { 10_000 } else { 0 } {
                        if stream.write_all(&junk).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok((url, AbortOnDropHandle::new(task)))
}

#[tokio::test]
async fn something_that_is_no_redis_is_disconnected_and_bounded() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = [NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?];
    let loading = b"-LOADING Redis is loading the dataset in memory\r\n";
    for (answer, for_ever, reasons) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            false,
            &["network", "redis_error"][..],
        ),
        (b"", false, &["timeout"]),
        (b"$10000000000\r\n", true, &["redis_error"]),
        (b"$-1\r\n", false, &["redis_error", "network"]),
        (loading, false, &["loading"]),
        (b"-OOM command not allowed\r\n", false, &["oom"]),
        (
            b"-MASTERDOWN Link with MASTER is down\r\n",
            false,
            &["masterdown"],
        ),
        (b"-something else\r\n", false, &["redis_error"]),
    ] {
        let (url, _impostor) = impostor(answer, for_ever).await?;
        let exporter = Exporter::start(&base_flags(&url, &nodes)).await?;
        // It goes on after the first of them.
        exporter.scrape().await?;
        let scrape = exporter.scrape().await?;
        let said = String::from_utf8_lossy(answer).into_owned();
        assert_eq!(scrape.reported(), ["redis_disconnected redis"], "{said:?}");
        scrape.assert_is("ratelimiter_redis_up", &[], 0);
        assert!(
            scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1),
            "{said:?}"
        );
        let counted: Vec<(&str, f64)> = reasons
            .iter()
            .map(|reason| (*reason, scrape.errors("redis", reason)))
            .collect();
        assert!(
            counted.iter().any(|(_, times)| *times >= 2.0),
            "{said:?}: {counted:?}: {}",
            scrape.text
        );
        assert!(rss(&exporter)? < 200, "{said:?}: {} MiB", rss(&exporter)?);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_named() -> anyhow::Result<()> {
    let redis = RedisServer::start(&["--requirepass", "open-sesame"]).await?;
    let port = redis.port();
    for url in [
        redis.url(),
        format!("redis://:open-barley@127.0.0.1:{port}"),
    ] {
        let exporter = Exporter::start(&[format!("--redis.url={url}")]).await?;
        let scrape = exporter.scrape().await?;
        let expected = "redis_disconnected redis".to_owned();
        assert!(scrape.reported().contains(&expected), "{url}");
        assert!(
            scrape.errors("redis", "auth") > 0.0,
            "{url}: {}",
            scrape.text
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_redis_with_too_many_clients_says_so_before_it_hangs_up() -> anyhow::Result<()> {
    let redis = RedisServer::start(&["--maxclients", "2"]).await?;
    // One of them may be there still from the start.
    let mut clients = Vec::new();
    for _ in 0..2 {
        let client = lab::wait_for_some(PATIENCE, || async { redis.connection().await.ok() });
        clients.push(client.await?);
    }
    let exporter = Exporter::start(&[format!("--redis.url={}", redis.url())]).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_redis_up", &[], 0);
    assert!(scrape.errors("redis", "redis_error") > 0.0);
    let said = exporter.get("/api/v1/violations").await?.text();
    assert!(said.contains("max number of clients reached"), "{said}");
    drop(clients);
    exporter
        .until("it is let in", |scrape| {
            scrape.is("ratelimiter_redis_up", &[], 1)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn prometheus_that_does_not_answer_leaves_the_latency_unknown() -> anyhow::Result<()> {
    let port = lab::ports::free_port();
    let flag = format!("--prometheus.url=http://127.0.0.1:{port}");
    let cluster = Cluster::start(1, &[&flag]).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert!(scrape.errors("prometheus", "refused") > 0.0);
    scrape.assert_is(
        "ratelimiter_invariant_evaluable",
        &[("name", "high_latency")],
        0,
    );
    scrape.assert_is(
        "ratelimiter_invariant_evaluable",
        &[("name", "node_down")],
        1,
    );
    Ok(())
}

#[tokio::test]
async fn clients_that_hang_up_take_nothing_along() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.exporter.scrape().await?;
    cluster.nodes[0].pause()?;
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(&cluster.exporter.address).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .await?;
        drop(stream);
    }
    cluster
        .exporter
        .scrape()
        .await?
        .assert_reported(&["node_down node-1"]);
    let quick = lab::http::get(
        &cluster.exporter.address,
        "/-/healthy",
        Duration::from_secs(5),
    );
    assert_eq!(quick.await?.status, 200);
    Ok(())
}
