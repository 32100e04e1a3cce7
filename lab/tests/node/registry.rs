//! The registration: written, renewed, deleted, left behind.

use std::collections::HashMap;
use std::time::Duration;

use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::process::Process;

use super::{Limiter, SOON, ask};

const NAME: &str = "ratelimiter:nodes:node-1";

/// A heartbeat comes every ten seconds.
const A_HEARTBEAT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_node_registers_with_a_ttl_and_says_so() {
    let limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    let fields: HashMap<String, String> = ask(&mut conn, &["HGETALL", NAME]).await;
    assert_eq!(fields["address"], limiter.node.address());
    assert_eq!(fields["registered_at"].len(), 26);
    let ttl: i64 = ask(&mut conn, &["TTL", NAME]).await;
    assert!((20..=30).contains(&ttl), "{ttl}");

    let nodes = limiter.get("/api/nodes").await;
    let expected = format!(
        r#"{{"nodes":[{{"id":"node-1","address":"{}","state":"Up","registered_at":"{}"}}]}}"#,
        fields["address"], fields["registered_at"]
    );
    assert_eq!(nodes.text(), expected);
}

#[tokio::test]
async fn the_registration_is_renewed_unless_a_fault_forbids_it() {
    let healthy = Limiter::start().await;
    let options = NodeOptions {
        faults: Faults {
            no_heartbeat: true,
            ..Faults::default()
        },
        ..NodeOptions::new("silent", healthy.redis.url())
    };
    let _silent = NodeProcess::start(options).await.unwrap();
    let mut conn = healthy.conn().await;
    let silent = "ratelimiter:nodes:silent";
    for name in [NAME, silent] {
        let _: () = ask(&mut conn, &["EXPIRE", name, "15"]).await;
    }
    lab::wait_for(A_HEARTBEAT, || {
        let mut conn = conn.clone();
        async move { ask::<i64>(&mut conn, &["TTL", NAME]).await > 20 }
    })
    .await
    .unwrap();
    // It was started later, but its beat is due too once its registration is down to this.
    lab::wait_for(A_HEARTBEAT, || {
        let mut conn = conn.clone();
        async move { ask::<i64>(&mut conn, &["TTL", silent]).await < 2 }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_clean_stop_deregisters_and_a_kill_does_not() {
    let mut limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    limiter.node.kill();
    assert_eq!(ask::<i64>(&mut conn, &["EXISTS", NAME]).await, 1);

    let address = limiter.node.address();
    limiter.node.restart().await.unwrap();
    assert_eq!(limiter.node.address(), address);
    assert_eq!(limiter.check_key("k").await.0, 200);

    let started = lab::clock::instant();
    let status = limiter.node.terminate().await.unwrap();
    let took = started.elapsed();
    assert!(status.success());
    assert_eq!(ask::<i64>(&mut conn, &["EXISTS", NAME]).await, 0);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_clean_stop_does_not_wait_for_a_redis_that_hangs() {
    let mut limiter = Limiter::start().await;
    limiter.redis.pause().unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(3), limiter.node.terminate());
    assert!(stopped.await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_hung_node_keeps_its_connections_and_answers_nothing() {
    let mut limiter = Limiter::start().await;
    limiter.node.pause().unwrap();
    let address = limiter.node.address();
    let patience = Duration::from_millis(300);
    let error = lab::http::get(&address, "/health", patience)
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("no answer within"),
        "{error:#}"
    );
    limiter.node.resume().unwrap();
    assert_eq!(limiter.get("/health").await.status, 200);
}

#[tokio::test]
async fn without_redis_a_node_exits_with_3() {
    let port = lab::ports::free_port();
    let redis = format!("--redis=redis://127.0.0.1:{port}");
    let mut node = Process::spawn(&lab::binary(), ["node", "--id=n", &redis], None).unwrap();
    let status = lab::wait_for_some(SOON, || {
        let status = node.exit_status();
        async move { status }
    });
    assert_eq!(status.await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn an_advertised_address_is_registered_instead_of_the_real_one() {
    let redis = lab::redis_server::RedisServer::start(&[]).await.unwrap();
    let options = NodeOptions {
        advertise: Some("limiter.internal:8000".to_owned()),
        ..NodeOptions::new("node-1", redis.url())
    };
    let node = NodeProcess::start(options).await.unwrap();
    let nodes = lab::http::get(&node.address(), "/api/nodes", SOON)
        .await
        .unwrap();
    assert_eq!(
        nodes.json().unwrap()["nodes"][0]["address"],
        "limiter.internal:8000"
    );
}
