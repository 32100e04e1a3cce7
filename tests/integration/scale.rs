//! Every key, whatever the budget, and only what was written in the steady state.

use lab::seed::{counters, extra_members, fill_to, remove_extra};

use super::harness::Cluster;

#[tokio::test]
async fn the_101st_key_and_the_5000th_are_watched_and_totals_are_exact() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--keys.max-series=20"]).await?;
    let mut redis = cluster.redis.connection().await?;
    counters(&mut redis, 5_000, 2, 10, true).await?;
    for key in ["over-1", "over-2"] {
        fill_to(&mut redis, key.as_bytes(), 11).await?;
    }
    let scrape = cluster.exporter.scrape().await?;
    assert_eq!(
        scrape.reported(),
        ["ghost_allowing over-1", "ghost_allowing over-2"]
    );
    assert!(scrape.is("ratelimiter_keys", &[], 5_002), "{}", scrape.text);
    assert!(scrape.is("ratelimiter_keys_exported", &[], 20));
    // 4,500 at 2 of 10, 500 at 2 of 100, 2 at 11 of 10.
    let below = |le: &str| scrape.value("ratelimiter_keys_utilization_ratio_bucket", &[("le", le)]);
    assert_eq!(below("0.1"), Some(500.0));
    assert_eq!(below("0.25"), Some(5_000.0));
    assert_eq!(below("1"), Some(5_000.0));
    assert_eq!(below("+Inf"), Some(5_002.0));
    Ok(())
}

#[tokio::test]
async fn a_sweep_that_runs_out_of_budget_goes_on_and_misses_no_violator_meanwhile()
-> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--scan.budget=1ms", "--keys.max-series=5"]).await?;
    let mut redis = cluster.redis.connection().await?;
    counters(&mut redis, 20_000, 1, 0, true).await?;
    fill_to(&mut redis, b"over", 11).await?;
    let first = cluster.exporter.scrape().await?;
    let coverage = first.value("ratelimiter_scan_coverage_ratio", &[]);
    assert!(coverage.is_some_and(|ratio| ratio < 1.0), "{coverage:?}");
    let found = cluster
        .exporter
        .until("the violator", |scrape| {
            scrape.reported() == ["ghost_allowing over"]
        })
        .await?;
    drop(found);
    // From then on it is looked at every time, and when it is over that shows at once.
    lab::seed::extra_members(&mut redis, b"over", 1, 60_000).await?;
    assert_eq!(
        cluster.exporter.scrape().await?.reported(),
        ["ghost_allowing over"]
    );
    let scrape = cluster
        .exporter
        .until("a full pass", |scrape| {
            scrape.is("ratelimiter_keys", &[], 20_001)
        })
        .await?;
    assert_eq!(scrape.reported(), ["ghost_allowing over"]);
    let _: () = redis::cmd("DEL")
        .arg("ratelimit:over")
        .query_async(&mut redis)
        .await?;
    assert_eq!(cluster.exporter.scrape().await?.reported(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn in_the_steady_state_what_was_written_is_found_at_once_and_the_rest_is_left_alone()
-> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--keys.max-series=5"]).await?;
    let mut redis = cluster.redis.connection().await?;
    counters(&mut redis, 60_000, 1, 10, true).await?;
    let commands = |scrape: &super::harness::Scrape| {
        scrape
            .value("ratelimiter_scan_commands_total", &[])
            .unwrap_or(0.0)
    };
    let first = cluster.exporter.scrape().await?;
    assert!(first.is("ratelimiter_keys", &[], 60_000));
    let before = commands(&cluster.exporter.scrape().await?);
    extra_members(&mut redis, b"k0000007", 20, 60_000).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert_eq!(scrape.reported(), ["ghost_allowing k0000007"]);
    let cost = commands(&scrape) - before;
    assert!(cost < 30_000.0, "{cost} commands for one written key");
    assert!(scrape.is("ratelimiter_scan_coverage_ratio", &[], 1));
    remove_extra(&mut redis, b"k0000007").await?;
    assert_eq!(cluster.exporter.scrape().await?.reported(), [""; 0]);

    // A limit that is set, and one that is lowered below what was admitted.
    let set = |limit: &'static str| {
        let mut command = redis::cmd("HSET");
        command
            .arg("ratelimit:limit:k0000011")
            .arg(&["limit", limit, "window_ms", "60000"]);
        command
    };
    set("0").query_async::<()>(&mut redis).await?;
    let scrape = cluster.exporter.scrape().await?;
    let labels = [("name", "ghost_allowing"), ("subject", "k0000011")];
    assert!(
        scrape.is("ratelimiter_invariant_pending", &labels, 1),
        "it drains for one window"
    );
    set("7").query_async::<()>(&mut redis).await?;
    assert_eq!(
        cluster
            .exporter
            .scrape()
            .await?
            .value("ratelimiter_invariant_pending", &labels),
        None
    );

    // A flush is noticed as what it is.
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert!(scrape.is("ratelimiter_keys", &[], 0), "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn without_tracking_every_collection_looks_at_everything() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    let _: () = redis::cmd("ACL")
        .arg(&["SETUSER", "default", "-client"])
        .query_async(&mut redis)
        .await?;
    counters(&mut redis, 3_000, 1, 10, true).await?;
    cluster.exporter.scrape().await?;
    extra_members(&mut redis, b"k0000007", 20, 60_000).await?;
    let scrape = cluster.exporter.scrape().await?;
    assert_eq!(scrape.reported(), ["ghost_allowing k0000007"]);
    assert!(scrape.is("ratelimiter_keys", &[], 3_000));
    Ok(())
}
