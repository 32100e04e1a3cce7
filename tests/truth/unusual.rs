//! What happens to a limiter rarely, and is mistaken for something else easily: data that fails by itself, a Redis that
//! is another one than it was, an address that changes hands.

use std::net::SocketAddr;
use std::time::Duration;

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use lab::traffic::Traffic;
use tokio::time::Instant;

use crate::bench::{Bench, PROOF, check, put_limit, redis_do, secs, start_nodes, traffic, until};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};
use crate::scrape::findings;

const REDIS: [(&str, &str); 1] = [("redis_disconnected", "redis")];
const BOTH_NODES: [(&str, &str); 2] = [
    ("redis_disconnected", "node-1"),
    ("redis_disconnected", "node-2"),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let nothing = "nothing at any scrape";
    vec![
        Scenario::new(
            "Redis busy with a script that does not end (BUSY), traffic",
            "`redis_disconnected{redis}` at the first collection; over by the first after the script was killed",
            12,
            || Box::pin(busy()),
        ),
        Scenario::new(
            "split brain: the exporter's Redis promoted, the nodes write to the old primary",
            "`redis_disconnected` of both nodes within 25 s; over once there is one primary again",
            40,
            || Box::pin(split_brain()),
        ),
        Scenario::new(
            "Redis allows the nodes no scripts (ACL), traffic; heartbeats go on",
            "`redis_disconnected` of both nodes at the first collection after ten failed checks",
            10,
            || Box::pin(no_scripts()),
        ),
        Scenario::new(
            "node whose checks hang for ever, GET /health answers, --probe.canary",
            "`redis_disconnected{node-2}` at the first collection; over when they answer",
            12,
            || Box::pin(hanging_checks()),
        ),
        Scenario::new(
            "node killed, a node of another limiter takes its address",
            "`node_down{node-2}` when its registration has run out (≤ 30 s), and still then",
            45,
            || Box::pin(foreign_node()),
        ),
        Scenario::new(
            "a malformed key's checks fail beside very little traffic",
            nothing,
            30,
            || Box::pin(malformed_key_and_little_traffic()),
        ),
        Scenario::new(
            "a malformed key and another one, each asked for every 6 s, 3 s apart",
            nothing,
            45,
            || Box::pin(malformed_key_on_a_quiet_node()),
        ),
        Scenario::new(
            "node stopped, and another killed, each back at another port",
            nothing,
            12,
            || Box::pin(other_ports()),
        ),
        Scenario::new(
            "blue/green: all nodes replaced by new ids, the address of --ratelimiter.url last",
            nothing,
            15,
            || Box::pin(blue_green()),
        ),
        Scenario::new(
            "the exporter's password changes, file and Redis, connections cut",
            nothing,
            10,
            || Box::pin(password_changes()),
        ),
        Scenario::new(
            "limit of a key's own removed (100 → default 10 at a count of 50)",
            "pending, never reported, and gone after one window",
            70,
            || Box::pin(own_limit_removed()),
        ),
    ]
}

async fn busy() -> anyhow::Result<Seen> {
    let redis = RedisServer::start(&["--busy-reply-threshold", "200"]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let url = redis.url();
    let bench = Bench::around(redis, nodes, &url, &[]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut runs = bench.redis().await?;
    let mut kills = bench.redis().await?;
    let mut pings = bench.redis().await?;
    let fault = Instant::now();
    let endless = async move {
        // It ends by an error, for it is killed.
        let _ = redis_do(&mut runs, &["EVAL", "while true do end", "0"]).await;
        anyhow::Ok(())
    };
    let watched = async {
        // The script has begun once Redis refuses everything else.
        while redis_do(&mut pings, &["PING"]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let expect = Expect::at_once(REDIS).allowing(BOTH_NODES);
        let seen = bench.exporter.finds(fault, expect).await;
        redis_do(&mut kills, &["SCRIPT", "KILL"]).await?;
        seen
    };
    let ((), seen) = tokio::try_join!(endless, watched)?;
    bench.exporter.recovers().await?;
    traffic.stop().await;
    Ok(seen)
}

async fn split_brain() -> anyhow::Result<Seen> {
    let (primary, replica) = lab::sentinels::primary_and_replica().await?;
    let nodes = start_nodes(&primary, 2).await?;
    let url = replica.url();
    let bench = Bench::around(replica, nodes, &url, &[]).await?;
    let traffic = bench.traffic(30, 20.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut promoted = bench.redis().await?;
    let fault = Instant::now();
    redis_do(&mut promoted, &["REPLICAOF", "NO", "ONE"]).await?;
    let expect = Expect::at_once(BOTH_NODES);
    let seen = bench.exporter.finds_within(fault, secs(25), expect).await?;
    let port = primary.port().to_string();
    redis_do(&mut promoted, &["REPLICAOF", "127.0.0.1", &port]).await?;
    lab::wait_for(secs(10), || {
        let mut connection = promoted.clone();
        async move {
            let info = redis::cmd("INFO").arg("replication").to_owned();
            let info: Result<String, _> = info.query_async(&mut connection).await;
            info.is_ok_and(|info| info.contains("master_link_status:up"))
        }
    })
    .await?;
    bench.exporter.recovers().await?;
    traffic.stop().await;
    Ok(seen)
}

async fn no_scripts() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    let first = traffic(&bench.nodes[..1], 30, 20.0)?;
    let second = traffic(&bench.nodes[1..], 30, 20.0)?;
    bench.exporter.silent_for(secs(2)).await?;
    let mut connection = bench.redis().await?;
    let fault = Instant::now();
    let forbid = ["ACL", "SETUSER", "default", "-eval", "-evalsha"];
    redis_do(&mut connection, &forbid).await?;
    until(|| first.failed() >= PROOF && second.failed() >= PROOF).await?;
    let expect = Expect::at_once(BOTH_NODES);
    let seen = bench.exporter.finds(fault, expect).await?;
    // As two Prometheus servers may: between such scrapes there is no check that could fail.
    for _ in 0..20 {
        let scrape = bench.exporter.scrape().await?;
        let reported = scrape.reported();
        anyhow::ensure!(reported == findings(BOTH_NODES), "{reported:?}");
    }
    let allow = ["ACL", "SETUSER", "default", "+eval", "+evalsha"];
    redis_do(&mut connection, &allow).await?;
    let answered = |traffic: &Traffic| traffic.allowed() + traffic.refused();
    let (answered_1, answered_2) = (answered(&first), answered(&second));
    until(|| answered(&first) > answered_1 && answered(&second) > answered_2).await?;
    bench.exporter.recovers().await?;
    first.stop().await;
    second.stop().await;
    Ok(seen)
}

async fn hanging_checks() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &["--probe.canary=true"]).await?;
    let hang = Faults {
        check_delay_ms: 3_600_000,
        ..Faults::default()
    };
    let fault = Instant::now();
    bench.nodes[1].set_faults(&hang).await?;
    let expect = Expect::at_once([("redis_disconnected", "node-2")]);
    let seen = bench.exporter.finds(fault, expect).await?;
    bench.nodes[1].set_faults(&Faults::default()).await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

/// A pod's address that is given out again.
async fn foreign_node() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let elsewhere = RedisServer::start(&[]).await?;
    let mut options = NodeOptions::new("foreign", elsewhere.url());
    options.listen = Some(bench.nodes[1].address().parse()?);
    let fault = Instant::now();
    bench.nodes[1].kill();
    let _foreign = NodeProcess::start(options).await?;
    let down = || Expect::at_once([("node_down", "node-2")]);
    let seen = bench.exporter.finds_within(fault, secs(31), down()).await?;
    bench.exporter.keeps(secs(4), down()).await?;
    Ok(seen)
}

async fn malformed_key_and_little_traffic() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    redis_do(&mut bench.redis().await?, &["SET", "ratelimit:bad", "x"]).await?;
    let traffic = bench.traffic(10, 2.0)?;
    bench.exporter.silent_for(secs(4)).await?;
    let ask = async |rounds: u32| {
        for _ in 0..rounds {
            for node in &bench.nodes {
                let status = check(node, "bad").await?;
                anyhow::ensure!(status == 500, "the malformed key's check answers {status}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    };
    bench.exporter.silent_while(ask(40)).await?;
    traffic.stop().await;
    Ok(bench.exporter.nothing())
}

async fn malformed_key_on_a_quiet_node() -> anyhow::Result<Seen> {
    let bench = Bench::start(1, &[]).await?;
    redis_do(&mut bench.redis().await?, &["SET", "ratelimit:bad", "x"]).await?;
    let asked = async {
        for _ in 0..6 {
            for (key, expected) in [("bad", 500), ("good", 200)] {
                let status = check(&bench.nodes[0], key).await?;
                anyhow::ensure!(status == expected, "{key:?} answers {status}");
                tokio::time::sleep(secs(3)).await;
            }
        }
        Ok(())
    };
    bench.exporter.silent_while(asked).await?;
    Ok(bench.exporter.nothing())
}

async fn other_ports() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let url = bench.redis.url();
    let nodes = &mut bench.nodes;
    let stopped = async {
        nodes[1].terminate().await?;
        nodes[1] = NodeProcess::start(NodeOptions::new("node-2", &url)).await?;
        Ok(())
    };
    bench.exporter.silent_while(stopped).await?;
    bench.exporter.silent_for(secs(2)).await?;
    // Between two scrapes: one in the time without it would report it, and rightly.
    bench.nodes[2].kill();
    bench.nodes[2] = NodeProcess::start(NodeOptions::new("node-3", &url)).await?;
    bench.exporter.silent_for(secs(4)).await?;
    Ok(bench.exporter.nothing())
}

async fn blue_green() -> anyhow::Result<Seen> {
    let mut bench = Bench::start(3, &[]).await?;
    let url = bench.redis.url();
    let traffic = bench.traffic(30, 20.0)?;
    let first: SocketAddr = bench.nodes[0].address().parse()?;
    let mut blue = std::mem::take(&mut bench.nodes);
    let between = Duration::from_millis(700);
    let deployment = async {
        let mut green = Vec::new();
        for id in ["green-2", "green-3"] {
            green.push(NodeProcess::start(NodeOptions::new(id, &url)).await?);
            tokio::time::sleep(between).await;
        }
        for node in blue.iter_mut().rev() {
            node.terminate().await?;
            tokio::time::sleep(between).await;
        }
        let mut options = NodeOptions::new("green-1", &url);
        options.listen = Some(first);
        green.push(NodeProcess::start(options).await?);
        Ok(green)
    };
    bench.nodes = bench.exporter.silent_while(deployment).await?;
    bench.exporter.silent_for(secs(4)).await?;
    traffic.stop().await;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_nodes", 3), "not three nodes");
    Ok(bench.exporter.nothing())
}

async fn password_changes() -> anyhow::Result<Seen> {
    let folder = TempDir::new("password")?;
    let file = folder.path().join("password");
    std::fs::write(&file, "old\n")?;
    let redis = RedisServer::start(&[]).await?;
    let nodes = start_nodes(&redis, 2).await?;
    let url = redis.url();
    let mut connection = redis.connection().await?;
    let user = [
        "ACL", "SETUSER", "exporter", "on", ">old", "~*", "&*", "+@all",
    ];
    redis_do(&mut connection, &user).await?;
    let password = format!("--redis.password-file={}", file.display());
    let flags = ["--redis.username=exporter", password.as_str()];
    let bench = Bench::around(redis, nodes, &url, &flags).await?;
    let change = async {
        redis_do(&mut connection, &["ACL", "SETUSER", "exporter", ">new"]).await?;
        tokio::time::sleep(secs(1)).await;
        std::fs::write(&file, "new\n")?;
        redis_do(&mut connection, &["ACL", "SETUSER", "exporter", "<old"]).await?;
        tokio::time::sleep(secs(1)).await;
        redis_do(&mut connection, &["CLIENT", "KILL", "USER", "exporter"]).await
    };
    bench.exporter.silent_while(change).await?;
    bench.exporter.silent_for(secs(3)).await?;
    let scrape = bench.exporter.scrape().await?;
    anyhow::ensure!(scrape.is("ratelimiter_redis_up", 1), "Redis is not up");
    Ok(bench.exporter.nothing())
}

async fn own_limit_removed() -> anyhow::Result<Seen> {
    let bench = Bench::start(2, &[]).await?;
    put_limit(&bench.nodes[0], "tenant", 100, 60_000).await?;
    for _ in 0..50 {
        anyhow::ensure!(check(&bench.nodes[0], "tenant").await? == 200, "refused");
    }
    bench.exporter.silent_for(secs(2)).await?;
    let name = "ratelimit:limit:tenant";
    redis_do(&mut bench.redis().await?, &["DEL", name]).await?;
    crate::benign_keys::drains(&bench, "tenant").await?;
    Ok(bench.exporter.nothing())
}
