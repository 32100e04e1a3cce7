//! Keys above their limits, wherever they hide.

use lab::redis_server::RedisServer;
use lab::seed::{Scale, extra_members, fill_to};
use tokio::time::Instant;

use crate::bench::{Bench, check, put_limit, redis_do, secs, start_nodes, until};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};

/// Window of the limits set here.
const WINDOW_MS: u64 = 60_000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "5 % over the limit",
            "`ghost_allowing{key}` at the first collection, and no drift",
            40,
            || Box::pin(slightly_over()),
        ),
        Scenario::new(
            "15 % over the limit",
            "`ghost_allowing{key}` at the first collection, `counter_drift{key}` after 30 s",
            40,
            || Box::pin(far_over()),
        ),
        Scenario::new(
            "20 % over the default limit, two Prometheus servers at odd intervals",
            "`ghost_allowing{key}` at the first collection, `counter_drift{key}` after 30 s, not earlier",
            40,
            || Box::pin(two_servers()),
        ),
        Scenario::new(
            "one key over its limit behind 500 others (the API lists 100)",
            "`ghost_allowing{key}` at the first collection",
            8,
            || Box::pin(behind_others(500, 1)),
        ),
        Scenario::new(
            "one key over its limit behind 5,000 fuller ones (100 are exported)",
            "`ghost_allowing{key}` at the first collection",
            10,
            || Box::pin(behind_others(5_000, 10)),
        ),
        Scenario::new(
            "limit 0 with one admitted request, both older than the exporter",
            "`ghost_allowing{key}` at the first collection, `counter_drift{key}` after 30 s",
            40,
            || Box::pin(limit_zero_before()),
        ),
        Scenario::new(
            "limit 0 that stood before the exporter started, one request admitted",
            "`ghost_allowing{key}` at the first collection, `counter_drift{key}` after 30 s",
            40,
            || Box::pin(limit_zero()),
        ),
        Scenario::new(
            "strict limit (5) that stood before the exporter started, key new, 7 admitted",
            "`ghost_allowing{key}` at the first collection, `counter_drift{key}` after 30 s",
            40,
            || Box::pin(strict_limit()),
        ),
        Scenario::new(
            "limit set to 0 for a key without requests, one admitted 10 s later",
            "`ghost_allowing{key}` at the first collection, `counter_drift{key}` after 30 s",
            50,
            || Box::pin(limit_zero_before_the_first_request()),
        ),
        Scenario::new(
            "limit of a key lowered (20 → 5 at a count of 10), one more admitted while it drains",
            "`ghost_allowing{key}` at the first collection",
            15,
            || Box::pin(rises_while_it_drains()),
        ),
        Scenario::new(
            "limit of a key over it becomes malformed, then right again",
            "`ghost_allowing{key}` at every collection, not evaluable while it is malformed",
            15,
            || Box::pin(malformed_limit()),
        ),
        Scenario::new(
            "limiter admits everything (fails open) under traffic",
            "`ghost_allowing{key}` at the first collection",
            10,
            || Box::pin(open_to_all()),
        ),
        Scenario::new(
            "a node's clock is 10 s ahead, under traffic below the limit",
            "`invalid_counter{key}` after 60 s",
            75,
            || Box::pin(clock_ahead()),
        ),
    ]
}

fn ghost(key: &str) -> [(&str, &str); 1] {
    [("ghost_allowing", key)]
}

fn drift(key: &str) -> [(&str, &str); 1] {
    [("counter_drift", key)]
}

async fn filled(bench: &Bench, key: &str, total: u64) -> anyhow::Result<()> {
    fill_to(&mut bench.redis().await?, key.as_bytes(), total).await?;
    Ok(())
}

async fn slightly_over() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "tenant:1", 100, WINDOW_MS).await?;
    filled(&bench, "tenant:1", 100).await?;
    bench.exporter.silent_for(secs(2)).await?;
    let fault = Instant::now();
    filled(&bench, "tenant:1", 105).await?;
    let expect = || Expect::at_once(ghost("tenant:1"));
    let seen = bench.exporter.finds(fault, expect()).await?;
    bench.exporter.keeps(secs(31), expect()).await?;
    Ok(seen)
}

async fn far_over() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "tenant:1", 100, WINDOW_MS).await?;
    filled(&bench, "tenant:1", 100).await?;
    bench.exporter.silent_for(secs(2)).await?;
    let fault = Instant::now();
    filled(&bench, "tenant:1", 115).await?;
    let expect = Expect::at_once(ghost("tenant:1")).after(secs(30), drift("tenant:1"));
    bench.exporter.finds(fault, expect).await
}

async fn two_servers() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    filled(&bench, "a key \"with\" quotes", 10).await?;
    bench.exporter.silent_for(secs(2)).await?;
    let fault = Instant::now();
    filled(&bench, "a key \"with\" quotes", 12).await?;
    let key = "a key \"with\" quotes";
    let expect = Expect::at_once(ghost(key)).after(secs(30), drift(key));
    let other = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(1_370)).await;
            if bench.exporter.scrape().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        seen = bench.exporter.finds(fault, expect) => seen,
        () = other => anyhow::bail!("the other server ended"),
    }
}

/// `others` keys with `members` of 10 each, all of which sort before the one that is over.
async fn behind_others(others: u64, members: u64) -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    let scale = Scale {
        keys: others,
        members,
        ..Scale::default()
    };
    scale.write(&mut bench.redis().await?).await?;
    bench.exporter.silent_for(secs(2)).await?;
    let fault = Instant::now();
    extra_members(&mut bench.redis().await?, b"zzz", 11, 60_000).await?;
    let expect = Expect::at_once(ghost("zzz"));
    bench.exporter.finds(fault, expect).await
}

async fn limit_zero_before() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_nodes(&redis, 1).await?;
    put_limit(&nodes[0], "closed", 0, WINDOW_MS).await?;
    let url = redis.url();
    fill_to(&mut redis.connection().await?, b"closed", 1).await?;
    let bench = Bench::unscraped(redis, nodes, &url, &[]).await?;
    let expect = Expect::at_once(ghost("closed")).after(secs(30), drift("closed"));
    bench.exporter.finds(Instant::now(), expect).await
}

async fn limit_zero() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "closed", 0, WINDOW_MS).await?;
    bench.exporter.restart().await?;
    bench.settle().await?;
    let fault = Instant::now();
    filled(&bench, "closed", 1).await?;
    let expect = Expect::at_once(ghost("closed")).after(secs(30), drift("closed"));
    bench.exporter.finds(fault, expect).await
}

async fn limit_zero_before_the_first_request() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "closed", 0, WINDOW_MS).await?;
    bench.exporter.silent_for(secs(10)).await?;
    let fault = Instant::now();
    filled(&bench, "closed", 1).await?;
    let expect = Expect::at_once(ghost("closed")).after(secs(30), drift("closed"));
    bench.exporter.finds(fault, expect).await
}

async fn rises_while_it_drains() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "tenant:1", 20, WINDOW_MS).await?;
    filled(&bench, "tenant:1", 10).await?;
    bench.exporter.silent_for(secs(2)).await?;
    put_limit(&bench.nodes[0], "tenant:1", 5, WINDOW_MS).await?;
    bench.exporter.silent_for(secs(5)).await?;
    let fault = Instant::now();
    filled(&bench, "tenant:1", 11).await?;
    let expect = Expect::at_once(ghost("tenant:1"));
    bench.exporter.finds(fault, expect).await
}

async fn malformed_limit() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "tenant:1", 5, WINDOW_MS).await?;
    bench.exporter.silent_for(secs(1)).await?;
    let fault = Instant::now();
    filled(&bench, "tenant:1", 6).await?;
    let expect = || Expect::at_once(ghost("tenant:1"));
    let seen = bench.exporter.finds(fault, expect()).await?;
    let mut redis = bench.redis().await?;
    for (limit, evaluable) in [("many", 0.0), ("5", 1.0)] {
        let set = ["HSET", "ratelimit:limit:tenant:1", "limit", limit];
        redis_do(&mut redis, &set).await?;
        bench.exporter.keeps(secs(4), expect()).await?;
        let scrape = bench.exporter.scrape().await?;
        let known = scrape.value(
            "ratelimiter_invariant_evaluable",
            &[("name", "ghost_allowing")],
        );
        anyhow::ensure!(known == Some(evaluable), "limit {limit}: {known:?}");
    }
    Ok(seen)
}

async fn strict_limit() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(1, &[]).await?;
    put_limit(&bench.nodes[0], "strict", 5, WINDOW_MS).await?;
    bench.exporter.restart().await?;
    bench.settle().await?;
    let fault = Instant::now();
    filled(&bench, "strict", 7).await?;
    let expect = Expect::at_once(ghost("strict")).after(secs(30), drift("strict"));
    bench.exporter.finds(fault, expect).await
}

async fn open_to_all() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    let traffic = bench.traffic(1, 40.0)?;
    until(|| traffic.refused() > 5).await?;
    bench.exporter.silent_for(secs(1)).await?;
    let faults = lab::faults::Faults {
        fail_open: true,
        ..lab::faults::Faults::default()
    };
    let fault = Instant::now();
    bench.nodes[0].set_faults(&faults).await?;
    anyhow::ensure!(check(&bench.nodes[0], "user:0").await? == 200, "refused");
    let expect = Expect::at_once(ghost("user:0"));
    let seen = bench.exporter.finds(fault, expect).await?;
    traffic.stop().await;
    Ok(seen)
}

/// Half of the requests of a key are scored by a clock that is ahead.
async fn clock_ahead() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    put_limit(&bench.nodes[0], "user:0", 10_000, WINDOW_MS).await?;
    let traffic = bench.traffic(1, 10.0)?;
    bench.exporter.silent_for(secs(5)).await?;
    let faults = lab::faults::Faults {
        clock_ahead_ms: 10_000,
        ..lab::faults::Faults::default()
    };
    bench.nodes[1].set_faults(&faults).await?;
    anyhow::ensure!(check(&bench.nodes[1], "user:0").await? == 200, "refused");
    let fault = Instant::now();
    let expect = Expect::at_once([]).after(secs(60), [("invalid_counter", "user:0")]);
    let seen = bench.exporter.finds(fault, expect).await?;
    traffic.stop().await;
    Ok(seen)
}
