//! A Redis that is far away, and scrapes that leave little time: connections take several round trips.

use std::time::Duration;

use lab::node::{NodeOptions, NodeProcess};
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::seed::{counters, fill_to};
use tokio::time::Instant;

use crate::harness::{Exporter, PATIENCE, Scrape, base_flags};

const PASS_ENDED: &str = "ratelimiter_scan_last_full_pass_timestamp_seconds";

const KEYS: u32 = 200;

/// Between two scrapes: passes go on meanwhile.
const PAUSE: Duration = Duration::from_millis(300);

/// Scrapes with a timeout of one second until `holds`.
async fn until(
    exporter: &Exporter,
    what: &str,
    holds: impl Fn(&Scrape) -> bool,
) -> anyhow::Result<Scrape> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scrape = exporter.scrape_within(1.0).await?;
        if holds(&scrape) {
            return Ok(scrape);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "never: {what}; log:\n{}\n{}",
            exporter.log(),
            scrape.text
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many connections Redis has accepted so far.
async fn accepted(redis: &mut redis::aio::MultiplexedConnection) -> anyhow::Result<u64> {
    let info: String = redis::cmd("INFO").arg("stats").query_async(redis).await?;
    let count = info
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    Ok(count.unwrap_or_default().trim().parse()?)
}

#[tokio::test]
async fn a_scrape_that_is_shorter_than_connecting_takes_keeps_no_key_from_being_counted()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut direct = redis.connection().await?;
    counters(&mut direct, u64::from(KEYS), 1, 10, true).await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    proxy.set(Mode::Delay(Duration::from_millis(25))).await?;
    let exporter = Exporter::start(&base_flags(
        &proxy.url("redis"),
        std::slice::from_ref(&node),
    ))
    .await?;
    let whole = |scrape: &Scrape| {
        scrape.is("ratelimiter_keys", &[], KEYS)
            && scrape.value(PASS_ENDED, &[]).is_some_and(|at| at > 0.0)
    };
    until(&exporter, "all keys are counted", whole).await?;

    // What is cut off then leaves the connections as they are.
    let before = accepted(&mut direct).await?;
    let written = "a key that is written meanwhile is counted";
    fill_to(&mut direct, b"written", 11).await?;
    let found = |scrape: &Scrape| scrape.reported() == ["ghost_allowing written"];
    until(&exporter, written, found).await?;
    assert_eq!(accepted(&mut direct).await?, before, "{}", exporter.log());
    Ok(())
}

/// A round trip takes a quarter of a second. That is too long for a part of the pass within a collection, so all of it is
/// between collections, and each collection interrupts it.
#[tokio::test]
async fn a_pass_over_a_distant_redis_goes_on_where_a_collection_interrupted_it()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut direct = redis.connection().await?;
    counters(&mut direct, u64::from(KEYS), 1, 10, true).await?;
    fill_to(&mut direct, b"over", 11).await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let exporter = Exporter::start(&base_flags(
        &proxy.url("redis"),
        std::slice::from_ref(&node),
    ))
    .await?;
    proxy.set(Mode::Delay(Duration::from_millis(130))).await?;
    // Room for some steps.
    let scrape = pass_ends(&exporter, Duration::from_millis(800)).await?;
    // None is counted twice, although parts of the pass were read again.
    scrape.assert_is("ratelimiter_keys", &[], KEYS + 1);
    scrape.assert_reported(&["ghost_allowing over"]);
    Ok(())
}

/// Scrapes with this pause in between until a pass has ended.
async fn pass_ends(exporter: &Exporter, pause: Duration) -> anyhow::Result<Scrape> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scrape = exporter.scrape_within(4.0).await?;
        if scrape.value(PASS_ENDED, &[]).is_some_and(|at| at > 0.0) {
            return Ok(scrape);
        }
        anyhow::ensure!(Instant::now() < deadline, "{}", exporter.log());
        tokio::time::sleep(pause).await;
    }
}

/// The time between two collections is shorter than a round trip, so no step of the pass is ever complete when a collection
/// interrupts it.
#[tokio::test]
async fn a_pass_ends_although_no_step_fits_between_two_collections() -> anyhow::Result<()> {
    const FEW: u32 = 20;
    let redis = RedisServer::start(&[]).await?;
    let mut direct = redis.connection().await?;
    for number in 0..FEW {
        let name = format!("LIMITS:LIMITER/client-{number}/api/10/1/hour");
        let mut set = redis::cmd("SET");
        set.arg(name).arg(3).arg("EX").arg(3600);
        set.query_async::<()>(&mut direct).await?;
    }
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let flags = [
        "--limiter.kind=limits".to_owned(),
        format!("--redis.url={}", proxy.url("redis")),
    ];
    let exporter = Exporter::start(&flags).await?;
    proxy.set(Mode::Delay(Duration::from_millis(130))).await?;
    let scrape = pass_ends(&exporter, Duration::from_millis(100)).await?;
    scrape.assert_is("ratelimiter_keys", &[], FEW);
    scrape.assert_reported(&[]);
    Ok(())
}
