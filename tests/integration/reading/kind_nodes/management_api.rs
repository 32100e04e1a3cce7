//! A copy of the description of the reference limiter with names and fields of its own: it is watched as that limiter is.

use super::registry::{HOUR, PORT, healthy, register, up};
use super::{Watched, limit, now};
use crate::harness::{Scrape, command_stat};

/// The copy.
fn own() -> anyhow::Result<String> {
    let file = format!("{}/limiters/reference.yml", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(file)?;
    for (old, new) in [
        ("name: reference", "name: myapp"),
        ("^ratelimit:", "^myapp:rl:"),
        ("ratelimit:limit:$key", "myapp:rl:most/$key"),
        ("^myapp:rl:limit:", "^myapp:rl:most/"),
        (
            "limit: limit, window: window_ms",
            "limit: most, window: per_ms",
        ),
        ("):seq$", ")/number$"),
        ("^ratelimiter:nodes:", "^myapp:nodes:"),
    ] {
        anyhow::ensure!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    Ok(text)
}

/// Makes the counter of `key`.
async fn requests(watched: &Watched, key: &str, count: u32) -> anyhow::Result<()> {
    let (name, ms) = (format!("myapp:rl:{key}"), (now() * 1000).to_string());
    for number in 0..count {
        let member = number.to_string();
        watched.run(&["ZADD", &name, &ms, &member]).await?;
    }
    watched.run(&["EXPIRE", &name, "60"]).await
}

#[tokio::test]
async fn a_copy_with_other_names_is_watched_as_the_reference_limiter_is() -> anyhow::Result<()> {
    let mut node = healthy("a").await?;
    let limits = r#"{"default_limit":10,"default_window_ms":60000}"#;
    node.answer(PORT, "/api/limits", 200, limits);
    node.answer(PORT, "/api/nodes", 200, r#"{"nodes":[]}"#);
    node.answer(PORT, "/metrics", 200, "");
    // The URL of no node is needed: they register.
    let watched = Watched::described(&own()?, &[]).await?;
    let scrape = watched.exporter.scrape().await?;
    assert_eq!(scrape.value("ratelimiter_up", &[]), None);
    let most = ["HSET", "myapp:rl:most/vip", "most", "20", "per_ms", "60000"];
    watched.run(&most).await?;
    for (key, count) in [("busy", 12), ("vip", 15), ("calm", 3), ("log/number", 2)] {
        requests(&watched, key, count).await?;
    }
    watched.run(&["SET", "myapp:rl:calm/number", "3"]).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &node.address(PORT), HOUR).await?;

    let found = |scrape: &Scrape| up(scrape, "a") && scrape.reported() == ["ghost_allowing busy"];
    let scrape = watched.exporter.until("busy is found", found).await?;
    scrape.assert_is("ratelimiter_up", &[], 1);
    assert_eq!(scrape.succeeded("management_api"), Some(true));
    assert_eq!(
        (limit(&scrape, "vip"), limit(&scrape, "calm")),
        (Some(20.0), Some(10.0))
    );
    scrape.assert_is("ratelimiter_key_requests", &[("key", "vip")], 15);
    scrape.assert_is("ratelimiter_key_requests", &[("key", "log/number")], 2);
    scrape.assert_is("ratelimiter_keys", &[], 4);
    // As `reference`, and not step by step.
    for command in ["hstrlen", "type", "exists"] {
        let calls = command_stat(&watched.redis, command, "calls").await?;
        assert_eq!(calls, 0, "{command}");
    }

    // A limit that is stored alone is noticed in the next collection.
    let most = [
        "HSET",
        "myapp:rl:most/busy",
        "most",
        "12",
        "per_ms",
        "60000",
    ];
    watched.run(&most).await?;
    let scrape = watched.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    node.stop(PORT);
    let away = |scrape: &Scrape| scrape.is("ratelimiter_up", &[], 0);
    watched.exporter.until("the node is gone", away).await?;
    Ok(())
}

#[tokio::test]
async fn a_copy_that_counts_otherwise_has_the_default_limit_and_counters_of_redis_alone()
-> anyhow::Result<()> {
    let mut node = healthy("a").await?;
    let limits = r#"{"default_limit":10,"default_window_ms":60000}"#;
    let counters = r#"{"counters":[{"key":"busy","count":11,"limit":10,"remaining":0}]}"#;
    node.answer(PORT, "/api/limits", 200, limits);
    node.answer(PORT, "/api/nodes", 200, "[]");
    node.answer(PORT, "/api/counters", 200, counters);
    node.answer(PORT, "/metrics", 200, "");
    let capped = own()?.replace("refused: not_counted", "refused: capped");
    let mut watched = Watched::described(&capped, &[]).await?;
    requests(&watched, "busy", 11).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &node.address(PORT), HOUR).await?;
    let known = |scrape: &Scrape| limit(scrape, "busy") == Some(10.0);
    watched.exporter.until("the default limit", known).await?;
    // The list of nodes is malformed: the limits alone do not make the API up.
    let down = |scrape: &Scrape| scrape.is("ratelimiter_up", &[], 0);
    let scrape = watched.exporter.until("the API is down", down).await?;
    scrape.assert_reported(&[]);
    watched.redis.kill();
    let scrape = watched.exporter.scrape().await?;
    scrape.assert_reported(&["redis_disconnected redis"]);
    assert_eq!(node.asked("GET /api/counters"), 0);
    node.stop(PORT);
    Ok(())
}
