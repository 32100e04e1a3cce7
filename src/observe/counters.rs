//! The counters straight from Redis: SCAN, then count and limit of each key, pipelined, streamed in batches.
//!
//! Type decides what a counter is, not the name: a ZSET under `ratelimit:`. The other keys that SCAN brings (the
//! `:seq` strings, the limit hashes) answer ZCOUNT with WRONGTYPE, which costs less than asking for their types.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::time::Instant;

use super::canary::CANARY_PREFIX;
use super::limits::{LimitMemory, LimitRule, by_rule};
use super::redis::{NODE_PREFIX, reason_of, redis_millis};
use crate::clock::{Clock, Moment};
use crate::observation::{CounterView, Limit, Reason};
use crate::subject::CounterSink;

/// What every counter's key starts with.
const PREFIX: &[u8] = b"ratelimit:";

/// Keys that one SCAN looks at. Redis is held for about a third of a millisecond.
const SCAN_COUNT: usize = 1000;

/// Everything a sweep needs.
pub(super) struct Sweep<'a> {
    pub(super) connection: MultiplexedConnection,
    pub(super) clock: &'a Clock,
    pub(super) clock_offset: SignedDuration,
    pub(super) limits: &'a mut LimitMemory,
    pub(super) rules: &'a [LimitRule],
    pub(super) sink: &'a mut dyn CounterSink,
}

/// A pass over the key space that is not finished.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    cursor: Vec<u8>,
    /// Keys of any kind that were looked at.
    scanned: u64,
    /// Keys of any kind that there were at its start.
    expected: u64,
}

impl Pass {
    /// The share of the key space that it has covered; `None` if that is not known.
    pub(super) fn coverage(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
        let ratio = self.scanned as f64 / self.expected as f64;
        (self.expected > 0).then_some(ratio.min(1.0))
    }
}

/// What a sweep brought besides the counters that it streamed.
#[derive(Debug, Default)]
pub(super) struct SweepResult {
    /// The ids of the registrations that it came across.
    pub(super) node_ids: Vec<Vec<u8>>,
    /// Keys that were passed over, by reason, with one of them as an example.
    pub(super) skipped: BTreeMap<Reason, (u64, Vec<u8>)>,
    /// Watched keys that do not exist any more.
    pub(super) gone: Vec<Box<[u8]>>,
    /// Commands sent.
    pub(super) commands: u64,
    /// Why it stopped early; `None` after a full pass.
    pub(super) stopped: Option<Reason>,
    /// The error that stopped it.
    pub(super) error: Option<String>,
}

impl SweepResult {
    fn skip(&mut self, reason: Reason, key: &[u8]) {
        self.skipped
            .entry(reason)
            .or_insert_with(|| (0, key.to_vec()))
            .0 += 1;
    }
}

/// A key's own limit as stored.
enum Own {
    None,
    Some(Limit),
    Invalid(Reason),
}

impl Sweep<'_> {
    /// Looks at the keys with a violation in progress, whatever happens to the rest. Those that are gone are told.
    pub(super) async fn recheck(
        &mut self,
        watched: &[Box<[u8]>],
        result: &mut SweepResult,
    ) -> RedisResult<()> {
        for some in watched.chunks(SCAN_COUNT) {
            let names: Vec<Vec<u8>> = some.iter().map(|key| [PREFIX, key].concat()).collect();
            let at = self.clock.now();
            let batch = self.count(&names, at, result).await?;
            let alive: std::collections::HashSet<&[u8]> =
                batch.iter().map(|counter| counter.key).collect();
            let gone = some.iter().filter(|key| !alive.contains(&***key));
            result.gone.extend(gone.cloned());
            self.sink.recheck(at, &batch);
        }
        Ok(())
    }

    /// Goes on with the pass, or begins one, until `stop`. How far it came is in `pass` and `result`, also if it is
    /// dropped half-way.
    pub(super) async fn run(
        &mut self,
        stop: Instant,
        pass: &mut Option<Pass>,
        result: &mut SweepResult,
    ) -> RedisResult<()> {
        if pass.is_none() {
            self.sink.begin_pass();
            let expected = redis::cmd("DBSIZE").query_async(&mut self.connection).await;
            result.commands += 1;
            *pass = Some(Pass {
                cursor: b"0".to_vec(),
                scanned: 0,
                // A Redis user without DBSIZE costs the coverage ratio, nothing else.
                expected: expected.unwrap_or(0),
            });
        }
        while let Some(current) = pass {
            if Instant::now() >= stop {
                result.stopped = Some(Reason::Budget);
                return Ok(());
            }
            let (next, keys) = self.scan(&current.cursor).await?;
            let at = self.clock.now();
            let batch = self.count(&keys, at, result).await?;
            self.sink.counters(at, &batch);
            current.scanned += SCAN_COUNT as u64;
            if next == b"0" {
                *pass = None;
                self.sink.end_pass();
                self.limits.primed = true;
                result.stopped = None;
            } else {
                current.cursor = next;
            }
        }
        Ok(())
    }

    async fn scan(&mut self, cursor: &[u8]) -> RedisResult<(Vec<u8>, Vec<Vec<u8>>)> {
        redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg("ratelimit*")
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(&mut self.connection)
            .await
    }

    async fn count<'k>(
        &mut self,
        scanned: &'k [Vec<u8>],
        at: Moment,
        result: &mut SweepResult,
    ) -> RedisResult<Vec<CounterView<'k>>> {
        result.commands += 1;
        let mut keys = Vec::with_capacity(scanned.len());
        for name in scanned {
            if let Some(id) = name.strip_prefix(NODE_PREFIX) {
                result.node_ids.push(id.to_vec());
            } else if let Some(key) = name.strip_prefix(PREFIX)
                && !key.starts_with(CANARY_PREFIX.as_bytes())
            {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let now_ms = redis_millis(at, self.clock_offset);
        let usual = self
            .limits
            .default_limit()
            .map_or(60_000, |limit| limit.window_ms);
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for key in &keys {
            let ruled = by_rule(self.rules, key);
            let window = ruled.map_or(usual, |limit| limit.window_ms);
            pipe.add_command(zcount(key, now_ms, window));
            pipe.cmd("HMGET")
                .arg([b"ratelimit:limit:", *key].concat())
                .arg("limit")
                .arg("window_ms");
        }
        let answers: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection).await?;
        result.commands += answers.len() as u64;

        // Most keys count over the usual window; those with another one are counted again over theirs.
        let mut counted: Vec<(&'k [u8], u64, Option<Limit>)> = Vec::with_capacity(keys.len());
        let mut again: Vec<(usize, u64)> = Vec::new();
        for (key, pair) in keys.iter().zip(answers.chunks(2)) {
            let count = match &pair[0] {
                Ok(Value::Int(count)) => u64::try_from(*count).unwrap_or(0),
                Ok(_) => 0,
                Err(error) if reason_of(error) == Reason::WrongType => {
                    if !expected_sibling(key) {
                        result.skip(Reason::WrongType, key);
                    }
                    continue;
                }
                Err(error) => return Err(error.clone()),
            };
            let ruled = by_rule(self.rules, key);
            let own = match ruled {
                Some(limit) => Some(limit),
                None => match own_limit(&pair[1]) {
                    Own::None => None,
                    Own::Some(limit) => Some(limit),
                    Own::Invalid(reason) => {
                        result.skip(reason, key);
                        if reason != Reason::WrongType {
                            continue;
                        }
                        // What stands where the limit would be is another key's counter.
                        None
                    }
                },
            };
            if let Some(limit) = own.filter(|own| ruled.is_none() && own.window_ms != usual) {
                again.push((counted.len(), limit.window_ms));
            }
            counted.push((key, count, own));
        }
        if !again.is_empty() {
            let mut pipe = redis::pipe();
            for (index, window) in &again {
                pipe.add_command(zcount(counted[*index].0, now_ms, *window));
            }
            let counts: Vec<u64> = pipe.query_async(&mut self.connection).await?;
            result.commands += counts.len() as u64;
            for ((index, _), count) in again.iter().zip(counts) {
                counted[*index].1 = count;
            }
        }

        let mut batch = Vec::with_capacity(counted.len());
        for (key, count, own) in counted {
            let Some((limit, fell_from)) = self.limits.resolve(key, own, at.steady) else {
                result.skip(Reason::NoDefaultLimit, key);
                continue;
            };
            // Nothing inside the window: the key only waits for its TTL.
            if count > 0 {
                batch.push(CounterView {
                    key,
                    count,
                    limit: limit.limit,
                    remaining: limit.limit.saturating_sub(count),
                    window_ms: Some(limit.window_ms),
                    fell_from,
                });
            }
        }
        Ok(batch)
    }
}

fn zcount(key: &[u8], now_ms: i64, window_ms: u64) -> redis::Cmd {
    let mut command = redis::cmd("ZCOUNT");
    let from = now_ms.saturating_sub(i64::try_from(window_ms).unwrap_or(i64::MAX));
    command.arg([PREFIX, key].concat()).arg(from).arg("+inf");
    command
}

/// Keys that stand beside counters by design: sequences and limits.
fn expected_sibling(key: &[u8]) -> bool {
    key.ends_with(b":seq") || key.starts_with(b"limit:")
}

fn own_limit(answer: &RedisResult<Value>) -> Own {
    let fields = match answer {
        Ok(Value::Array(fields)) => fields,
        Ok(_) => return Own::Invalid(Reason::InvalidLimit),
        Err(error) => return Own::Invalid(reason_of(error)),
    };
    let number = |value: Option<&Value>| match value {
        Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let absent = |value: Option<&Value>| matches!(value, None | Some(Value::Nil));
    if absent(fields.first()) && absent(fields.get(1)) {
        return Own::None;
    }
    let Some(limit) = number(fields.first()) else {
        return Own::Invalid(Reason::InvalidLimit);
    };
    match number(fields.get(1)) {
        Some(window_ms) if window_ms > 0 => Own::Some(Limit { limit, window_ms }),
        _ => Own::Invalid(Reason::InvalidWindow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(limit: Option<&str>, window: Option<&str>) -> String {
        let value = |text: Option<&str>| {
            text.map_or(Value::Nil, |text| {
                Value::BulkString(text.as_bytes().to_vec())
            })
        };
        match own_limit(&Ok(Value::Array(vec![value(limit), value(window)]))) {
            Own::None => "none".to_owned(),
            Own::Some(limit) => format!("{} in {}", limit.limit, limit.window_ms),
            Own::Invalid(reason) => reason.to_string(),
        }
    }

    #[test]
    fn stored_limits_are_whole_numbers_or_passed_over() {
        assert_eq!(own(None, None), "none");
        assert_eq!(own(Some("5"), Some("60000")), "5 in 60000");
        assert_eq!(own(Some("0"), Some("60000")), "0 in 60000");
        let large = own(Some("9223372036854775808"), Some("1"));
        assert_eq!(large, "9223372036854775808 in 1");
        for limit in ["-3", "abc", "1.5", ""] {
            assert_eq!(own(Some(limit), Some("60000")), "invalid_limit", "{limit}");
        }
        for window in [Some("0"), Some("-1"), Some("x"), None] {
            assert_eq!(own(Some("5"), window), "invalid_window", "{window:?}");
        }
        assert_eq!(own(None, Some("60000")), "invalid_limit");
    }
}
