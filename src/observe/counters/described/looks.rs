//! Reads names through their descriptions: what all of them ask in one step goes out together.

use std::time::Duration;

use redis::{Cmd, RedisError};

use super::answers::{answer, command, is_read, size};
use crate::limiters::{Answer, Ask, Finding, Look};
use crate::observe::counters::pace::{Pacer, step_at_all};
use crate::observe::redis::router::Router;

/// More steps than any description takes.
const MOST_STEPS: usize = 16;

/// What reading took.
#[derive(Debug, Default)]
pub(super) struct Spent {
    pub(super) commands: u64,
    /// Of Redis's time.
    pub(super) took: Duration,
}

/// Reads every one of `looks` to its end. What could not be read ends in an error, with the link that is at fault where
/// one is.
pub(super) async fn read(
    router: &Router,
    pacers: &[&Pacer],
    mut looks: Vec<Look<'_>>,
    spent: &mut Spent,
) -> Vec<Result<Finding, RedisError>> {
    let mut failed: Vec<Option<RedisError>> = looks.iter().map(|_| None).collect();
    for _ in 0..MOST_STEPS {
        let mut asked = Vec::new();
        for (place, look) in looks.iter().enumerate() {
            if failed[place].is_none() {
                asked.extend(look.asks().iter().cloned().map(|ask| (place, ask)));
            }
        }
        if asked.is_empty() {
            break;
        }
        let mut answers = ask_all(router, pacers, &asked, spent).await.into_iter();
        let mut asked = asked.iter().map(|(place, _)| *place).peekable();
        while let Some(place) = asked.next() {
            let mut said = vec![answers.next()];
            while asked.next_if_eq(&place).is_some() {
                said.push(answers.next());
            }
            let said: Result<Vec<Answer>, RedisError> = said.into_iter().flatten().collect();
            match said {
                Ok(said) => looks[place].feed(&said),
                Err(error) => failed[place] = Some(error),
            }
        }
    }
    let findings = looks.iter().zip(failed);
    findings
        .map(|(look, failed)| match (failed, look.finding()) {
            (None, Some(finding)) => Ok(finding.clone()),
            (Some(error), _) => Err(error),
            (None, None) => Err(endless()),
        })
        .collect()
}

fn endless() -> RedisError {
    std::io::Error::other("a description that asks without end").into()
}

/// The answers to `asked`, in their order.
async fn ask_all(
    router: &Router,
    pacers: &[&Pacer],
    asked: &[(usize, Ask)],
    spent: &mut Spent,
) -> Vec<Result<Answer, RedisError>> {
    let sizes: Vec<(Vec<u8>, Cmd)> = asked.iter().filter_map(|(_, ask)| size(ask)).collect();
    spent.commands += sizes.len() as u64;
    let sizes = if sizes.is_empty() {
        Vec::new()
    } else {
        let many = sizes.len();
        let (sizes, took) = step_at_all(pacers, many, || router.ask(sizes)).await;
        spent.took += took;
        sizes.each
    };
    let mut sizes = sizes.iter();
    let large: Vec<bool> = asked
        .iter()
        .map(|(_, ask)| {
            let size = matches!(ask, Ask::AllFields(_)).then(|| sizes.next());
            size.flatten().is_some_and(|size| !is_read(size))
        })
        .collect();
    let read = asked.iter().zip(&large).filter(|(_, large)| !**large);
    let read: Vec<_> = read.map(|((_, ask), _)| command(ask)).collect();
    spent.commands += read.len() as u64;
    let many = read.len();
    let (said, took) = step_at_all(pacers, many, || router.ask(read)).await;
    spent.took += took;
    let mut said = said.each.into_iter();
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
