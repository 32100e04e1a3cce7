//! Everyday events of nodes, Redis and the exporter, which must page nobody.

use std::net::SocketAddr;
use std::time::Duration;

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};

use crate::bench::{Bench, redis_do, secs};
use crate::runner::{Scenario, Seen};
use crate::scrape::findings;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let nothing = "nothing at any scrape";
    vec![
        Scenario::new("rolling restart of all nodes", nothing, 25, || {
            Box::pin(rolling_restart(false, &[]))
        }),
        Scenario::new(
            "rolling restart, each node under a new id at its old address",
            nothing,
            25,
            || Box::pin(rolling_restart(true, &[])),
        ),
        Scenario::new(
            "rolling restart of all nodes, --probe.canary",
            nothing,
            25,
            || Box::pin(rolling_restart(false, &["--probe.canary=true"])),
        ),
        Scenario::new("clean scale-down", nothing, 45, || Box::pin(scale_down())),
        Scenario::new("scale-up", nothing, 15, || Box::pin(scale_up())),
        Scenario::new(
            "exporter restarted, without --state.file",
            nothing,
            15,
            || Box::pin(exporter_restart(false)),
        ),
        Scenario::new("exporter restarted, with --state.file", nothing, 15, || {
            Box::pin(exporter_restart(true))
        }),
        Scenario::new("FLUSHALL under traffic", nothing, 40, || Box::pin(flush())),
        Scenario::new(
            "Redis restarted empty under traffic",
            "`redis_disconnected` only while it is really away, nothing after",
            45,
            || Box::pin(empty_redis()),
        ),
        Scenario::new(
            "Redis restarted from a snapshot that is older than a clean scale-down",
            "`redis_disconnected` only while it is really away, nothing after",
            45,
            || Box::pin(older_snapshot()),
        ),
        Scenario::new("empty limiter: no keys, no traffic", nothing, 15, || {
            Box::pin(empty_limiter())
        }),
        Scenario::new("slow but healthy API (700 ms)", nothing, 20, || {
            Box::pin(slow_api())
        }),
        Scenario::new(
            "registration renewed late (after 18 s, not 10)",
            nothing,
            40,
            || Box::pin(late_heartbeat()),
        ),
        Scenario::new(
            "two Prometheus servers at odd intervals",
            nothing,
            20,
            || Box::pin(two_servers()),
        ),
        Scenario::new("Redis hiccup (600 ms) under traffic", nothing, 15, || {
            Box::pin(hiccup())
        }),
    ]
}

async fn rolling_restart(new_ids: bool, flags: &[&str]) -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, flags).await?;
    let traffic = bench.traffic(30, 30.0)?;
    let redis_url = bench.redis.url();
    let nodes = &mut bench.nodes;
    let restarts = async {
        for (number, node) in nodes.iter_mut().enumerate() {
            tokio::time::sleep(Duration::from_millis(700)).await;
            node.terminate().await?;
            tokio::time::sleep(Duration::from_millis(900)).await;
            if new_ids {
                let address: SocketAddr = node.address().parse()?;
                let mut options = NodeOptions::new(format!("pod-{number}"), &redis_url);
                options.listen = Some(address);
                *node = NodeProcess::start(options).await?;
            } else {
                node.restart().await?;
            }
        }
        Ok(())
    };
    bench.exporter.silent_while(restarts).await?;
    bench.exporter.silent_for(secs(12)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 3), "not three nodes");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn scale_down() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    let nodes = &mut bench.nodes;
    let stop = async {
        nodes[2].terminate().await?;
        tokio::time::sleep(secs(2)).await;
        nodes[1].terminate().await?;
        Ok(())
    };
    bench.exporter.silent_while(stop).await?;
    // Beyond the life of any registration.
    bench.exporter.silent_for(secs(33)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 1), "not one node");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn scale_up() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(1, &[]).await?;
    let redis_url = bench.redis.url();
    let nodes = &mut bench.nodes;
    let start = async {
        for number in 2..=4 {
            let options = NodeOptions::new(format!("node-{number}"), &redis_url);
            nodes.push(NodeProcess::start(options).await?);
            tokio::time::sleep(secs(1)).await;
        }
        Ok(())
    };
    bench.exporter.silent_while(start).await?;
    bench.exporter.silent_for(secs(8)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 4), "not four nodes");
    Ok(bench.exporter.nothing())
}

async fn exporter_restart(with_state: bool) -> anyhow::Result<Seen> {
    let state = lab::temp::TempDir::new("truth-state")?;
    let flag = format!("--state.file={}", state.path().join("state").display());
    let flags = [flag.as_str()];
    let mut bench = Bench::start(3, if with_state { &flags } else { &[] }).await?;
    let traffic = bench.traffic(30, 30.0)?;
    for _ in 0..3 {
        bench.exporter.silent_for(secs(2)).await?;
        bench.exporter.restart().await?;
    }
    bench.exporter.silent_for(secs(4)).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn flush() -> anyhow::Result<Seen> {
    let bench = Bench::start(3, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let flushing = async { redis_do(&mut bench.redis().await?, &["FLUSHALL"]).await };
    bench.exporter.silent_while(flushing).await?;
    bench.exporter.silent_for(secs(32)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 3), "not three nodes");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn empty_redis() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let true_then = ["redis", "node-1", "node-2", "node-3"].map(|id| ("redis_disconnected", id));
    let redis = &mut bench.redis;
    let restart = async {
        redis.stop().await?;
        tokio::time::sleep(secs(3)).await;
        redis.restart().await
    };
    let allowed = findings(true_then);
    bench.exporter.silent_but(&allowed, restart).await?;
    bench.exporter.silent_for(secs(35)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 3), "not three nodes");
    traffic.stop().await;
    let mut seen = bench.exporter.nothing();
    seen.what.push_str(" but those of the 3 s without Redis");
    Ok(seen)
}

async fn older_snapshot() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    redis_do(&mut bench.redis().await?, &["SAVE"]).await?;
    let nodes = &mut bench.nodes;
    let stop = async { nodes[2].terminate().await.map(drop) };
    bench.exporter.silent_while(stop).await?;
    bench.exporter.silent_for(secs(2)).await?;
    let true_then = ["redis", "node-1", "node-2"].map(|id| ("redis_disconnected", id));
    let redis = &mut bench.redis;
    let restart = async {
        redis.kill();
        redis.restart_with_data().await
    };
    let allowed = findings(true_then);
    bench.exporter.silent_but(&allowed, restart).await?;
    // Beyond the life of any registration.
    bench.exporter.silent_for(secs(35)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 2), "not two nodes");
    let mut seen = bench.exporter.nothing();
    seen.what.push_str(" but those of the time without Redis");
    Ok(seen)
}

async fn empty_limiter() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    bench.exporter.silent_for(secs(12)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_keys", 0), "keys out of nowhere");
    Ok(bench.exporter.nothing())
}

async fn slow_api() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    let faults = Faults {
        api_delay_ms: 700,
        ..Faults::default()
    };
    bench.set_faults(&faults).await?;
    bench.exporter.silent_for(secs(15)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_up", 1), "ratelimiter_up is not 1");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn late_heartbeat() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let faults = Faults {
        heartbeat_delay_ms: 8_000,
        ..Faults::default()
    };
    bench.set_faults(&faults).await?;
    bench.exporter.silent_for(secs(32)).await?;
    Ok(bench.exporter.nothing())
}

async fn two_servers() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    let other = async {
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(1_310)).await;
            let reported = bench.exporter.scrape().await?.reported();
            anyhow::ensure!(reported.is_empty(), "false report to the other server");
        }
        Ok(())
    };
    bench.exporter.silent_while(other).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn hiccup() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(30, 30.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    for _ in 0..3 {
        let redis = &mut bench.redis;
        let hiccup = async {
            redis.pause()?;
            tokio::time::sleep(Duration::from_millis(600)).await;
            redis.resume()
        };
        bench.exporter.silent_while(hiccup).await?;
        bench.exporter.silent_for(secs(2)).await?;
    }
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}
