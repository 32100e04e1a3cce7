//! What goes wrong with a limiter: how its application bears it, and what the exporter reports.

use std::time::Duration;

use anyhow::ensure;
use lab::exposition::Exposition;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::app::{App, Outcome};
use crate::applications::{Strategy, WithoutExpiry};
use crate::course::{Bench, into_window};
use crate::expect::Expect;
use crate::expected::{Answers, BURST, LIMIT};
use crate::exporter::Exporter;
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

/// It is limited by two instances that do not agree.
const SHARED: &str = "shared";

/// The limit of the second instance.
const HIGHER_LIMIT: u32 = 2 * LIMIT;

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
    let Some(exporter) = &bench.exporter else {
        sleep(bench.memory() + BEYOND).await;
        return ask_stuck(bench, &redis).await.map(|()| Vec::new());
    };
    let strategies = bench.application.strategies.iter();
    let mut expected: Vec<(&str, String)> = strategies
        .flat_map(|strategy| {
            let heals = strategy.without_expiry == WithoutExpiry::Passes;
            let stuck = (!heals).then(|| ("stuck_counter", strategy.label_of(STUCK)));
            let spoiled = ("invalid_counter", strategy.label_of(SPOILED));
            stuck.into_iter().chain([spoiled])
        })
        .collect();
    let expect = Expect::at_once([]).after(GRACE, pairs(&expected));
    let seen = exporter.finds(fault, expect).await?;
    let mut reported = vec![in_words(&seen)];

    // Only now: the next request may heal what would have been reported wrongly.
    let asked = Instant::now();
    ask_stuck(bench, &redis).await?;
    let opened: Vec<(&str, String)> = bench
        .application
        .strategies
        .iter()
        .filter(|strategy| strategy.without_expiry == WithoutExpiry::Opens)
        .map(|strategy| ("ghost_allowing", strategy.label_of(STUCK)))
        .collect();
    if !opened.is_empty() {
        expected.extend(opened);
        let seen = exporter
            .finds(asked, Expect::at_once(pairs(&expected)))
            .await?;
        reported.push(in_words(&seen));
    }
    flush(redis, "FLUSHALL").await?;
    exporter.recovers().await?;
    Ok(reported)
}

/// A second instance with a higher limit, as in the middle of a rollout: reported where the key shows that too much was
/// allowed, and nothing where the limit is in its name, where it counts refused requests, or where both keep to the lower one.
pub(crate) async fn two_limits(bench: &Bench) -> anyhow::Result<Vec<String>> {
    let url = bench.redis.url();
    let other = App::start(bench.application, &url, HIGHER_LIMIT, bench.folder.path()).await?;
    bench
        .quiet(async {
            into_window().await;
            let full = bench.each(|strategy| async move {
                for _ in 0..LIMIT + 3 {
                    bench.app.ask(strategy.path, SHARED).await;
                }
                Ok(())
            });
            full.await
        })
        .await?;
    let other = &other;
    let above = bench.each(|strategy| async move {
        for _ in 0..HIGHER_LIMIT + 3 {
            other.ask(strategy.path, SHARED).await;
        }
        Ok(())
    });
    above.await?;
    let fault = Instant::now();
    let Some(exporter) = &bench.exporter else {
        return Ok(Vec::new());
    };
    let strategies = bench.application.strategies.iter();
    let expected: Vec<(&str, String)> = strategies
        .filter(|strategy| strategy.shows_two_limits)
        .map(|strategy| ("ghost_allowing", strategy.label_of(SHARED)))
        .collect();
    let expect = Expect::at_once(pairs(&expected));
    let seen = exporter.finds(fault, expect).await?;
    no_key_twice(exporter).await?;
    flush(bench.redis.connection().await?, "FLUSHALL").await?;
    exporter.recovers().await?;
    Ok((!expected.is_empty())
        .then(|| in_words(&seen))
        .into_iter()
        .collect())
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

/// One more request of each stuck client, long after its window.
async fn ask_stuck(bench: &Bench, redis: &MultiplexedConnection) -> anyhow::Result<()> {
    let asked = bench.each(|strategy| {
        let mut redis = redis.clone();
        async move {
            let outcome = bench.app.ask(strategy.path, STUCK).await;
            let persists = names::persists(&mut redis, strategy, STUCK).await?;
            let is_so = match strategy.without_expiry {
                WithoutExpiry::Blocks => outcome == Outcome::Refused && persists,
                WithoutExpiry::Opens => outcome == Outcome::Allowed && persists,
                WithoutExpiry::Passes => {
                    outcome == Outcome::Allowed || (outcome == Outcome::Refused && !persists)
                }
            };
            ensure!(
                is_so,
                "{outcome:?}, with a counter that {} after that; expected {:?}",
                if persists { "has no expiry" } else { "expires" },
                strategy.without_expiry
            );
            Ok(())
        }
    });
    asked.await.map(drop)
}

/// Limits that are in names make two counters of a client: Prometheus takes no scrape with a series that is there twice.
async fn no_key_twice(exporter: &Exporter) -> anyhow::Result<()> {
    let answer = lab::http::get(exporter.address(), "/metrics", AWAY_WITHIN).await?;
    let mut keys = Exposition::parse(&answer.text())?.labels("ratelimiter_key_requests", "key");
    keys.sort_unstable();
    let twice = keys.windows(2).find(|pair| pair[0] == pair[1]);
    ensure!(
        twice.is_none(),
        "ratelimiter_key_requests is there twice for {:?}",
        twice.map(|pair| &pair[0])
    );
    Ok(())
}

fn pairs<'a>(findings: &'a [(&'a str, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    findings.iter().map(|(name, label)| (*name, label.as_str()))
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
