//! Keys of any bytes, and what is malformed beside them.

use hyper::Method;
use lab::seed::{fill_to, fill_to_in};
use ratelimiter_exporter::observation::decode_key;

use crate::harness::{Cluster, Scrape, redis_do};

#[tokio::test]
async fn keys_of_any_bytes_come_back_as_they_were() -> anyhow::Result<()> {
    let long = "L".repeat(512).into_bytes();
    let mut keys: Vec<&[u8]> = vec![
        b"",
        b" ",
        b"he said \"hi\"",
        b"line1\nline2",
        b"back\\slash",
        b"\\x41",
        b"a\0b",
        b"\xff\xfe",
        b"tab\tcr\r",
        b"foo:seq",
        b"limit:foo",
        b"x:limit:y",
        b"*[a]?",
        b"{tag}k",
        b"ratelimit:inner",
        b"a,b=c}",
        &long,
    ];
    keys.push("🔥ключ-日本".as_bytes());
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    for key in &keys {
        fill_to(&mut redis, key, 4).await?;
    }
    // Siblings that are no counters: a sequence, a limit.
    let _: () = redis::pipe()
        .cmd("SET")
        .arg("ratelimit:bar:seq")
        .arg(4)
        .ignore()
        .cmd("HSET")
        .arg("ratelimit:limit:bar")
        .arg(&["limit", "5", "window_ms", "60000"])
        .ignore()
        .query_async(&mut redis)
        .await?;
    let scrape = cluster.exporter.scrape().await?;
    let mut found: Vec<Vec<u8>> = scrape
        .labels("ratelimiter_key_requests", "key")
        .iter()
        .map(|label| decode_key(label))
        .collect();
    let mut expected: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(scrape.is("ratelimiter_keys", &[], u32::try_from(keys.len())?));
    scrape.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn malformed_data_is_counted_and_pages_nobody() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    let invalid = [
        ("text", "abc", "60000"),
        ("negative", "-3", "60000"),
        ("float", "1.5", "60000"),
        ("no-window", "5", "0"),
        ("past", "5", "-1"),
    ];
    for (key, limit, window) in invalid {
        // Enough to break the default limit, if anybody applied that.
        fill_to(&mut redis, key.as_bytes(), 50).await?;
        let name = format!("ratelimit:limit:{key}");
        let set = ["HSET", &name, "limit", limit, "window_ms", window];
        redis_do(&mut redis, &set).await?;
    }
    fill_to(&mut redis, b"missing-window", 50).await?;
    let _: () = redis::pipe()
        .cmd("HSET")
        .arg("ratelimit:limit:missing-window")
        .arg(&["limit", "5"])
        .ignore()
        .cmd("SET")
        .arg("ratelimit:a-string")
        .arg("x")
        .ignore()
        .cmd("RPUSH")
        .arg("ratelimit:a-list")
        .arg("x")
        .ignore()
        .cmd("SET")
        .arg("ratelimiter:nodes:a-string")
        .arg("x")
        .ignore()
        .query_async(&mut redis)
        .await?;
    fill_to(&mut redis, b"\xff\xfe", 3).await?;
    for _ in 0..3 {
        let scrape = cluster.exporter.scrape().await?;
        scrape.assert_reported(&[]);
        // Their counts are known: six with malformed limits, and one with the default limit.
        scrape.assert_is("ratelimiter_keys", &[], 7);
        for (collector, reason, least) in [
            ("counters", "invalid_limit", 3.0),
            ("counters", "invalid_window", 3.0),
            ("counters", "wrong_type", 2.0),
            ("registry", "wrong_type", 1.0),
        ] {
            let found = scrape.errors(collector, reason);
            assert!(found >= least, "{collector} {reason}: {}", scrape.text);
        }
        assert_eq!(
            scrape.labels("ratelimiter_key_requests", "key"),
            ["\\xff\\xfe"]
        );
    }
    Ok(())
}

#[tokio::test]
async fn keys_are_shown_as_hashes_when_asked_for() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &["--keys.label=hash"]).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"jane@example.com", 11).await?;
    let scrape = cluster.exporter.scrape().await?;
    let hash = ratelimiter_exporter::observation::hash_key(b"jane@example.com");
    assert_eq!(scrape.reported(), [format!("ghost_allowing {hash}")]);
    for path in ["/metrics", "/", "/api/v1/violations", "/api/v1/observation"] {
        assert!(
            !cluster.exporter.get(path).await?.text().contains("jane"),
            "{path}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn windows_limits_and_rules_of_their_own_hold() -> anyhow::Result<()> {
    let folder = lab::temp::TempDir::new("rules")?;
    let path = folder.path().join("config.yml");
    std::fs::write(
        &path,
        "limits:\n- {match: 'tenant:*', limit: 20, window: 60s}\n",
    )?;
    let flag = format!("--config.file={}", path.display());
    let cluster = Cluster::start(1, &[&flag]).await?;
    let mut redis = cluster.redis.connection().await?;
    let _: () = redis::pipe()
        .cmd("HSET")
        .arg("ratelimit:limit:hour")
        .arg(&["limit", "100", "window_ms", "3600000"])
        .ignore()
        .cmd("HSET")
        .arg("ratelimit:limit:none")
        .arg(&["limit", "0", "window_ms", "60000"])
        .ignore()
        .query_async(&mut redis)
        .await?;
    fill_to_in(&mut redis, b"hour", 80, 3_600_000).await?;
    fill_to(&mut redis, b"none", 1).await?;
    fill_to(&mut redis, b"tenant:1", 15).await?;
    fill_to(&mut redis, b"other", 15).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing none", "ghost_allowing other"]);
    scrape.assert_is("ratelimiter_key_window_seconds", &[("key", "hour")], 3600);
    scrape.assert_is("ratelimiter_key_requests_limit", &[("key", "tenant:1")], 20);
    Ok(())
}

fn ghost_is_known(scrape: &Scrape) -> bool {
    scrape.is(
        "ratelimiter_invariant_evaluable",
        &[("name", "ghost_allowing")],
        1,
    )
}

#[tokio::test]
async fn a_violation_is_held_while_its_key_cannot_be_judged() -> anyhow::Result<()> {
    let set = "HSET ratelimit:limit:k limit 5 window_ms 3600000";
    // What makes the key impossible to judge, and what puts it right again.
    let faults = [
        ("HSET ratelimit:limit:k limit many", set.to_owned()),
        ("HSET ratelimit:limit:k window_ms 0", set.to_owned()),
        (
            "SET ratelimit:limit:k 5",
            format!("DEL ratelimit:limit:k; {set}"),
        ),
        (
            "RENAME ratelimit:k aside; SET ratelimit:k x",
            "RENAME aside ratelimit:k".to_owned(),
        ),
    ];
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    all_of(&mut redis, set).await?;
    fill_to_in(&mut redis, b"k", 7, 3_600_000).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing k"]);
    for (fault, mend) in faults {
        all_of(&mut redis, fault).await?;
        for _ in 0..3 {
            let scrape = cluster.exporter.scrape().await?;
            assert_eq!(scrape.reported(), ["ghost_allowing k"], "{fault}");
            assert!(!ghost_is_known(&scrape), "{fault}");
        }
        all_of(&mut redis, &mend).await?;
        let scrape = cluster.exporter.scrape().await?;
        assert_eq!(scrape.reported(), ["ghost_allowing k"], "{mend}");
        assert!(ghost_is_known(&scrape), "{mend}");
    }
    // A counter that is gone is not above its limit, also where the stored limit is malformed.
    let gone = "HSET ratelimit:limit:k limit many; DEL ratelimit:k";
    all_of(&mut redis, gone).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    assert!(ghost_is_known(&scrape));
    Ok(())
}

/// Commands with semicolons between them.
async fn all_of(
    redis: &mut redis::aio::MultiplexedConnection,
    commands: &str,
) -> anyhow::Result<()> {
    for command in commands.split("; ") {
        let words: Vec<&str> = command.split(' ').collect();
        redis_do(redis, &words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_count_that_rose_after_its_limit_fell_is_reported() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"rises", 7).await?;
    fill_to(&mut redis, b"drains", 7).await?;
    cluster.exporter.scrape().await?.assert_reported(&[]);
    for (key, limit) in [("unused", "0"), ("rises", "5"), ("drains", "5")] {
        let name = format!("ratelimit:limit:{key}");
        redis_do(
            &mut redis,
            &["HSET", &name, "limit", limit, "window_ms", "60000"],
        )
        .await?;
    }
    let pending = |scrape: &Scrape, key: &str| {
        let labels = [("name", "ghost_allowing"), ("subject", key)];
        scrape.is("ratelimiter_invariant_pending", &labels, 1)
    };
    for _ in 0..2 {
        let scrape = cluster.exporter.scrape().await?;
        scrape.assert_reported(&[]);
        assert!(pending(&scrape, "rises") && pending(&scrape, "drains"));
    }
    fill_to(&mut redis, b"unused", 1).await?;
    fill_to(&mut redis, b"rises", 8).await?;
    for _ in 0..2 {
        let scrape = cluster.exporter.scrape().await?;
        scrape.assert_reported(&["ghost_allowing rises", "ghost_allowing unused"]);
        assert!(pending(&scrape, "drains"));
    }
    Ok(())
}

#[tokio::test]
async fn a_key_of_8_mb_makes_no_long_label_and_no_large_answer() -> anyhow::Result<()> {
    let flags = ["--web.enable-admin-api", "--web.admin-api-insecure"];
    let cluster = Cluster::start(1, &flags).await?;
    let mut redis = cluster.redis.connection().await?;
    let keys = [8 << 20, 600].map(|length| "k".repeat(length));
    for key in &keys {
        fill_to(&mut redis, key.as_bytes(), 11).await?;
    }
    let scrape = cluster.exporter.scrape().await?;
    let subjects = scrape.reported();
    let mut shown: Vec<String> = scrape.labels("ratelimiter_key_requests", "key");
    for name in &shown {
        assert!(name.len() <= 512, "{} bytes", name.len());
        assert!(subjects.iter().any(|subject| subject.contains(name)));
    }
    shown.sort();
    shown.dedup();
    assert_eq!(shown.len(), 2, "two keys in one series");
    for path in ["/api/v1/violations", "/api/v1/observation", "/"] {
        let answer = cluster.exporter.get(path).await?;
        let length = answer.text().len();
        assert!(length < 64 * 1024, "{path}: {length} bytes");
    }
    let memory = cluster.exporter.scrape().await?;
    let memory = memory.value("process_resident_memory_bytes", &[]);
    assert!(memory < Some(200e6), "{memory:?} bytes of memory");
    // By the name that is shown, one of them is explained; the whole one is needed to reset it.
    let query = shown[0].replace('…', "%E2%80%A6");
    let explained = cluster
        .exporter
        .get(&format!("/api/v1/violations?subject={query}"))
        .await?
        .text();
    assert!(explained.contains("\"reported\""), "{explained}");
    let answer = cluster
        .exporter
        .send(
            Method::POST,
            "/api/v1/actions/reset_counter",
            &format!(r#"{{"key":"{}"}}"#, shown[0]),
        )
        .await?;
    assert!(answer.status != 202 && answer.text().contains("expected the whole key"));
    assert!(cluster.exporter.log().len() < 64 * 1024);
    Ok(())
}

#[tokio::test]
async fn a_counter_whose_limit_is_malformed_is_not_healthy_until_it_is_repaired()
-> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    let ghosts = [("name", "ghost_allowing")];
    let evaluable = |scrape: &Scrape| scrape.is("ratelimiter_invariant_evaluable", &ghosts, 1);
    let limit = |value: &str| {
        let mut command = redis::cmd("HSET");
        command.arg("ratelimit:limit:user").arg("limit").arg(value);
        command.arg("window_ms").arg("60000");
        command
    };
    () = limit("a lot").query_async(&mut redis).await?;
    for _ in 0..3 {
        fill_to(&mut redis, b"user", 3).await?;
        let scrape = cluster
            .exporter
            .until("unknown", |it| !evaluable(it))
            .await?;
        scrape.assert_reported(&[]);
    }
    () = limit("10").query_async(&mut redis).await?;
    cluster.exporter.until("healthy again", evaluable).await?;
    Ok(())
}
