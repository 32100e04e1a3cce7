//! The healthy cluster, and each of the five violations on and off again.

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::seed::{extra_members, fill_to, remove_extra};
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;

use crate::harness::{Cluster, Exporter, Scrape, base_flags, redis_do};

/// Short grace periods, so that a test need not wait for them; the thresholds are the defaults.
async fn short_graces(nodes: usize) -> anyhow::Result<(Cluster, TempDir)> {
    let folder = TempDir::new("short-graces")?;
    let path = folder.path().join("config.yml");
    let text = "invariants:\n  high_latency: {grace_period: 300ms}\n  counter_drift: {grace_period: 300ms}\n";
    std::fs::write(&path, text)?;
    let flag = format!("--config.file={}", path.display());
    Ok((Cluster::start(nodes, &[&flag]).await?, folder))
}

async fn reports(exporter: &Exporter, expected: &[&str]) -> anyhow::Result<Scrape> {
    let what = format!("reported {expected:?}");
    exporter
        .until(&what, |scrape| scrape.reported() == expected)
        .await
}

/// The sweep begins with the limit of before, and what it found by that is judged anew before it is reported.
#[tokio::test]
async fn a_default_limit_that_was_raised_behind_a_slow_api_raises_no_alarm() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    let before = &mut cluster.nodes[0];
    let mut options = NodeOptions::new(before.id(), cluster.redis.url());
    options.listen = Some(before.address().parse()?);
    options.default_limit = 20;
    options.faults.api_delay_ms = 400;
    before.terminate().await?;
    *before = NodeProcess::start(options).await?;
    fill_to(&mut cluster.redis.connection().await?, b"user", 15).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_keys", &[], 1);
    let limit = [("key", "user")];
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_key_requests_limit", &limit, 20);
    Ok(())
}

#[tokio::test]
async fn a_healthy_cluster_is_evaluable_and_quiet() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let _traffic = cluster.traffic(100.0)?;
    let names = [
        "node_down",
        "redis_disconnected",
        "high_latency",
        "counter_drift",
        "ghost_allowing",
    ];
    let scrape = cluster
        .exporter
        .until("everything evaluable", |scrape| {
            names
                .iter()
                .all(|name| scrape.is("ratelimiter_invariant_evaluable", &[("name", name)], 1))
        })
        .await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_up", &[], 1);
    scrape.assert_is("ratelimiter_redis_up", &[], 1);
    scrape.assert_is("ratelimiter_nodes", &[], 3);
    scrape.assert_is("ratelimiter_scan_coverage_ratio", &[], 1);
    for node in ["node-1", "node-2", "node-3"] {
        let labels = [("node_id", node)];
        scrape.assert_is("ratelimiter_node_up", &labels, 1);
        scrape.assert_is("ratelimiter_node_redis_connected", &labels, 1);
        assert!(
            scrape
                .value("ratelimiter_node_latency_p99_seconds", &labels)
                .is_some()
        );
        assert!(
            scrape
                .value("ratelimiter_node_check_duration_seconds_count", &labels)
                .is_some()
        );
        scrape.assert_is(
            "invariant_violation",
            &[("name", "node_down"), ("subject", node)],
            0,
        );
    }
    // Every metric that this cluster can fill is there.
    let fillable = ratelimiter_exporter::export::DEFINITIONS
        .iter()
        .filter(|definition| {
            let others = [
                "ratelimiter_keys_without_expiry",
                "ratelimiter_keys_foreign",
            ];
            !definition.name.contains("_pending")
                && !definition.name.contains("_draining")
                && !definition.name.contains("active_since")
                // There only with --state.file.
                && !definition.name.contains("_state_")
                // Those are of other kinds of limiters.
                && !others.contains(&definition.name)
        });
    for definition in fillable {
        assert!(
            scrape
                .text
                .contains(&format!("# TYPE {} ", definition.name)),
            "{}",
            definition.name
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_node_is_down_until_it_returns() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    reports(&cluster.exporter, &[]).await?;
    cluster.nodes[1].kill();
    // At the very next collection.
    cluster
        .exporter
        .scrape()
        .await?
        .assert_reported(&["node_down node-2"]);
    cluster.nodes[1].restart().await?;
    reports(&cluster.exporter, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_stops_cleanly_leaves_without_an_alarm() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    reports(&cluster.exporter, &[]).await?;
    cluster.nodes[1].terminate().await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_nodes", &[], 1);
    Ok(())
}

#[tokio::test]
async fn redis_that_hangs_or_is_gone_is_disconnected_until_it_returns() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    reports(&cluster.exporter, &[]).await?;
    cluster.redis.pause()?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["redis_disconnected redis"]);
    scrape.assert_is("ratelimiter_redis_up", &[], 0);
    assert!(scrape.errors("redis", "timeout") > 0.0);
    scrape.assert_is(
        "ratelimiter_invariant_evaluable",
        &[("name", "ghost_allowing")],
        0,
    );
    cluster.redis.resume()?;
    cluster.exporter.scrape().await?.assert_reported(&[]);

    cluster.redis.stop().await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["redis_disconnected redis"]);
    assert!(scrape.errors("redis", "refused") > 0.0);
    cluster.redis.restart().await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn slow_checks_are_high_latency_until_they_are_few() -> anyhow::Result<()> {
    let (cluster, _config) = short_graces(1).await?;
    cluster.exporter.scrape().await?;
    let slow = Faults {
        check_delay_ms: 120,
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&slow).await?;
    let traffic = cluster.traffic(20.0)?;
    reports(&cluster.exporter, &["high_latency node-1"]).await?;
    traffic.stop().await;
    cluster.nodes[0].set_faults(&Faults::default()).await?;
    // Until less than one in a hundred of the last minute's checks was slow.
    let _fast = cluster.traffic(2000.0)?;
    reports(&cluster.exporter, &[]).await?;
    Ok(())
}

/// A limiter with short grace periods, where the key `k` has a limit of 100.
async fn limited_to_100() -> anyhow::Result<(Cluster, MultiplexedConnection, TempDir)> {
    let (cluster, config) = short_graces(1).await?;
    let mut redis = cluster.redis.connection().await?;
    let limit = ["HSET", "ratelimit:limit:k", "limit", "100"];
    let set = [&limit[..], &["window_ms", "60000"]].concat();
    redis_do(&mut redis, &set).await?;
    Ok((cluster, redis, config))
}

#[tokio::test]
async fn fifteen_percent_over_is_a_ghost_at_once_and_a_drift_after_its_grace() -> anyhow::Result<()>
{
    let (cluster, mut redis, _config) = limited_to_100().await?;
    fill_to(&mut redis, b"k", 100).await?;
    reports(&cluster.exporter, &[]).await?;
    extra_members(&mut redis, b"k", 15, 60_000).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing k"]);
    scrape.assert_is(
        "ratelimiter_invariant_pending",
        &[("name", "counter_drift"), ("subject", "k")],
        1,
    );
    let scrape = reports(&cluster.exporter, &["counter_drift k", "ghost_allowing k"]).await?;
    scrape.assert_is("ratelimiter_key_requests", &[("key", "k")], 115);
    scrape.assert_is("ratelimiter_key_requests_limit", &[("key", "k")], 100);
    scrape.assert_is(
        "ratelimiter_invariant_violations",
        &[("name", "counter_drift")],
        1,
    );
    remove_extra(&mut redis, b"k").await?;
    let scrape = reports(&cluster.exporter, &[]).await?;
    scrape.assert_is(
        "invariant_violation",
        &[("name", "counter_drift"), ("subject", "k")],
        0,
    );
    scrape.assert_is(
        "ratelimiter_invariant_violations_started_total",
        &[("name", "counter_drift")],
        1,
    );
    Ok(())
}

#[tokio::test]
async fn five_percent_over_is_a_ghost_and_no_drift() -> anyhow::Result<()> {
    let (cluster, mut redis, _config) = limited_to_100().await?;
    fill_to(&mut redis, b"k", 105).await?;
    let scrape = reports(&cluster.exporter, &["ghost_allowing k"]).await?;
    assert_eq!(
        scrape.value(
            "ratelimiter_invariant_pending",
            &[("name", "counter_drift")]
        ),
        None
    );
    Ok(())
}

#[tokio::test]
async fn the_api_and_redis_fail_apart_and_together() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"k", 3).await?;
    reports(&cluster.exporter, &[]).await?;

    let broken = Faults {
        api_status: Some(500),
        ..Faults::default()
    };
    for node in &cluster.nodes {
        node.set_faults(&broken).await?;
    }
    let scrape = cluster.exporter.scrape().await?;
    assert_eq!(scrape.reported(), [""; 0], "a 500 of the API pages nobody");
    scrape.assert_is("ratelimiter_up", &[], 0);
    scrape.assert_is("ratelimiter_key_requests", &[("key", "k")], 3);
    assert!(
        scrape.is("ratelimiter_key_requests_limit", &[("key", "k")], 10),
        "the default is remembered"
    );
    assert!(scrape.errors("management_api", "http_status") > 0.0);

    cluster.redis.stop().await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["redis_disconnected redis"]);
    assert!(
        scrape.is("ratelimiter_nodes", &[], 2),
        "what is known is not forgotten"
    );
    scrape.assert_is("ratelimiter_node_up", &[("node_id", "node-2")], 1);
    Ok(())
}

/// The API lists the canary's counters under the limit that it knows, and not under the one that the canary sends along.
#[tokio::test]
async fn counters_of_the_canary_are_no_ghosts_while_the_api_stands_in_for_redis()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = [NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?];
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let mut flags = base_flags(&proxy.url("redis"), &nodes);
    flags.push("--probe.canary=true".to_owned());
    let exporter = Exporter::start(&flags).await?;
    reports(&exporter, &[]).await?;

    let mut connection = redis.connection().await?;
    fill_to(&mut connection, b"ratelimiter-exporter-canary:node-1", 12).await?;
    fill_to(&mut connection, b"tenant", 12).await?;
    proxy.set(Mode::Refuse).await?;
    let expected = ["ghost_allowing tenant", "redis_disconnected redis"];
    reports(&exporter, &expected).await?;
    Ok(())
}
