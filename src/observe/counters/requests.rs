//! The sweep's requests to Redis about plain logs, a batch at a time. Each batch owns its names, so that several can
//! be in flight at once. This file decides nothing.

use std::iter;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, RedisResult, Value};

use crate::limiters::PlainLog;
use crate::observation::{Limit, Reason};
use crate::observe::counters::closer::{self, Closer};
use crate::observe::redis::errors::{is_elsewhere, reason_of};
use crate::observe::redis::router::{Answers, Router};
use crate::observe::redis::timed::TimedPipeline;

/// A key's own limit as stored, if it has one, or why what is stored is no limit.
pub(in crate::observe) type Own = Result<Option<Limit>, Reason>;

/// A key to count.
#[derive(Debug)]
pub(in crate::observe) struct ToCount {
    pub(in crate::observe) key: Vec<u8>,
    /// The window to count over. If its own limit is read first, that one's window applies instead. Only if the limit cannot be
    /// read, this one does: counter and limit may be on different servers of a cluster.
    pub(in crate::observe) window_ms: u64,
    /// Whether its expiry and its entries in the future are read too.
    pub(in crate::observe) closely: bool,
}

impl ToCount {
    /// The number of requests for it.
    pub(in crate::observe) fn commands(&self) -> usize {
        1 + if self.closely { closer::COMMANDS } else { 0 }
    }

    /// The requests that count it over `window_ms`.
    fn requests(&self, log: &PlainLog, now_ms: i64, window_ms: u64) -> impl Iterator<Item = Cmd> {
        let name = log.counter_name(&self.key);
        let closer = self.closely.then(|| Closer::commands(&name, now_ms));
        iter::once(zcount(name, now_ms, window_ms)).chain(closer.into_iter().flatten())
    }

    /// The count, `None` if the key is no counter, and what else was read, from the answers to [`Self::requests`]. `None` if
    /// the answers have ended.
    fn read(
        &self,
        answers: &mut impl Iterator<Item = RedisResult<Value>>,
    ) -> Option<(RedisResult<Option<u64>>, Option<Closer>)> {
        let count = count_of(answers.next()?);
        let closer = self.closely.then(|| answers.next().zip(answers.next()));
        let closer = closer.flatten();
        let closer = closer.and_then(|(left, future)| Closer::of(&[left, future]));
        Some((count, closer))
    }
}

/// The count of a key.
#[derive(Debug)]
pub(in crate::observe) struct CountedKey {
    pub(in crate::observe) key: Vec<u8>,
    /// `None` if the key is no counter.
    pub(in crate::observe) count: Option<u64>,
    /// What else was read.
    pub(in crate::observe) closer: Option<Closer>,
}

/// The names of one SCAN, sorted by the commands that they need.
#[derive(Debug, Default)]
pub(in crate::observe) struct Batch {
    /// Keys to count.
    pub(in crate::observe) keys: Vec<ToCount>,
    /// Names that end in the end of strings beside counters, which most likely they are.
    pub(in crate::observe) sequences: Vec<Vec<u8>>,
    /// Keys whose limit is stored.
    pub(in crate::observe) limits: Vec<Vec<u8>>,
}

impl Batch {
    /// The work of the batch, in commands. A name in MGET counts as one.
    pub(in crate::observe) fn commands(&self) -> usize {
        let keys: usize = self.keys.iter().map(ToCount::commands).sum();
        keys + self.limits.len() + self.sequences.len()
    }
}

/// The results for the names of a batch.
#[derive(Debug, Default)]
pub(in crate::observe) struct Counted {
    pub(in crate::observe) keys: Vec<CountedKey>,
    /// Such names of [`Batch::sequences`] that are no strings: they may be counters.
    pub(in crate::observe) not_sequences: Vec<Vec<u8>>,
    /// Stored limits by key.
    pub(in crate::observe) limits: Vec<(Vec<u8>, Own)>,
    /// Keys that have moved to another server since SCAN named them.
    pub(in crate::observe) elsewhere: Vec<Vec<u8>>,
    pub(in crate::observe) commands: u64,
}

/// Counts keys and reads limits, in one round trip. Windows end at `now_ms` by Redis's clock. In a cluster, one command cannot
/// ask about many keys. With `timed`, Redis measures how long it takes.
pub(in crate::observe) async fn count(
    mut connection: MultiplexedConnection,
    log: &PlainLog,
    batch: Batch,
    now_ms: i64,
    (cluster, timed): (bool, bool),
) -> RedisResult<(Counted, Option<Duration>)> {
    let Batch {
        keys,
        sequences,
        limits,
    } = batch;
    let mut pipe = TimedPipeline::new(timed);
    for it in &keys {
        for command in it.requests(log, now_ms, it.window_ms) {
            pipe.add(command);
        }
    }
    for key in &limits {
        pipe.add(hmget(log, key));
    }
    if cluster {
        for name in &sequences {
            let mut length = redis::cmd("STRLEN");
            length.arg(log.counter_name(name));
            pipe.add(length);
        }
    } else if !sequences.is_empty() {
        // MGET answers nil for a key that is no string: one command checks the types of many keys.
        let mut mget = redis::cmd("MGET");
        for name in &sequences {
            mget.arg(log.counter_name(name));
        }
        pipe.add(mget);
    }
    let mut counted = Counted {
        keys: Vec::with_capacity(keys.len()),
        not_sequences: Vec::new(),
        limits: Vec::with_capacity(limits.len()),
        elsewhere: Vec::new(),
        commands: 0,
    };
    let (answers, took) = pipe.send(&mut connection).await?;
    counted.commands = answers.len() as u64;
    let mut answers = answers.into_iter();
    for it in keys {
        let Some((count, closer)) = it.read(&mut answers) else {
            break;
        };
        match count {
            Err(error) if is_elsewhere(&error) => counted.elsewhere.push(it.key),
            count => counted.keys.push(CountedKey {
                key: it.key,
                count: count?,
                closer,
            }),
        }
    }
    for (key, answer) in limits.into_iter().zip(answers.by_ref()) {
        match own_limit(&answer) {
            // The key was written on its new server: Redis reports that, or the next pass reads it.
            Err(error) if is_elsewhere(&error) => {}
            own => counted.limits.push((key, own?)),
        }
    }
    if cluster {
        let pairs = sequences.into_iter().zip(answers);
        let others = pairs.filter(|(_, length)| {
            let error = length.as_ref().err();
            error.is_some_and(|error| reason_of(error) == Reason::WrongType)
        });
        counted.not_sequences = others.map(|(name, _)| name).collect();
    } else if let Some(values) = answers.next() {
        let Value::Array(values) = values? else {
            return Ok((counted, took));
        };
        let pairs = sequences.into_iter().zip(values);
        let others = pairs.filter(|(_, value)| *value == Value::Nil);
        counted.not_sequences = others.map(|(name, _)| name).collect();
    }
    Ok((counted, took))
}

/// Why a key could not be read, and from which server, if its server is known.
pub(in crate::observe) type ReadFailure = (Option<usize>, RedisError);

/// The result of reading a key directly.
#[derive(Debug)]
pub(in crate::observe) struct Verified {
    pub(in crate::observe) own: Result<Own, ReadFailure>,
    /// `None` if the key is no counter.
    pub(in crate::observe) count: Result<Option<u64>, ReadFailure>,
    /// What else was read.
    pub(in crate::observe) closer: Option<Closer>,
}

/// Reads the own limit of each key, then counts over the window that applies. `usual` returns the window of keys without a limit
/// of their own. A rule of the configuration takes precedence over the stored limit. `now_ms` is the time at each link.
pub(in crate::observe) async fn verify(
    (router, log): (&Router, &PlainLog),
    keys: &[ToCount],
    now_ms: impl Fn(usize) -> i64,
    rule: impl Fn(&[u8]) -> Option<Limit>,
    usual: u64,
) -> (Vec<Verified>, Option<Duration>) {
    let names: Vec<Vec<u8>> = keys.iter().map(|it| log.limit_name(&it.key)).collect();
    let asked = names.iter().zip(keys);
    let asked = asked
        .map(|(name, it)| (name.clone(), hmget(log, &it.key)))
        .collect();
    let Answers {
        each: limits,
        took: limits_took,
        ..
    } = router.ask(asked).await;
    let mut owns = Vec::with_capacity(keys.len());
    let mut asked = Vec::with_capacity(keys.len());
    for (it, answer) in keys.iter().zip(&limits) {
        let key = &it.key;
        let own = own_limit(answer);
        let stored = match &own {
            Ok(Ok(own)) => own.map_or(usual, |limit| limit.window_ms),
            Ok(Err(_)) | Err(_) => it.window_ms,
        };
        let window_ms = rule(key).map_or(stored, |limit| limit.window_ms);
        let name = log.counter_name(key);
        let now_ms = now_ms(router.link_of(&name).unwrap_or(0));
        let requests = it.requests(log, now_ms, window_ms);
        asked.extend(requests.map(|command| (name.clone(), command)));
        owns.push(own);
    }
    let counts = router.ask(asked).await;
    let took = limits_took.zip(counts.took).map(|(one, other)| one + other);
    let mut counts = counts.each.into_iter();
    let mut verified = Vec::with_capacity(keys.len());
    for ((it, name), own) in keys.iter().zip(&names).zip(owns) {
        // There are as many answers as commands.
        let Some((count, closer)) = it.read(&mut counts) else {
            break;
        };
        verified.push(Verified {
            own: own.map_err(|error| (router.link_of(name), error)),
            count: count.map_err(|error| (router.link_of(&log.counter_name(&it.key)), error)),
            closer,
        });
    }
    (verified, took)
}

/// Counts the log `name` over its window.
pub(in crate::observe) fn zcount(name: Vec<u8>, now_ms: i64, window_ms: u64) -> Cmd {
    let mut command = redis::cmd("ZCOUNT");
    let from = now_ms.saturating_sub(i64::try_from(window_ms).unwrap_or(i64::MAX));
    command.arg(name).arg(from).arg("+inf");
    command
}

/// Reads the limit that is stored for `key`.
pub(in crate::observe) fn hmget(log: &PlainLog, key: &[u8]) -> Cmd {
    let mut command = redis::cmd("HMGET");
    command.arg(log.limit_name(key)).arg(&log.fields);
    command
}

/// `None` for a key of another type.
fn count_of(answer: RedisResult<Value>) -> RedisResult<Option<u64>> {
    match answer {
        Ok(Value::Int(count)) => Ok(Some(u64::try_from(count).unwrap_or(0))),
        Ok(_) => Ok(Some(0)),
        Err(error) if reason_of(&error) == Reason::WrongType => Ok(None),
        Err(error) => Err(error),
    }
}

fn own_limit(answer: &RedisResult<Value>) -> RedisResult<Own> {
    let fields = match answer {
        Ok(Value::Array(fields)) => fields,
        Ok(_) => return Ok(Err(Reason::InvalidLimit)),
        Err(error) if reason_of(error) == Reason::WrongType => {
            return Ok(Err(Reason::WrongType));
        }
        Err(error) => return Err(error.clone()),
    };
    let number = |value: Option<&Value>| match value {
        Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let absent = |value: Option<&Value>| matches!(value, None | Some(Value::Nil));
    if absent(fields.first()) && absent(fields.get(1)) {
        return Ok(Ok(None));
    }
    let Some(limit) = number(fields.first()) else {
        return Ok(Err(Reason::InvalidLimit));
    };
    Ok(match number(fields.get(1)) {
        Some(window_ms) if window_ms > 0 => Ok(Some(Limit { limit, window_ms })),
        _ => Err(Reason::InvalidWindow),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_count(key: u8) -> ToCount {
        ToCount {
            key: vec![key],
            window_ms: 1,
            closely: key == 0,
        }
    }

    #[test]
    fn a_key_that_is_read_closely_is_more_work() {
        let batch = Batch {
            keys: (0..5_u8).map(to_count).collect(),
            ..Batch::default()
        };
        assert_eq!(batch.commands(), 7);
    }

    fn own(limit: Option<&str>, window: Option<&str>) -> String {
        let value = |text: Option<&str>| {
            text.map_or(Value::Nil, |text| {
                Value::BulkString(text.as_bytes().to_vec())
            })
        };
        let answer = Ok(Value::Array(vec![value(limit), value(window)]));
        match own_limit(&answer).unwrap() {
            Ok(None) => "none".to_owned(),
            Ok(Some(limit)) => format!("{} in {}", limit.limit, limit.window_ms),
            Err(reason) => reason.to_string(),
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
