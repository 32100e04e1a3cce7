//! Nodes whose answers differ, and nodes or a Redis whose answers come later than a scrape ends.

use std::net::SocketAddr;

use hyper::Method;
use lab::node::{NodeOptions, NodeProcess};
use lab::ports::free_port;
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;

use crate::harness::{Cluster, Exporter, PATIENCE, Scrape, base_flags};

/// Shorter than the timeout of a probe, as Prometheus announces it.
const SHORT_SCRAPE: f64 = 1.0;

#[tokio::test]
async fn a_node_that_is_cut_off_is_found_and_does_not_flap_with_scrapes_shorter_than_its_probe()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = [NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?];
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::start(listen.to_string()).await?;
    let mut options = NodeOptions::new("node-2", redis.url());
    options.listen = Some(listen);
    options.advertise = Some(proxy.address().to_string());
    let _hidden = NodeProcess::start(options).await?;
    let exporter = Exporter::start(&base_flags(&redis.url(), &nodes)).await?;
    let reached = |scrape: &Scrape| {
        let labels = [("node_id", "node-2")];
        scrape
            .value("ratelimiter_node_probe_duration_seconds", &labels)
            .is_some()
    };
    exporter.until("node-2 answers", reached).await?;
    proxy.set(Mode::Hang).await?;
    let is_down = |scrape: &Scrape| scrape.reported() == ["node_down node-2"];
    let found = async {
        while !is_down(&exporter.scrape_within(SHORT_SCRAPE).await?) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, found).await??;
    // Its registration is renewed all the time.
    for _ in 0..2 {
        let short = exporter.scrape_within(SHORT_SCRAPE).await?;
        assert!(is_down(&short), "{}", short.text);
        let long = exporter.scrape().await?;
        assert!(is_down(&long), "{}", long.text);
    }
    proxy.set(Mode::Pass).await?;
    let recovered = |scrape: &Scrape| scrape.reported().is_empty() && reached(scrape);
    exporter.until("it is back", recovered).await?;
    Ok(())
}

#[tokio::test]
async fn a_redis_that_hangs_is_found_with_scrapes_shorter_than_its_timeout() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    let good = |scrape: &Scrape| scrape.is("ratelimiter_redis_up", &[], 1);
    cluster.exporter.until("Redis answers", good).await?;
    cluster.redis.pause()?;
    let found = async {
        loop {
            let scrape = cluster.exporter.scrape_within(SHORT_SCRAPE).await?;
            if scrape.reported() == ["redis_disconnected redis"] {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await??;
    cluster.redis.resume()?;
    let recovered = |scrape: &Scrape| scrape.reported().is_empty() && good(scrape);
    cluster.exporter.until("it is back", recovered).await?;
    Ok(())
}

#[tokio::test]
async fn a_seed_that_hangs_does_not_hide_one_that_answers_from_scrapes_shorter_than_its_timeout()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let address = format!("127.0.0.1:{}", redis.port());
    let proxy = Proxy::start(address.clone()).await?;
    proxy.set(Mode::Hang).await?;
    let nodes = [NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?];
    let seeds = format!("redis://{},{address}", proxy.address());
    let exporter = Exporter::start(&base_flags(&seeds, &nodes)).await?;
    let found = async {
        loop {
            let scrape = exporter.scrape_within(SHORT_SCRAPE).await?;
            scrape.assert_reported(&[]);
            if scrape.is("ratelimiter_redis_up", &[], 1) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await?
}

#[tokio::test]
async fn a_rolling_restart_that_raises_the_default_limit_pages_nobody() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let node = |number: usize, default_limit: i64| {
        let mut options = NodeOptions::new(format!("node-{number}"), redis.url());
        options.default_limit = default_limit;
        options.default_window_ms = 3_600_000;
        options
    };
    let mut nodes = Vec::new();
    for number in 1..=2 {
        nodes.push(NodeProcess::start(node(number, 10)).await?);
    }
    let exporter = Exporter::start(&base_flags(&redis.url(), &nodes)).await?;
    exporter.scrape().await?.assert_reported(&[]);
    // The exporter asks the first node for everything that one node knows.
    let mut raised = node(2, 100);
    raised.listen = Some(nodes[1].address().parse()?);
    nodes[1].terminate().await?;
    nodes[1] = NodeProcess::start(raised).await?;
    for _ in 0..30 {
        let check = r#"{"key":"busy"}"#.to_owned();
        let address = nodes[1].address();
        let answer = lab::http::request(&address, Method::POST, "/check", check, PATIENCE).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let busy = [("key", "busy")];
    let counted = |scrape: &Scrape| scrape.is("ratelimiter_key_requests", &busy, 30);
    let scrape = exporter.until("they are counted", counted).await?;
    scrape.assert_is("ratelimiter_key_requests_limit", &busy, 100);
    scrape.assert_reported(&[]);
    Ok(())
}
