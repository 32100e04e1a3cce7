//! Nodes whose answers differ, and nodes or a Redis whose answers come later than a scrape ends.

use std::net::SocketAddr;

use hyper::Method;
use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::ports::free_port;
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::seed::extra_members;

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
    until_short(&exporter, is_down).await?;
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

/// Scrapes as Prometheus does with a short timeout, until `holds`.
async fn until_short(exporter: &Exporter, holds: impl Fn(&Scrape) -> bool) -> anyhow::Result<()> {
    let found = async {
        while !holds(&exporter.scrape_within(SHORT_SCRAPE).await?) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, found).await?
}

fn is_disconnected(scrape: &Scrape) -> bool {
    scrape.reported() == ["redis_disconnected redis"]
}

#[tokio::test]
async fn a_redis_that_hangs_is_found_with_scrapes_shorter_than_its_timeout() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    let good = |scrape: &Scrape| scrape.is("ratelimiter_redis_up", &[], 1);
    cluster.exporter.until("Redis answers", good).await?;
    cluster.redis.pause()?;
    until_short(&cluster.exporter, is_disconnected).await?;
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
    let is_up = |scrape: &Scrape| {
        scrape.assert_reported(&[]);
        scrape.is("ratelimiter_redis_up", &[], 1)
    };
    until_short(&exporter, is_up).await
}

#[tokio::test]
async fn a_seed_that_hangs_beside_one_that_refuses_is_found_by_scrapes_shorter_than_its_timeout()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let nodes = [NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?];
    let seeds = format!(
        "redis://{},{}",
        format_args!("127.0.0.1:{}", free_port()),
        proxy.address()
    );
    let exporter = Exporter::start(&base_flags(&seeds, &nodes)).await?;
    let is_up = |scrape: &Scrape| scrape.is("ratelimiter_redis_up", &[], 1);
    exporter.until("the second seed answers", is_up).await?;
    proxy.set(Mode::Hang).await?;
    until_short(&exporter, is_disconnected).await
}

/// A node with its own default limit, in windows of an hour.
fn with_default(number: usize, default_limit: i64, redis: &RedisServer) -> NodeOptions {
    let mut options = NodeOptions::new(format!("node-{number}"), redis.url());
    options.default_limit = default_limit;
    options.default_window_ms = 3_600_000;
    options
}

async fn admit(node: &NodeProcess, count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        let check = r#"{"key":"busy"}"#.to_owned();
        let address = node.address();
        let answer = lab::http::request(&address, Method::POST, "/check", check, PATIENCE).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    Ok(())
}

const BUSY: [(&str, &str); 1] = [("key", "busy")];

/// Asserts that nothing is reported.
fn has_raised_limit(scrape: &Scrape) -> bool {
    scrape.assert_reported(&[]);
    scrape.is("ratelimiter_key_requests_limit", &BUSY, 100)
}

#[tokio::test]
async fn a_rolling_restart_that_raises_the_default_limit_pages_nobody() -> anyhow::Result<()> {
    for probe in ["--probe.nodes=true", "--probe.nodes=false"] {
        let redis = RedisServer::start(&[]).await?;
        let mut nodes = Vec::new();
        for number in 1..=2 {
            nodes.push(NodeProcess::start(with_default(number, 10, &redis)).await?);
        }
        let mut flags = base_flags(&redis.url(), &nodes);
        flags.push(probe.to_owned());
        let exporter = Exporter::start(&flags).await?;
        exporter.scrape().await?.assert_reported(&[]);
        // The exporter asks the first node for everything that one node knows.
        let mut raised = with_default(2, 100, &redis);
        raised.listen = Some(nodes[1].address().parse()?);
        nodes[1].terminate().await?;
        nodes[1] = NodeProcess::start(raised).await?;
        admit(&nodes[1], 30).await?;
        let counted = |scrape: &Scrape| scrape.is("ratelimiter_key_requests", &BUSY, 30);
        let scrape = exporter.until("they are counted", counted).await?;
        scrape.assert_is("ratelimiter_key_requests_limit", &BUSY, 100);
        scrape.assert_reported(&[]);
        // A missing answer lowers no limit.
        let hang = Faults {
            api_hang: true,
            ..Faults::default()
        };
        nodes[1].set_faults(&hang).await?;
        let failed = |scrape: &Scrape| scrape.errors("management_api", "timeout") > 0.0;
        let scrape = exporter.until("the failure is counted", failed).await?;
        scrape.assert_is("ratelimiter_key_requests_limit", &BUSY, 100);
        scrape.assert_is("ratelimiter_up", &[], 1);
        scrape.assert_reported(&[]);
        if probe.ends_with("true") {
            // A node that is down admits nothing. What it admitted before drains.
            nodes[1].kill();
            let forgotten = |scrape: &Scrape| {
                scrape.is("ratelimiter_key_requests_limit", &BUSY, 10)
                    && scrape.reported() == ["node_down node-2"]
            };
            exporter
                .until("its default is forgotten", forgotten)
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn counts_of_a_new_node_with_a_raised_default_page_nobody_before_it_is_asked()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = [NodeProcess::start(with_default(1, 10, &redis)).await?];
    let slow = Faults {
        api_delay_ms: 700,
        ..Faults::default()
    };
    nodes[0].set_faults(&slow).await?;
    let exporter = Exporter::start(&base_flags(&redis.url(), &nodes)).await?;
    exporter.scrape().await?.assert_reported(&[]);
    let new = NodeProcess::start(with_default(2, 100, &redis)).await?;
    admit(&new, 30).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_key_requests", &BUSY, 30);
    scrape.assert_reported(&[]);
    exporter
        .until("the new node is asked", has_raised_limit)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_count_above_the_default_is_reported_while_the_api_takes_a_tenth_of_a_second()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = [NodeProcess::start(with_default(1, 10, &redis)).await?];
    let slow = Faults {
        api_delay_ms: 100,
        ..Faults::default()
    };
    nodes[0].set_faults(&slow).await?;
    let exporter = Exporter::start(&base_flags(&redis.url(), &nodes)).await?;
    exporter.scrape().await?.assert_reported(&[]);
    let mut connection = redis.connection().await?;
    extra_members(&mut connection, b"over", 15, 60_000).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing over"]);
    Ok(())
}

/// A malformed registration makes `GET /api/nodes` fail, and only that.
#[tokio::test]
async fn a_fresh_exporter_that_knows_one_node_reports_no_count_above_the_default_of_that_node()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let first = [NodeProcess::start(with_default(1, 10, &redis)).await?];
    let second = NodeProcess::start(with_default(2, 100, &redis)).await?;
    admit(&second, 30).await?;
    // Listed nodes are asked in the same collection.
    let exporter = Exporter::start(&base_flags(&redis.url(), &first)).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_key_requests_limit", &BUSY, 100);
    scrape.assert_reported(&[]);

    let _: () = redis.run(&["SET", "ratelimiter:nodes:bad", "1"]).await?;
    let exporter = Exporter::start(&base_flags(&redis.url(), &first)).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_up", &[], 0);
    scrape.assert_is("ratelimiter_key_requests_limit", &BUSY, 10);
    scrape.assert_reported(&[]);
    exporter
        .until("the second node is asked", has_raised_limit)
        .await?;
    Ok(())
}
