//! Slow checks and limiters that fail open, seen by histograms or by the canary.

use lab::faults::Faults;
use lab::redis_server::RedisServer;
use tokio::time::Instant;

use crate::bench::{Bench, secs, start_faulty_nodes, traffic, until};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};

const SLOW: [(&str, &str); 1] = [("high_latency", "node-2")];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "slow checks on one node (120 ms)",
            "`high_latency{node-2}` pending at the first collection, reported after 60 s",
            72,
            || Box::pin(slow(true)),
        ),
        Scenario::new(
            "slow checks (70 ms), histogram never counts, --probe.canary",
            "`high_latency{node-2}` pending at the first collection, reported after 60 s",
            72,
            || Box::pin(slow_by_canary(false)),
        ),
        Scenario::new(
            "slow checks (70 ms) under traffic, histogram never counts, --probe.canary",
            "`high_latency{node-2}` pending at the first collection, reported after 60 s",
            72,
            || Box::pin(slow_by_canary(true)),
        ),
        Scenario::new(
            "slow checks (120 ms), histogram never counts: by the coarse histogram of the web framework",
            "`high_latency{node-2}` pending at the first collection, reported after 60 s",
            72,
            || Box::pin(slow(false)),
        ),
        Scenario::new(
            "limiter fails open, --probe.canary",
            "`ghost_allowing{canary:node-2}` within 30 s",
            40,
            || Box::pin(fails_open()),
        ),
    ]
}

/// Two nodes whose own histogram counts, or never does.
async fn bench(flags: &[&str], counts: bool) -> anyhow::Result<(Bench, Faults)> {
    let faults = Faults {
        histogram_never_counts: !counts,
        ..Faults::default()
    };
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_faulty_nodes(&redis, 2, &faults).await?;
    let url = redis.url();
    Ok((Bench::around(redis, nodes, &url, flags).await?, faults))
}

async fn slow(counts: bool) -> anyhow::Result<Seen> {
    let (bench, faults) = bench(&[], counts).await?;
    let healthy = traffic(&bench.nodes[..1], 100, 10.0)?;
    let slow = traffic(&bench.nodes[1..], 100, 10.0)?;
    bench.exporter.silent_for(secs(3)).await?;
    bench.exporter.calm().await?;
    let faults = Faults {
        check_delay_ms: 120,
        ..faults
    };
    let fault = Instant::now();
    bench.nodes[1].set_faults(&faults).await?;
    // Two slow checks of the fifty in the window are the slowest 4 %.
    let sent = slow.sent();
    until(|| slow.sent() >= sent + 4).await?;
    let expect = Expect::default().after(secs(60), SLOW);
    let seen = bench.exporter.finds(fault, expect).await?;
    healthy.stop().await;
    slow.stop().await;
    Ok(seen)
}

/// With or without traffic, which the web framework's coarse histogram counts.
async fn slow_by_canary(with_traffic: bool) -> anyhow::Result<Seen> {
    let (bench, faults) = bench(&["--probe.canary=true"], false).await?;
    let traffic = with_traffic.then(|| bench.traffic(100, 20.0)).transpose()?;
    bench.exporter.silent_for(secs(2)).await?;
    bench.exporter.calm().await?;
    let faults = Faults {
        check_delay_ms: 70,
        ..faults
    };
    let fault = Instant::now();
    bench.nodes[1].set_faults(&faults).await?;
    let expect = Expect::default().after(secs(60), SLOW);
    let seen = bench.exporter.finds(fault, expect).await?;
    drop(traffic);
    Ok(seen)
}

async fn fails_open() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &["--probe.canary=true"]).await?;
    let faults = Faults {
        fail_open: true,
        ..Faults::default()
    };
    let fault = Instant::now();
    bench.nodes[1].set_faults(&faults).await?;
    let expect = Expect::at_once([("ghost_allowing", "canary:node-2")]);
    // Asked every 30 s, at a collection: one a second here.
    bench.exporter.finds_within(fault, secs(31), expect).await
}
