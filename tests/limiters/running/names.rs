//! Finds the keys of a client in Redis, removes their expiry, and spoils them.

use anyhow::{Context as _, bail, ensure};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;

use crate::applications::Strategy;
use crate::expected::LIMIT;

/// How many windows ahead the window of a spoiled name is: beyond any difference of clocks.
const WINDOWS_AHEAD: u64 = 1000;

/// A score far in the future, in any unit of time since 1970.
const FUTURE: f64 = 9e18;

/// A value that no limiter writes.
const GARBAGE: &str = "garbage";

/// The names of a client's counter, at least one.
pub(crate) async fn names(
    redis: &mut MultiplexedConnection,
    strategy: &Strategy,
    client: &str,
) -> anyhow::Result<Vec<String>> {
    let pattern = strategy.names_of(client);
    let names: Vec<String> = redis.keys(&pattern).await?;
    ensure!(!names.is_empty(), "no key in Redis is like {pattern}");
    Ok(names)
}

/// Removes the expiry of a client's counter.
pub(crate) async fn persist(
    redis: &mut MultiplexedConnection,
    strategy: &Strategy,
    client: &str,
) -> anyhow::Result<()> {
    for name in names(redis, strategy, client).await? {
        let _: bool = redis.persist(&name).await?;
    }
    Ok(())
}

/// Whether a key of the client's counter has no expiry.
pub(crate) async fn persists(
    redis: &mut MultiplexedConnection,
    strategy: &Strategy,
    client: &str,
) -> anyhow::Result<bool> {
    for name in names(redis, strategy, client).await? {
        let millis: i64 = redis::cmd("PTTL").arg(&name).query_async(redis).await?;
        if millis == -1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts a client's counter into a state that its limiter cannot make and that does not end by itself.
pub(crate) async fn spoil(
    redis: &mut MultiplexedConnection,
    strategy: &Strategy,
    client: &str,
) -> anyhow::Result<()> {
    for name in names(redis, strategy, client).await? {
        if strategy.numbered_windows {
            let _: () = redis.rename(&name, ahead(&name)?).await?;
            let _: bool = redis.persist(ahead(&name)?).await?;
            continue;
        }
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(redis).await?;
        match kind.as_str() {
            "string" => redis.set(&name, GARBAGE).await?,
            "list" => redis.lpush(&name, GARBAGE).await?,
            // Spoiled counters are at their limit: below it, only a sample is checked for times in the future.
            "zset" => {
                let members: Vec<(f64, u32)> = (0..LIMIT).map(|member| (FUTURE, member)).collect();
                let _: () = redis.del(&name).await?;
                let _: () = redis.zadd_multiple(&name, &members).await?;
            }
            "hash" => {
                let fields: Vec<String> = redis.hkeys(&name).await?;
                for field in fields {
                    let _: () = redis.hset(&name, field, GARBAGE).await?;
                }
            }
            other => bail!("{name:?} is a {other}, which nothing here knows how to spoil"),
        }
        let _: bool = redis.persist(&name).await?;
    }
    Ok(())
}

/// The name with a window that has not begun.
fn ahead(name: &str) -> anyhow::Result<String> {
    let (before, number) = name
        .rsplit_once(':')
        .with_context(|| format!("{name:?} has no number behind a colon"))?;
    let number: u64 = number
        .parse()
        .with_context(|| format!("{name:?} ends with no number"))?;
    Ok(format!("{before}:{}", number + WINDOWS_AHEAD))
}
