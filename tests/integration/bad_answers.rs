//! Whatever a source answers, it is a named failure of that source, bounded in time and memory, and the rest is still
//! there.

use std::time::Duration;

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::harness::{Cluster, Exporter, base_flags};

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
async fn node_metrics_that_are_none_are_named() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let faults = Faults {
        metrics_body: Some("ratelimiter_requests_checked_total{result=\"x} 1\n".to_owned()),
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&faults).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert!(
        scrape.errors("node_metrics", "invalid_metrics") > 0.0,
        "{}",
        scrape.text
    );
    assert!(scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1));
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
                    // Bounded all the same: the client hangs up long before.
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
    for (answer, for_ever) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], false),
        (b"", false),
        (b"$10000000000\r\n", true),
        (
            b"-LOADING Redis is loading the dataset in memory\r\n",
            false,
        ),
    ] {
        let (url, _impostor) = impostor(answer, for_ever).await?;
        let exporter = Exporter::start(&base_flags(&url, &nodes)).await?;
        let scrape = exporter.scrape().await?;
        let said = String::from_utf8_lossy(answer).into_owned();
        assert_eq!(scrape.reported(), ["redis_disconnected redis"], "{said:?}");
        assert!(scrape.is("ratelimiter_redis_up", &[], 0));
        assert!(
            scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1),
            "{said:?}"
        );
        if said.contains("LOADING") {
            assert!(scrape.errors("redis", "loading") > 0.0, "{}", scrape.text);
        }
        assert!(rss(&exporter)? < 250, "{said:?}: {} MiB", rss(&exporter)?);
    }
    Ok(())
}

#[tokio::test]
async fn a_redis_that_wants_a_password_says_so() -> anyhow::Result<()> {
    let redis = RedisServer::start(&["--requirepass", "open-sesame"]).await?;
    let exporter = Exporter::start(&[format!("--redis.url={}", redis.url())]).await?;
    let scrape = exporter.scrape().await?;
    assert!(
        scrape
            .reported()
            .contains(&"redis_disconnected redis".to_owned())
    );
    assert!(scrape.errors("redis", "auth") > 0.0, "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn prometheus_that_does_not_answer_leaves_the_latency_unknown() -> anyhow::Result<()> {
    let port = lab::ports::free_port();
    let flag = format!("--prometheus.url=http://127.0.0.1:{port}");
    let cluster = Cluster::start(1, &[&flag]).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert!(scrape.errors("prometheus", "refused") > 0.0);
    assert!(scrape.is(
        "ratelimiter_invariant_evaluable",
        &[("name", "high_latency")],
        0
    ));
    assert!(scrape.is(
        "ratelimiter_invariant_evaluable",
        &[("name", "node_down")],
        1
    ));
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
    assert_eq!(
        cluster.exporter.scrape().await?.reported(),
        ["node_down node-1"]
    );
    let quick = lab::http::get(
        &cluster.exporter.address,
        "/-/healthy",
        Duration::from_secs(5),
    );
    assert_eq!(quick.await?.status, 200);
    Ok(())
}
