//! Slow checks and limiters that fail open, seen by histograms or by the canary.

use std::time::Duration;

use lab::exposition::Exposition;
use lab::faults::Faults;
use lab::node::NodeProcess;
use lab::redis_server::RedisServer;
use tokio::time::Instant;

use crate::bench::{Bench, secs, start_faulty_nodes, traffic, until};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};
use crate::scrape::findings;

const SLOW: [(&str, &str); 1] = [("high_latency", "node-2")];

/// Attempts at a fault that a busy machine can turn into another one.
const ATTEMPTS: u32 = 3;

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
        )
        .time_critical(),
        Scenario::new(
            "slow checks (120 ms), histogram never counts: by the coarse histogram of the web framework",
            "`high_latency{node-2}` pending at the first collection, reported after 60 s",
            72,
            || Box::pin(slow(false)),
        ),
        Scenario::new(
            "Redis stalls twice for 0.8 s, 100 s apart, at one check a second, coarse histogram",
            "nothing at any scrape",
            200,
            || Box::pin(two_stalls()),
        )
        .time_critical(),
        Scenario::new(
            "Redis hung for 20 s at one check a second, coarse histogram: the minutes after",
            "`redis_disconnected` while it hangs, and never `high_latency`",
            115,
            || Box::pin(after_an_outage()),
        )
        .time_critical(),
        Scenario::new(
            "slow checks (120 ms) for 75 s, then repaired, coarse histogram",
            "`high_latency{node-2}` after 60 s, over within 25 s of the repair",
            110,
            || Box::pin(slow_then_repaired()),
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
    let (bench, healthy) = bench(&["--probe.canary=true"], false).await?;
    let traffic = with_traffic.then(|| bench.traffic(100, 20.0)).transpose()?;
    bench.exporter.silent_for(secs(2)).await?;
    let slow = Faults {
        check_delay_ms: 70,
        ..healthy.clone()
    };
    let node = &bench.nodes[1];
    let mut attempts = 1;
    let seen = loop {
        bench.exporter.calm().await?;
        let before = above_100_ms(node).await?;
        let fault = Instant::now();
        node.set_faults(&slow).await?;
        let expect = Expect::default().after(secs(60), SLOW);
        let seen = bench.exporter.finds(fault, expect).await;
        // On a busy machine, checks that take longer than their 70 ms show in the histogram. Then it decides, not the canary.
        if seen.is_ok() || attempts == ATTEMPTS || above_100_ms(node).await? <= before {
            break seen?;
        }
        attempts += 1;
        node.set_faults(&healthy).await?;
    };
    drop(traffic);
    Ok(seen)
}

/// How many checks of the node took longer than 100 ms, where the first bucket of the coarse histogram ends.
async fn above_100_ms(node: &NodeProcess) -> anyhow::Result<f64> {
    let answer = lab::http::get(&node.address(), "/metrics", secs(5)).await?;
    let samples = Exposition::parse(&answer.text())?;
    let up_to = |le| {
        let labels = [("handler", "/check"), ("le", le)];
        samples.value("http_request_duration_seconds_bucket", &labels)
    };
    let (all, fast) = up_to("+Inf").zip(up_to("0.1")).unwrap_or_default();
    Ok(all - fast)
}

/// Each stall catches one check, the one in sixty that is the p99.
async fn two_stalls() -> anyhow::Result<Seen> {
    let (mut bench, _) = bench(&[], false).await?;
    let traffic = traffic(&bench.nodes[..1], 5, 1.0)?;
    let redis = &mut bench.redis;
    let stalls = async {
        for _ in 0..2 {
            let sent = traffic.sent();
            until(|| traffic.sent() > sent).await?;
            // The next one comes in the middle of the stall.
            tokio::time::sleep(Duration::from_millis(600)).await;
            redis.pause()?;
            tokio::time::sleep(Duration::from_millis(800)).await;
            redis.resume()?;
            tokio::time::sleep(secs(98)).await;
        }
        Ok(())
    };
    // The grace period of the second would end within the minute after it.
    bench.exporter.silent_while(stalls).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn after_an_outage() -> anyhow::Result<Seen> {
    let (mut bench, _) = bench(&[], false).await?;
    let traffic = traffic(&bench.nodes[..1], 5, 1.0)?;
    bench.exporter.silent_for(secs(5)).await?;
    let without =
        findings(["redis", "node-1", "node-2"].map(|subject| ("redis_disconnected", subject)));
    let redis = &mut bench.redis;
    let outage = async {
        redis.pause()?;
        tokio::time::sleep(secs(20)).await;
        redis.resume()?;
        // A window and a grace period after it began, and then some.
        tokio::time::sleep(secs(80)).await;
        Ok(())
    };
    bench.exporter.silent_but(&without, outage).await?;
    bench.exporter.recovers().await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn slow_then_repaired() -> anyhow::Result<Seen> {
    let (bench, faults) = bench(&[], false).await?;
    let slow = traffic(&bench.nodes[1..], 5, 10.0)?;
    bench.exporter.silent_for(secs(3)).await?;
    bench.exporter.calm().await?;
    let fault = Instant::now();
    let delayed = Faults {
        check_delay_ms: 120,
        ..faults.clone()
    };
    bench.nodes[1].set_faults(&delayed).await?;
    let sent = slow.sent();
    until(|| slow.sent() >= sent + 4).await?;
    let expect = Expect::default().after(secs(60), SLOW);
    let seen = bench.exporter.finds(fault, expect).await?;
    tokio::time::sleep(secs(75).saturating_sub(fault.elapsed())).await;
    bench.nodes[1].set_faults(&faults).await?;
    let repaired = Instant::now();
    while !bench.exporter.scrape().await?.reported().is_empty() {
        anyhow::ensure!(
            repaired.elapsed() < secs(25),
            "still reported {:?} after the repair",
            repaired.elapsed()
        );
        tokio::time::sleep(secs(1)).await;
    }
    let what = format!(
        "{}, over {:.0} s after the repair",
        seen.what,
        repaired.elapsed().as_secs_f64()
    );
    slow.stop().await;
    Ok(Seen { what, ..seen })
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
