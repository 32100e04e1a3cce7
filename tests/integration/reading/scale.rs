//! Every key, with any budget, and in the steady state only the keys that were written.

use lab::seed::{Scale, counters, extra_members, fill_to, remove_extra};
use lab::temp::TempDir;

use crate::harness::{Cluster, Scrape, redis_do};

/// A file that switches `invalid_counter` off, for counters that lie in the future so that none leaves its window, and the flag
/// that names it.
fn future_is_fine() -> anyhow::Result<(TempDir, String)> {
    let folder = TempDir::new("scale")?;
    let file = folder.path().join("exporter.yml");
    std::fs::write(&file, "invariants: {invalid_counter: {enabled: false}}\n")?;
    let flag = format!("--config.file={}", file.display());
    Ok((folder, flag))
}

#[tokio::test]
async fn the_101st_key_and_the_5000th_are_watched_and_totals_are_exact() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--keys.max-series=20"]).await?;
    let mut redis = cluster.redis.connection().await?;
    counters(&mut redis, 5_000, 2, 10, true).await?;
    for key in ["over-1", "over-2"] {
        fill_to(&mut redis, key.as_bytes(), 11).await?;
    }
    let all = |scrape: &Scrape| scrape.is("ratelimiter_keys", &[], 5_002);
    let scrape = cluster.exporter.until("all are counted", all).await?;
    scrape.assert_reported(&["ghost_allowing over-1", "ghost_allowing over-2"]);
    scrape.assert_is("ratelimiter_keys_exported", &[], 20);
    // 4,500 at 2 of 10, 500 at 2 of 100, 2 at 11 of 10.
    let below = |le: &str| scrape.value("ratelimiter_keys_utilization_ratio_bucket", &[("le", le)]);
    assert_eq!(below("0.1"), Some(500.0));
    assert_eq!(below("0.25"), Some(5_000.0));
    assert_eq!(below("1"), Some(5_000.0));
    assert_eq!(below("+Inf"), Some(5_002.0));
    Ok(())
}

/// There are two names to each of 850 keys and 85 stored limits, and the first pass goes over them twice, for the limits and for
/// the counters. SCAN brings 30 at a time or more, and twice as many for the limits: it takes no more collections than this, even if it never goes on between them.
const COLLECTIONS_AT_MOST: u32 = 125;

#[tokio::test]
async fn a_budget_that_is_gone_before_the_sweep_begins_still_lets_it_pass_the_keys()
-> anyhow::Result<()> {
    let (_folder, config) = future_is_fine()?;
    let flags = ["--scan.budget=1us", "--keys.max-series=5", &config];
    let cluster = Cluster::start(1, &flags).await?;
    let mut redis = cluster.redis.connection().await?;
    let keys = Scale {
        keys: 850,
        members: 2,
        limits_every: 10,
        ahead_ms: 600_000,
        ..Scale::default()
    };
    keys.write(&mut redis).await?;
    extra_members(&mut redis, b"over", 11, 600_000).await?;
    let coverage = |scrape: &Scrape| scrape.value("ratelimiter_scan_coverage_ratio", &[]);
    let mut before = coverage(&cluster.exporter.scrape().await?);
    assert!(before.is_some_and(|ratio| ratio < 1.0), "{before:?}");
    let mut found = false;
    let mut passed = false;
    for _ in 0..COLLECTIONS_AT_MOST {
        let scrape = cluster.exporter.scrape().await?;
        let now = coverage(&scrape);
        assert!(now >= before, "{before:?} then {now:?}");
        before = now;
        // Once found, it is counted in every collection.
        let reported = scrape.reported();
        assert!(
            !found || reported == ["ghost_allowing over"],
            "{reported:?}"
        );
        found = reported == ["ghost_allowing over"];
        passed = scrape.is("ratelimiter_keys", &[], 851);
        if passed {
            // 85 of them have 2 of 100, and are never taken for 2 of 10.
            let below = [("le", "0.1")];
            let buckets = "ratelimiter_keys_utilization_ratio_bucket";
            scrape.assert_is(buckets, &below, 85);
            break;
        }
    }
    assert!(found && passed, "found: {found}, passed: {passed}");
    redis_do(&mut redis, &["DEL", "ratelimit:over"]).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    Ok(())
}

/// The first pass over 60,000 keys has ended: beside the writing of them it goes gently, and may take several collections.
async fn all_are_counted(cluster: &Cluster) -> anyhow::Result<()> {
    let all = |scrape: &Scrape| scrape.is("ratelimiter_keys", &[], 60_000);
    let exporter = &cluster.exporter;
    exporter.until("60,000 keys are counted", all).await?;
    Ok(())
}

#[tokio::test]
async fn in_the_steady_state_what_was_written_is_found_at_once_and_the_rest_is_left_alone()
-> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--keys.max-series=5"]).await?;
    let mut redis = cluster.redis.connection().await?;
    counters(&mut redis, 60_000, 1, 10, true).await?;
    let commands = |scrape: &Scrape| {
        scrape
            .value("ratelimiter_scan_commands_total", &[])
            .unwrap_or(0.0)
    };
    all_are_counted(&cluster).await?;
    let before = commands(&cluster.exporter.scrape().await?);
    extra_members(&mut redis, b"k0000007", 20, 60_000).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing k0000007"]);
    let cost = commands(&scrape) - before;
    assert!(cost < 30_000.0, "{cost} commands for one written key");
    scrape.assert_is("ratelimiter_scan_coverage_ratio", &[], 1);
    remove_extra(&mut redis, b"k0000007").await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);

    // A limit that is set, and one that is lowered below what was admitted.
    let name = "ratelimit:limit:k0000011";
    let set = |limit: &'static str| ["HSET", name, "limit", limit, "window_ms", "60000"];
    redis_do(&mut redis, &set("0")).await?;
    let scrape = cluster.exporter.scrape().await?;
    let labels = [("name", "ghost_allowing"), ("subject", "k0000011")];
    assert!(
        scrape.is("ratelimiter_invariant_pending", &labels, 1),
        "it drains for one window"
    );
    redis_do(&mut redis, &set("7")).await?;
    assert_eq!(
        cluster
            .exporter
            .scrape()
            .await?
            .value("ratelimiter_invariant_pending", &labels),
        None
    );

    // A limit that is deleted: a count above the default limit is pending at once, since it drains. Fuller keys take the places
    // of the keys that every collection counts.
    for number in 21..27 {
        fill_to(&mut redis, format!("k00000{number}").as_bytes(), 9).await?;
    }
    redis_do(&mut redis, &set("50")).await?;
    extra_members(&mut redis, b"k0000011", 20, 60_000).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    redis_do(&mut redis, &["DEL", name]).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_invariant_pending", &labels, 1);

    // After FLUSHALL there are no keys.
    redis_do(&mut redis, &["FLUSHALL"]).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_keys", &[], 0);
    Ok(())
}

#[tokio::test]
async fn the_fullest_keys_stay_while_a_pass_goes_on_over_several_collections() -> anyhow::Result<()>
{
    let cluster = Cluster::start(1, &["--keys.max-series=5"]).await?;
    let mut redis = cluster.redis.connection().await?;
    counters(&mut redis, 60_000, 1, 10, true).await?;
    let fullest = [7, 20_011, 30_013, 40_017, 59_999].map(|number| format!("k{number:07}"));
    for key in &fullest {
        fill_to(&mut redis, key.as_bytes(), 9).await?;
    }
    all_are_counted(&cluster).await?;
    for _ in 0..4 {
        let scrape = cluster.exporter.scrape().await?;
        for key in &fullest {
            assert!(
                scrape.is("ratelimiter_key_requests", &[("key", key)], 9),
                "{key}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_tracking_every_collection_counts_every_key() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--scan.share=1"]).await?;
    let mut redis = cluster.redis.connection().await?;
    redis_do(&mut redis, &["ACL", "SETUSER", "default", "-client"]).await?;
    counters(&mut redis, 3_000, 1, 10, true).await?;
    cluster.exporter.scrape().await?;
    extra_members(&mut redis, b"k0000007", 20, 60_000).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing k0000007"]);
    scrape.assert_is("ratelimiter_keys", &[], 3_000);
    // Limits that change, whether SCAN brings a key or its limit first.
    for number in 100..120 {
        let name = format!("ratelimit:limit:k0000{number}");
        let set = ["HSET", &name, "limit", "0", "window_ms", "600000"];
        redis_do(&mut redis, &set).await?;
    }
    let scrape = cluster.exporter.scrape().await?;
    let pending = "ratelimiter_invariant_pending";
    for number in 100..120 {
        let key = format!("k0000{number}");
        let labels = [("name", "ghost_allowing"), ("subject", key.as_str())];
        assert!(scrape.is(pending, &labels, 1), "{key}: {}", scrape.text);
    }
    Ok(())
}

#[tokio::test]
async fn keys_in_violation_are_rechecked_in_turn_within_half_the_budget() -> anyhow::Result<()> {
    const KEYS: u64 = 3_000;
    let (_folder, config) = future_is_fine()?;
    let flags = ["--scan.budget=1us", "--keys.max-series=5", &config];
    let cluster = Cluster::start(1, &flags).await?;
    let mut redis = cluster.redis.connection().await?;
    let keys = Scale {
        keys: KEYS,
        members: 12,
        seq: false,
        ahead_ms: 600_000,
        ..Scale::default()
    };
    keys.write(&mut redis).await?;
    let labels = [("name", "ghost_allowing"), ("severity", "critical")];
    let violations = |scrape: &Scrape| scrape.value("ratelimiter_invariant_violations", &labels);
    let commands = |scrape: &Scrape| scrape.value("ratelimiter_scan_commands_total", &[]);
    let all = "every key is found, one step of the pass at each collection";
    let mut last = cluster
        .exporter
        .until(all, |scrape| violations(scrape) == Some(3_000.0))
        .await?;
    // The first and the last by name, one in between, and all the others stay.
    for key in ["k0000000", "k0001500", "k0002999"] {
        redis_do(&mut redis, &["DEL", &format!("ratelimit:{key}")]).await?;
    }
    let mut turns = 0;
    while violations(&last) != Some(2_997.0) {
        let scrape = cluster.exporter.scrape().await?;
        let cost = commands(&scrape)
            .zip(commands(&last))
            .map(|(now, before)| now - before);
        // One step of rechecking, and what was written. Between two collections a pass may go over all keys, at three commands
        // for each. All keys rechecked besides would be 12,000 more.
        assert!(cost.is_some_and(|cost| cost < 12_000.0), "{cost:?}");
        assert!(
            violations(&scrape) >= Some(2_997.0),
            "{:?}",
            violations(&scrape)
        );
        let evaluable = ("name", "ghost_allowing");
        scrape.assert_is("ratelimiter_invariant_evaluable", &[evaluable], 1);
        turns += 1;
        assert!(
            turns < 400,
            "some keys never have their turn: {:?}",
            violations(&scrape)
        );
        last = scrape;
    }
    Ok(())
}
