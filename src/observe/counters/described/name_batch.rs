//! Reads many names by their description. The commands for one step of all names are sent together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value};

use super::answers::{answer, command, guards, is_read, is_unmeasured, last_of, long};
use crate::limiters::{Answer, Ask, Finding, NameReader};
use crate::observe::counters::pace::{Pacer, step_at_all};
use crate::observe::redis::router::Router;

/// The most steps for a name: more than any description takes.
const MOST_STEPS: usize = 16;

/// The cost of reading.
#[derive(Debug, Default)]
pub(super) struct Spent {
    pub(super) commands: u64,
    /// How much of Redis's time it took.
    pub(super) took: Duration,
}

/// The connections to Redis and their pacers.
pub(super) struct RedisAccess<'a> {
    pub(super) router: &'a Router,
    /// The pacers of the servers that are asked.
    pub(super) pacers: &'a [&'a Pacer],
    /// Whether Redis reports the memory of a key.
    pub(super) measured: &'a AtomicBool,
}

/// Runs all `readers` until each has a finding. A name that could not be read is an error.
pub(super) async fn read(
    access: &RedisAccess<'_>,
    mut readers: Vec<NameReader<'_>>,
    spent: &mut Spent,
) -> Vec<Result<Finding, RedisError>> {
    let mut failed: Vec<Option<RedisError>> = readers.iter().map(|_| None).collect();
    for _ in 0..MOST_STEPS {
        let mut asked = Vec::new();
        for (place, reader) in readers.iter().enumerate() {
            if failed[place].is_none() {
                asked.extend(reader.asks().iter().cloned().map(|ask| (place, ask)));
            }
        }
        if asked.is_empty() {
            break;
        }
        let mut answers = ask_all(access, &asked, spent).await;
        find_empty(access, &readers, &asked, &mut answers, spent).await;
        let mut answers = answers.into_iter();
        for (reader, failed) in readers.iter_mut().zip(&mut failed) {
            if failed.is_some() {
                continue;
            }
            let said: Vec<_> = answers.by_ref().take(reader.asks().len()).collect();
            match said
                .into_iter()
                .collect::<Result<Vec<Answer>, RedisError>>()
            {
                Ok(said) => reader.feed(&said),
                Err(error) => *failed = Some(error),
            }
        }
    }
    let findings = readers.iter().zip(failed);
    findings
        .map(|(reader, failed)| match (failed, reader.finding()) {
            (None, Some(finding)) => Ok(finding.clone()),
            (Some(error), _) => Err(error),
            (None, None) => Err(endless()),
        })
        .collect()
}

fn endless() -> RedisError {
    std::io::Error::other("a description that asks without end").into()
}

/// The answers to `asked`, in the same order. Values that are too large are not read.
async fn ask_all(
    access: &RedisAccess<'_>,
    asked: &[(usize, Ask)],
    spent: &mut Spent,
) -> Vec<Result<Answer, RedisError>> {
    let measured = access.measured.load(Ordering::Relaxed);
    let guards = asked.iter().map(|(_, ask)| guards(ask, measured));
    let guards: Vec<Vec<_>> = guards.collect();
    let many: Vec<usize> = guards.iter().map(Vec::len).collect();
    let mut sizes = access.ask(guards.concat(), spent).await.into_iter();
    let mut large = Vec::with_capacity(asked.len());
    let mut read = Vec::with_capacity(asked.len());
    for ((_, ask), many) in asked.iter().zip(many) {
        let said: Vec<RedisResult<Value>> = sizes.by_ref().take(many).collect();
        if measured && is_unmeasured(ask, &said) {
            // Not sent again: each refusal adds an entry to the ACL log of Redis.
            access.measured.store(false, Ordering::Relaxed);
        }
        let (is_read, length) = (is_read(ask, &said), long(ask, &said));
        if is_read {
            read.push(length.map_or_else(|| command(ask), |_| last_of(ask.key())));
        }
        large.push((!is_read, length));
    }
    let mut said = access.ask(read, spent).await.into_iter();
    let answers = asked.iter().zip(large).map(|((_, ask), (large, length))| {
        if large {
            return Ok(Answer::TooLarge);
        }
        // There are as many answers as commands.
        let answer = said
            .next()
            .map_or(Ok(Answer::Missing), |it| answer(ask, it))?;
        Ok(match (length, answer) {
            (Some(length), Answer::Fields(mut last)) => {
                Answer::Long(length, last.pop().flatten().unwrap_or_default())
            }
            (_, answer) => answer,
        })
    });
    answers.collect()
}

/// Distinguishes empty strings from missing keys, for which GETRANGE has the same answer. Only the keys of the names themselves
/// are checked.
async fn find_empty(
    access: &RedisAccess<'_>,
    readers: &[NameReader<'_>],
    asked: &[(usize, Ask)],
    answers: &mut [Result<Answer, RedisError>],
    spent: &mut Spent,
) {
    let nothing = asked.iter().zip(&*answers).enumerate();
    let nothing = nothing.filter_map(|(at, ((place, ask), answer))| match (ask, answer) {
        (Ask::Get(key), Ok(Answer::Missing)) if readers[*place].name() == key => Some((at, key)),
        _ => None,
    });
    let (places, exist): (Vec<usize>, Vec<_>) = nothing
        .map(|(at, key)| (at, command(&Ask::Exists(key.clone()))))
        .unzip();
    let said = access.ask(exist, spent).await;
    for (at, said) in places.into_iter().zip(said) {
        if matches!(said, Ok(Value::Int(1))) {
            answers[at] = Ok(Answer::Text(Vec::new()));
        }
    }
}

impl RedisAccess<'_> {
    async fn ask(
        &self,
        commands: Vec<(Vec<u8>, Cmd)>,
        spent: &mut Spent,
    ) -> Vec<RedisResult<Value>> {
        if commands.is_empty() {
            return Vec::new();
        }
        // Names may have the same limit, and ask for it by the same command.
        let mut once = Vec::new();
        let mut places = HashMap::new();
        let place = |(key, command): (Vec<u8>, Cmd)| {
            let next = once.len();
            let place = *places.entry(command.get_packed_command()).or_insert(next);
            if place == next {
                once.push((key, command));
            }
            place
        };
        let asked: Vec<usize> = commands.into_iter().map(place).collect();
        let many = once.len();
        spent.commands += many as u64;
        let ask = || async {
            let said = self.router.ask(once).await;
            let took = said.took;
            (said, took)
        };
        let (said, took) = step_at_all(self.pacers, many, ask).await;
        spent.took += took;
        asked.into_iter().map(|at| said.each[at].clone()).collect()
    }
}
