//! States of counters that the reference limiter cannot make, and what finding them costs.

use anyhow::Context as _;
use hyper::Method;
use lab::faults::Faults;
use lab::http::request;
use lab::node::NodeProcess;
use lab::seed::{Scale, extra_members};
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;

use crate::harness::{Cluster, PATIENCE, Scrape, redis_do, run, said};

/// A limiter of so many nodes whose states are reported at once.
async fn start(nodes: usize, flags: &[&str]) -> anyhow::Result<(Cluster, TempDir)> {
    let folder = TempDir::new("states")?;
    let file = folder.path().join("exporter.yml");
    std::fs::write(&file, "invariants: {invalid_counter: {grace_period: 0s}}\n")?;
    let config = format!("--config.file={}", file.display());
    let mut all = vec![config.as_str()];
    all.extend(flags);
    Ok((Cluster::start(nodes, &all).await?, folder))
}

async fn check(node: &NodeProcess, key: &str) -> anyhow::Result<()> {
    let body = serde_json::json!({ "key": key }).to_string();
    let answer = request(&node.address(), Method::POST, "/check", body, PATIENCE).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.status);
    Ok(())
}

#[tokio::test]
async fn a_node_whose_clock_is_ahead_is_reported_by_its_counters_and_one_within_the_tolerance_not()
-> anyhow::Result<()> {
    let (cluster, _folder) = start(2, &[]).await?;
    for (node, ahead_ms) in cluster.nodes.iter().zip([1_500, 60_000]) {
        let faults = Faults {
            clock_ahead_ms: ahead_ms,
            ..Faults::default()
        };
        node.set_faults(&faults).await?;
    }
    check(&cluster.nodes[0], "well").await?;
    check(&cluster.nodes[1], "early").await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["invalid_counter early"]);
    // Its count is right, also once it is no longer written.
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["invalid_counter early"]);
    let answer = cluster.exporter.get("/api/v1/violations").await?.text();
    assert!(answer.contains("in_the_future"), "{answer}");
    scrape.assert_is(
        "ratelimiter_invariant_evaluable",
        &[("name", "invalid_counter")],
        1,
    );
    let stuck = scrape.value(
        "ratelimiter_invariant_evaluable",
        &[("name", "stuck_counter")],
    );
    assert_eq!(stuck, None, "a log without expiry leaks and blocks nobody");
    let mut redis = cluster.redis.connection().await?;
    redis_do(&mut redis, &["DEL", "ratelimit:early"]).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn an_expiry_that_is_too_long_is_reported_and_one_of_a_longer_window_before_is_not()
-> anyhow::Result<()> {
    let (cluster, _folder) = start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    extra_members(&mut redis, b"late", 3, 60_000).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    redis_do(&mut redis, &["PEXPIRE", "ratelimit:late", "90000"]).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["invalid_counter late"]);
    redis_do(&mut redis, &["PEXPIRE", "ratelimit:late", "61000"]).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);

    // A window of an hour becomes one of ten minutes: what was written before lives for an hour.
    let limit = |window: &'static str| {
        [
            "HSET",
            "ratelimit:limit:slow",
            "limit",
            "10",
            "window_ms",
            window,
        ]
    };
    redis_do(&mut redis, &limit("3600000")).await?;
    extra_members(&mut redis, b"slow", 3, 3_600_000).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    redis_do(&mut redis, &limit("600000")).await?;
    for _ in 0..2 {
        cluster.exporter.scrape().await?.assert_reported(&[]);
    }
    Ok(())
}

#[tokio::test]
async fn logs_without_expiry_are_counted_and_no_violation() -> anyhow::Result<()> {
    let (cluster, _folder) = start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    for key in ["a", "b", "c"] {
        extra_members(&mut redis, key.as_bytes(), 10, 60_000).await?;
    }
    redis_do(&mut redis, &["PERSIST", "ratelimit:a"]).await?;
    let leaks =
        |scrape: &Scrape| scrape.is("ratelimiter_keys_without_expiry", &[("counter", "log")], 1);
    let scrape = cluster
        .exporter
        .until("one key never expires", leaks)
        .await?;
    scrape.assert_reported(&[]);
    Ok(())
}

/// How often Redis ran a command.
async fn calls(redis: &mut MultiplexedConnection, command: &str) -> anyhow::Result<u64> {
    let mut info = redis::cmd("INFO");
    info.arg("commandstats");
    let stats: String = info.query_async(redis).await?;
    let start = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&start));
    let calls = calls.and_then(|calls| calls.split(',').next());
    Ok(calls
        .with_context(|| format!("no {command} in {stats}"))?
        .parse()?)
}

#[tokio::test]
async fn reading_expiries_costs_a_sweep_less_than_a_tenth() -> anyhow::Result<()> {
    let (cluster, _folder) = start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    let keys = Scale {
        keys: 20_000,
        seq: false,
        ..Scale::default()
    };
    keys.write(&mut redis).await?;
    let flags = [
        "check",
        "--output=json",
        "--latency-sample=0s",
        "--keys.max-series=1",
        &format!("--redis.url={}", cluster.redis.url()),
        &format!("--ratelimiter.url={}", cluster.nodes[0].url()),
    ];
    let output = run(flags.map(str::to_owned).to_vec()).await?;
    let observation: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(observation["totals"]["keys"], 20_000, "{}", said(&output));
    // Each name costs one ZCOUNT, each of the sample a PTTL and a second ZCOUNT. A key that may be among the fullest is read
    // once more, with its expiry: how many that are depends on the order in which SCAN brings them.
    let pttl = calls(&mut redis, "pttl").await?;
    let names = calls(&mut redis, "zcount").await? - pttl;
    anyhow::ensure!(names >= 20_000, "{names} names");
    let sample = pttl.saturating_sub(names - 20_000);
    assert!((100..1_000).contains(&sample), "{sample} of {names}");
    Ok(())
}
