//! What a node does in Redis: checks, limits, and the lists that its API shows.
//!
//! The lists are as strict, and as forgetful, as those of a recorded node: they leave out keys by
//! their names, stop at a hundred, and fail as a whole over one malformed value.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use redis::aio::MultiplexedConnection;
use redis::{Script, cmd};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::faults::Faults;
use crate::link::Link;

/// Where a real node's lists stop.
const LIST_END: usize = 100;

/// Names that Redis visits in one SCAN: a real node leaves it at Redis's default.
const SCAN_COUNT: u32 = 10;

/// What one step of a list costs a real node's only core: `/api/nodes` takes 29 µs for each key in Redis.
const STEP_COST: Duration = Duration::from_micros(29 * 10);

#[derive(Debug)]
pub(super) struct Limiter {
    link: Link,
    script: Script,
    default_limit: i128,
    default_window_ms: i64,
}

/// The body of `POST /check`.
#[derive(Debug, Deserialize)]
pub(super) struct CheckRequest {
    pub(super) key: String,
    // Wider than 64 bits, because a real node takes 2^63 as well.
    limit: Option<i128>,
    window_ms: Option<i64>,
}

/// The answer to it.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    pub(super) current_count: i64,
    pub(super) remaining: i128,
    pub(super) retry_after_seconds: i64,
}

/// The body of `PUT /api/limits/K`, and what is stored.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub(super) struct Limit {
    limit: i128,
    window_ms: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Counter {
    key: String,
    count: i64,
    limit: i128,
    remaining: i128,
}

#[derive(Debug, Serialize)]
pub(super) struct Blocked {
    key: String,
    current_count: i64,
    limit: i128,
}

#[derive(Debug, Serialize)]
pub(super) struct ListedNode {
    pub(super) id: String,
    address: String,
    pub(super) state: String,
    registered_at: Option<String>,
}

impl Limiter {
    pub(super) fn new(link: Link, default_limit: i64, default_window_ms: i64) -> Self {
        Self {
            link,
            script: Script::new(include_str!("check.lua")),
            default_limit: default_limit.into(),
            default_window_ms,
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn defaults(&self) -> (i128, i64) {
        (self.default_limit, self.default_window_ms)
    }

    pub(super) async fn check(
        &self,
        request: &CheckRequest,
        faults: &Faults,
    ) -> anyhow::Result<Verdict> {
        let ahead_ms = i64::try_from(faults.clock_ahead_ms).unwrap_or(i64::MAX);
        let mut script = self.script.prepare_invoke();
        script
            .key(format!("ratelimit:{}", request.key))
            .key(format!("ratelimit:limit:{}", request.key))
            .key(format!("ratelimit:{}:seq", request.key))
            .arg(clock::now_ms().saturating_add(ahead_ms))
            .arg(text_or_empty(request.limit))
            .arg(text_or_empty(request.window_ms))
            .arg(self.default_limit.to_string())
            .arg(self.default_window_ms)
            .arg(u8::from(!faults.stored_limits_not_enforced))
            .arg(u8::from(faults.fail_open));
        let script = &script;
        let (admitted, count, limit, wait_ms) = self
            .link
            .run(|mut conn| async move {
                let answer: (bool, i64, String, i64) = script.invoke_async(&mut conn).await?;
                Ok(answer)
            })
            .await?;
        let limit: i128 = limit.parse().context("the limit is not an integer")?;
        Ok(Verdict {
            allowed: admitted,
            current_count: count,
            remaining: (limit - i128::from(count)).max(0),
            // At once is what an admitted request may do, and what a refused one may not.
            retry_after_seconds: if admitted {
                0
            } else {
                (wait_ms.max(1) + 999) / 1_000
            },
        })
    }

    pub(super) async fn set_limit(&self, key: &str, limit: Limit) -> anyhow::Result<()> {
        self.link
            .run(|mut conn| async move {
                cmd("HSET")
                    .arg(format!("ratelimit:limit:{key}"))
                    .arg("limit")
                    .arg(limit.limit.to_string())
                    .arg("window_ms")
                    .arg(limit.window_ms)
                    .query_async::<()>(&mut conn)
                    .await?;
                Ok(())
            })
            .await
    }

    pub(super) async fn reset(&self, key: &str) -> anyhow::Result<()> {
        self.link
            .run(|mut conn| async move {
                let mut delete = cmd("DEL");
                delete.arg(format!("ratelimit:{key}"));
                delete.query_async::<()>(&mut conn).await?;
                Ok(())
            })
            .await
    }

    /// `/api/counters`: ZSETs under names that do not look like siblings or limits.
    pub(super) async fn counters(&self) -> anyhow::Result<Vec<Counter>> {
        self.link
            .run_steps(|mut conn| async move {
                let mut counters = Vec::new();
                let mut scan = Scan::new("ratelimit:*");
                while let Some(names) = scan.next(&mut conn).await? {
                    for name in names.iter().filter(|name| is_listed(name)) {
                        if counters.len() == LIST_END {
                            return Ok(counters);
                        }
                        let mut type_of = cmd("TYPE");
                        type_of.arg(name);
                        let kind: String = type_of.query_async(&mut conn).await?;
                        if kind != "zset" {
                            continue;
                        }
                        let (key, count, limit) = self.count(&mut conn, name).await?;
                        counters.push(Counter {
                            key,
                            count,
                            limit,
                            remaining: (limit - i128::from(count)).max(0),
                        });
                    }
                }
                Ok(counters)
            })
            .await
    }

    /// `/api/blocks`: as a recorded node, it takes everything but siblings for a counter, and so
    /// fails as soon as there is one stored limit.
    pub(super) async fn blocks(&self) -> anyhow::Result<Vec<Blocked>> {
        self.link
            .run_steps(|mut conn| async move {
                let mut blocked = Vec::new();
                let mut scan = Scan::new("ratelimit:*");
                while let Some(names) = scan.next(&mut conn).await? {
                    for name in names.iter().filter(|name| !name.ends_with(":seq")) {
                        let (key, current_count, limit) = self.count(&mut conn, name).await?;
                        if i128::from(current_count) >= limit {
                            blocked.push(Blocked {
                                key,
                                current_count,
                                limit,
                            });
                        }
                    }
                }
                Ok(blocked)
            })
            .await
    }

    /// `/api/nodes`: every registration that has not run out is a node that is `Up`.
    pub(super) async fn nodes(&self) -> anyhow::Result<Vec<ListedNode>> {
        self.link
            .run_steps(|mut conn| async move {
                let mut nodes = Vec::new();
                let mut scan = Scan::new("ratelimiter:nodes:*");
                while let Some(names) = scan.next(&mut conn).await? {
                    for name in names {
                        let mut all = cmd("HGETALL");
                        all.arg(&name);
                        let mut fields: HashMap<String, String> =
                            all.query_async(&mut conn).await?;
                        // Its id is cut at the last colon.
                        let id = name.rsplit(':').next().unwrap_or_default();
                        nodes.push(ListedNode {
                            id: id.to_owned(),
                            address: fields
                                .remove("address")
                                .unwrap_or_else(|| "unknown".to_owned()),
                            state: "Up".to_owned(),
                            registered_at: fields.remove("registered_at"),
                        });
                    }
                }
                Ok(nodes)
            })
            .await
    }

    /// Key, live count and limit of the counter that Redis knows as `name`.
    async fn count(
        &self,
        conn: &mut MultiplexedConnection,
        name: &str,
    ) -> anyhow::Result<(String, i64, i128)> {
        let key = name.strip_prefix("ratelimit:").unwrap_or(name);
        let mut all = cmd("HGETALL");
        all.arg(format!("ratelimit:limit:{key}"));
        let stored: HashMap<String, String> = all.query_async(conn).await?;
        let (limit, window_ms) = if stored.is_empty() {
            (self.default_limit, self.default_window_ms)
        } else {
            (number(&stored, "limit")?, number(&stored, "window_ms")?)
        };
        let mut live = cmd("ZCOUNT");
        live.arg(name)
            .arg(clock::now_ms().saturating_sub(window_ms))
            .arg("+inf");
        Ok((key.to_owned(), live.query_async(conn).await?, limit))
    }
}

/// Whether `/api/counters` shows the counter that Redis knows by this name.
fn is_listed(name: &str) -> bool {
    !name.ends_with(":seq") && !name.contains(":limit:")
}

fn number<T: std::str::FromStr>(
    stored: &HashMap<String, String>,
    field: &str,
) -> anyhow::Result<T> {
    let text = stored.get(field);
    let text = text.with_context(|| format!("a stored limit has no {field}"))?;
    text.parse()
        .ok()
        .with_context(|| format!("the {field} of a stored limit is not an integer: {text:?}"))
}

fn text_or_empty<T: ToString>(number: Option<T>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// One walk over the names that match a pattern; a name that is not UTF-8 ends it with an error.
struct Scan {
    pattern: &'static str,
    cursor: Option<u64>,
}

impl Scan {
    fn new(pattern: &'static str) -> Self {
        Self {
            pattern,
            cursor: Some(0),
        }
    }

    async fn next(
        &mut self,
        conn: &mut MultiplexedConnection,
    ) -> anyhow::Result<Option<Vec<String>>> {
        let Some(cursor) = self.cursor else {
            return Ok(None);
        };
        let begun = clock::instant();
        let (next, names): (u64, Vec<Vec<u8>>) = cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(self.pattern)
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(conn)
            .await?;
        // Spent, not slept: what a real node does meanwhile is parse, and nothing else runs beside it.
        while begun.elapsed() < STEP_COST {
            std::hint::spin_loop();
        }
        self.cursor = (next != 0).then_some(next);
        let names: Result<Vec<String>, _> = names.into_iter().map(String::from_utf8).collect();
        ensure!(names.is_ok(), "a key is not UTF-8");
        Ok(names.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_leaves_out_keys_by_their_names() {
        for listed in [
            "ratelimit:user:1",
            "ratelimit:",
            "ratelimit:ratelimit:inner",
        ] {
            assert!(is_listed(listed), "{listed}");
        }
        for left_out in [
            "ratelimit:user:1:seq",
            "ratelimit:foo:seq",
            "ratelimit:limit:foo",
            "ratelimit:x:limit:y",
            "ratelimit::seq",
        ] {
            assert!(!is_listed(left_out), "{left_out}");
        }
    }

    #[test]
    fn a_stored_limit_must_be_whole_numbers() {
        let stored = |value: &str| HashMap::from([("limit".to_owned(), value.to_owned())]);
        let beyond_64_bits = number::<i128>(&stored("9223372036854775808"), "limit");
        assert_eq!(beyond_64_bits.unwrap(), 1 << 63);
        assert_eq!(number::<i128>(&stored("-3"), "limit").unwrap(), -3);
        assert!(number::<i128>(&stored("7.5"), "limit").is_err());
        assert!(number::<i128>(&stored("seven"), "limit").is_err());
        assert!(number::<i64>(&stored("7"), "window_ms").is_err());
    }
}
