//! Faults of counters: how their application handles them, and what the exporter reports.

use std::time::Duration;

use anyhow::ensure;
use lab::exposition::Exposition;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::app::{App, Clock, Outcome};
use crate::applications::{ClockAhead, Strategy, WithoutExpiry};
use crate::course::Bench;
use crate::expect::Expect;
use crate::expected::LIMIT;
use crate::exporter::Exporter;
use crate::names;
use crate::outages::flush;
use crate::table::Row;

/// The timeout of a scrape: far more than it takes.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(15);

/// The grace period of `stuck_counter` and `invalid_counter`.
const GRACE: Duration = Duration::from_secs(60);

/// The extra time after the windows in which a healthy limiter allows a client again.
const BEYOND: Duration = Duration::from_secs(2);

/// The client whose counter loses its expiry at the limit.
const STUCK: &str = "stuck";

/// The client whose counter becomes garbage.
const SPOILED: &str = "spoiled";

/// The client that uses two instances with different limits.
const SHARED: &str = "shared";

/// The client that uses an instance whose clock is ahead.
const AHEAD: &str = "ahead";

/// The limit of the second instance.
const HIGHER_LIMIT: u32 = 2 * LIMIT;

/// Counters without expiry at their limit, garbage, and the counters of an instance whose clock is ahead are reported after the
/// grace period, until they are deleted. A client is blocked exactly if its counter is reported to block it.
pub(crate) async fn broken(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let redis = bench.redis.connection().await?;
    let file = bench.application.file;
    let (url, folder) = (bench.redis.url(), bench.folder.path());
    let ahead = App::start(file, Clock::Ahead, &url, LIMIT, folder);
    let ahead = bench.quiet(ahead).await?;
    let fault = bench
        .within_window(async || {
            let prepared = bench.each(|strategy| prepare(bench, strategy));
            bench.quiet(prepared).await?;
            let fault = Instant::now();
            let broken = bench.each(|strategy| break_counters(redis.clone(), strategy, &ahead));
            broken.await.map(|_| fault)
        })
        .await?;
    let Some(exporter) = &bench.exporter else {
        sleep(bench.memory() + BEYOND).await;
        return ask_stuck(bench, &redis).await.map(|()| Vec::new());
    };
    let strategies = || bench.application.strategies.iter();
    let blocking = strategies().filter(|it| it.without_expiry != WithoutExpiry::Passes);
    let stuck = found("stuck_counter", blocking, STUCK);
    let spoiled = found("invalid_counter", strategies(), SPOILED);
    let with = |clock| strategies().filter(move |strategy| strategy.clock_ahead == clock);
    let late = strategies().filter(|strategy| strategy.clock_ahead != ClockAhead::Right);
    let late = found("invalid_counter", late, AHEAD);
    let above = found("ghost_allowing", with(ClockAhead::OverLimit), AHEAD);
    // Its grace period is shorter than that of the others.
    let far_above = found("counter_drift", with(ClockAhead::OverLimit), AHEAD);
    let broken = [stuck.clone(), spoiled.clone()].concat();
    let late = [late, far_above.clone()].concat();
    let all = [broken.clone(), late.clone()].concat();
    let expect = Expect::at_once(pairs(&above))
        .after(GRACE, pairs(&all))
        .allowing(pairs(&far_above));
    let seen = exporter.finds(fault, expect).await?;
    let late = [above, late].concat();
    let what = "its counter at the limit loses its expiry";
    let mut rows = vec![
        Row::after_grace(what, &stuck, &seen),
        Row::after_grace("its counter becomes garbage", &spoiled, &seen),
        Row::after_grace("an instance whose clock is 5 min ahead", &late, &seen),
    ];

    // Not earlier: the next request may heal the counter and hide a false report.
    let asked = Instant::now();
    drop(ahead);
    ask_stuck(bench, &redis).await?;
    let opened = strategies().filter(|it| it.without_expiry == WithoutExpiry::Opens);
    let opened = found("ghost_allowing", opened, STUCK);
    if !opened.is_empty() {
        let all = [broken, opened.clone()].concat();
        let expect = Expect::at_once(pairs(&all));
        let seen = exporter.finds(asked, expect).await?;
        rows.push(Row::at_once(
            "a client whose counter has no expiry asks on",
            &opened,
            &seen,
        ));
    }
    flush(redis, "FLUSHALL").await?;
    exporter.recovers().await?;
    Ok(rows)
}

/// A second instance with a higher limit, as in the middle of a rollout. It is reported if the key shows that too much was
/// allowed. Nothing is reported if the limit is in the name, if refused requests count, or if both instances keep to the lower
/// limit.
pub(crate) async fn two_limits(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let url = bench.redis.url();
    let (file, folder) = (bench.application.file, bench.folder.path());
    let other = App::start(file, Clock::Right, &url, HIGHER_LIMIT, folder).await?;
    let showing = bench.application.strategies.iter();
    let showing = showing.filter(|strategy| strategy.shows_two_limits);
    let expected = found("ghost_allowing", showing, SHARED);
    let (other, expected) = (&other, &expected);
    let seen = bench.within_window(async || {
        let full = bench.each(|strategy| async move {
            for _ in 0..LIMIT + 3 {
                bench.app.ask(strategy.path, SHARED).await;
            }
            Ok(())
        });
        bench.quiet(full).await?;
        let above = bench.each(|strategy| async move {
            for _ in 0..HIGHER_LIMIT + 3 {
                other.ask(strategy.path, SHARED).await;
            }
            Ok(())
        });
        above.await?;
        let fault = Instant::now();
        let Some(exporter) = &bench.exporter else {
            return Ok(None);
        };
        let expect = Expect::at_once(pairs(expected));
        let seen = exporter.finds(fault, expect).await?;
        no_key_twice(exporter).await?;
        Ok(Some(seen))
    });
    let (Some(seen), Some(exporter)) = (seen.await?, &bench.exporter) else {
        return Ok(Vec::new());
    };
    flush(bench.redis.connection().await?, "FLUSHALL").await?;
    exporter.recovers().await?;
    let what = "a second instance with twice the limit";
    Ok(vec![Row::at_once(what, expected, &seen)])
}

/// Makes the counters to break: one above the limit, and one with a single request.
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

/// Removes the expiry of one counter, spoils the other one, and lets an instance whose clock is ahead make a third.
async fn break_counters(
    mut redis: MultiplexedConnection,
    strategy: &Strategy,
    ahead: &App,
) -> anyhow::Result<()> {
    names::persist(&mut redis, strategy, STUCK).await?;
    names::spoil(&mut redis, strategy, SPOILED).await?;
    for _ in 0..LIMIT + 3 {
        ahead.ask(strategy.path, AHEAD).await;
    }
    // Its windows are shorter than the grace period, so it keeps writing: its state must not end between two windows.
    if strategy.clock_ahead != ClockAhead::Right {
        names::persist(&mut redis, strategy, AHEAD).await?;
    }
    Ok(())
}

/// Sends one more request of each stuck client, long after its window.
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

/// If names contain the limit, a client has two counters. Prometheus rejects a scrape that has a series twice.
async fn no_key_twice(exporter: &Exporter) -> anyhow::Result<()> {
    let answer = lab::http::get(exporter.address(), "/metrics", SCRAPE_PATIENCE).await?;
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

/// The expected findings for a client of these strategies.
fn found<'a>(
    invariant: &'static str,
    strategies: impl Iterator<Item = &'a Strategy>,
    client: &str,
) -> Vec<(&'static str, String)> {
    strategies
        .map(|strategy| (invariant, strategy.label_of(client)))
        .collect()
}

fn pairs<'a>(findings: &'a [(&'a str, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    findings.iter().map(|(name, label)| (*name, label.as_str()))
}
