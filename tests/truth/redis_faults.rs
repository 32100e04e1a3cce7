//! Redis as the exporter sees it: gone, hung, slow, or answering with an error.

use std::time::Duration;

use lab::faults::Faults;
use lab::proxy::{Mode, Proxy};
use lab::redis_server::{RedisServer, cut_other_clients};
use lab::seed::Scale;
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::bench::{Bench, redis_do, secs, start_nodes};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};

const REDIS: [(&str, &str); 1] = [("redis_disconnected", "redis")];
const BOTH_NODES: [(&str, &str); 2] = [
    ("redis_disconnected", "node-1"),
    ("redis_disconnected", "node-2"),
];

/// A loading Redis lets 1,000 keys take this long each, in microseconds.
const LOAD_DELAY: &str = "10000";

pub(crate) fn scenarios() -> Vec<Scenario> {
    let at_once =
        "`redis_disconnected{redis}` at the first collection; over by the first after its return";
    vec![
        Scenario::new(
            "Redis stopped (refused)",
            at_once,
            8,
            || Box::pin(stopped()),
        ),
        Scenario::new(
            "Redis stopped under traffic",
            "`redis_disconnected{redis}` at the first collection; the nodes that fail checks as well",
            8,
            || Box::pin(stopped_under_traffic()),
        ),
        Scenario::new("Redis hung (SIGSTOP)", at_once, 8, || Box::pin(hung())),
        Scenario::new(
            "Redis slower than --redis.timeout, for the exporter",
            at_once,
            10,
            || Box::pin(behind_proxy(Mode::Delay(Duration::from_millis(800)))),
        ),
        Scenario::new(
            "Redis refuses the exporter alone, API up",
            "`redis_disconnected{redis}` at the first collection, ratelimiter_up 1",
            8,
            || Box::pin(behind_proxy(Mode::Refuse)),
        ),
        Scenario::new(
            "Redis wants a password (NOAUTH), connections cut",
            at_once,
            8,
            || Box::pin(no_auth()),
        ),
        Scenario::new(
            "Redis has too many clients, connections cut",
            at_once,
            8,
            || Box::pin(too_many_clients()),
        ),
        Scenario::new(
            "Redis cannot save its snapshot (MISCONF)",
            at_once,
            12,
            || Box::pin(cannot_save()),
        ),
        Scenario::new("Redis is LOADING", at_once, 20, || Box::pin(loading())),
        Scenario::new(
            "Redis is a replica without its master (MASTERDOWN)",
            at_once,
            8,
            || Box::pin(master_down()),
        ),
        Scenario::new(
            "failover: Redis killed and restarted",
            "`redis_disconnected{redis}` while it is away, nothing at the first collection after",
            12,
            || Box::pin(failover()),
        ),
        Scenario::new(
            "API down (503), Redis up",
            "ratelimiter_up 0 at the first collection, and nothing reported",
            12,
            || Box::pin(api_down()),
        ),
    ]
}

async fn stopped() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(2, &[]).await?;
    let fault = Instant::now();
    bench.redis.stop().await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    bench.redis.restart().await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn stopped_under_traffic() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(50, 20.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let fault = Instant::now();
    bench.redis.stop().await?;
    let expect = Expect::at_once(REDIS).allowing(BOTH_NODES);
    let seen = bench.exporter.finds(fault, expect).await?;
    traffic.stop().await;
    Ok(seen)
}

async fn hung() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(2, &[]).await?;
    let fault = Instant::now();
    bench.redis.pause()?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    bench.redis.resume()?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn behind_proxy(mode: Mode) -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let bench = Bench::around(redis, nodes, &proxy.url("redis"), &[]).await?;
    let fault = Instant::now();
    proxy.set(mode).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_up", 1), "ratelimiter_up is not 1");
    proxy.set(Mode::Pass).await?;
    let scrape = bench.exporter.recovers().await?;
    anyhow::ensure!(scrape.is("ratelimiter_redis_up", 1), "not connected again");
    Ok(seen)
}

async fn no_auth() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let mut connection = bench.redis().await?;
    let fault = Instant::now();
    redis_do(&mut connection, &["CONFIG", "SET", "requirepass", "secret"]).await?;
    cut_other_clients(&mut connection).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    redis_do(&mut connection, &["CONFIG", "SET", "requirepass", ""]).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn too_many_clients() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let mut connection = bench.redis().await?;
    let fault = Instant::now();
    redis_do(&mut connection, &["CONFIG", "SET", "maxclients", "1"]).await?;
    cut_other_clients(&mut connection).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    let most = ["CONFIG", "SET", "maxclients", "1000"];
    redis_do(&mut connection, &most).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn cannot_save() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&["--enable-protected-configs", "yes"]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let url = redis.url();
    let bench = Bench::around(redis, nodes, &url, &[]).await?;
    let mut connection = bench.redis().await?;
    let folder = TempDir::new("snapshots")?;
    let path = folder.path().display().to_string();
    for setting in [["dir", &path], ["save", "3600 1000000"]] {
        redis_do(&mut connection, &["CONFIG", "SET", setting[0], setting[1]]).await?;
    }
    std::fs::remove_dir(&path)?;
    let fault = Instant::now();
    saves(&mut connection, "err").await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    std::fs::create_dir(&path)?;
    redis_do(&mut connection, &["CONFIG", "SET", "dir", &path]).await?;
    saves(&mut connection, "ok").await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

/// Lets Redis save its snapshot, and waits until it has ended in this way.
async fn saves(connection: &mut MultiplexedConnection, status: &str) -> anyhow::Result<()> {
    redis_do(connection, &["BGSAVE"]).await?;
    let ended = format!("rdb_last_bgsave_status:{status}");
    let mut info = redis::cmd("INFO");
    info.arg("persistence");
    lab::wait_for(secs(5), || {
        let (mut connection, info, ended) = (connection.clone(), &info, &ended);
        async move {
            let said: redis::RedisResult<String> = info.query_async(&mut connection).await;
            said.is_ok_and(|said| said.contains("rdb_bgsave_in_progress:0") && said.contains(ended))
        }
    })
    .await
}

async fn loading() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&["--enable-debug-command", "yes"]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let url = redis.url();
    let bench = Bench::around(redis, nodes, &url, &[]).await?;
    let mut connection = bench.redis().await?;
    Scale::default().write(&mut connection).await?;
    bench.exporter.silent_for(secs(1)).await?;
    for setting in [
        ["loading-process-events-interval-bytes", "1024"],
        ["key-load-delay", LOAD_DELAY],
    ] {
        redis_do(&mut connection, &["CONFIG", "SET", setting[0], setting[1]]).await?;
    }
    let fault = Instant::now();
    // It saves everything and loads it again, as a restart with a data set does.
    let reload = redis_do(&mut connection, &["DEBUG", "RELOAD"]);
    let hunt = async {
        let mut other = bench.redis().await?;
        lab::wait_for(secs(20), || {
            let mut other = other.clone();
            async move {
                let said: redis::RedisResult<String> =
                    redis::cmd("INFO").query_async(&mut other).await;
                said.is_ok_and(|said| said.contains("\nloading:1"))
            }
        })
        .await?;
        let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
        let scrape = bench.exporter.scrape().await?;
        let labels = [("collector", "redis"), ("reason", "loading")];
        let errors = scrape.value("ratelimiter_exporter_errors_total", &labels);
        anyhow::ensure!(errors > Some(0.0), "no error of the reason `loading`");
        // Ends the loading early.
        let _ = redis_do(&mut other, &["CONFIG", "SET", "key-load-delay", "0"]).await;
        Ok(seen)
    };
    let (reloaded, seen) = tokio::join!(reload, hunt);
    // The connection's own patience may be shorter than the loading: what counts is that it ends.
    drop(reloaded);
    lab::wait_for(secs(20), || async {
        let Ok(mut connection) = bench.redis().await else {
            return false;
        };
        redis_do(&mut connection, &["PING"]).await.is_ok()
    })
    .await?;
    bench.exporter.recovers().await?;
    seen
}

async fn master_down() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let mut connection = bench.redis().await?;
    let no_stale = ["CONFIG", "SET", "replica-serve-stale-data", "no"];
    redis_do(&mut connection, &no_stale).await?;
    let dead = lab::ports::free_port().to_string();
    let fault = Instant::now();
    redis_do(&mut connection, &["REPLICAOF", "127.0.0.1", &dead]).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    redis_do(&mut connection, &["REPLICAOF", "NO", "ONE"]).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn failover() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(2, &[]).await?;
    let fault = Instant::now();
    bench.redis.kill();
    let seen = bench.exporter.finds(fault, Expect::at_once(REDIS)).await?;
    bench.redis.restart().await?;
    let scrape = bench.exporter.recovers().await?;
    anyhow::ensure!(scrape.is("ratelimiter_redis_up", 1), "not connected again");
    bench.exporter.silent_for(secs(5)).await?;
    Ok(seen)
}

async fn api_down() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let faults = Faults {
        api_status: Some(503),
        ..Faults::default()
    };
    bench.set_faults(&faults).await?;
    let fault = Instant::now();
    let scrape = bench.exporter.recovers().await?;
    anyhow::ensure!(scrape.is("ratelimiter_up", 0), "ratelimiter_up is not 0");
    let seconds = scrape.ended.duration_since(fault).as_secs_f64();
    bench.exporter.silent_for(secs(8)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(
        scrape.value("ratelimiter_keys", &[]) > Some(0.0),
        "the counters are lost"
    );
    bench.set_faults(&Faults::default()).await?;
    let scrape = bench.exporter.recovers().await?;
    anyhow::ensure!(scrape.is("ratelimiter_up", 1), "ratelimiter_up is not 1");
    traffic.stop().await;
    Ok(Seen {
        what: "ratelimiter_up 0, nothing reported".to_owned(),
        seconds: Some(seconds),
        ..Seen::default()
    })
}
