//! Kinds of limiters, on a real Redis: what real limiters left in theirs is written again as of now, and the exporter must
//! count what their traffic was, report nothing that is not so, and find what is broken.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use crate::harness::{Exporter, Scrape, redis_do, run, said};

/// Milliseconds of now.
#[expect(clippy::disallowed_methods, reason = "Redis counts by the real time")]
fn now_ms() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i128::try_from(now.as_millis()).unwrap_or(0))
}

/// A Redis that is watched as one kind of limiter.
struct Watched {
    exporter: Exporter,
    redis: RedisServer,
    _folder: TempDir,
}

impl Watched {
    /// With further lines of the configuration file.
    async fn start(kind: &str, config: &str) -> anyhow::Result<Self> {
        Self::start_with(kind, config, RedisServer::start(&[]).await?).await
    }

    async fn start_with(kind: &str, config: &str, redis: RedisServer) -> anyhow::Result<Self> {
        let folder = TempDir::new("kinds")?;
        let file = folder.path().join("exporter.yml");
        let graces = "invariants:\n  stuck_counter: {grace_period: 0s}\n  invalid_counter: {grace_period: 0s}\n  counter_drift: {grace_period: 0s}\n";
        std::fs::write(&file, format!("limiter:\n  kind: {kind}\n{graces}{config}"))?;
        let flags = [
            format!("--redis.url={}", redis.url()),
            format!("--config.file={}", file.display()),
        ];
        Ok(Self {
            exporter: Exporter::start(&flags).await?,
            redis,
            _folder: folder,
        })
    }

    async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        self.redis.connection().await
    }

    async fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        redis_do(&mut self.connection().await?, words).await
    }
}

/// Every client has 10 requests a minute.
const TEN: &str = "limits: [{match: '*', limit: 10, window: 60s}]\n";

/// The same in windows of an hour, where names hold the number of the window.
const TEN_AN_HOUR: &str = "limits: [{match: '*', limit: 10, window: 1h}]\n";

/// A moment of a capture: the keys as they are in its file.
fn moment(capture: &str, number: usize) -> anyhow::Result<(i128, Vec<Value>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limiters/captures");
    let text = std::fs::read_to_string(format!("{folder}/{capture}.json"))?;
    let capture: Value = serde_json::from_str(&text)?;
    let moment = &capture["moments"][number];
    let at = moment["at_ms"].as_i64().unwrap_or_default();
    let keys = moment["keys"].as_array().cloned().unwrap_or_default();
    Ok((at.into(), keys))
}

/// `text` with every time in it that is within a day of `at` as long after now as it was after `at`. Windows that are
/// numbered by the minute are those of the hour that is now.
fn shifted(text: &str, at: i128) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_digit()) {
        out.push_str(&rest[..begin]);
        rest = &rest[begin..];
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        out.push_str(&shifted_number(&rest[..end], at));
        rest = &rest[end..];
    }
    out + rest
}

fn shifted_number(digits: &str, at: i128) -> String {
    let Ok(number) = digits.parse::<i128>() else {
        return digits.to_owned();
    };
    let now = now_ms();
    let day = 86_400_000;
    for (times, by) in [(1000, 1), (1, 1), (1, 1000), (1, 1_000_000)] {
        let millis = number * times / by;
        if (millis - at).abs() < day && digits.len() >= 10 {
            return (number + (now - at) * by / times).to_string();
        }
    }
    if (number * 60_000 - at).abs() < 120_000 && digits.len() == 8 {
        return (now / 3_600_000).to_string();
    }
    digits.to_owned()
}

/// Writes the keys of a capture's moment as if it were now.
async fn restore(watched: &Watched, capture: &str, number: usize) -> anyhow::Result<()> {
    let (at, keys) = moment(capture, number)?;
    let mut connection = watched.connection().await?;
    for key in &keys {
        let name = shifted(key["key"].as_str().unwrap_or_default(), at);
        let text = |value: &Value| shifted(value.as_str().unwrap_or_default(), at);
        let value = &key["value"];
        let mut words = match key["type"].as_str().unwrap_or_default() {
            "string" => vec!["SET".to_owned(), name.clone(), text(value)],
            "hash" => vec!["HSET".to_owned(), name.clone()],
            "zset" => vec!["ZADD".to_owned(), name.clone()],
            "list" => vec!["RPUSH".to_owned(), name.clone()],
            "set" => vec!["SADD".to_owned(), name.clone()],
            // Streams count nothing.
            _ => continue,
        };
        for (field, value) in value.as_object().into_iter().flatten() {
            words.extend([field.clone(), text(value)]);
        }
        for entry in value.as_array().into_iter().flatten() {
            match entry.as_array() {
                Some(pair) => words.extend([text(&pair[1]), text(&pair[0])]),
                None => words.push(text(entry)),
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        redis_do(&mut connection, &words).await?;
        let left = key["pttl_ms"].as_i64().unwrap_or(-1);
        if left > 0 {
            redis_do(&mut connection, &["PEXPIRE", &name, &left.to_string()]).await?;
        }
    }
    Ok(())
}

fn count(scrape: &Scrape, label: &str) -> Option<f64> {
    scrape.value("ratelimiter_key_requests", &[("key", label)])
}

/// Restores the third moment of `capture`, at which `user:1` made 15 requests and the others fewer than 10, and returns
/// the scrape that shows `expected` requests of `label`; nothing must be reported.
async fn counts(
    watched: &Watched,
    capture: &str,
    expected: &[(&str, u32)],
) -> anyhow::Result<Scrape> {
    restore(watched, capture, 2).await?;
    let what = format!("the counts of {capture}: {expected:?}");
    let right = |scrape: &Scrape| {
        let mut all = expected.iter();
        all.all(|(label, requests)| count(scrape, label) == Some(f64::from(*requests)))
    };
    let scrape = watched.exporter.until(&what, right).await?;
    anyhow::ensure!(scrape.reported().is_empty(), "{:?}", scrape.reported());
    Ok(scrape)
}

/// The names of the invariants that have series.
fn evaluated(scrape: &Scrape) -> Vec<String> {
    scrape.labels("ratelimiter_invariant_evaluable", "name")
}

#[tokio::test]
async fn a_library_without_nodes_is_watched_without_failures() -> anyhow::Result<()> {
    let watched = Watched::start("limits", "").await?;
    let expected = [("user:1", 15), ("user:2", 5), ("2001:db8::1", 3)];
    let scrape = counts(&watched, "limits-fixed-window", &expected).await?;
    for absent in ["ratelimiter_up", "ratelimiter_nodes", "ratelimiter_node_up"] {
        assert_eq!(scrape.value(absent, &[]), None, "{absent}");
    }
    let fixed = [
        ("kind", "limits"),
        ("counter", "fixed-window"),
        ("refused", "counted"),
    ];
    scrape.assert_is("ratelimiter_limiter_info", &fixed, 1);
    scrape.assert_is("ratelimiter_key_requests_limit", &[("key", "user:1")], 10);
    scrape.assert_is("ratelimiter_keys_foreign", &[], 0);
    let collectors = scrape.labels("ratelimiter_scrape_collector_success", "collector");
    assert_eq!(collectors, ["redis", "counters"]);
    for collector in collectors {
        assert_eq!(scrape.succeeded(&collector), Some(true), "{}", scrape.text);
    }
    let names = evaluated(&scrape);
    assert!(!names.contains(&"node_down".to_owned()), "{names:?}");
    assert!(names.contains(&"stuck_counter".to_owned()), "{names:?}");
    scrape.assert_is("invariant_violation", &[("subject", "redis")], 0);
    Ok(())
}

#[tokio::test]
async fn a_counter_that_lost_its_expiry_is_reported_as_stuck_until_it_is_mended()
-> anyhow::Result<()> {
    let watched = Watched::start("limits", "").await?;
    counts(&watched, "limits-fixed-window", &[("user:1", 15)]).await?;
    let name = "LIMITS:LIMITER/user:1/10/1/minute";
    watched.run(&["PERSIST", name]).await?;
    let stuck = |scrape: &Scrape| scrape.reported() == ["stuck_counter user:1"];
    let scrape = watched.exporter.until("user:1 is stuck", stuck).await?;
    let fixed = [("counter", "fixed-window")];
    scrape.assert_is("ratelimiter_keys_without_expiry", &fixed, 1);
    let answer = watched.exporter.get("/api/v1/violations").await?;
    assert!(answer.text().contains("never_expires"), "{}", answer.text());
    watched.run(&["DEL", name]).await?;
    let mended = |scrape: &Scrape| scrape.reported().is_empty();
    watched.exporter.until("it is gone", mended).await?;
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_no_count_is_reported_as_invalid() -> anyhow::Result<()> {
    let watched = Watched::start("limits", "").await?;
    let name = "LIMITS:LIMITER/user:1/10/1/minute";
    watched.run(&["SET", name, "many", "PX", "50000"]).await?;
    let invalid = |scrape: &Scrape| scrape.reported() == ["invalid_counter user:1"];
    watched.exporter.until("user:1 is invalid", invalid).await?;
    watched.run(&["SET", name, "3", "PX", "9000000"]).await?;
    // It expires later than its limiter lets it.
    let late = |scrape: &Scrape| count(scrape, "user:1") == Some(3.0) && invalid(scrape);
    watched
        .exporter
        .until("its expiry is too late", late)
        .await?;
    watched.run(&["SET", name, "3", "PX", "50000"]).await?;
    let well = |scrape: &Scrape| scrape.reported().is_empty();
    watched.exporter.until("it is well", well).await?;
    Ok(())
}

#[tokio::test]
async fn too_many_admitted_requests_are_found_where_refused_ones_do_not_count() -> anyhow::Result<()>
{
    let watched = Watched::start("limits", "").await?;
    let expected = [("user:1", 10), ("user:2", 5)];
    counts(&watched, "limits-moving-window", &expected).await?;
    let now = (now_ms() / 1000).to_string();
    let name = "LIMITS:LIMITER/user:1/10/1/minute";
    watched.run(&["LPUSH", name, &now, &now, &now]).await?;
    let above = |scrape: &Scrape| {
        let mut reported = scrape.reported();
        reported.sort_unstable();
        reported == ["counter_drift user:1", "ghost_allowing user:1"]
    };
    watched
        .exporter
        .until("13 of 10 are admitted", above)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_sliding_window_counts_what_is_left_of_the_window_before() -> anyhow::Result<()> {
    let watched = Watched::start("limits", "").await?;
    let expected = [("user:1", 10), ("user:2", 5)];
    counts(&watched, "limits-sliding-window-counter", &expected).await?;
    Ok(())
}

#[tokio::test]
async fn demand_above_the_limit_is_shown_and_no_violation() -> anyhow::Result<()> {
    let watched = Watched::start("express-rate-limit", TEN).await?;
    let scrape = counts(
        &watched,
        "rate-limit-redis",
        &[("user:1", 15), ("user:2", 5)],
    )
    .await?;
    let names = evaluated(&scrape);
    assert_eq!(
        names,
        ["redis_disconnected", "invalid_counter"],
        "{names:?}"
    );
    scrape.assert_is(
        "ratelimiter_key_requests_remaining",
        &[("key", "user:1")],
        0,
    );
    let page = watched.exporter.get("/").await?.text();
    assert!(
        page.contains("not applicable: the counts of this kind include refused requests"),
        "{page}"
    );
    assert!(page.contains("demand"), "{page}");
    Ok(())
}

#[tokio::test]
async fn counts_are_those_of_the_traffic_for_other_kinds() -> anyhow::Result<()> {
    for (kind, capture, expected) in [
        (
            "rate-limiter-flexible",
            "rate-limiter-flexible",
            [("user:1", 15), ("user:2", 5)],
        ),
        ("zset-log", "ratelimiter", [("user:1", 10), ("user:2", 5)]),
        ("gcra", "redis-cell", [("user:1", 10), ("user:2", 5)]),
    ] {
        let watched = Watched::start(kind, TEN).await?;
        counts(&watched, capture, &expected).await?;
    }
    let bullmq = Watched::start("bullmq", TEN).await?;
    counts(&bullmq, "bullmq", &[("mail", 10)]).await?;
    bullmq.run(&["PERSIST", "bull:mail:limiter"]).await?;
    let stuck = |scrape: &Scrape| scrape.reported() == ["stuck_counter mail"];
    bullmq.exporter.until("the queue stops", stuck).await?;
    Ok(())
}

#[tokio::test]
async fn windows_that_are_numbered_in_names_are_counted_under_one_label() -> anyhow::Result<()> {
    let watched = Watched::start("upstash", TEN_AN_HOUR).await?;
    let expected = [("user:1", 15), ("user:2", 5), ("a key: with spaces", 2)];
    counts(&watched, "upstash-fixed", &expected).await?;
    Ok(())
}

#[tokio::test]
async fn two_limits_of_one_client_are_two_series() -> anyhow::Result<()> {
    let watched = Watched::start("limits", "").await?;
    let name = |limit: &str| format!("LIMITS:LIMITER/user:1/{limit}");
    let (minute, hour) = (name("10/1/minute"), name("100/1/hour"));
    watched.run(&["SET", &minute, "4", "PX", "50000"]).await?;
    let alone = |scrape: &Scrape| count(scrape, "user:1") == Some(4.0);
    watched.exporter.until("one counter", alone).await?;
    watched.run(&["SET", &hour, "40", "PX", "500000"]).await?;
    let both = |scrape: &Scrape| {
        let mut keys = scrape.labels("ratelimiter_key_requests", "key");
        keys.sort_unstable();
        keys == ["user:1", "user:1 (fixed-window LIMITER 100 1 hour)"]
    };
    watched.exporter.until("two counters", both).await?;
    // What is left of them is not called by another name.
    watched.run(&["DEL", &minute]).await?;
    let left = |scrape: &Scrape| {
        let keys = scrape.labels("ratelimiter_key_requests", "key");
        keys == ["user:1 (fixed-window LIMITER 100 1 hour)"]
    };
    watched.exporter.until("one counter is left", left).await?;
    Ok(())
}

#[tokio::test]
async fn unknown_limits_and_windows_are_named_and_are_no_violation() -> anyhow::Result<()> {
    let watched = Watched::start("zset-log", "").await?;
    restore(&watched, "ratelimiter", 2).await?;
    let unknown = |scrape: &Scrape| scrape.errors("counters", "no_window") > 0.0;
    let scrape = watched
        .exporter
        .until("no window is known", unknown)
        .await?;
    scrape.assert_reported(&[]);
    let drift = [("name", "counter_drift")];
    scrape.assert_is("ratelimiter_invariant_evaluable", &drift, 0);
    Ok(())
}

#[tokio::test]
async fn foreign_names_are_counted_and_not_judged() -> anyhow::Result<()> {
    let watched = Watched::start("express-rate-limit", TEN).await?;
    for name in ["session:1", "hrl", "rlx"] {
        watched.run(&["SET", name, "x"]).await?;
    }
    watched.run(&["RPUSH", "rl:list", "x"]).await?;
    watched
        .run(&["SET", "rl:user:1", "3", "PX", "50000"])
        .await?;
    let counted = |scrape: &Scrape| {
        count(scrape, "user:1") == Some(3.0) && scrape.is("ratelimiter_keys_foreign", &[], 1)
    };
    let scrape = watched
        .exporter
        .until("the list is foreign", counted)
        .await?;
    scrape.assert_reported(&[]);
    Ok(())
}

#[tokio::test]
async fn many_keys_are_all_counted_and_the_fullest_are_shown() -> anyhow::Result<()> {
    let watched = Watched::start("express-rate-limit", TEN).await?;
    let mut connection = watched.connection().await?;
    let mut pipe = redis::pipe();
    for number in 0..5_000 {
        let count = if number == 4_321 { 9 } else { 1 };
        pipe.cmd("SET")
            .arg(format!("rl:user:{number}"))
            .arg(count)
            .arg("PX")
            .arg(60_000);
    }
    pipe.query_async::<redis::Value>(&mut connection).await?;
    let all = |scrape: &Scrape| {
        scrape.is("ratelimiter_keys", &[], 5_000) && count(scrape, "user:4321") == Some(9.0)
    };
    let scrape = watched.exporter.until("5000 keys", all).await?;
    scrape.assert_is("ratelimiter_keys_exported", &[], 100);
    Ok(())
}

#[tokio::test]
async fn a_mistake_in_a_description_is_named_by_its_line() -> anyhow::Result<()> {
    let folder = TempDir::new("kinds")?;
    let file = folder.path().join("own.yml");
    std::fs::write(
        &file,
        "name: own\ntitle: own\ncounters:\n  - name: window\n    key: '^own:(?P<key>.+)$'\n    type: strin\n",
    )?;
    let output = run(vec![
        format!("--limiter.file={}", file.display()),
        "--config.check".to_owned(),
    ])
    .await?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("line 6") && said.contains("string"), "{said}");
    let output = run(vec![
        "--limiter.kind=limit".to_owned(),
        "--config.check".to_owned(),
    ])
    .await?;
    let said = self::said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("limits"), "{said}");
    Ok(())
}

/// A second limiter among `targets`, of another kind and without nodes.
#[tokio::test]
async fn a_target_has_a_kind_of_its_own() -> anyhow::Result<()> {
    let other = RedisServer::start(&[]).await?;
    let config = format!(
        "targets:\n  checkout:\n    redis: {{url: '{}'}}\n    limiter: {{kind: limits}}\n",
        other.url()
    );
    let mut connection = other.connection().await?;
    let name = "LIMITS:LIMITER/user:9/10/1/minute";
    redis_do(&mut connection, &["SET", name, "4", "PX", "50000"]).await?;
    let redis = RedisServer::start(&[]).await?;
    let url = redis.url();
    let folder = TempDir::new("kinds")?;
    let file = folder.path().join("exporter.yml");
    let all =
        format!("redis: {{url: '{url}'}}\nratelimiter: {{url: 'http://127.0.0.1:1'}}\n{config}");
    std::fs::write(&file, all)?;
    let exporter = Exporter::start(&[format!("--config.file={}", file.display())]).await?;
    let answer = exporter.get("/probe?target=checkout").await?;
    let scrape = Scrape::parse(answer.text())?;
    assert_eq!(count(&scrape, "user:9"), Some(4.0), "{}", scrape.text);
    tokio::time::timeout(Duration::from_secs(30), exporter.scrape()).await??;
    Ok(())
}
