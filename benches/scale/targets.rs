//! A hundred targets on one exporter: a limiter in each database of one Redis, since a hundred servers would measure
//! the machine. Beside it, in the same run, one target.

use std::fmt::Write as _;
use std::time::Duration;

use lab::redis_server::RedisServer;
use lab::seed::Scale;
use lab::temp::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::exporter::{Api, Exporter, scrape};
use super::figures::{Figures, Wanted};
use super::meter::Used;
use super::scraping::EVERY;
use super::seeded::WINDOW_MS;
use super::{largest, median};

/// Counters of each target.
const KEYS: u64 = 1_000;

/// The lines for one target and for a hundred.
pub(crate) async fn measure(steady: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let redis = RedisServer::start(&["--databases", "100"]).await?;
    let mut connection = redis.connection().await?;
    let scale = Scale {
        keys: KEYS,
        members: 10,
        limits_every: 10,
        key_length: 30,
        window_ms: WINDOW_MS,
        ..Scale::default()
    };
    for database in 0..100 {
        redis::cmd("SELECT")
            .arg(database)
            .query_async::<()>(&mut connection)
            .await?;
        scale.write(&mut connection).await?;
    }
    let api = Api::start().await?;
    for targets in [1, 100] {
        of_many(targets, &redis, &api, steady, figures).await?;
    }
    Ok(())
}

async fn of_many(
    targets: u32,
    redis: &RedisServer,
    api: &Api,
    steady: Duration,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let folder = TempDir::new("targets")?;
    let file = folder.path().join("config.yml");
    std::fs::write(&file, configuration(targets, &redis.url(), &api.url))?;
    let state = folder.path().join("state");
    let (file, state) = (file.to_string_lossy(), state.to_string_lossy());
    let arguments = ["--config.file", &file, "--state.file", &state];
    let exporter = Exporter::with(&arguments).await?;

    let idle = Used::now(redis, &[], Some(&exporter)).await?;
    let started = Instant::now();
    let first = scrapes(targets, &exporter, Duration::ZERO, Duration::ZERO).await?;
    let first_used = Used::now(redis, &[], Some(&exporter)).await?;
    let first_used = first_used.since(&idle, started.elapsed().as_secs_f64());

    let before = Used::now(redis, &[], Some(&exporter)).await?;
    let started = Instant::now();
    let then = scrapes(targets, &exporter, EVERY, steady).await?;
    let used = Used::now(redis, &[], Some(&exporter)).await?;
    let used = used
        .since(&before, started.elapsed().as_secs_f64())
        .a_minute();

    let keys = KEYS * u64::from(targets);
    let mut add = |what: &str, figure: f64, from: &str| {
        let what = format!("{targets} on one exporter: {what}");
        figures.add(keys, &what, figure, Wanted::Nothing, from);
    };
    let from = format!(
        "median {:.1}; Redis {:.2} CPU s",
        median(first.clone()) * 1e3,
        first_used.redis
    );
    add(
        "the slowest of the first scrapes, all at once: ms",
        largest(&first) * 1e3,
        &from,
    );
    let from = format!(
        "median {:.1}, {} scrapes",
        median(then.clone()) * 1e3,
        then.len()
    );
    add("the slowest scrape: ms", largest(&then) * 1e3, &from);
    add("the exporter's CPU s a minute", used.exporter, "");
    add("Redis's CPU s a minute", used.redis, "");
    add("peak RSS: MiB", exporter.peak_rss()?, "");
    Ok(())
}

/// Scrapes all targets, spread evenly over `every`, again and again for `time`, once at least: seconds of each scrape.
async fn scrapes(
    targets: u32,
    exporter: &Exporter,
    every: Duration,
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let mut scrapes = JoinSet::new();
    let started = Instant::now();
    let mut next = started;
    loop {
        for target in 0..targets {
            tokio::time::sleep_until(next).await;
            let address = exporter.address.clone();
            let path = format!("/probe?target={}", name(target));
            scrapes.spawn(async move { scrape(&address, &path).await });
            next += every / targets;
        }
        if next.duration_since(started) >= time {
            break;
        }
    }
    tokio::time::sleep_until(next).await;
    let mut seconds = Vec::new();
    while let Some(scrape) = scrapes.join_next().await {
        seconds.push(scrape??.1);
    }
    Ok(seconds)
}

fn name(target: u32) -> String {
    match target {
        0 => "default".to_owned(),
        _ => format!("limiter-{target}"),
    }
}

/// Nothing is written and no node answers checks here: what is measured is what targets cost by being there.
fn configuration(targets: u32, redis: &str, api: &str) -> String {
    let mut text = format!("redis.url: {redis}/0\nratelimiter.url: {api}\n");
    if targets > 1 {
        text.push_str("targets:\n");
    }
    for target in 1..targets {
        let name = name(target);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "  {name}:\n    redis.url: {redis}/{target}\n    ratelimiter.url: {api}\n"
        );
    }
    text
}
