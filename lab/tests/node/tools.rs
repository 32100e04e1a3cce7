//! The lab's other tools: a Redis to break, traffic, and counters written behind the limiter.

use std::time::Duration;

use lab::node::{NodeOptions, NodeProcess};
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::seed::{self, Scale};
use lab::traffic::{Traffic, TrafficOptions};

use super::{Limiter, SOON, ask};

fn traffic_to(nodes: &[&NodeProcess]) -> Traffic {
    Traffic::start(TrafficOptions {
        nodes: nodes.iter().map(|node| node.address()).collect(),
        keys: 5,
        rate_per_second: 100.0,
        key_prefix: "t:".to_owned(),
    })
    .unwrap()
}

#[tokio::test]
async fn traffic_goes_round_the_keys_and_past_a_node_that_hangs() {
    let mut limiter = Limiter::start().await;
    let options = NodeOptions::new("node-2", limiter.redis.url());
    let second = NodeProcess::start(options).await.unwrap();
    let traffic = traffic_to(&[&limiter.node, &second]);
    lab::wait_for(SOON, || async {
        traffic.allowed() == 50 && traffic.refused() > 0
    })
    .await
    .unwrap();
    assert_eq!(traffic.failed(), 0);

    limiter.node.pause().unwrap();
    lab::wait_for(SOON, || async { traffic.failed() > 0 })
        .await
        .unwrap();
    let before = traffic.refused();
    lab::wait_for(SOON, || async { traffic.refused() >= before + 20 })
        .await
        .unwrap();
    traffic.stop().await;
}

#[tokio::test]
async fn extra_members_push_a_counter_over_its_limit_and_go_again() {
    let limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    for _ in 0..4 {
        limiter.check_key("k").await;
    }
    assert_eq!(seed::fill_to(&mut conn, b"k", 15).await.unwrap(), 11);
    seed::extra_members(&mut conn, b"k", 2, 60_000)
        .await
        .unwrap();
    let counters = limiter.get("/api/counters").await.json().unwrap();
    assert_eq!(counters["counters"][0]["count"], 17);
    assert_eq!(limiter.check_key("k").await.0, 429);
    assert_eq!(seed::remove_extra(&mut conn, b"k").await.unwrap(), 13);
    assert_eq!(limiter.check_key("k").await.1["current_count"], 5);

    seed::fill_to(&mut conn, b"\xff\x00", 2_500).await.unwrap();
    let mut count = redis::cmd("ZCARD");
    count.arg(b"ratelimit:\xff\x00");
    let count: u64 = count.query_async(&mut conn).await.unwrap();
    assert_eq!(count, 2_500);
}

#[tokio::test]
async fn counters_are_written_by_the_thousand() {
    let redis = RedisServer::start(&[]).await.unwrap();
    let mut conn = redis.connection().await.unwrap();
    let scale = Scale {
        keys: 2_500,
        members: 3,
        limits_every: 10,
        seq: true,
        key_length: 20,
        ahead_ms: 30_000,
        ..Scale::default()
    };
    scale.write(&mut conn).await.unwrap();
    let keys: u64 = ask(&mut conn, &["DBSIZE"]).await;
    assert_eq!(keys, 2_500 + 2_500 + 250);
    let name = format!("ratelimit:{}", scale.key(2_499));
    assert_eq!(ask::<u64>(&mut conn, &["ZCARD", &name]).await, 3);
    let limit = format!("ratelimit:limit:{}", scale.key(20));
    let window: String = ask(&mut conn, &["HGET", &limit, "window_ms"]).await;
    assert_eq!(window, "60000");

    scale.check(&mut conn, [7, 2_499]).await.unwrap();
    assert_eq!(ask::<u64>(&mut conn, &["ZCARD", &name]).await, 4);
    let sequence = format!("{name}:seq");
    assert_eq!(ask::<u64>(&mut conn, &["GET", &sequence]).await, 4);
    let life: i64 = ask(&mut conn, &["PTTL", &name]).await;
    assert!((90_000..=91_000).contains(&life), "{life}");
    let keys: u64 = ask(&mut conn, &["DBSIZE"]).await;
    assert_eq!(keys, 2_500 + 2_500 + 250);
}

#[tokio::test]
async fn a_redis_can_be_stopped_paused_and_started_again_empty() {
    let mut redis = RedisServer::start(&[]).await.unwrap();
    let mut conn = redis.connection().await.unwrap();
    let _: () = ask(&mut conn, &["SET", "k", "v"]).await;

    redis.pause().unwrap();
    let ping = async {
        let mut conn = conn.clone();
        ask::<String>(&mut conn, &["PING"]).await
    };
    let patience = Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, ping).await.is_err());
    redis.resume().unwrap();
    assert_eq!(ask::<String>(&mut conn, &["PING"]).await, "PONG");

    redis.stop().await.unwrap();
    assert!(redis.connection().await.is_err());
    let port = redis.port();
    redis.restart().await.unwrap();
    assert_eq!(redis.port(), port);
    let mut conn = redis.connection().await.unwrap();
    assert_eq!(ask::<Option<String>>(&mut conn, &["GET", "k"]).await, None);
}

#[tokio::test]
async fn a_redis_that_wants_a_password_has_started() {
    let redis = RedisServer::start(&["--requirepass", "secret"])
        .await
        .unwrap();
    let url = format!("redis://:secret@127.0.0.1:{}", redis.port());
    let node = NodeProcess::start(NodeOptions::new("node-1", url))
        .await
        .unwrap();
    assert_eq!(node.id(), "node-1");
}

#[tokio::test]
async fn a_node_cut_off_from_redis_fails_alone_and_recovers() {
    let limiter = Limiter::start().await;
    let target = format!("127.0.0.1:{}", limiter.redis.port());
    let proxy = Proxy::start(target).await.unwrap();
    let options = NodeOptions::new("node-2", proxy.url("redis"));
    let cut_off = NodeProcess::start(options).await.unwrap();
    let check = || {
        let address = cut_off.address();
        let body = r#"{"key":"k"}"#;
        async move {
            let post = hyper::Method::POST;
            let answer = lab::http::request(&address, post, "/check", body, SOON).await;
            answer.unwrap().status
        }
    };
    assert_eq!(check().await, 200);
    proxy.set(Mode::Refuse).await.unwrap();
    assert_eq!(check().await, 500);
    assert_eq!(limiter.check_key("k").await.0, 200);
    proxy.set(Mode::Pass).await.unwrap();
    assert_eq!(check().await, 200);
    proxy.set(Mode::Hang).await.unwrap();
    assert_eq!(check().await, 500, "after five seconds");
    proxy.set(Mode::Pass).await.unwrap();
    assert_eq!(check().await, 200);
}
