//! Everyday events of keys and limits, which must page nobody.

use std::net::SocketAddr;
use std::time::Duration;

use lab::node::{NodeOptions, NodeProcess};
use lab::seed::Scale;

use crate::bench::{Bench, check, put_limit, redis_do, secs};
use crate::runner::{Scenario, Seen};
use crate::scrape::findings;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let nothing = "nothing at any scrape";
    vec![
        Scenario::new("keys that expire (2 s windows)", nothing, 20, || {
            Box::pin(expiring())
        }),
        Scenario::new(
            "limit of a key lowered (20 → 5 at a count of 10)",
            "pending, never reported, and gone after one window",
            80,
            || Box::pin(lowered_limit()),
        ),
        Scenario::new(
            "key at the default limit gets a lower one of its own (HSET, 10 → 5 at a count of 10)",
            "pending, never reported, and gone after one window",
            80,
            || Box::pin(own_limit_below_the_default()),
        ),
        Scenario::new(
            "default limit lowered by a rolling restart (10 → 5 at a count of 10)",
            "pending, never reported, and gone after one window",
            85,
            || Box::pin(lowered_default()),
        ),
        Scenario::new("key storm: 20,000 new keys at once", nothing, 20, || {
            Box::pin(storm())
        }),
        Scenario::new(
            "malformed data: /api/* 500, and a key whose checks answer 500",
            nothing,
            25,
            || Box::pin(malformed()),
        ),
        Scenario::new(
            "exactly at the limit, under refused traffic",
            nothing,
            15,
            || Box::pin(at_the_limit()),
        ),
        Scenario::new(
            "a node's clock is 1.5 s ahead, under traffic",
            nothing,
            70,
            || Box::pin(clock_within_the_tolerance()),
        ),
    ]
}

async fn expiring() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    for number in 0..20 {
        put_limit(&bench.nodes[0], &format!("user:{number}"), 5, 2_000).await?;
    }
    let traffic = bench.traffic(20, 60.0)?;
    bench.exporter.silent_for(secs(8)).await?;
    traffic.stop().await;
    bench.exporter.silent_for(secs(5)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(
        scrape.is("ratelimiter_keys", 0),
        "keys outlive their window"
    );
    Ok(bench.exporter.nothing())
}

/// Pending at the next scrape, and over once a window has passed.
pub(crate) async fn drains(bench: &Bench, key: &str) -> anyhow::Result<()> {
    let pending = bench.exporter.scrape().await?.pending();
    let expected = findings([("ghost_allowing", key), ("counter_drift", key)]);
    anyhow::ensure!(
        pending.is_superset(&expected),
        "not pending: {}",
        crate::scrape::shown(&pending)
    );
    bench.exporter.silent_for(secs(62)).await?;
    let pending = bench.exporter.scrape().await?.pending();
    anyhow::ensure!(
        pending.is_empty(),
        "still pending: {}",
        crate::scrape::shown(&pending)
    );
    Ok(())
}

async fn lowered_limit() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    put_limit(&bench.nodes[0], "tenant", 20, 60_000).await?;
    for _ in 0..10 {
        anyhow::ensure!(check(&bench.nodes[0], "tenant").await? == 200, "refused");
    }
    bench.exporter.silent_for(secs(2)).await?;
    put_limit(&bench.nodes[0], "tenant", 5, 60_000).await?;
    anyhow::ensure!(check(&bench.nodes[1], "tenant").await? == 429, "admitted");
    drains(&bench, "tenant").await?;
    Ok(bench.exporter.nothing())
}

async fn own_limit_below_the_default() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    for _ in 0..10 {
        anyhow::ensure!(check(&bench.nodes[0], "tenant").await? == 200, "refused");
    }
    bench.exporter.silent_for(secs(2)).await?;
    let name = "ratelimit:limit:tenant";
    let lower = ["HSET", name, "limit", "5", "window_ms", "60000"];
    redis_do(&mut bench.redis().await?, &lower).await?;
    drains(&bench, "tenant").await?;
    Ok(bench.exporter.nothing())
}

async fn lowered_default() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    for _ in 0..10 {
        anyhow::ensure!(check(&bench.nodes[0], "user").await? == 200, "refused");
    }
    bench.exporter.silent_for(secs(2)).await?;
    let redis_url = bench.redis.url();
    let nodes = &mut bench.nodes;
    let restarts = async {
        for node in nodes.iter_mut() {
            node.terminate().await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let address: SocketAddr = node.address().parse()?;
            let mut options = NodeOptions::new(node.id(), &redis_url);
            options.listen = Some(address);
            options.default_limit = 5;
            *node = NodeProcess::start(options).await?;
        }
        Ok(())
    };
    bench.exporter.silent_while(restarts).await?;
    drains(&bench, "user").await?;
    Ok(bench.exporter.nothing())
}

async fn storm() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    let scale = Scale {
        keys: 20_000,
        members: 5,
        limits_every: 10,
        ..Scale::default()
    };
    let writing = async { Ok(scale.write(&mut bench.redis().await?).await?) };
    bench.exporter.silent_while(writing).await?;
    bench.exporter.silent_for(secs(12)).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn malformed() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut connection = bench.redis().await?;
    redis::cmd("ZADD")
        .arg(b"ratelimit:\xff\xfe".as_slice())
        .arg(1)
        .arg("x")
        .query_async::<()>(&mut connection)
        .await?;
    redis_do(&mut connection, &["SET", "ratelimiter:nodes:broken", "x"]).await?;
    let poison = [
        "HSET",
        "ratelimit:limit:poison",
        "limit",
        "many",
        "window_ms",
        "60000",
    ];
    redis_do(&mut connection, &poison).await?;
    let poisoned = async {
        for round in 0..20 {
            let status = check(&bench.nodes[round % 2], "poison").await?;
            anyhow::ensure!(status == 500, "the poisoned check answers {status}");
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        Ok(())
    };
    bench.exporter.silent_while(poisoned).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn at_the_limit() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(3, 40.0)?;
    bench.exporter.silent_for(secs(10)).await?;
    anyhow::ensure!(traffic.refused() > 0, "nothing was refused");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn clock_within_the_tolerance() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    put_limit(&bench.nodes[0], "user:0", 10_000, 60_000).await?;
    let faults = lab::faults::Faults {
        clock_ahead_ms: 1_500,
        ..lab::faults::Faults::default()
    };
    bench.nodes[1].set_faults(&faults).await?;
    let traffic = bench.traffic(2, 20.0)?;
    bench.exporter.silent_for(secs(65)).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}
