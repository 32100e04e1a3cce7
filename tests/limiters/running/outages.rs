//! Faults of Redis: how an application handles them, and what the exporter reports.

use std::time::Duration;

use anyhow::ensure;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::app::Outcome;
use crate::course::Bench;
use crate::expect::Expect;
use crate::expected::BURST;
use crate::table::Row;

/// How long it may take until an unavailable Redis is reported: a scrape with its timeouts.
const AWAY_WITHIN: Duration = Duration::from_secs(15);

/// How long an application may take to reconnect to a Redis that has returned: clients retry with growing intervals.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// The time between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Deletes everything: each client is new afterwards.
pub(crate) async fn flushed(bench: &Bench) -> anyhow::Result<Row> {
    flush(bench.redis.connection().await?, "FLUSHALL").await?;
    let answers = bench.burst("flushed ").await?;
    Ok(Row::nothing("`FLUSHALL`, and new bursts", answers))
}

/// Deletes the scripts: clients must send them again. The clients of [`flushed`] have requests left.
pub(crate) async fn scripts_flushed(bench: &Bench) -> anyhow::Result<Row> {
    flush(bench.redis.connection().await?, "SCRIPT FLUSH").await?;
    let known = bench.each(|strategy| async move {
        let (client, _) = BURST[0];
        let client = format!("flushed {client}");
        let outcome = bench.app.ask(strategy.path, &client).await;
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
    let answers = bench.burst("loaded ").await?;
    Ok(Row::nothing("`SCRIPT FLUSH`, and new bursts", answers))
}

/// Redis has no memory left and evicts nothing. New clients get the answer in the table of applications, and are allowed once
/// there is room again. Nothing is violated. The exported memory shows the state, and the alert uses that.
pub(crate) async fn full(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let known = bench.each(|strategy| async move {
        let outcome = bench.app.ask(strategy.path, "known").await;
        ensure!(outcome == Outcome::Allowed, "a new client is {outcome:?}");
        Ok(())
    });
    bench.quiet(known).await?;
    let redis = bench.redis.connection().await?;
    flush(redis.clone(), "CONFIG SET maxmemory 1").await?;
    let new = bench.each(|strategy| async move {
        let outcome = bench.app.ask(strategy.path, "new").await;
        ensure!(
            outcome == strategy.when_full,
            "a new client is {outcome:?} while Redis is full; expected {:?}",
            strategy.when_full
        );
        Ok(())
    });
    bench.quiet(new).await?;
    let mut rows = Vec::new();
    if let Some(exporter) = &bench.exporter {
        let scrape = exporter.scrape().await?;
        let used = scrape.value("ratelimiter_redis_memory_used_bytes", &[]);
        ensure!(
            used > Some(1.0) && scrape.is("ratelimiter_redis_memory_max_bytes", 1),
            "the exported memory does not show that Redis is full: {used:?} used"
        );
        rows.push(Row {
            event: "Redis is full (`maxmemory`, `noeviction`)",
            expected: "no violation; the memory used is above its maximum".to_owned(),
            seen: "the same".to_owned(),
        });
    }
    flush(redis, "CONFIG SET maxmemory 0").await?;
    bench.quiet(back(bench, "new")).await?;
    Ok(rows)
}

/// Kills Redis, which is reported at once, and restarts it empty, which ends the report. The application must continue.
pub(crate) async fn away(bench: &mut Bench) -> anyhow::Result<Vec<Row>> {
    let fault = Instant::now();
    bench.redis.kill();
    let mut rows = Vec::new();
    if let Some(exporter) = &bench.exporter {
        let expect = Expect::at_once([("redis_disconnected", "redis")]);
        let seen = exporter.finds_within(fault, AWAY_WITHIN, expect).await?;
        let expected = [("redis_disconnected", "redis".to_owned())];
        rows.push(Row::at_once("Redis is killed", &expected, &seen));
    }
    bench.redis.restart().await?;
    if let Some(exporter) = &bench.exporter {
        exporter.recovers().await?;
    }
    let bench = &*bench;
    bench.quiet(back(bench, "returning")).await?;
    let answers = bench.burst("back ").await?;
    rows.push(Row::nothing(
        "Redis comes back empty, and new bursts",
        answers,
    ));
    Ok(rows)
}

/// Sends requests until the application admits them again.
async fn back(bench: &Bench, client: &str) -> anyhow::Result<()> {
    let back = bench.each(|strategy| async move {
        let since = Instant::now();
        while bench.app.ask(strategy.path, client).await == Outcome::Failed {
            ensure!(
                since.elapsed() < BACK_WITHIN,
                "fails {BACK_WITHIN:?} after Redis came back"
            );
            sleep(TRY_EVERY).await;
        }
        Ok(())
    });
    back.await.map(drop)
}

/// Sends a command. Its words are separated by spaces.
pub(crate) async fn flush(mut redis: MultiplexedConnection, command: &str) -> anyhow::Result<()> {
    let mut words = command.split(' ');
    let mut command = redis::cmd(words.next().unwrap_or_default());
    words.for_each(|word| {
        command.arg(word);
    });
    Ok(command.query_async(&mut redis).await?)
}
