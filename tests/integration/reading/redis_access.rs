//! Who the exporter is to Redis: passwords that come and go, users with few rights, and Redis's own words on them.

use anyhow::Context as _;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::{RedisServer, cut_other_clients};
use lab::seed::extra_members;
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;

use super::topology::WINDOW_MS;
use crate::harness::{Exporter, Scrape, base_flags, redis_do, run, said};

/// `redis` with a counter over its limit, and a node.
pub(super) async fn limiter(
    redis: RedisServer,
) -> anyhow::Result<(RedisServer, MultiplexedConnection, NodeProcess)> {
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let mut connection = redis.connection().await?;
    extra_members(&mut connection, b"over", 11, WINDOW_MS).await?;
    Ok((redis, connection, node))
}

/// The command for a user `some`, without a password, with all rights but these.
pub(super) fn all_but<'a>(denied: &[&'a str]) -> Vec<&'a str> {
    let all = ["ACL", "SETUSER", "some", "on", "nopass", "~*", "+@all"];
    [&all[..], denied].concat()
}

fn succeeded(scrape: &Scrape) -> bool {
    let mut collectors = ["redis", "registry", "counters"].into_iter();
    collectors.all(|collector| scrape.succeeded(collector) == Some(true))
}

#[tokio::test]
async fn commands_that_may_be_denied_fail_no_collector() -> anyhow::Result<()> {
    let (redis, mut connection, node) = limiter(RedisServer::start(&[]).await?).await?;
    for (denied, named) in [
        (&["-info"][..], &["INFO 127.0.0.1"][..]),
        (&["-time"], &["TIME 127.0.0.1"]),
        (&["-time", "-info"], &["TIME 127.0.0.1", "clock"]),
        (&["-dbsize"], &["DBSIZE 127.0.0.1"]),
        (&["-client"], &["CLIENT TRACKING 127.0.0.1"]),
        (&["-role"], &["ROLE 127.0.0.1"]),
        (&["-hello", "-select", "-readonly"], &[]),
    ] {
        redis_do(&mut connection, &["ACL", "SETUSER", "some", "reset"]).await?;
        redis_do(&mut connection, &all_but(denied)).await?;
        let url = redis.url().replace("redis://", "redis://some@");
        let mut flags = base_flags(&url, std::slice::from_ref(&node));
        if denied == ["-role"] {
            flags.push("--redis.prefer-replica".to_owned());
        }
        let exporter = Exporter::start(&flags).await?;
        let first = exporter.get("/api/v1/observation").await?.text();
        for words in named {
            assert!(first.contains(words), "{denied:?}: {words:?} in {first}");
        }
        let scrape = exporter.scrape().await?;
        assert!(succeeded(&scrape), "{denied:?}: {}", scrape.text);
        assert_eq!(scrape.reported(), ["ghost_allowing over"], "{denied:?}");
        let errors = scrape.errors("redis", "noperm") + scrape.errors("counters", "noperm");
        assert_eq!(errors > 0.0, !named.is_empty(), "{denied:?}: {errors}");
    }
    Ok(())
}

#[tokio::test]
async fn the_documented_rights_are_enough() -> anyhow::Result<()> {
    let text = crate::repository::text("docs/CONFIGURATION.md")?;
    let needed = text.split("The Redis user needs").nth(1);
    let needed = needed.and_then(|text| text.split("Some of it can be denied").next());
    let needed = needed.context("the documents name no rights")?;
    let rights = needed.split(['`', ' ', '\n']);
    let rights: Vec<&str> = rights.filter(|word| word.starts_with('+')).collect();
    assert!(rights.contains(&"+select"), "{rights:?}");
    let (redis, mut connection, node) = limiter(RedisServer::start(&[]).await?).await?;
    let user = ["ACL", "SETUSER", "some", "on", "nopass", "%R~ratelimit*"];
    redis_do(&mut connection, &[&user[..], &rights].concat()).await?;
    redis_do(&mut connection, &["SELECT", "2"]).await?;
    extra_members(&mut connection, b"elsewhere", 11, WINDOW_MS).await?;
    for (database, over) in [("", "over"), ("/2", "elsewhere")] {
        let url = redis.url().replace("redis://", "redis://some@") + database;
        let mut flags = base_flags(&url, std::slice::from_ref(&node));
        flags.push("--redis.prefer-replica".to_owned());
        let exporter = Exporter::start(&flags).await?;
        exporter.scrape().await?;
        let scrape = exporter.scrape().await?;
        let expected = format!("ghost_allowing {over}");
        assert_eq!(scrape.reported(), [expected], "{}", scrape.text);
        assert!(succeeded(&scrape), "{}", scrape.text);
        for collector in ["redis", "registry", "counters"] {
            let denied = scrape.errors(collector, "noperm");
            assert!(denied == 0.0, "{collector}: {}", exporter.log());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_password_can_be_rolled_out_to_the_exporter_first() -> anyhow::Result<()> {
    let (redis, mut connection, node) = limiter(RedisServer::start(&[]).await?).await?;
    let folder = TempDir::new("rollout")?;
    let path = folder.path().join("password");
    std::fs::write(&path, "secret-word\n")?;
    let mut flags = base_flags(&redis.url(), std::slice::from_ref(&node));
    flags.push(format!("--redis.password-file={}", path.display()));
    let exporter = Exporter::start(&flags).await?;
    for _ in 0..2 {
        let scrape = exporter.scrape().await?;
        scrape.assert_reported(&["ghost_allowing over"]);
        assert!(succeeded(&scrape), "{}", scrape.text);
        // What was written comes over a connection of its own, which logs in as well.
        assert!(scrape.errors("counters", "auth") == 0.0);
    }
    let log = exporter.log();
    assert_eq!(log.matches("has no password").count(), 1, "{log}");

    redis_do(
        &mut connection,
        &["CONFIG", "SET", "requirepass", "secret-word"],
    )
    .await?;
    cut_other_clients(&mut connection).await?;
    let scrape = exporter.scrape().await?;
    assert!(
        scrape.is("ratelimiter_redis_up", &[], 1),
        "{}",
        exporter.log()
    );
    Ok(())
}

/// Why Redis counts as disconnected, for an exporter with these flags.
pub(super) async fn reason(flags: &[String]) -> anyhow::Result<String> {
    let exporter = Exporter::start(flags).await?;
    let answer = exporter.get("/api/v1/observation").await?.text();
    let observation: serde_json::Value = serde_json::from_str(&answer)?;
    let reason = observation["redis"]["reason"].as_str();
    Ok(reason.unwrap_or("connected").to_owned())
}

#[tokio::test]
async fn the_answer_of_redis_to_a_login_is_quoted() -> anyhow::Result<()> {
    let (redis, mut connection, _node) = limiter(RedisServer::start(&[]).await?).await?;
    let at = format!("127.0.0.1:{}", redis.port());
    for user in [
        ["free", "on", "nopass"],
        ["bound", "on", ">right"],
        ["gone", "off", ">right"],
    ] {
        let [name, state, password] = user;
        let acl = [
            "ACL", "SETUSER", name, state, password, "~*", "+@all", "-select",
        ];
        redis_do(&mut connection, &acl).await?;
    }
    for (url, expected) in [
        (format!("redis://free@{at}"), vec!["connected"]),
        (format!("redis://bound:right@{at}"), vec!["connected"]),
        (
            format!("redis://bound:wrong@{at}"),
            vec![&*at, "AUTH", "WRONGPASS"],
        ),
        (format!("redis://bound@{at}"), vec![&*at, "WRONGPASS"]),
        (
            format!("redis://gone:right@{at}"),
            vec![&*at, "WRONGPASS", "disabled"],
        ),
        (
            format!("redis://free@{at}/2"),
            vec![&*at, "SELECT 2", "NOPERM"],
        ),
        (
            "redis://127.0.0.1:1".to_owned(),
            vec!["PING 127.0.0.1:1: Connection refused"],
        ),
        (
            "redis+sentinel://127.0.0.1:1/prime".to_owned(),
            vec!["sentinel 127.0.0.1:1: Connection refused"],
        ),
    ] {
        let reason = reason(&[format!("--redis.url={url}")]).await?;
        for words in expected {
            assert!(reason.contains(words), "{url}: {words:?} in {reason:?}");
        }
    }
    redis_do(&mut connection, &["CONFIG", "SET", "requirepass", "x"]).await?;
    let reason = reason(&[format!("--redis.url=redis://{at}")]).await?;
    for words in [&*at, "NOAUTH Authentication required"] {
        assert!(reason.contains(words), "{words:?} in {reason:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_empty_password_file_is_refused_at_the_start() -> anyhow::Result<()> {
    let folder = TempDir::new("empty")?;
    let path = folder.path().join("password");
    for empty in ["", "\n"] {
        std::fs::write(&path, empty)?;
        for flag in ["redis.password-file", "ratelimiter.bearer-token-file"] {
            let output = run(vec![
                format!("--{flag}={}", path.display()),
                "--config.check".to_owned(),
            ])
            .await?;
            assert_eq!(output.status.code(), Some(2), "{flag}");
            let said = said(&output);
            assert!(said.contains(flag) && said.contains("empty"), "{said}");
        }
    }
    Ok(())
}
