//! How many commands the exporter sends to Redis for an ordinary key of a kind: one below its limit, outside of the sample.

use std::time::{SystemTime, UNIX_EPOCH};

use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;

use crate::harness::{run, said};

/// So many that the sample, whose keys take a few commands more, is less than one command for each key.
const KEYS: u64 = 2_000;

/// What is sent for connections and scans, not for keys.
const OTHERS: [&str; 9] = [
    "scan", "hello", "client", "info", "ping", "time", "role", "select", "config",
];

/// A limit that no name holds.
const RULE: &str = "limits:\n  - {match: '*', limit: 100, window: 1m}\n";

#[expect(clippy::disallowed_methods, reason = "Redis counts by the real time")]
fn now_ms() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

/// How many commands Redis was sent for keys.
async fn calls(redis: &mut MultiplexedConnection) -> anyhow::Result<u64> {
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("commandstats").query_async(redis).await?;
    let calls = info.lines().filter_map(|line| {
        let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let name = name.split('|').next()?;
        let calls = stats.split(',').next()?.parse::<u64>().ok()?;
        (!OTHERS.contains(&name)).then_some(calls)
    });
    Ok(calls.sum())
}

/// Asserts that the exporter sends at most `most` commands for each key of `kind` that `key` writes.
async fn costs(
    (kind, rules): (&str, &str),
    most: u64,
    key: impl Fn(u64, &mut redis::Pipeline),
) -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    let mut pipe = redis::pipe();
    (0..KEYS).for_each(|number| key(number, &mut pipe));
    pipe.query_async::<redis::Value>(&mut connection).await?;
    let folder = TempDir::new("kind-costs")?;
    let file = folder.path().join("exporter.yml");
    std::fs::write(&file, rules)?;
    redis::cmd("CONFIG")
        .arg("RESETSTAT")
        .query_async::<()>(&mut connection)
        .await?;
    let output = run(vec![
        format!("--redis.url={}", redis.url()),
        format!("--config.file={}", file.display()),
        "limiters".to_owned(),
        "--check".to_owned(),
        kind.to_owned(),
    ])
    .await?;
    anyhow::ensure!(output.status.code() == Some(0), "{}", said(&output));
    let found = String::from_utf8(output.stdout)?;
    assert!(found.contains(&KEYS.to_string()), "{found}");
    let calls = calls(&mut connection).await?;
    let allowed = KEYS * most..KEYS * (most + 1);
    assert!(
        allowed.contains(&calls),
        "{kind}: {calls} commands\n{found}"
    );
    Ok(())
}

#[tokio::test]
async fn strings_whose_names_could_be_lists_take_one_command_each() -> anyhow::Result<()> {
    let key = |number, pipe: &mut redis::Pipeline| {
        let name = format!("LIMITS:LIMITER/user:{number}/10/1/hour");
        pipe.cmd("SET").arg(name).arg(1).arg("PX").arg(3_000_000);
    };
    costs(("limits", ""), 1, key).await
}

#[tokio::test]
async fn lists_whose_names_could_be_strings_take_three_commands_each() -> anyhow::Result<()> {
    let now = now_ms()? / 1_000;
    let key = |number, pipe: &mut redis::Pipeline| {
        let name = format!("LIMITS:LIMITER/user:{number}/10/1/hour");
        pipe.cmd("LPUSH").arg(name).arg(now).arg(now);
    };
    costs(("limits", ""), 3, key).await
}

#[tokio::test]
async fn keys_with_one_limit_for_all_of_them_ask_for_it_once_a_step() -> anyhow::Result<()> {
    let index = now_ms()? / 60_000;
    let key = |number, pipe: &mut redis::Pipeline| {
        let name = format!("@upstash/ratelimit:user:{number}:{index}");
        pipe.cmd("SET").arg(name).arg(1).arg("PX").arg(170_000);
    };
    // PTTL shows whether the window slides. Then both windows are read.
    costs(("upstash", ""), 3, key).await
}

#[tokio::test]
async fn a_hash_that_a_field_distinguishes_is_asked_for_it_by_one_command() -> anyhow::Result<()> {
    let now = now_ms()?;
    let key = |number, pipe: &mut redis::Pipeline| {
        let name = format!("@upstash/ratelimit:user:{number}");
        pipe.cmd("HSET").arg(name);
        pipe.arg("refilledAt").arg(now).arg("tokens").arg(9);
    };
    // The field, the size of each of both values, and the values.
    costs(("upstash", RULE), 4, key).await
}
