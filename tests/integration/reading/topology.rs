//! Redis in its other shapes: a cluster, sentinels, replicas, TLS; and what the exporter says while they change.

use std::fmt::Display;

use lab::node::{NodeOptions, NodeProcess};
use lab::redis_cluster::RedisCluster;
use lab::redis_server::RedisServer;
use lab::seed::{counters, extra_members};
use lab::sentinels::{Sentinels, primary_and_replica};
use lab::temp::TempDir;
use redis::aio::ConnectionLike;

use super::redis_access::all_but;
use crate::certificates::certificates;
use crate::harness::{Exporter, Scrape, base_flags, command_stat, redis_do};

/// Longer than any of these tests: no count may leave its window half-way.
pub(super) const WINDOW_MS: i64 = 600_000;

/// A cluster, an exporter that knows one of its servers and a node for the API, and keys on every shard.
pub(super) struct Sharded {
    pub(super) exporter: Exporter,
    pub(super) cluster: RedisCluster,
    node: NodeProcess,
    redis_of_node: RedisServer,
}

/// Keys that the tests write, so many that each shard has some.
pub(super) const KEYS: u32 = 300;

impl Sharded {
    async fn start(replicas: bool, flags: &[&str]) -> anyhow::Result<Self> {
        let cluster = RedisCluster::start(3, replicas).await?;
        Self::around(cluster, "", flags).await
    }

    /// The exporter logs in as `user`: a name and an at sign, or nothing.
    pub(super) async fn around(
        cluster: RedisCluster,
        user: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut redis = cluster.connection().await?;
        for number in 0..KEYS {
            extra_members(&mut redis, format!("k{number}").as_bytes(), 1, WINDOW_MS).await?;
        }
        // The node answers the API. It keeps its own counters elsewhere: its script takes keys of different slots.
        let redis_of_node = RedisServer::start(&[]).await?;
        let node = NodeProcess::start(NodeOptions::new("node-1", redis_of_node.url())).await?;
        // One server is enough: it names the others.
        let url = format!("redis://{user}{}", cluster.address(0));
        let mut all = base_flags(&url, std::slice::from_ref(&node));
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        Ok(Self {
            exporter: Exporter::start(&all).await?,
            cluster,
            node,
            redis_of_node,
        })
    }

    /// A key for each shard, in their order.
    pub(super) async fn key_of_each(&self, prefix: &str) -> anyhow::Result<Vec<String>> {
        self.one_of_each(|number| format!("{prefix}{number}")).await
    }

    /// The first key for each shard.
    async fn one_of_each(&self, key: impl Fn(u32) -> String) -> anyhow::Result<Vec<String>> {
        let mut keys = vec![None; 3];
        for number in 0.. {
            let key = key(number);
            let (owner, _) = self
                .cluster
                .owner(format!("ratelimit:{key}").as_bytes())
                .await?;
            keys[owner].get_or_insert(key);
            if keys.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(keys.into_iter().flatten().collect())
    }
}

/// As a node does it, in two commands, which go to one slot.
async fn register(redis: &mut impl ConnectionLike, id: &str) -> anyhow::Result<()> {
    let name = format!("ratelimiter:nodes:{id}");
    let address = ["address", "127.0.0.1:9"];
    let since = ["registered_at", "2026-01-01T00:00:00Z"];
    let set = [&["HSET", &name][..], &address, &since].concat();
    redis_do(redis, &set).await?;
    redis_do(redis, &["EXPIRE", &name, "30"]).await
}

pub(super) fn ghosts(keys: impl IntoIterator<Item = impl Display>) -> Vec<String> {
    let keys = keys.into_iter();
    let mut ghosts: Vec<String> = keys.map(|key| format!("ghost_allowing {key}")).collect();
    ghosts.sort();
    ghosts
}

fn shard_up(scrape: &Scrape, address: &str) -> Option<f64> {
    scrape.value("ratelimiter_redis_shard_up", &[("shard", address)])
}

#[tokio::test]
async fn every_shard_of_a_cluster_is_swept_and_limits_are_found_on_other_shards()
-> anyhow::Result<()> {
    let sharded = Sharded::start(false, &[]).await?;
    let mut redis = sharded.cluster.connection().await?;
    let over = sharded.key_of_each("over").await?;
    let generous = sharded.key_of_each("generous").await?;
    for key in &over {
        extra_members(&mut redis, key.as_bytes(), 11, WINDOW_MS).await?;
    }
    for (number, key) in generous.iter().enumerate() {
        extra_members(&mut redis, key.as_bytes(), 15, WINDOW_MS).await?;
        // A key's limit has a slot of its own, most often on another shard.
        let name = format!("ratelimit:limit:{key}");
        let set = ["HSET", &name, "limit", "20", "window_ms", "600000"];
        redis_do(&mut redis, &set).await?;
        register(&mut redis, &format!("far-{number}")).await?;
    }
    for _ in 0..2 {
        // The first pass, and the steady state after it.
        let scrape = sharded.exporter.scrape().await?;
        assert_eq!(scrape.reported(), ghosts(&over));
        scrape.assert_is("ratelimiter_keys", &[], KEYS + 6);
        scrape.assert_is("ratelimiter_redis_up", &[], 1);
        scrape.assert_is("ratelimiter_scan_coverage_ratio", &[], 1);
        for number in 0..3 {
            assert_eq!(
                shard_up(&scrape, &sharded.cluster.address(number)),
                Some(1.0)
            );
            let id = format!("far-{number}");
            scrape.assert_is("ratelimiter_node_up", &[("node_id", &id)], 1);
        }
    }
    for (key, late) in over.iter().zip(sharded.key_of_each("late").await?) {
        redis::cmd("DEL")
            .arg(format!("ratelimit:{key}"))
            .query_async::<()>(&mut redis)
            .await?;
        extra_members(&mut redis, late.as_bytes(), 12, WINDOW_MS).await?;
    }
    let late = sharded.key_of_each("late").await?;
    let scrape = sharded.exporter.scrape().await?;
    assert_eq!(scrape.reported(), ghosts(&late));
    Ok(())
}

#[tokio::test]
async fn a_shard_that_is_gone_is_named_and_the_others_are_watched() -> anyhow::Result<()> {
    let mut sharded = Sharded::start(false, &[]).await?;
    let mut redis = sharded.cluster.connection().await?;
    let over = sharded.key_of_each("over").await?;
    for (number, key) in over.iter().enumerate() {
        extra_members(&mut redis, key.as_bytes(), 11, WINDOW_MS).await?;
        register(&mut redis, &format!("far-{number}")).await?;
    }
    let before = sharded.exporter.scrape().await?;
    assert_eq!(before.reported(), ghosts(&over));

    let dead = sharded.cluster.address(1);
    sharded.cluster.primaries[1].kill();
    let late = sharded.key_of_each("late").await;
    for scrapes in 0..3 {
        let scrape = sharded.exporter.scrape().await?;
        // What was known of the dead shard's keys is held; nothing is said to be gone.
        let mut expected = ghosts(&over);
        expected.push("redis_disconnected redis".to_owned());
        assert_eq!(scrape.reported(), expected, "{}", scrape.text);
        assert_eq!(shard_up(&scrape, &dead), Some(0.0));
        assert_eq!(shard_up(&scrape, &sharded.cluster.address(0)), Some(1.0));
        assert_eq!(shard_up(&scrape, &sharded.cluster.address(2)), Some(1.0));
        let coverage = scrape.value("ratelimiter_scan_coverage_ratio", &[]);
        assert!(
            coverage.is_some_and(|ratio| ratio > 0.5 && ratio < 0.9),
            "{coverage:?}"
        );
        let errors = [("collector", "redis"), ("reason", "refused")];
        let errors = scrape.value("ratelimiter_exporter_errors_total", &errors);
        assert!(
            errors.is_some_and(|errors| errors > f64::from(scrapes)),
            "{errors:?}"
        );
        let counters = [("collector", "counters")];
        scrape.assert_is("ratelimiter_scrape_collector_success", &counters, 0);
        for name in ["ghost_allowing", "counter_drift"] {
            scrape.assert_is("ratelimiter_invariant_evaluable", &[("name", name)], 0);
        }
        for number in 0..3 {
            let labels = [("name", "node_down"), ("subject", &format!("far-{number}"))];
            let down = scrape.value("invariant_violation", &labels);
            assert_eq!(down, Some(0.0), "far-{number}: {}", scrape.text);
        }
    }
    // A new violation on a shard that lives is found meanwhile.
    drop(late);
    let mut living = sharded.cluster.primaries[2].connection().await?;
    extra_members(&mut living, over[2].as_bytes(), 1, WINDOW_MS).await?;
    let labels = [("key", over[2].as_str())];
    let scrape = sharded.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_key_requests", &labels, 12);
    Ok(())
}

/// No full pass ends, and nothing lists the nodes. A malformed registration makes `GET /api/nodes` fail.
#[tokio::test]
async fn an_exporter_that_starts_while_a_shard_is_gone_reports_counts_above_the_default()
-> anyhow::Result<()> {
    let mut sharded = Sharded::start(false, &[]).await?;
    let mut redis = sharded.cluster.connection().await?;
    // The limit of each key would be on its shard.
    let over = sharded
        .one_of_each(|number| format!("{{over{number}}}"))
        .await?;
    for key in &over {
        extra_members(&mut redis, key.as_bytes(), 11, WINDOW_MS).await?;
    }
    let malformed = ["SET", "ratelimiter:nodes:bad", "1"];
    let _: () = sharded.redis_of_node.run(&malformed).await?;
    sharded.cluster.primaries[1].kill();
    let url = format!("redis://{}", sharded.cluster.address(0));
    let flags = base_flags(&url, std::slice::from_ref(&sharded.node));
    let exporter = Exporter::start(&flags).await?;
    let living = ghosts([&over[0], &over[2]]);
    let found = |scrape: &Scrape| {
        let mut reported = scrape.reported();
        reported.retain(|it| it.starts_with("ghost_allowing"));
        reported == living
    };
    let scrape = exporter.until("the living shards are read", found).await?;
    scrape.assert_is("ratelimiter_up", &[], 0);
    Ok(())
}

#[tokio::test]
async fn a_failover_of_a_shard_is_followed() -> anyhow::Result<()> {
    let mut sharded = Sharded::start(true, &[]).await?;
    let mut redis = sharded.cluster.connection().await?;
    let over = sharded.key_of_each("over").await?;
    extra_members(&mut redis, over[0].as_bytes(), 11, WINDOW_MS).await?;
    let mut replica = sharded.cluster.replicas[0].connection().await?;
    let count = || {
        let mut command = redis::cmd("ZCARD");
        command.arg(format!("ratelimit:{}", over[0]));
        command
    };
    redis::cmd("READONLY")
        .query_async::<()>(&mut replica)
        .await?;
    lab::wait_for_some(crate::harness::PATIENCE, || {
        let mut replica = replica.clone();
        async move {
            let count: redis::RedisResult<u64> = count().query_async(&mut replica).await;
            (count.ok()? == 11).then_some(())
        }
    })
    .await?;
    let expected = [format!("ghost_allowing {}", over[0])];
    assert_eq!(sharded.exporter.scrape().await?.reported(), expected);

    // The server of `--redis.url`.
    sharded.cluster.primaries[0].kill();
    sharded
        .exporter
        .until("the dead primary is named", |scrape| {
            scrape
                .reported()
                .iter()
                .any(|line| line == "redis_disconnected redis")
        })
        .await?;
    sharded.cluster.wait_for_failover(0).await?;
    let promoted = format!("127.0.0.1:{}", sharded.cluster.replicas[0].port());
    let scrape = sharded
        .exporter
        .until("the promoted replica is swept", |scrape| {
            shard_up(scrape, &promoted) == Some(1.0)
                && scrape.reported() == expected
                && scrape.is("ratelimiter_scan_coverage_ratio", &[], 1)
        })
        .await?;
    scrape.assert_is("ratelimiter_keys", &[], KEYS + 1);
    assert_eq!(shard_up(&scrape, &sharded.cluster.address(0)), None);
    Ok(())
}

#[tokio::test]
async fn keys_are_followed_while_their_slot_moves() -> anyhow::Result<()> {
    let sharded = Sharded::start(false, &[]).await?;
    let mut redis = sharded.cluster.connection().await?;
    // One slot for all of them and their sequences.
    let keys = ["{move}over", "{move}fine", "{move}later"].map(str::to_owned);
    for (key, count) in keys.iter().zip([11, 2, 2]) {
        extra_members(&mut redis, key.as_bytes(), count, WINDOW_MS).await?;
    }
    let name = |key: &String| format!("ratelimit:{key}").into_bytes();
    let (from, slot) = sharded.cluster.owner(&name(&keys[0])).await?;
    let to = (from + 1) % 3;
    let holds = |scrape: &Scrape, over: &[&String]| {
        assert_eq!(scrape.reported(), ghosts(over), "{}", scrape.text);
        for name in ["ghost_allowing", "counter_drift"] {
            scrape.assert_is("ratelimiter_invariant_evaluable", &[("name", name)], 1);
        }
    };
    holds(&sharded.exporter.scrape().await?, &[&keys[0]]);
    sharded.cluster.begin_move(slot, from, to).await?;
    holds(&sharded.exporter.scrape().await?, &[&keys[0]]);
    sharded.cluster.move_key(&name(&keys[0]), from, to).await?;
    holds(&sharded.exporter.scrape().await?, &[&keys[0]]);
    // Found although it goes over its limit on the way.
    extra_members(&mut redis, keys[2].as_bytes(), 10, WINDOW_MS).await?;
    sharded.cluster.move_key(&name(&keys[2]), from, to).await?;
    holds(&sharded.exporter.scrape().await?, &[&keys[0], &keys[2]]);
    sharded.cluster.move_key(&name(&keys[1]), from, to).await?;
    sharded.cluster.end_move(slot, to).await?;
    for _ in 0..2 {
        let scrape = sharded.exporter.scrape().await?;
        holds(&scrape, &[&keys[0], &keys[2]]);
    }
    Ok(())
}

#[tokio::test]
async fn the_primary_that_the_sentinels_name_is_followed() -> anyhow::Result<()> {
    let mut group = Sentinels::start().await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", group.primary.url())).await?;
    let exporter = Exporter::start(&base_flags(&group.url(), std::slice::from_ref(&node))).await?;
    let primary = format!("127.0.0.1:{}", group.primary.port());
    let replica = format!("127.0.0.1:{}", group.replica.port());
    let mut redis = group.primary.connection().await?;
    counters(&mut redis, 50, 2, 10, true).await?;
    let source = |scrape: &Scrape, address: &str| {
        let labels = [
            ("shard", address),
            ("address", address),
            ("role", "primary"),
        ];
        scrape.is("ratelimiter_scan_source_info", &labels, 1)
    };
    let scrape = exporter.scrape().await?;
    assert!(
        scrape.is("ratelimiter_keys", &[], 50) && source(&scrape, &primary),
        "{}",
        scrape.text
    );
    scrape.assert_reported(&[]);

    // The first sentinel is killed as well: the exporter asks the others.
    group.sentinels[0].0.kill();
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_redis_up", &[], 1);
    group.sentinels.remove(0);
    group.primary.kill();
    exporter
        .until("the dead primary is named", |scrape| {
            scrape
                .reported()
                .contains(&"redis_disconnected redis".to_owned())
        })
        .await?;
    group.wait_for_failover().await?;
    let mut redis = group.replica.connection().await?;
    extra_members(&mut redis, b"over", 11, WINDOW_MS).await?;
    exporter
        .until("the new primary is swept", |scrape| {
            let redis_back = !scrape
                .reported()
                .contains(&"redis_disconnected redis".to_owned());
            let found = scrape
                .reported()
                .contains(&"ghost_allowing over".to_owned());
            redis_back && found && source(scrape, &replica)
        })
        .await?;
    // Without sentinels, the exporter watches the primary that was named last, and reports that they are gone.
    group.sentinels.clear();
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_redis_up", &[], 1);
    let redis = [("collector", "redis")];
    scrape.assert_is("ratelimiter_scrape_collector_success", &redis, 0);
    Ok(())
}

#[tokio::test]
async fn sentinels_that_hang_are_not_waited_for_one_after_another() -> anyhow::Result<()> {
    let mut group = Sentinels::start().await?;
    let [(first, one), (second, two), (_, three)] = &mut group.sentinels[..] else {
        anyhow::bail!("expected three sentinels");
    };
    first.pause()?;
    second.pause()?;
    // One after the other, they would take the whole scrape.
    let exporter = Exporter::start(&[
        format!(
            "--redis.url=redis+sentinel://127.0.0.1:{one},127.0.0.1:{two},127.0.0.1:{three}/prime"
        ),
        "--redis.timeout=5s".to_owned(),
    ])
    .await?;
    let scrape = exporter.scrape().await?;
    assert!(
        scrape.is("ratelimiter_redis_up", &[], 1),
        "{}",
        exporter.log()
    );
    Ok(())
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_reported() -> anyhow::Result<()> {
    let group = Sentinels::start().await?;
    let url = group.url().replace("/prime", "/other");
    let exporter = Exporter::start(&[format!("--redis.url={url}")]).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_redis_up", &[], 0);
    let errors = [("collector", "redis"), ("reason", "unexpected")];
    scrape.assert_is("ratelimiter_exporter_errors_total", &errors, 1);
    Ok(())
}

/// How many ZCOUNTs a server has answered.
async fn zcounts(server: &RedisServer) -> anyhow::Result<u64> {
    command_stat(server, "zcount", "calls").await
}

#[tokio::test]
async fn a_replica_is_read_while_it_follows_and_the_primary_else() -> anyhow::Result<()> {
    let (primary, mut replica) = primary_and_replica().await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", primary.url())).await?;
    let mut flags = base_flags(&primary.url(), std::slice::from_ref(&node));
    flags.push("--redis.prefer-replica".to_owned());
    let exporter = Exporter::start(&flags).await?;
    let mut redis = primary.connection().await?;
    counters(&mut redis, 200, 2, 10, true).await?;
    extra_members(&mut redis, b"over", 11, WINDOW_MS).await?;
    let role = |scrape: &Scrape, role: &str| {
        scrape.value("ratelimiter_scan_source_info", &[("role", role)]) == Some(1.0)
    };
    exporter
        .until("everything is found on the replica", |scrape| {
            role(scrape, "replica")
                && scrape.is("ratelimiter_keys", &[], 201)
                && scrape.reported() == ["ghost_allowing over"]
        })
        .await?;
    // The replica reports what is written.
    extra_members(&mut redis, b"over-too", 11, WINDOW_MS).await?;
    exporter
        .until("a new one too", |scrape| {
            scrape.reported() == ["ghost_allowing over", "ghost_allowing over-too"]
        })
        .await?;
    assert_eq!(zcounts(&primary).await?, 0);
    assert!(zcounts(&replica).await? > 200);

    replica.kill();
    let scrape = exporter
        .until("the primary is read instead", |scrape| {
            role(scrape, "primary")
        })
        .await?;
    scrape.assert_reported(&["ghost_allowing over", "ghost_allowing over-too"]);
    assert!(zcounts(&primary).await? > 200);
    Ok(())
}

#[tokio::test]
async fn a_replica_whose_user_may_not_run_time_refuses_it_once_a_collection() -> anyhow::Result<()>
{
    let (primary, replica) = primary_and_replica().await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", primary.url())).await?;
    redis_do(&mut primary.connection().await?, &all_but(&[])).await?;
    redis_do(&mut replica.connection().await?, &all_but(&["-time"])).await?;
    let url = primary.url().replace("redis://", "redis://some@");
    let mut flags = base_flags(&url, std::slice::from_ref(&node));
    flags.push("--redis.prefer-replica".to_owned());
    let exporter = Exporter::start(&flags).await?;
    counters(&mut primary.connection().await?, 200, 2, 10, true).await?;
    let found = |scrape: &Scrape| {
        let replica = [("role", "replica")];
        scrape.is("ratelimiter_keys", &[], 200)
            && scrape.value("ratelimiter_scan_source_info", &replica) == Some(1.0)
    };
    exporter.until("the replica is read", found).await?;
    // Each collection asks for the role of the replica once.
    let refused = command_stat(&replica, "time", "rejected_calls").await?;
    let collections = command_stat(&replica, "role", "calls").await?;
    assert!(
        0 < refused && refused <= collections,
        "{refused}, {collections}"
    );
    Ok(())
}

#[tokio::test]
async fn replicas_of_a_cluster_are_read() -> anyhow::Result<()> {
    let sharded = Sharded::start(true, &["--redis.prefer-replica"]).await?;
    let over = sharded.key_of_each("over").await?;
    let mut redis = sharded.cluster.connection().await?;
    for key in &over {
        extra_members(&mut redis, key.as_bytes(), 11, WINDOW_MS).await?;
    }
    let scrape = sharded
        .exporter
        .until("everything is found", |scrape| {
            scrape.reported() == ghosts(&over) && scrape.is("ratelimiter_keys", &[], KEYS + 3)
        })
        .await?;
    for number in 0..3 {
        let shard = sharded.cluster.address(number);
        let address = format!("127.0.0.1:{}", sharded.cluster.replicas[number].port());
        let labels = [
            ("shard", &*shard),
            ("address", &*address),
            ("role", "replica"),
        ];
        scrape.assert_is("ratelimiter_scan_source_info", &labels, 1);
        assert_eq!(zcounts(&sharded.cluster.primaries[number]).await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn redis_over_tls_with_certificates_on_both_sides() -> anyhow::Result<()> {
    let folder = TempDir::new("tls")?;
    let [ca, cert, key] = certificates(folder.path(), "right")?;
    let [other_ca, ..] = certificates(folder.path(), "other")?;
    let tls_port = lab::ports::free_port().to_string();
    let redis = RedisServer::start(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ])
    .await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let mut connection = redis.connection().await?;
    extra_members(&mut connection, b"over", 11, WINDOW_MS).await?;
    let url = format!("rediss://127.0.0.1:{tls_port}");
    let flags = |ca: &str, own: bool| {
        let mut flags = base_flags(&url, std::slice::from_ref(&node));
        flags.push(format!("--redis.tls-ca-file={ca}"));
        if own {
            flags.push(format!("--redis.tls-cert-file={cert}"));
            flags.push(format!("--redis.tls-key-file={key}"));
        }
        flags
    };
    let scrape = Exporter::start(&flags(&ca, true)).await?.scrape().await?;
    scrape.assert_reported(&["ghost_allowing over"]);
    scrape.assert_is("ratelimiter_redis_up", &[], 1);

    // A server that is not the one meant.
    let scrape = Exporter::start(&flags(&other_ca, true))
        .await?
        .scrape()
        .await?;
    let errors = [("collector", "redis"), ("reason", "tls")];
    scrape.assert_is("ratelimiter_exporter_errors_total", &errors, 1);
    scrape.assert_is("ratelimiter_redis_up", &[], 0);
    // Without a client certificate, the server hangs up.
    let scrape = Exporter::start(&flags(&ca, false)).await?.scrape().await?;
    scrape.assert_is("ratelimiter_exporter_errors_total", &errors, 1);
    scrape.assert_is("ratelimiter_redis_up", &[], 0);
    Ok(())
}
