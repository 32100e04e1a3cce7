//! Nodes of described kinds that register in Redis: what is known of them by their registrations.

use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use lab::redis_cluster::RedisCluster;
use lab::redis_server::RedisServer;
use lab::seed::fill_to;
use lab::temp::TempDir;
use redis::aio::ConnectionLike;

use super::stand_in::StandIn;
use super::{Watched, node, now};
use crate::harness::{Cluster, Exporter, Scrape, base_flags, redis_do, run, said};

/// The port of a node.
pub(super) const PORT: u16 = 8100;

/// The description of the reference limiter with names, times and a limit of its own, without the management API.
pub(super) fn myapp(ttl: &str, renewed: &str) -> anyhow::Result<String> {
    let file = format!("{}/limiters/reference.yml", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(file)?;
    for (old, new) in [
        ("name: reference", "name: myapp".to_owned()),
        ("^ratelimit:", "^myapp:rl:".to_owned()),
        ("ratelimit:limit:$key", "myapp:rl:limit:$key".to_owned()),
        ("^ratelimiter:nodes:", "^myapp:nodes:".to_owned()),
        ("ttl: 30s", format!("ttl: {ttl}")),
        ("renewed: 10s", format!("renewed: {renewed}")),
        ("  management_api: true\n", String::new()),
    ] {
        anyhow::ensure!(text.contains(old), "{old}");
        text = text.replace(old, &new);
    }
    let (before, rest) = text.split_once("  - http:\n").context("limits of an API")?;
    let (_, after) = rest.split_once("\n\n").context("the end of the limits")?;
    Ok(format!(
        "{before}  - fixed: {{limit: 10, window: 1m}}\n\n{after}"
    ))
}

/// A node that is healthy and says that it is `id`.
pub(super) async fn healthy(id: &str) -> anyhow::Result<StandIn> {
    let mut node = StandIn::new();
    let health = format!(r#"{{"status":"healthy","node_id":"{id}"}}"#);
    node.serve(PORT, "/health", &health).await?;
    Ok(node)
}

/// Registers a node as its heartbeat does.
pub(super) async fn register(
    redis: &mut impl ConnectionLike,
    id: &str,
    address: &str,
    ttl_ms: u32,
) -> anyhow::Result<()> {
    let (name, ttl) = (format!("myapp:nodes:{id}"), ttl_ms.to_string());
    let fields = ["address", address, "registered_at", "2026-01-01T00:00:00Z"];
    redis_do(redis, &[&["HSET", &name], &fields[..]].concat()).await?;
    redis_do(redis, &["PEXPIRE", &name, &ttl]).await
}

pub(super) const HOUR: u32 = 3_600_000;

pub(super) fn up(scrape: &Scrape, id: &str) -> bool {
    node(scrape, "up", id, 1)
}

#[tokio::test]
async fn a_registered_node_that_is_killed_is_down_and_one_that_stops_or_moves_is_not()
-> anyhow::Result<()> {
    let (mut killed, mut stopped) = (healthy("a").await?, healthy("b").await?);
    let watched = Watched::described(&myapp("1h", "10m")?, &[]).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &killed.address(PORT), HOUR).await?;
    // A URL is an address too.
    register(&mut redis, "b", &format!("{}/", stopped.url(PORT)), HOUR).await?;
    watched.run(&["SET", "myapp:nodes:bad", "text"]).await?;
    let ms = (now() * 1000).to_string();
    watched.run(&["ZADD", "myapp:rl:user", &ms, "1"]).await?;
    let both = |scrape: &Scrape| up(scrape, "a") && up(scrape, "b");
    let scrape = watched.exporter.until("both are up", both).await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_nodes", &[], 2);
    scrape.assert_is("ratelimiter_keys", &[], 1);
    scrape.assert_is("ratelimiter_keys_foreign", &[], 0);
    for id in ["a", "b"] {
        assert!(node(&scrape, "redis_connected", id, 1), "{}", scrape.text);
    }
    let address = stopped.address(PORT);
    let info = [("node_id", "b"), ("address", address.as_str())];
    scrape.assert_is("ratelimiter_node_info", &info, 1);
    // A malformed registration is named, and is no node.
    assert!(scrape.errors("registry", "wrong_type") > 0.0);
    assert_eq!(scrape.succeeded("registry"), Some(false));
    // The kind has no API.
    assert_eq!(scrape.value("ratelimiter_up", &[]), None);
    assert_eq!(scrape.succeeded("management_api"), None);
    assert_eq!(killed.asked("GET /api/") + stopped.asked("GET /api/"), 0);
    watched.run(&["DEL", "myapp:nodes:bad"]).await?;

    watched.run(&["DEL", "myapp:nodes:b"]).await?;
    stopped.stop(PORT);
    killed.stop(PORT);
    let scrape = watched.exporter.scrape().await?;
    scrape.assert_reported(&["node_down a"]);
    assert_eq!(scrape.labels("ratelimiter_node_up", "node_id"), ["a"]);
    let page = watched.exporter.get("/").await?.text();
    assert!(page.contains(&killed.address(PORT)), "{page}");

    let moved = healthy("a").await?;
    register(&mut redis, "a", &moved.address(PORT), HOUR).await?;
    let well = |scrape: &Scrape| scrape.reported().is_empty() && up(scrape, "a");
    let scrape = watched.exporter.until("it has moved", well).await?;
    let address = moved.address(PORT);
    let info = [("node_id", "a"), ("address", address.as_str())];
    scrape.assert_is("ratelimiter_node_info", &info, 1);
    assert_eq!(scrape.succeeded("registry"), Some(true));
    // It hangs.
    let never = Duration::from_secs(3600);
    moved.answer_late(PORT, "/health", 200, "", never);
    let hung = |scrape: &Scrape| scrape.reported() == ["node_down a"];
    watched.exporter.until("it hangs", hung).await?;
    Ok(())
}

#[tokio::test]
async fn a_registration_that_is_not_renewed_is_a_lost_redis_or_a_dead_node() -> anyhow::Result<()> {
    let answers = healthy("a").await?;
    let unreachable = StandIn::new().address(PORT);
    let watched = Watched::described(&myapp("4s", "1s")?, &[]).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &answers.address(PORT), HOUR).await?;
    let connected = |scrape: &Scrape| node(scrape, "redis_connected", "a", 1);
    watched.exporter.until("it is renewed", connected).await?;
    // The exporter must have read it before it expires.
    let ttl = "ratelimiter_node_heartbeat_ttl_seconds";
    loop {
        register(&mut redis, "b", &unreachable, 2000).await?;
        let scrape = watched.exporter.scrape().await?;
        if scrape.value(ttl, &[("node_id", "b")]).is_some() {
            scrape.assert_reported(&[]);
            assert!(up(&scrape, "b"), "{}", scrape.text);
            break;
        }
    }
    register(&mut redis, "a", &answers.address(PORT), 1500).await?;
    let expected = ["node_down b", "redis_disconnected a"];
    let lost = |scrape: &Scrape| scrape.reported() == expected;
    let scrape = watched.exporter.until("both are found", lost).await?;
    assert!(up(&scrape, "a"), "{}", scrape.text);
    register(&mut redis, "a", &answers.address(PORT), HOUR).await?;
    register(&mut redis, "b", &unreachable, HOUR).await?;
    let well = |scrape: &Scrape| scrape.reported().is_empty();
    let scrape = watched.exporter.until("both are back", well).await?;
    assert!(up(&scrape, "b"), "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn registered_nodes_get_canaries_and_none_is_probed_with_probe_nodes_off()
-> anyhow::Result<()> {
    let canary = healthy("a").await?;
    let broken = r#"{"error":"redis"}"#;
    canary.answer(PORT, "/check", 503, broken);
    let watched = Watched::described(&myapp("1h", "10m")?, &["--probe.canary"]).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &canary.address(PORT), HOUR).await?;
    let lost = |scrape: &Scrape| scrape.reported() == ["redis_disconnected a"];
    watched.exporter.until("its canary fails", lost).await?;

    let unprobed = healthy("a").await?;
    let flags = ["--probe.nodes=false"];
    let watched = Watched::described(&myapp("1h", "10m")?, &flags).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &unprobed.address(PORT), HOUR).await?;
    let is_up = |scrape: &Scrape| up(scrape, "a");
    let scrape = watched.exporter.until("it is registered", is_up).await?;
    scrape.assert_reported(&[]);
    assert_eq!(unprobed.asked("GET /health"), 0);
    watched.run(&["DEL", "myapp:nodes:a"]).await?;
    let gone = |scrape: &Scrape| scrape.is("ratelimiter_nodes", &[], 0);
    let scrape = watched.exporter.until("it has left", gone).await?;
    scrape.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn a_dead_registered_node_is_still_down_after_a_restart_and_not_under_another_registry()
-> anyhow::Result<()> {
    let (redis, folder) = (RedisServer::start(&[]).await?, TempDir::new("registry")?);
    let mut dead = healthy("a").await?;
    let address = dead.address(PORT);
    register(&mut redis.connection().await?, "a", &address, HOUR).await?;
    let own = folder.path().join("own.yml");
    std::fs::write(&own, myapp("1h", "10m")?)?;
    let flags = [
        format!("--redis.url={}", redis.url()),
        format!("--limiter.file={}", own.display()),
        format!("--state.file={}", folder.path().join("state").display()),
    ];
    let mut exporter = Exporter::start(&flags).await?;
    let is_up = |scrape: &Scrape| up(scrape, "a");
    exporter.until("it is up", is_up).await?;
    dead.stop(PORT);
    exporter.scrape().await?.assert_reported(&["node_down a"]);
    assert!(exporter.process.terminate().await?.success());

    let mut exporter = Exporter::start(&flags).await?;
    let mut connection = redis.connection().await?;
    loop {
        register(&mut connection, "a", &address, 2000).await?;
        let scrape = exporter.scrape().await?;
        scrape.assert_reported(&["node_down a"]);
        let ttl = "ratelimiter_node_heartbeat_ttl_seconds";
        if scrape.value(ttl, &[("node_id", "a")]).is_some() {
            break;
        }
    }
    assert!(exporter.process.terminate().await?.success());
    let mut exists = redis::cmd("EXISTS");
    exists.arg("myapp:nodes:a");
    while exists.query_async(&mut connection).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let other = myapp("1h", "10m")?.replace("myapp:nodes:", "myapp:others:");
    std::fs::write(&own, other)?;
    let scrape = Exporter::start(&flags).await?.scrape().await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_nodes", &[], 0);
    Ok(())
}

#[tokio::test]
async fn a_reload_to_another_registry_forgets_the_nodes_of_the_one_before() -> anyhow::Result<()> {
    let (redis, folder) = (RedisServer::start(&[]).await?, TempDir::new("registry")?);
    let mut connection = redis.connection().await?;
    let nodes = healthy("a").await?;
    register(&mut connection, "a", &nodes.address(PORT), HOUR).await?;
    let own = folder.path().join("own.yml");
    std::fs::write(&own, myapp("1h", "10m")?)?;
    let flags = [
        format!("--redis.url={}", redis.url()),
        format!("--limiter.file={}", own.display()),
        "--web.enable-lifecycle".to_owned(),
    ];
    let exporter = Exporter::start(&flags).await?;
    let is_up = |scrape: &Scrape| up(scrape, "a");
    exporter.until("it is up", is_up).await?;
    let other = myapp("1h", "10m")?.replace("myapp:nodes:", "myapp:others:");
    std::fs::write(&own, other)?;
    let fields = ["HSET", "myapp:others:b", "address", "127.0.0.1:9"];
    redis_do(&mut connection, &fields).await?;
    redis_do(&mut connection, &["EXPIRE", "myapp:others:b", "3600"]).await?;
    let answer = exporter.send(Method::POST, "/-/reload", "").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let scrape = exporter.scrape().await?;
    scrape.assert_reported(&[]);
    assert_eq!(scrape.labels("ratelimiter_node_up", "node_id"), ["b"]);
    Ok(())
}

#[tokio::test]
async fn registrations_are_found_on_every_server_of_a_cluster() -> anyhow::Result<()> {
    let cluster = RedisCluster::start(3, false).await?;
    let mut redis = cluster.connection().await?;
    let mut ids: Vec<Option<String>> = vec![None; 3];
    for number in 0.. {
        let id = format!("n{number}");
        let name = format!("myapp:nodes:{id}");
        let (owner, _) = cluster.owner(name.as_bytes()).await?;
        if ids[owner].is_none() {
            register(&mut redis, &id, "127.0.0.1:9", HOUR).await?;
            ids[owner] = Some(id);
        }
        if ids.iter().all(Option::is_some) {
            break;
        }
    }
    let folder = TempDir::new("registry")?;
    let own = folder.path().join("own.yml");
    std::fs::write(&own, myapp("1h", "10m")?)?;
    let flags = [
        format!("--redis.url={}", cluster.url()),
        format!("--limiter.file={}", own.display()),
    ];
    let exporter = Exporter::start(&flags).await?;
    let all = |scrape: &Scrape| ids.iter().flatten().all(|id| up(scrape, id));
    let scrape = exporter.until("all are registered", all).await?;
    scrape.assert_is("ratelimiter_nodes", &[], 3);
    scrape.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn limiters_check_counts_registrations_and_says_when_there_are_none() -> anyhow::Result<()> {
    let (redis, folder) = (RedisServer::start(&[]).await?, TempDir::new("registry")?);
    let own = folder.path().join("own.yml");
    std::fs::write(&own, myapp("1h", "10m")?)?;
    let check = || async {
        let output = run(vec![
            format!("--redis.url={}", redis.url()),
            "limiters".to_owned(),
            "--check".to_owned(),
            own.display().to_string(),
        ]);
        let output = output.await?;
        anyhow::ensure!(output.status.success(), "{}", said(&output));
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let warning = "warning: nodes.registry: no key fits";
    let text = check().await?;
    assert!(text.contains(warning), "{text}");
    let mut connection = redis.connection().await?;
    register(&mut connection, "a", "127.0.0.1:9", HOUR).await?;
    register(&mut connection, "b", "127.0.0.1:9", HOUR).await?;
    redis_do(&mut connection, &["SET", "myapp:other", "x"]).await?;
    let text = check().await?;
    let row = |name: &str| {
        let row = text.lines().find(|line| line.starts_with(name));
        row.and_then(|row| row[name.len()..].split_whitespace().next())
    };
    assert_eq!(row("registrations"), Some("2"), "{text}");
    assert_eq!(row("no counter"), Some("1"), "{text}");
    assert!(!text.contains(warning), "{text}");
    Ok(())
}

/// What the exporter shows of nodes and keys, without figures that differ from one reading to the next.
fn shown(scrape: &Scrape) -> Vec<(String, Vec<String>)> {
    let series = [
        ("ratelimiter_node_up", "node_id"),
        ("ratelimiter_node_info", "address"),
        ("ratelimiter_node_redis_connected", "node_id"),
        ("ratelimiter_node_heartbeat_ttl_seconds", "node_id"),
        ("ratelimiter_node_requests_checked_total", "node_id"),
        ("ratelimiter_key_requests", "key"),
        ("ratelimiter_invariant_evaluable", "name"),
    ];
    let shown = series.map(|(name, label)| {
        let mut labels = scrape.labels(name, label);
        // The fullest keys come first, and traffic goes on.
        labels.sort();
        labels.dedup();
        (name.to_owned(), labels)
    });
    shown.into()
}

#[tokio::test]
async fn the_printed_reference_given_as_a_file_judges_as_the_built_in_one() -> anyhow::Result<()> {
    let folder = TempDir::new("registry")?;
    let printed = run(vec!["limiters".to_owned(), "reference".to_owned()]).await?;
    anyhow::ensure!(printed.status.success(), "{}", said(&printed));
    let file = folder.path().join("copy.yml");
    std::fs::write(&file, printed.stdout)?;
    let mut cluster = Cluster::start(3, &[]).await?;
    let mut flags = base_flags(&cluster.redis.url(), &cluster.nodes);
    flags.push(format!("--limiter.file={}", file.display()));
    let copy = Exporter::start(&flags).await?;
    let traffic = cluster.traffic(50.0)?;
    let counted = |scrape: &Scrape| {
        let checked = &shown(scrape)[4].1;
        scrape.is("ratelimiter_keys", &[], 5) && checked.len() == 3
    };
    let built_in = cluster.exporter.until("keys are counted", counted).await?;
    let copied = copy.until("keys are counted", counted).await?;
    assert_eq!(shown(&copied), shown(&built_in), "{}", copied.text);
    drop(traffic);

    fill_to(&mut cluster.redis.connection().await?, b"much", 15).await?;
    cluster.nodes[0].pause()?;
    cluster.nodes[1].kill();
    let expected = [
        "ghost_allowing much",
        "node_down node-1",
        "node_down node-2",
    ];
    let found = |scrape: &Scrape| {
        let mut reported = scrape.reported();
        reported.sort();
        reported == expected
    };
    cluster
        .exporter
        .until("the faults are found", found)
        .await?;
    copy.until("the copy finds them", found).await?;
    cluster.nodes[0].resume()?;
    assert!(cluster.nodes[2].terminate().await?.success());
    let expected = ["ghost_allowing much", "node_down node-2"];
    let left = |scrape: &Scrape| {
        let mut reported = scrape.reported();
        reported.sort();
        let ids = scrape.labels("ratelimiter_node_up", "node_id");
        reported == expected && ids == ["node-1", "node-2"]
    };
    cluster.exporter.until("a clean stop is none", left).await?;
    copy.until("nor is it for the copy", left).await?;
    Ok(())
}
