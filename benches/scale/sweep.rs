//! Whole collections of a real exporter process over a real Redis.

use std::time::Duration;

use anyhow::ensure;
use hyper::Method;
use lab::node::{NodeOptions, NodeProcess};
use lab::process::Process;
use lab::redis_server::RedisServer;
use lab::seed::Scale;

use super::exporter::{Api, Exporter, value};
use super::{floor, median};

/// Each measurement is taken this often; the median is told.
const TIMES: usize = 5;

async fn seeded(keys: u64) -> anyhow::Result<(RedisServer, Scale)> {
    let redis = RedisServer::start(&[]).await?;
    let scale = Scale {
        keys,
        members: 10,
        limits_every: 10,
        seq: true,
        key_length: 30,
        ahead_ms: 30 * 60 * 1000,
    };
    scale.write(&mut redis.connection().await?).await?;
    Ok((redis, scale))
}

/// Waits until Redis has forgotten the traffic before: beside traffic, a sweep takes its time.
async fn calm(redis: &RedisServer) -> anyhow::Result<()> {
    let connection = redis.connection().await?;
    lab::wait_for(Duration::from_secs(10), || {
        let mut connection = connection.clone();
        async move {
            let info: redis::RedisResult<String> = redis::cmd("INFO")
                .arg("stats")
                .query_async(&mut connection)
                .await;
            let info = info.unwrap_or_default();
            let rate = info
                .lines()
                .find_map(|line| line.strip_prefix("instantaneous_ops_per_sec:"));
            rate.and_then(|rate| rate.parse().ok())
                .is_some_and(|rate: u64| rate < 50)
        }
    })
    .await
}

/// Writes to a tenth of the counters as the limiter does: a member more, the sequence, the TTL.
async fn touch_a_tenth(redis: &RedisServer, scale: &Scale, round: u64) -> anyhow::Result<()> {
    let mut connection = redis.connection().await?;
    let numbers: Vec<u64> = (0..scale.keys / 10).map(|n| n * 10 + round % 10).collect();
    let score = lab::clock::now_ms() + scale.ahead_ms;
    for some in numbers.chunks(500) {
        let mut pipe = redis::pipe();
        for number in some {
            let name = format!("ratelimit:{}", scale.key(*number));
            // The same member again: the count stays as it is, the key is written all the same.
            pipe.cmd("ZADD").arg(&name).arg(score).arg("again").ignore();
            pipe.cmd("INCR").arg(format!("{name}:seq")).ignore();
        }
        pipe.query_async::<()>(&mut connection).await?;
    }
    Ok(())
}

/// A row of the table: `keys` counters.
pub(crate) async fn row(keys: u64) -> anyhow::Result<String> {
    let (redis, scale) = seeded(keys).await?;
    let api = Api::start().await?;
    let mut floors = Vec::new();
    let mut firsts = Vec::new();
    for _ in 0..TIMES {
        // In turn, so that what else the machine does hits both.
        let port = redis.port();
        floors.push(tokio::task::spawn_blocking(move || floor::measure(port)).await??);
        let exporter = Exporter::start(&redis.url(), &api.url, &[]).await?;
        calm(&redis).await?;
        let (metrics, _) = exporter.scrape().await?;
        ensure!(
            metrics.contains(&format!("\nratelimiter_keys {keys}\n")),
            "not all keys were seen"
        );
        let series = "ratelimiter_scrape_collector_duration_seconds{collector=\"counters\"} ";
        firsts.push(value(&metrics, series)?);
    }
    let exporter = Exporter::start(&redis.url(), &api.url, &[]).await?;
    exporter.scrape().await?;
    let mut steady = Vec::new();
    for round in 0..TIMES as u64 {
        touch_a_tenth(&redis, &scale, round).await?;
        let (_, seconds) = exporter.scrape().await?;
        steady.push(seconds);
    }
    let peak = exporter.peak_rss()?;
    let (floor, first, steady) = (median(floors), median(firsts), median(steady));
    Ok(format!(
        "| {keys} | {:.1} | {:.1} | {:.2} | {:.1} | {:.2} | {peak:.1} |",
        floor * 1e3,
        first * 1e3,
        first / floor,
        steady * 1e3,
        steady / floor,
    ))
}

/// The peer: `prometheus-redis-exporter -check-keys` over the same Redis.
pub(crate) async fn against_redis_exporter(keys: u64) -> anyhow::Result<()> {
    let (redis, _) = seeded(keys).await?;
    let api = Api::start().await?;
    let ours = Exporter::start(&redis.url(), &api.url, &[]).await?;
    let (_, our_first) = ours.scrape().await?;
    let mut our_next = Vec::new();
    for _ in 0..TIMES {
        our_next.push(ours.scrape().await?.1);
    }
    let address = format!("127.0.0.1:{}", lab::ports::free_port());
    let program = std::path::Path::new("/usr/bin/prometheus-redis-exporter");
    let arguments = [
        "-web.listen-address",
        &address,
        "-redis.addr",
        &redis.url(),
        "-check-keys",
        "ratelimit:*",
    ];
    let _peer = Process::spawn(program, arguments, None)?;
    let listening = || async { tokio::net::TcpStream::connect(&address).await.is_ok() };
    lab::wait_for(Duration::from_secs(10), listening).await?;
    let started = lab::clock::instant();
    lab::http::get(&address, "/metrics", Duration::from_secs(120)).await?;
    let theirs = started.elapsed().as_secs_f64();
    let next = median(our_next);
    println!(
        "{keys} keys, one scrape: prometheus-redis-exporter -check-keys {theirs:.2} s; ours {our_first:.3} s the first \
         time (theirs ÷ ours: {:.0}), {next:.3} s then ({:.0})",
        theirs / our_first,
        theirs / next,
    );
    Ok(())
}

/// The 99th percentile of the limiter's own /check, with a first sweep under way and without.
pub(crate) async fn limiter_p99(most: u64) -> anyhow::Result<()> {
    let (redis, _) = seeded(most).await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let api = Api::start().await?;
    let mut connection = lab::http::Connection::new(node.address());
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let pause = tokio::spawn(tokio::time::sleep(Duration::from_secs(3)));
        without.push(p99_while(&mut connection, &pause).await?);
        let exporter = Exporter::start(&redis.url(), &api.url, &[]).await?;
        let sweep = tokio::spawn(async move { exporter.scrape().await });
        with.push(p99_while(&mut connection, &sweep).await?);
        sweep.await??;
    }
    let (without, with) = (median(without), median(with));
    println!(
        "p99 of the limiter's /check: {:.2} ms without, {:.2} ms during a first sweep of {most} keys (÷: {:.2})",
        without * 1e3,
        with * 1e3,
        with / without,
    );
    Ok(())
}

async fn p99_while<T>(
    connection: &mut lab::http::Connection,
    work: &tokio::task::JoinHandle<T>,
) -> anyhow::Result<f64> {
    let mut took = Vec::new();
    while !work.is_finished() {
        let body = format!("{{\"key\":\"p99-{}\",\"limit\":1000000}}", took.len() % 50);
        let started = lab::clock::instant();
        connection
            .send(Method::POST, "/check", body, Duration::from_secs(5))
            .await?;
        took.push(started.elapsed().as_secs_f64());
        // A request every two milliseconds or so: a load, not a race.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() * 99 / 100])
}

/// Many scrapes at once against one.
pub(crate) async fn concurrent_scrapes(many: usize) -> anyhow::Result<()> {
    let (redis, _) = seeded(10_000).await?;
    let api = Api::start().await?;
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        // A new exporter each time, so that each run is a whole sweep.
        let exporter = Exporter::start(&redis.url(), &api.url, &[]).await?;
        alone.push(exporter.scrape().await?.1);
        let exporter = std::sync::Arc::new(Exporter::start(&redis.url(), &api.url, &[]).await?);
        let started = lab::clock::instant();
        let mut scrapes = tokio::task::JoinSet::new();
        for _ in 0..many {
            let exporter = std::sync::Arc::clone(&exporter);
            scrapes.spawn(async move { exporter.scrape().await.map(drop) });
        }
        while let Some(scrape) = scrapes.join_next().await {
            scrape??;
        }
        together.push(started.elapsed().as_secs_f64());
    }
    let (alone, together) = (median(alone), median(together));
    println!(
        "10,000 keys: one scrape {:.1} ms, {many} at once {:.1} ms (÷: {:.2})",
        alone * 1e3,
        together * 1e3,
        together / alone,
    );
    Ok(())
}
