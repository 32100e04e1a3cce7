//! Reads many names by their description. The commands for one step of all names are sent together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::answers::{
    Keyed, answer, command, guards, is_read, is_unmeasured, keyed, last_of, long,
};
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

/// A name, and what is asked about it.
type Asked<'a> = (&'a [u8], &'a Ask);

/// Whether it asks about the name itself.
fn is_own((name, ask): &Asked<'_>) -> bool {
    ask.key() == *name
}

/// Runs all `readers` until each has a finding. A name that could not be read is an error.
pub(super) async fn read(
    access: &RedisAccess<'_>,
    mut readers: Vec<NameReader<'_>>,
    spent: &mut Spent,
) -> Vec<Result<Finding, RedisError>> {
    let mut failed: Vec<Option<RedisError>> = readers.iter().map(|_| None).collect();
    for _ in 0..MOST_STEPS {
        let mut asked: Vec<Asked<'_>> = Vec::new();
        for (reader, failed) in readers.iter().zip(&failed) {
            if failed.is_none() {
                asked.extend(reader.asks().iter().map(|ask| (reader.name(), ask)));
            }
        }
        if asked.is_empty() {
            break;
        }
        let mut answers = ask_all(access, &asked, spent).await;
        find_empty(access, &asked, &mut answers, spent).await;
        let mut answers = answers.into_iter();
        for (reader, failed) in readers.iter_mut().zip(&mut failed) {
            if failed.is_some() {
                continue;
            }
            let said: Vec<_> = answers.by_ref().take(reader.asks().len()).collect();
            match said.into_iter().collect::<Result<Vec<Answer>, _>>() {
                Ok(said) => reader.feed(&said),
                Err(error) => *failed = Some(error),
            }
        }
    }
    let findings = readers.iter().zip(failed);
    findings
        .map(|(reader, failed)| match failed {
            Some(error) => Err(error),
            None => reader.finding().cloned().ok_or_else(endless),
        })
        .collect()
}

fn endless() -> RedisError {
    std::io::Error::other("a description that asks without end").into()
}

/// The answers to `asked`, in the same order.
async fn ask_all(
    access: &RedisAccess<'_>,
    asked: &[Asked<'_>],
    spent: &mut Spent,
) -> Vec<Result<Answer, RedisError>> {
    if asked.iter().all(is_own) {
        return ask_each(access, asked, spent).await;
    }
    // Names may have the same limit, and ask for it by the same command.
    let (mut once, mut places) = (Vec::new(), HashMap::new());
    let mut each = Vec::with_capacity(asked.len());
    for it in asked {
        let place = places.entry(command(it.1).1.get_packed_command());
        each.push(*place.or_insert_with(|| {
            once.push(*it);
            once.len() - 1
        }));
    }
    let answers = ask_each(access, &once, spent).await;
    each.into_iter().map(|at| answers[at].clone()).collect()
}

/// The answers to `asked`, in the same order. Values that are too large are not read.
async fn ask_each(
    access: &RedisAccess<'_>,
    asked: &[Asked<'_>],
    spent: &mut Spent,
) -> Vec<Result<Answer, RedisError>> {
    let measured = access.measured.load(Ordering::Relaxed);
    let guards = asked.iter().map(|(_, ask)| guards(ask, measured));
    let guards: Vec<Vec<_>> = guards.collect();
    let many: Vec<usize> = guards.iter().map(Vec::len).collect();
    let guards = guards.into_iter().flatten().collect();
    let mut sizes = access.ask(guards, spent).await.into_iter();
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
    asked: &[Asked<'_>],
    answers: &mut [Result<Answer, RedisError>],
    spent: &mut Spent,
) {
    let nothing = asked.iter().zip(&mut *answers);
    let nothing = nothing.filter(|(it, answer)| {
        matches!((it.1, answer), (Ask::Get(_), Ok(Answer::Missing))) && is_own(it)
    });
    let (found, exist): (Vec<_>, Vec<_>) = nothing
        .map(|((name, _), answer)| (answer, keyed("EXISTS", name)))
        .unzip();
    let said = access.ask(exist, spent).await;
    for (answer, said) in found.into_iter().zip(said) {
        if matches!(said, Ok(Value::Int(1))) {
            *answer = Ok(Answer::Text(Vec::new()));
        }
    }
}

impl RedisAccess<'_> {
    async fn ask(&self, commands: Vec<Keyed<'_>>, spent: &mut Spent) -> Vec<RedisResult<Value>> {
        if commands.is_empty() {
            return Vec::new();
        }
        let many = commands.len();
        spent.commands += many as u64;
        let ask = || async {
            let said = self.router.ask(commands).await;
            let took = said.took;
            (said, took)
        };
        let (said, took) = step_at_all(self.pacers, many, ask).await;
        spent.took += took;
        said.each
    }
}
