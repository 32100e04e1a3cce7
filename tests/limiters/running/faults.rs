//! What goes wrong with a limiter: how its application bears it, and what the exporter reports.

use std::time::Duration;

use anyhow::ensure;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::app::Outcome;
use crate::applications::{Strategy, WithoutExpiry};
use crate::course::{Bench, into_window};
use crate::expect::Expect;
use crate::expected::{Answers, BURST, LIMIT};
use crate::names;
use crate::runner::Seen;

/// The grace period of `stuck_counter` and `invalid_counter`.
const GRACE: Duration = Duration::from_secs(60);

/// Beyond the windows after which a client would be allowed again.
const BEYOND: Duration = Duration::from_secs(2);

/// Within this a Redis that is away is reported: a scrape and the timeouts in it.
const AWAY_WITHIN: Duration = Duration::from_secs(15);

/// How long an application may take to come back to a Redis that came back: clients try again ever more seldom.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Its counter loses its expiry at the limit.
const STUCK: &str = "stuck";

/// Its counter becomes what no limiter writes.
const SPOILED: &str = "spoiled";

/// What came of Redis being away.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) reported: Option<String>,
    pub(crate) answers: Answers,
}

/// Counters without expiry at their limit, and garbage: found after the grace period, and over once they are deleted.
/// A client whose counter is said to block is blocked indeed, and another one is not.
pub(crate) async fn broken(bench: &Bench) -> anyhow::Result<Vec<String>> {
    let redis = bench.redis.connection().await?;
    bench
        .quiet(async {
            into_window().await;
            bench.each(|strategy| prepare(bench, strategy)).await
        })
        .await?;
    let fault = Instant::now();
    bench
        .each(|strategy| {
            let mut redis = redis.clone();
            async move {
                names::persist(&mut redis, strategy, STUCK).await?;
                names::spoil(&mut redis, strategy, SPOILED).await
            }
        })
        .await?;
    let asking = async {
        sleep(bench.memory() + BEYOND).await;
        let asked = |strategy| ask_stuck(bench, strategy, redis.clone());
        bench.each(asked).await.map(drop)
    };
    let Some(exporter) = &bench.exporter else {
        asking.await?;
        return Ok(Vec::new());
    };
    let expected: Vec<(&str, String)> = bench
        .application
        .strategies
        .iter()
        .flat_map(|strategy| {
            let stuck = strategy.without_expiry == WithoutExpiry::Blocks;
            let stuck = stuck.then(|| ("stuck_counter", strategy.label_of(STUCK)));
            let invalid = ("invalid_counter", strategy.label_of(SPOILED));
            stuck.into_iter().chain([invalid])
        })
        .collect();
    let pairs = expected.iter().map(|(name, label)| (*name, label.as_str()));
    let expect = Expect::at_once([]).after(GRACE, pairs);
    let (seen, ()) = tokio::try_join!(exporter.finds(fault, expect), asking)?;
    flush(redis.clone(), "FLUSHALL").await?;
    exporter.recovers().await?;
    Ok(vec![in_words(&seen)])
}

/// Everything is deleted: each client is new.
pub(crate) async fn flushed(bench: &Bench) -> anyhow::Result<Answers> {
    flush(bench.redis.connection().await?, "FLUSHALL").await?;
    bench.burst("flushed ").await
}

/// Redis forgets the scripts: clients send them again. Those of [`flushed`] have something left.
pub(crate) async fn scripts_flushed(bench: &Bench) -> anyhow::Result<Answers> {
    flush(bench.redis.connection().await?, "SCRIPT FLUSH").await?;
    let known = bench.each(|strategy| async move {
        let (client, _) = BURST[0];
        let outcome = bench
            .app
            .ask(strategy.path, &format!("flushed {client}"))
            .await;
        let expected = if strategy.reloads_scripts {
            Outcome::Allowed
        } else {
            Outcome::Failed
        };
        ensure!(
            outcome == expected,
            "a known client is {outcome:?}; expected {expected:?}"
        );
        Ok(())
    });
    bench.quiet(known).await?;
    bench.burst("loaded ").await
}

/// Redis ends, which is reported at once, and comes back empty, which ends it. The application goes on.
pub(crate) async fn away(bench: &mut Bench) -> anyhow::Result<Away> {
    let fault = Instant::now();
    bench.redis.kill();
    let mut reported = None;
    if let Some(exporter) = &bench.exporter {
        let expect = Expect::at_once([("redis_disconnected", "redis")]);
        let seen = exporter.finds_within(fault, AWAY_WITHIN, expect).await?;
        reported = Some(in_words(&seen));
    }
    bench.redis.restart().await?;
    if let Some(exporter) = &bench.exporter {
        exporter.recovers().await?;
    }
    let bench = &*bench;
    let back = bench.each(|strategy| async move {
        let since = Instant::now();
        while bench.app.ask(strategy.path, "returning").await == Outcome::Failed {
            ensure!(
                since.elapsed() < BACK_WITHIN,
                "fails {BACK_WITHIN:?} after Redis came back"
            );
            sleep(TRY_EVERY).await;
        }
        Ok(())
    });
    bench.quiet(back).await?;
    let answers = bench.burst("back ").await?;
    Ok(Away { reported, answers })
}

/// Makes the counters that are to be broken: one above the limit, and one with a request.
async fn prepare(bench: &Bench, strategy: &'static Strategy) -> anyhow::Result<()> {
    for _ in 0..LIMIT + 3 {
        bench.app.ask(strategy.path, STUCK).await;
    }
    let outcome = bench.app.ask(strategy.path, SPOILED).await;
    ensure!(
        outcome == Outcome::Allowed,
        "a first request is {outcome:?}"
    );
    Ok(())
}

/// One more request of the stuck client, once its window is long over.
async fn ask_stuck(
    bench: &Bench,
    strategy: &'static Strategy,
    mut redis: MultiplexedConnection,
) -> anyhow::Result<()> {
    let outcome = bench.app.ask(strategy.path, STUCK).await;
    let persists = names::persists(&mut redis, strategy, STUCK).await?;
    match strategy.without_expiry {
        WithoutExpiry::Blocks => ensure!(
            outcome == Outcome::Refused && persists,
            "is {outcome:?} with a counter that {}; expected it to be refused for ever",
            if persists { "has no expiry" } else { "expires" }
        ),
        WithoutExpiry::Passes => ensure!(
            outcome == Outcome::Allowed || (outcome == Outcome::Refused && !persists),
            "is {outcome:?} with a counter that has no expiry; expected it to be allowed, or the counter to expire again"
        ),
    }
    Ok(())
}

fn in_words(seen: &Seen) -> String {
    let seconds = seen.seconds.unwrap_or_default();
    format!("{} after {seconds:.0} s", seen.what)
}

async fn flush(mut redis: MultiplexedConnection, command: &str) -> anyhow::Result<()> {
    let mut words = command.split(' ');
    let mut command = redis::cmd(words.next().unwrap_or_default());
    words.for_each(|word| {
        command.arg(word);
    });
    Ok(command.query_async(&mut redis).await?)
}
