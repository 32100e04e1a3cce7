//! Redis as the nodes see it: a node that alone lost it, and a Redis that answers PING and takes no writes.

use lab::node::{NodeOptions, NodeProcess};
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use tokio::time::Instant;

use crate::bench::{Bench, PROOF, redis_do, secs, start_nodes, traffic, until};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};

const NODE_2: [(&str, &str); 1] = [("redis_disconnected", "node-2")];
const BOTH: [(&str, &str); 2] = [
    ("redis_disconnected", "node-1"),
    ("redis_disconnected", "node-2"),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "Redis read-only (replica of a dead host), traffic",
            "`redis_disconnected` of both nodes at the first collection after ten failed checks",
            10,
            || Box::pin(read_only()),
        ),
        Scenario::new(
            "Redis read-only for 40 s, traffic: heartbeats fail as well",
            "`redis_disconnected` of both nodes all the time; over at the first collection after checks work again",
            55,
            || Box::pin(read_only_for_long()),
        ),
        Scenario::new(
            "the nodes' password is changed for 40 s, connections cut (WRONGPASS), traffic",
            "`redis_disconnected` of both nodes all the time; over at the first collection after checks work again",
            55,
            || Box::pin(password_of_nodes()),
        ),
        Scenario::new(
            "Redis out of memory (OOM), traffic: checks go on (they trim before they add), heartbeats fail",
            "`redis_disconnected` of both nodes within 25 s; over at the first collection after it has room again",
            35,
            || Box::pin(out_of_memory(&[])),
        ),
        Scenario::new(
            "Redis out of memory (OOM), --probe.canary",
            "`redis_disconnected` of both nodes within 25 s",
            35,
            || Box::pin(out_of_memory(&["--probe.canary=true"])),
        ),
        Scenario::new(
            "one node loses Redis (refused), traffic",
            "`redis_disconnected{node-2}` at the first collection after ten failed checks",
            10,
            || Box::pin(alone_with_traffic(Mode::Refuse)),
        ),
        Scenario::new(
            "one node loses Redis (hangs), no traffic: by heartbeat",
            "`redis_disconnected{node-2}` within 25 s",
            35,
            || Box::pin(alone_by_heartbeat(Mode::Hang)),
        ),
        Scenario::new(
            "one node loses Redis (refused), no traffic: by heartbeat",
            "`redis_disconnected{node-2}` within 25 s",
            35,
            || Box::pin(alone_by_heartbeat(Mode::Refuse)),
        ),
        Scenario::new(
            "one node loses Redis (refused), no traffic, --probe.canary",
            "`redis_disconnected{node-2}` at the first collection",
            10,
            || Box::pin(alone_by_canary(Mode::Refuse)),
        ),
        Scenario::new(
            "one node loses Redis (hangs), no traffic, --probe.canary",
            "`redis_disconnected{node-2}` at the first collection",
            10,
            || Box::pin(alone_by_canary(Mode::Hang)),
        ),
    ]
}

async fn read_only_for_long() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let dead = lab::ports::free_port().to_string();
    let into = [&["REPLICAOF", "127.0.0.1", &dead][..]];
    let out = [&["REPLICAOF", "NO", "ONE"][..]];
    for_long(&bench, &into, &out).await
}

async fn password_of_nodes() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&[]).await?;
    let user = ["ACL", "SETUSER", "limiter", "on", "~*", "&*", "+@all"];
    let mut connection = redis.connection().await?;
    redis_do(&mut connection, &[&user[..], &[">old"]].concat()).await?;
    let url = redis.url();
    let theirs = url.replace("redis://", "redis://limiter:old@");
    let mut nodes = Vec::new();
    for number in 1..=2 {
        let options = NodeOptions::new(format!("node-{number}"), &theirs);
        nodes.push(NodeProcess::start(options).await?);
    }
    let bench = Bench::around(redis, nodes, &url, &[]).await?;
    let set = |password| ["ACL", "SETUSER", "limiter", "resetpass", password];
    let (new, old) = (set(">new"), set(">old"));
    let into = [&new[..], &["CLIENT", "KILL", "USER", "limiter"]];
    for_long(&bench, &into, &[&old[..]]).await
}

/// Both nodes' checks and heartbeats fail between `into` and `out`, for so long that the registrations run out.
async fn for_long(bench: &Bench, into: &[&[&str]], out: &[&[&str]]) -> anyhow::Result<Seen> {
    let first = traffic(&bench.nodes[..1], 50, 15.0)?;
    let second = traffic(&bench.nodes[1..], 50, 15.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let mut connection = bench.redis().await?;
    let fault = Instant::now();
    for words in into {
        redis_do(&mut connection, words).await?;
    }
    until(|| first.failed() >= PROOF && second.failed() >= PROOF).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(BOTH)).await?;
    bench
        .exporter
        .keeps(secs(37), Expect::at_once(BOTH))
        .await?;
    for words in out {
        redis_do(&mut connection, words).await?;
    }
    let answered = |traffic: &lab::traffic::Traffic| traffic.allowed() + traffic.refused();
    let (answered_1, answered_2) = (answered(&first), answered(&second));
    until(|| answered(&first) > answered_1 && answered(&second) > answered_2).await?;
    bench.exporter.recovers().await?;
    bench.exporter.silent_for(secs(12)).await?;
    first.stop().await;
    second.stop().await;
    Ok(seen)
}

async fn read_only() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let dead = lab::ports::free_port().to_string();
    let into = ["REPLICAOF", "127.0.0.1", &dead];
    let seen = no_writes(&bench, &into, &["REPLICAOF", "NO", "ONE"]).await?;
    Ok(seen)
}

/// The limiter's script begins with a trim, and Redis lets a script that has written go on: only what adds at once is
/// refused, the registrations among it.
async fn out_of_memory(flags: &[&str]) -> anyhow::Result<Seen> {
    let bench = Bench::start(2, flags).await?;
    let traffic = bench.traffic(50, 20.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let mut connection = bench.redis().await?;
    let fault = Instant::now();
    redis_do(&mut connection, &["CONFIG", "SET", "maxmemory", "100kb"]).await?;
    let expect = Expect::at_once(BOTH);
    let seen = bench.exporter.finds_within(fault, secs(25), expect).await?;
    redis_do(&mut connection, &["CONFIG", "SET", "maxmemory", "0"]).await?;
    bench.exporter.recovers().await?;
    bench.exporter.silent_for(secs(12)).await?;
    traffic.stop().await;
    Ok(seen)
}

/// Both nodes' checks fail between the two commands.
async fn no_writes(bench: &Bench, into: &[&str], out: &[&str]) -> anyhow::Result<Seen> {
    let first = traffic(&bench.nodes[..1], 50, 15.0)?;
    let second = traffic(&bench.nodes[1..], 50, 15.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let mut connection = bench.redis().await?;
    let fault = Instant::now();
    redis_do(&mut connection, into).await?;
    until(|| first.failed() >= PROOF && second.failed() >= PROOF).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(BOTH)).await?;
    redis_do(&mut connection, out).await?;
    // The checks that failed are still counted in the collection in which they also work again.
    let (allowed_1, allowed_2) = (first.allowed(), second.allowed());
    until(|| first.allowed() > allowed_1 && second.allowed() > allowed_2).await?;
    bench.exporter.recovers().await?;
    first.stop().await;
    second.stop().await;
    Ok(seen)
}

/// Two nodes of which the second has its own way to Redis.
async fn with_own_way(flags: &[&str]) -> anyhow::Result<(Bench, Proxy)> {
    let redis = RedisServer::start(&[]).await?;
    let mut nodes = start_nodes(&redis, 1).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let options = NodeOptions::new("node-2", proxy.url("redis"));
    nodes.push(NodeProcess::start(options).await?);
    let url = redis.url();
    let bench = Bench::around(redis, nodes, &url, flags).await?;
    Ok((bench, proxy))
}

async fn alone_with_traffic(mode: Mode) -> anyhow::Result<Seen> {
    let (bench, proxy) = with_own_way(&[]).await?;
    let healthy = traffic(&bench.nodes[..1], 50, 15.0)?;
    let cut = traffic(&bench.nodes[1..], 50, 15.0)?;
    bench.exporter.silent_for(secs(1)).await?;
    let fault = Instant::now();
    proxy.set(mode).await?;
    until(|| cut.failed() >= PROOF).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    proxy.set(Mode::Pass).await?;
    let allowed = cut.allowed();
    until(|| cut.allowed() > allowed).await?;
    bench.exporter.recovers().await?;
    healthy.stop().await;
    cut.stop().await;
    Ok(seen)
}

async fn alone_by_heartbeat(mode: Mode) -> anyhow::Result<Seen> {
    let (bench, proxy) = with_own_way(&[]).await?;
    let fault = Instant::now();
    proxy.set(mode).await?;
    let expect = Expect::at_once(NODE_2);
    bench.exporter.finds_within(fault, secs(25), expect).await
}

async fn alone_by_canary(mode: Mode) -> anyhow::Result<Seen> {
    let (bench, proxy) = with_own_way(&["--probe.canary=true"]).await?;
    let fault = Instant::now();
    proxy.set(mode).await?;
    let seen = bench.exporter.finds(fault, Expect::at_once(NODE_2)).await?;
    proxy.set(Mode::Pass).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}
