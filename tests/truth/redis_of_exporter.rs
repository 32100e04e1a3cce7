//! Redis as the exporter reaches it: over a replica that loses its primary, with a password that comes after it was given
//! out, and as a user with few rights.

use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::seed::extra_members;
use lab::temp::TempDir;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::bench::{Bench, redis_do, secs, start_nodes};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};

/// Longer than a registration lives without being renewed.
const CUT_OFF: u64 = 35;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "the exporter's Redis is a replica that loses its primary for 35 s, under traffic",
            "nothing at any scrape; the counters are not evaluable meanwhile, and are once it follows again",
            60,
            || Box::pin(cut_off_replica()),
        ),
        Scenario::new(
            "a key goes over its limit while the exporter's replica is cut off",
            "`ghost_allowing{key}`, by the counters of the API, as soon as these are asked for again; and still once the replica follows again",
            30,
            || Box::pin(over_while_cut_off()),
        ),
        Scenario::new(
            "a password is given to the exporter, then to Redis, then the exporter restarts",
            "nothing at any scrape",
            15,
            || Box::pin(password_rollout()),
        ),
        Scenario::new(
            "a Redis user without INFO, TIME, DBSIZE and CLIENT TRACKING",
            "nothing at any scrape, and no collector fails",
            10,
            || Box::pin(few_rights()),
        ),
    ]
}

/// A limiter whose exporter reads from a replica behind a network that can be cut. The primary comes with it.
async fn over_replica() -> anyhow::Result<(Bench, RedisServer, Proxy)> {
    let primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", primary.port())).await?;
    let of = format!("127.0.0.1 {}", proxy.address().port());
    let replica = RedisServer::start(&["--replicaof", &of]).await?;
    until_link(&mut replica.connection().await?, "up").await?;
    let nodes = start_nodes(&primary, 2).await?;
    let url = replica.url();
    let bench = Bench::around(replica, nodes, &url, &[]).await?;
    Ok((bench, primary, proxy))
}

/// Waits until the replica says this of its link.
async fn until_link(replica: &mut MultiplexedConnection, state: &str) -> anyhow::Result<()> {
    let sign = format!("master_link_status:{state}");
    lab::wait_for(secs(20), || {
        let mut connection = replica.clone();
        let sign = sign.clone();
        async move {
            let info = redis::cmd("INFO").arg("replication").to_owned();
            let info: Result<String, _> = info.query_async(&mut connection).await;
            info.is_ok_and(|info| info.contains(&sign))
        }
    })
    .await
}

async fn ghosts_evaluable(bench: &Bench) -> anyhow::Result<Option<f64>> {
    let scrape = bench.exporter.scrape().await?;
    let name = [("name", "ghost_allowing")];
    Ok(scrape.value("ratelimiter_invariant_evaluable", &name))
}

async fn cut_off_replica() -> anyhow::Result<Seen> {
    let (bench, _primary, proxy) = over_replica().await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut replica = bench.redis().await?;
    proxy.set(Mode::Refuse).await?;
    until_link(&mut replica, "down").await?;
    bench.exporter.silent_for(secs(CUT_OFF)).await?;
    let evaluable = ghosts_evaluable(&bench).await?;
    anyhow::ensure!(evaluable == Some(0.0), "judged by old data: {evaluable:?}");
    proxy.set(Mode::Pass).await?;
    until_link(&mut replica, "up").await?;
    bench.exporter.silent_for(secs(5)).await?;
    let evaluable = ghosts_evaluable(&bench).await?;
    anyhow::ensure!(evaluable == Some(1.0), "not judged again: {evaluable:?}");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn over_while_cut_off() -> anyhow::Result<Seen> {
    let (bench, primary, proxy) = over_replica().await?;
    let mut replica = bench.redis().await?;
    proxy.set(Mode::Refuse).await?;
    until_link(&mut replica, "down").await?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut writes = primary.connection().await?;
    let fault = Instant::now();
    extra_members(&mut writes, b"tenant", 11, 60_000).await?;
    let over = || Expect::at_once([("ghost_allowing", "tenant")]);
    // `/api/counters` is an optional request: after an answer that took 100 ms, the next request follows after 10 s.
    let seen = bench.exporter.finds_within(fault, secs(30), over()).await?;
    proxy.set(Mode::Pass).await?;
    until_link(&mut replica, "up").await?;
    bench.exporter.keeps(secs(4), over()).await?;
    Ok(seen)
}

async fn password_rollout() -> anyhow::Result<Seen> {
    let folder = TempDir::new("rollout")?;
    let file = folder.path().join("password");
    std::fs::write(&file, "open-sesame\n")?;
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let url = redis.url();
    let password = format!("--redis.password-file={}", file.display());
    let mut bench = Bench::around(redis, nodes, &url, &[password.as_str()]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut connection = bench.redis().await?;
    let require = ["CONFIG", "SET", "requirepass", "open-sesame"];
    // The nodes stay connected: their connections were accepted before.
    redis_do(&mut connection, &require).await?;
    bench.exporter.silent_for(secs(2)).await?;
    bench.exporter.restart().await?;
    bench.exporter.silent_for(secs(3)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_redis_up", 1), "Redis is not up");
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn few_rights() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let url = redis.url().replace("redis://", "redis://exporter@");
    let mut connection = redis.connection().await?;
    let user = ["ACL", "SETUSER", "exporter", "on", "nopass", "~ratelimit*"];
    let rights = [
        "+@all", "-info", "-time", "-dbsize", "-client", "-role", "-cluster",
    ];
    redis_do(&mut connection, &[&user[..], &rights].concat()).await?;
    let bench = Bench::around(redis, nodes, &url, &[]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(5)).await?;
    let scrape = bench.exporter.scrape().await?;
    for collector in ["redis", "registry", "counters"] {
        let labels = [("collector", collector)];
        let success = scrape.value("ratelimiter_scrape_collector_success", &labels);
        anyhow::ensure!(success == Some(1.0), "{collector}: {success:?}");
    }
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}
