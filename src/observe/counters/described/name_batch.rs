//! Reads many names by their description. The commands for one step of all names are sent together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value};

use super::answers::{answer, command, guards, is_read, is_unmeasured};
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
        let mut asked = asked.iter().map(|(place, _)| *place).peekable();
        while let Some(place) = asked.next() {
            let mut said = vec![answers.next()];
            while asked.next_if_eq(&place).is_some() {
                said.push(answers.next());
            }
            let said: Result<Vec<Answer>, RedisError> = said.into_iter().flatten().collect();
            match said {
                Ok(said) => readers[place].feed(&said),
                Err(error) => failed[place] = Some(error),
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
    for ((_, ask), many) in asked.iter().zip(many) {
        let said: Vec<RedisResult<Value>> = sizes.by_ref().take(many).collect();
        if measured && is_unmeasured(ask, &said) {
            // Not sent again: each refusal adds an entry to the ACL log of Redis.
            access.measured.store(false, Ordering::Relaxed);
        }
        large.push(!is_read(ask, &said));
    }
    let read = asked.iter().zip(&large).filter(|(_, large)| !**large);
    let read: Vec<_> = read.map(|((_, ask), _)| command(ask)).collect();
    let mut said = access.ask(read, spent).await.into_iter();
    let answers = asked.iter().zip(large).map(|((_, ask), large)| {
        if large {
            return Ok(Answer::TooLarge);
        }
        // There are as many answers as commands.
        said.next()
            .map_or(Ok(Answer::Missing), |said| answer(ask, said))
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
