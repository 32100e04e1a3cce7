//! Counters of described kinds in the steady state: what was written is read at once, the rest slowly, on one server, on the
//! shards of a cluster, and on a replica.

use lab::redis_cluster::RedisCluster;
use lab::redis_server::RedisServer;
use lab::sentinels::primary_and_replica;
use lab::temp::TempDir;
use redis::aio::ConnectionLike;

use crate::harness::{Exporter, PATIENCE, Scrape};

/// An exporter that watches the Redis at `url` as Flask-Limiter's, without grace periods.
async fn watch(url: &str, flags: &[&str]) -> anyhow::Result<(Exporter, TempDir)> {
    let folder = TempDir::new("written")?;
    let file = folder.path().join("exporter.yml");
    let graces =
        "invariants:\n  stuck_counter: {grace_period: 0s}\n  invalid_counter: {grace_period: 0s}\n";
    std::fs::write(&file, format!("limiter: {{kind: limits}}\n{graces}"))?;
    let mut all = vec![
        format!("--redis.url={url}"),
        format!("--config.file={}", file.display()),
        "--keys.max-series=5".to_owned(),
    ];
    all.extend(flags.iter().map(|&flag| flag.to_owned()));
    Ok((Exporter::start(&all).await?, folder))
}

fn name(user: &str) -> String {
    format!("LIMITS:LIMITER/{user}/10/1/hour")
}

/// One request of each of so many clients, within an hour; a cluster takes them one by one.
async fn fill(redis: &mut impl ConnectionLike, users: u32, at_once: u32) -> anyhow::Result<()> {
    for first in (0..users).step_by(at_once as usize) {
        let mut pipe = redis::pipe();
        for number in first..users.min(first + at_once) {
            let mut set = redis::cmd("SET");
            set.arg(name(&format!("user:{number}")));
            pipe.add_command(set.arg(1).arg("PX").arg(3_600_000).to_owned());
        }
        pipe.query_async::<redis::Value>(redis).await?;
    }
    Ok(())
}

/// Ten requests of `user`, whose key has lost its expiry.
async fn stick(redis: &mut impl ConnectionLike, user: &str) -> anyhow::Result<()> {
    let mut set = redis::cmd("SET");
    set.arg(name(user)).arg(10);
    Ok(set.query_async(redis).await?)
}

async fn remove(redis: &mut impl ConnectionLike, user: &str) -> anyhow::Result<()> {
    let mut del = redis::cmd("DEL");
    Ok(del.arg(name(user)).query_async(redis).await?)
}

fn stuck(users: &[String]) -> Vec<String> {
    let mut stuck: Vec<String> = users
        .iter()
        .map(|it| format!("stuck_counter {it}"))
        .collect();
    stuck.sort();
    stuck
}

const KEYS: u32 = 60_000;

#[tokio::test]
async fn a_described_key_that_was_written_is_found_at_once_and_the_rest_is_left_alone()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    fill(&mut connection, KEYS, 1_000).await?;
    let (exporter, _folder) = watch(&redis.url(), &["--scan.share=1"]).await?;
    let all = |scrape: &Scrape| scrape.is("ratelimiter_keys", &[], KEYS);
    exporter.until("60,000 keys are counted", all).await?;
    let commands = |scrape: &Scrape| scrape.value("ratelimiter_scan_commands_total", &[]);
    let before = commands(&exporter.scrape().await?);
    stick(&mut connection, "user:7").await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_reported(&["stuck_counter user:7"]);
    let cost = commands(&scrape).unwrap_or(f64::MAX) - before.unwrap_or_default();
    assert!(cost < 30_000.0, "{cost} commands for one written key");
    scrape.assert_is("ratelimiter_scan_coverage_ratio", &[], 1);
    // A key that is in violation is read again in each collection, written or not.
    exporter
        .scrape()
        .await?
        .assert_reported(&["stuck_counter user:7"]);
    remove(&mut connection, "user:7").await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_reported(&[]);
    let first = scrape.labels("ratelimiter_key_requests", "key");
    let mut set = redis::cmd("SET");
    set.arg(name("user:9")).arg(9).arg("PX").arg(3_600_000);
    set.query_async::<()>(&mut connection).await?;
    // It is the fullest now.
    let scrape = exporter.scrape().await?;
    let labels = [("key", "user:9")];
    assert!(
        scrape.is("ratelimiter_key_requests", &labels, 9),
        "{first:?}: {}",
        scrape.text
    );
    Ok(())
}

#[tokio::test]
async fn a_pass_over_a_described_kind_goes_on_between_collections() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    fill(&mut connection, KEYS, 1_000).await?;
    stick(&mut connection, "user:59999").await?;
    let (exporter, _folder) = watch(&redis.url(), &["--scan.budget=1ms", "--scan.share=1"]).await?;
    let first = exporter.scrape().await?;
    assert!(!first.is("ratelimiter_keys", &[], KEYS));
    // Every name is read once at least.
    let read = || {
        let mut connection = connection.clone();
        async move {
            let mut info = redis::cmd("INFO");
            let info: redis::RedisResult<String> =
                info.arg("commandstats").query_async(&mut connection).await;
            let info = info.unwrap_or_default();
            let calls = info.split("cmdstat_getrange:calls=").nth(1);
            let calls = calls.and_then(|calls| calls.split(',').next()?.parse::<u32>().ok());
            calls.is_some_and(|calls| calls >= KEYS)
        }
    };
    lab::wait_for(PATIENCE, read).await?;
    let done = |scrape: &Scrape| {
        scrape.is("ratelimiter_keys", &[], KEYS)
            && scrape.reported() == ["stuck_counter user:59999"]
    };
    exporter
        .until("the pass has ended without a collection of its own", done)
        .await?;
    Ok(())
}

#[tokio::test]
async fn described_keys_on_every_shard_of_a_cluster_are_found_when_they_are_written()
-> anyhow::Result<()> {
    let cluster = RedisCluster::start(3, false).await?;
    let mut connection = cluster.connection().await?;
    fill(&mut connection, 300, 1).await?;
    let of_each = async |prefix: &str| {
        let mut users = vec![None; 3];
        for number in 0.. {
            let user = format!("{prefix}:{number}");
            let (owner, _) = cluster.owner(name(&user).as_bytes()).await?;
            users[owner].get_or_insert(user);
            if users.iter().all(Option::is_some) {
                break;
            }
        }
        anyhow::Ok(users.into_iter().flatten().collect::<Vec<String>>())
    };
    let early = of_each("early").await?;
    for user in &early {
        stick(&mut connection, user).await?;
    }
    let (exporter, _folder) = watch(&format!("redis://{}", cluster.address(0)), &[]).await?;
    for _ in 0..2 {
        // The first pass, and the steady state after it.
        let scrape = exporter.scrape().await?;
        assert_eq!(scrape.reported(), stuck(&early), "{}", scrape.text);
        scrape.assert_is("ratelimiter_keys", &[], 303);
        scrape.assert_is("ratelimiter_scan_coverage_ratio", &[], 1);
    }
    for user in &early {
        remove(&mut connection, user).await?;
    }
    let late = of_each("late").await?;
    for user in &late {
        stick(&mut connection, user).await?;
    }
    assert_eq!(exporter.scrape().await?.reported(), stuck(&late));
    Ok(())
}

#[tokio::test]
async fn a_replica_reports_what_was_written_of_a_described_kind() -> anyhow::Result<()> {
    let (primary, replica) = primary_and_replica().await?;
    let mut connection = primary.connection().await?;
    fill(&mut connection, 300, 300).await?;
    let (exporter, _folder) = watch(&primary.url(), &["--redis.prefer-replica"]).await?;
    let source = format!("127.0.0.1:{}", replica.port());
    let from_replica = |scrape: &Scrape| {
        let labels = [("address", source.as_str()), ("role", "replica")];
        let source = scrape.is("ratelimiter_scan_source_info", &labels, 1);
        source && scrape.is("ratelimiter_keys", &[], 300)
    };
    exporter.until("the replica is read", from_replica).await?;
    stick(&mut connection, "late").await?;
    let found = |scrape: &Scrape| scrape.reported() == ["stuck_counter late"];
    exporter
        .until("the write has come to the replica", found)
        .await?;
    Ok(())
}
