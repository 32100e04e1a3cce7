//! Counters written straight into Redis, behind the limiter's back.
//!
//! Counts above their limit, which no healthy limiter writes, and a million keys at once. The members look real but for their
//! names, by which they can be removed again.

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// What the members written here begin with; the limiter's own begin with a digit.
const EXTRA: &str = "extra:";

/// The limiter's default window, assumed for keys without a window of their own.
const DEFAULT_WINDOW_MS: i64 = 60_000;

/// Counters outlive their window by this much, as the limiter writes them.
const EXPIRY_SLACK_MS: i64 = 1_000;

/// Members in one ZADD, and keys in one script: large enough that round trips do not matter,
/// small enough that Redis stays responsive in between.
const BATCH: u64 = 1_000;

/// Counters that one script checks: it holds Redis for less than a millisecond.
const CHECKS: usize = 100;

/// Adds `count` members with the score of now to the counter of `key`.
pub async fn extra_members(
    conn: &mut impl ConnectionLike,
    key: &[u8],
    count: u64,
    window_ms: i64,
) -> RedisResult<()> {
    // Two calls within one millisecond must not write the same names.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = counter_name(key);
    let now = clock::now_ms();
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        let first = NEXT.fetch_add(batch, Ordering::Relaxed);
        let mut add = redis::cmd("ZADD");
        add.arg(&name);
        for number in first..first + batch {
            let pid = std::process::id();
            add.arg(now).arg(format!("{EXTRA}{now}:{pid}:{number}"));
        }
        add.query_async::<()>(conn).await?;
        left -= batch;
    }
    if count > 0 {
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(&name).arg(window_ms + EXPIRY_SLACK_MS);
        expire.query_async::<()>(conn).await?;
    }
    Ok(())
}

/// Takes out of the counter of `key` what [`extra_members`] put there; returns how many went.
pub async fn remove_extra(conn: &mut impl ConnectionLike, key: &[u8]) -> RedisResult<u64> {
    let name = counter_name(key);
    let members: Vec<Vec<u8>> = redis::cmd("ZRANGE")
        .arg(&name)
        .arg(0)
        .arg(-1)
        .query_async(conn)
        .await?;
    let extra = members
        .iter()
        .filter(|member| member.starts_with(EXTRA.as_bytes()));
    let extra: Vec<_> = extra.collect();
    let mut removed = 0;
    for batch in extra.chunks(1_000) {
        let mut remove = redis::cmd("ZREM");
        remove.arg(&name).arg(batch);
        removed += remove.query_async::<u64>(conn).await?;
    }
    Ok(removed)
}

/// Adds members until the counter of `key` has `total` live ones; returns how many were added.
///
/// The window is that of the key's own limit, or a minute.
pub async fn fill_to(conn: &mut impl ConnectionLike, key: &[u8], total: u64) -> RedisResult<u64> {
    let window: Option<i64> = redis::cmd("HGET")
        .arg(limit_name(key))
        .arg("window_ms")
        .query_async(conn)
        .await?;
    fill_to_in(conn, key, total, window.unwrap_or(DEFAULT_WINDOW_MS)).await
}

/// [`fill_to`] with a given window.
pub async fn fill_to_in(
    conn: &mut impl ConnectionLike,
    key: &[u8],
    total: u64,
    window_ms: i64,
) -> RedisResult<u64> {
    let live: u64 = redis::cmd("ZCOUNT")
        .arg(counter_name(key))
        .arg(clock::now_ms() - window_ms)
        .arg("+inf")
        .query_async(conn)
        .await?;
    let missing = total.saturating_sub(live);
    extra_members(conn, key, missing, window_ms).await?;
    Ok(missing)
}

/// Many counters at once, for tests of scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// How many counters.
    pub keys: u64,
    /// Live members in each.
    pub members: u64,
    /// Every this many counters one has a limit of its own (100 in the window); 0 for none.
    pub limits_every: u64,
    /// Whether each has its `:seq` sibling, as a real one does.
    pub seq: bool,
    /// The length of their names; at least 8, the length of `k0000000`.
    pub key_length: usize,
    /// How far in the future the members are scored, so that counters which take long to write
    /// are still live when they are looked at.
    pub ahead_ms: i64,
    /// The window, by which the counters expire.
    pub window_ms: i64,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            keys: 1_000,
            members: 1,
            limits_every: 0,
            seq: true,
            key_length: 8,
            ahead_ms: 0,
            window_ms: DEFAULT_WINDOW_MS,
        }
    }
}

impl Scale {
    /// The name of counter `number`, without the prefix that Redis sees.
    pub fn key(&self, number: u64) -> String {
        format!("k{number:0>width$}", width = self.key_length.max(8) - 1)
    }

    /// Writes the counters, many in each round trip, to a server that holds all of them.
    pub async fn write(&self, conn: &mut impl ConnectionLike) -> RedisResult<()> {
        let script = Script::new(include_str!("seed/counters.lua"));
        let mut first = 0;
        while first < self.keys {
            let end = self.keys.min(first + BATCH);
            let mut call = script.arg(first);
            call.arg(end)
                .arg(self.key(0).len() - 1)
                .arg(self.members)
                .arg(clock::now_ms() + self.ahead_ms)
                .arg(self.life_ms())
                .arg(u8::from(self.seq))
                .arg(self.limits_every)
                .arg(self.window_ms);
            call.invoke_async::<()>(conn).await?;
            first = end;
        }
        Ok(())
    }

    /// One more admitted request of each of these counters, as a node writes it.
    pub async fn check(
        &self,
        conn: &mut impl ConnectionLike,
        numbers: impl IntoIterator<Item = u64>,
    ) -> RedisResult<()> {
        let script = Script::new(include_str!("seed/checks.lua"));
        let names = numbers.into_iter().map(|number| self.key(number));
        let names: Vec<_> = names.map(|key| counter_name(key.as_bytes())).collect();
        for some in names.chunks(CHECKS) {
            let mut call = script.arg(clock::now_ms() + self.ahead_ms);
            call.arg(self.life_ms());
            for name in some {
                call.key(name);
            }
            call.invoke_async::<()>(conn).await?;
        }
        Ok(())
    }

    fn life_ms(&self) -> i64 {
        self.window_ms + EXPIRY_SLACK_MS + self.ahead_ms
    }
}

/// [`Scale::write`] with names of the usual length and members scored now.
pub async fn counters(
    conn: &mut impl ConnectionLike,
    n_keys: u64,
    members: u64,
    limits_every: u64,
    seq: bool,
) -> RedisResult<()> {
    let scale = Scale {
        keys: n_keys,
        members,
        limits_every,
        seq,
        ..Scale::default()
    };
    scale.write(conn).await
}

fn counter_name(key: &[u8]) -> Vec<u8> {
    [b"ratelimit:", key].concat()
}

fn limit_name(key: &[u8]) -> Vec<u8> {
    [b"ratelimit:limit:", key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_length_that_was_asked_for() {
        assert_eq!(Scale::default().key(42), "k0000042");
        let long = Scale {
            key_length: 40,
            ..Scale::default()
        };
        assert_eq!(long.key(7).len(), 40);
        let short = Scale {
            key_length: 1,
            ..Scale::default()
        };
        assert_eq!(short.key(7), "k0000007");
    }
}
