//! Nodes that die, hang, are cut off, or were never there.

use std::net::SocketAddr;
use std::time::Duration;

use lab::balancer::Balancer;
use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::ports::free_port;
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use tokio::time::Instant;

use crate::bench::{Bench, secs, start_nodes};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};

const NODE_2: [(&str, &str); 1] = [("node_down", "node-2")];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "node killed (kill -9)",
            "`node_down{node-2}` at the first collection",
            8,
            || Box::pin(killed()),
        ),
        Scenario::new(
            "node hung (SIGSTOP)",
            "`node_down{node-2}` at the first collection",
            8,
            || Box::pin(hung()),
        ),
        Scenario::new(
            "node cut off: its address refuses",
            "`node_down{node-2}` at the first collection; over when it is back",
            8,
            || Box::pin(cut_off(Mode::Refuse)),
        ),
        Scenario::new(
            "node cut off: its address swallows everything",
            "`node_down{node-2}` at the first collection; over when it is back",
            8,
            || Box::pin(cut_off(Mode::Hang)),
        ),
        Scenario::new(
            "node killed, its registration runs out",
            "`node_down{node-2}` at the first collection, and still once Redis and the API have forgotten it",
            45,
            || Box::pin(killed_and_forgotten()),
        ),
        Scenario::new(
            "node killed, its registration runs out in the middle of a collection",
            "`node_down{node-2}` at the first collection, at that one, and after",
            45,
            || Box::pin(runs_out_in_a_collection()),
        ),
        Scenario::new(
            "static node killed",
            "`node_down{node-1}` at the first collection",
            8,
            || Box::pin(static_killed()),
        ),
        Scenario::new(
            "static node down from the start",
            "`node_down{127.0.0.1:PORT}` at the first collection",
            8,
            || Box::pin(static_down_from_the_start()),
        ),
        Scenario::new(
            "node behind an address the exporter never reached, killed",
            "nothing while it lives; `node_down{node-2}` when its registration has run out (≤ 30 s)",
            45,
            || Box::pin(never_reached("node-2.limiter.invalid:8000".to_owned())),
        ),
        Scenario::new(
            "node that registered an unused address, killed",
            "nothing while it lives; `node_down{node-2}` when its registration has run out (≤ 30 s)",
            45,
            || Box::pin(never_reached(format!("127.0.0.1:{}", free_port()))),
        ),
        Scenario::new(
            "node whose GET /health answers 503",
            "`node_down{node-2}` at the first collection",
            8,
            || Box::pin(unhealthy()),
        ),
        Scenario::new(
            "the API says of a node that it is Draining",
            "`node_down{node-1}` as soon as the API is asked again",
            20,
            || Box::pin(told_by_the_api()),
        ),
        Scenario::new(
            "scraped once a minute: one node stops cleanly, one is killed in between",
            "`node_down` of the killed one alone, at the next collection",
            70,
            || Box::pin(once_a_minute()),
        ),
        Scenario::new(
            "a balancer in --ratelimiter.url, nodes that cannot be reached themselves; one is killed",
            "nothing while it lives; `node_down{node-2}` when its registration has run out (≤ 30 s)",
            60,
            || Box::pin(behind_a_balancer()),
        ),
        Scenario::new(
            "node behind a mapped port crashes, comes back under another id, and hangs later",
            "nothing for the 40 s after it came back; `node_down{node-1b}` at the first collection after it hung",
            60,
            || Box::pin(back_under_another_id()),
        ),
        Scenario::new(
            "all nodes killed at once",
            "`node_down` of all three at the first collection",
            8,
            || Box::pin(all_killed()),
        ),
    ]
}

async fn killed() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let fault = Instant::now();
    bench.nodes[1].kill();
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    traffic.stop().await;
    bench.nodes[1].restart().await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn hung() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let fault = Instant::now();
    bench.nodes[1].pause()?;
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    bench.nodes[1].resume()?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn cut_off(mode: Mode) -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let mut nodes = start_nodes(&redis, 1).await?;
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::start(listen.to_string()).await?;
    let mut options = NodeOptions::new("node-2", redis.url());
    options.listen = Some(listen);
    options.advertise = Some(proxy.address().to_string());
    nodes.push(NodeProcess::start(options).await?);
    let url = redis.url();
    let bench = Bench::around(redis, nodes, &url, &[]).await?;
    let fault = Instant::now();
    proxy.set(mode).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    proxy.set(Mode::Pass).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn killed_and_forgotten() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let fault = Instant::now();
    bench.nodes[1].kill();
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    bench
        .exporter
        .keeps(secs(30), Expect::at_once(NODE_2))
        .await?;
    let registered: bool = redis::cmd("EXISTS")
        .arg("ratelimiter:nodes:node-2")
        .query_async(&mut bench.redis().await?)
        .await?;
    anyhow::ensure!(!registered, "its registration has not run out");
    bench
        .exporter
        .keeps(secs(4), Expect::at_once(NODE_2))
        .await?;
    bench.nodes[1].restart().await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

/// A collection reads a registration twice, a quarter of a second apart, before it reports a node as dead.
async fn runs_out_in_a_collection() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let mut connection = bench.redis().await?;
    let mut ttl = redis::cmd("PTTL");
    ttl.arg("ratelimiter:nodes:node-2");
    let down = || Expect::at_once(NODE_2);
    let fault = Instant::now();
    bench.nodes[1].kill();
    let seen = bench.exporter.finds(fault, down()).await?;
    let left = loop {
        let left: i64 = ttl.query_async(&mut connection).await?;
        anyhow::ensure!(left > 0, "it ran out before the collection");
        // The exporter glances at the registry every 8 s: what it knows at the end is exact.
        if left < 9_500 {
            break u64::try_from(left)?;
        }
        bench.exporter.keeps(secs(1), down()).await?;
    };
    tokio::time::sleep(Duration::from_millis(left.saturating_sub(130))).await;
    bench.exporter.keeps(secs(6), down()).await?;
    Ok(seen)
}

async fn static_killed() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(2, &[]).await?;
    let fault = Instant::now();
    bench.nodes[0].kill();
    let expect = Expect::at_once([("node_down", "node-1")]);
    let seen = bench.exporter.finds(fault, expect).await?;
    // The exporter asks the other node instead.
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_up", 1), "ratelimiter_up is not 1");
    Ok(seen)
}

async fn static_down_from_the_start() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_nodes(&redis, 1).await?;
    let url = redis.url();
    let dead = format!("127.0.0.1:{}", free_port());
    let flag = format!("--ratelimiter.url=http://{dead}");
    let bench = Bench::unscraped(redis, nodes, &url, &[&flag]).await?;
    let fault = Instant::now();
    let expect = Expect::at_once([("node_down", dead.as_str())]);
    let mut seen = bench.exporter.finds(fault, expect).await?;
    seen.what = seen.what.replace(&dead, "127.0.0.1:PORT");
    Ok(seen)
}

async fn never_reached(address: String) -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let mut nodes = start_nodes(&redis, 1).await?;
    let mut options = NodeOptions::new("node-2", redis.url());
    options.advertise = Some(address);
    nodes.push(NodeProcess::start(options).await?);
    let url = redis.url();
    let mut bench = Bench::around(redis, nodes, &url, &[]).await?;
    bench.exporter.silent_for(secs(8)).await?;
    let fault = Instant::now();
    bench.nodes[1].kill();
    let expect = Expect::at_once(NODE_2);
    let seen = bench.exporter.finds_within(fault, secs(31), expect).await?;
    Ok(seen)
}

/// The exporter knows the balancer's address alone; those that the nodes registered resolve nowhere.
async fn behind_a_balancer() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let mut nodes = Vec::new();
    for number in 1..=2 {
        let mut options = NodeOptions::new(format!("node-{number}"), redis.url());
        options.advertise = Some(format!("node-{number}.limiter.invalid:8000"));
        nodes.push(NodeProcess::start(options).await?);
    }
    let balancer = Balancer::start(nodes.iter().map(NodeProcess::address).collect()).await?;
    let url = redis.url();
    let flag = format!("--ratelimiter.url={}", balancer.url());
    let mut bench = Bench::untold(redis, nodes, &url, &[&flag]).await?;
    bench.exporter.silent_for(secs(15)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 2), "not two nodes");
    for id in ["node-1", "node-2"] {
        let booked = scrape.value(
            "ratelimiter_node_requests_checked_total",
            &[("node_id", id)],
        );
        anyhow::ensure!(booked.is_none(), "what several answer is booked on {id}");
    }
    let fault = Instant::now();
    bench.nodes[1].kill();
    let expect = Expect::at_once(NODE_2);
    bench.exporter.finds_within(fault, secs(31), expect).await
}

async fn back_under_another_id() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let url = redis.url();
    let mut options = NodeOptions::new("node-1", redis.url());
    options.advertise = Some("container-1.invalid:8000".to_owned());
    let nodes = vec![NodeProcess::start(options).await?];
    let mut bench = Bench::around(redis, nodes, &url, &[]).await?;
    // Between two scrapes: one in the time without it would report it, and rightly.
    let mut options = NodeOptions::new("node-1b", url);
    options.listen = Some(bench.nodes[0].address().parse()?);
    options.advertise = Some("container-2.invalid:8000".to_owned());
    bench.nodes[0].kill();
    bench.nodes[0] = NodeProcess::start(options).await?;
    bench.exporter.silent_for(secs(40)).await?;
    let fault = Instant::now();
    bench.nodes[0].pause()?;
    let expect = Expect::at_once([("node_down", "node-1b")]);
    let seen = bench.exporter.finds(fault, expect).await?;
    bench.nodes[0].resume()?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn all_killed() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let fault = Instant::now();
    for node in &mut bench.nodes {
        node.kill();
    }
    let all = ["node-1", "node-2", "node-3"].map(|id| ("node_down", id));
    let seen = bench.exporter.finds(fault, Expect::at_once(all)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_up", 0), "ratelimiter_up is not 0");
    anyhow::ensure!(
        scrape.is("ratelimiter_redis_up", 1),
        "ratelimiter_redis_up is not 1"
    );
    Ok(seen)
}

async fn unhealthy() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let faults = Faults {
        health_status: Some(503),
        ..Faults::default()
    };
    let fault = Instant::now();
    bench.nodes[1].set_faults(&faults).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    bench.nodes[1].set_faults(&Faults::default()).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn told_by_the_api() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let faults = Faults {
        node_state: Some("Draining".to_owned()),
        ..Faults::default()
    };
    let fault = Instant::now();
    bench.nodes[0].set_faults(&faults).await?;
    let expect = Expect::at_once([("node_down", "node-1")]);
    // `/api/nodes` is an optional request: after an answer that took 100 ms, the next request follows after 10 s.
    bench.exporter.finds_within(fault, secs(30), expect).await
}

/// Both registrations are gone at the next scrape; how each went shows only in between.
async fn once_a_minute() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let fault = Instant::now();
    bench.nodes[1].kill();
    tokio::time::sleep(secs(5)).await;
    bench.nodes[2].terminate().await?;
    tokio::time::sleep_until(fault + secs(60)).await;
    bench.exporter.finds(fault, Expect::at_once(NODE_2)).await
}
