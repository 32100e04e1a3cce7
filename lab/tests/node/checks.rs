//! Checks: what is admitted, what is written, and that it is atomic.

use std::collections::BTreeSet;

use hyper::Method;
use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Limiter, SOON, ask};

#[tokio::test]
async fn a_key_is_admitted_up_to_its_limit_and_not_beyond() {
    let limiter = Limiter::start().await;
    for count in 1..=10 {
        let (status, verdict) = limiter.check_key("user:1").await;
        assert_eq!(status, 200);
        let expected = json!({
            "allowed": true,
            "current_count": count,
            "remaining": 10 - count,
            "retry_after_seconds": 0
        });
        assert_eq!(verdict, expected);
    }
    let (status, verdict) = limiter.check_key("user:1").await;
    assert_eq!(status, 429);
    assert_eq!(verdict["allowed"], false);
    assert_eq!(verdict["current_count"], 10);
    assert_eq!(verdict["remaining"], 0);
    let wait = verdict["retry_after_seconds"].as_i64().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");

    let mut conn = limiter.conn().await;
    let members: Vec<(String, i64)> = ask(
        &mut conn,
        &["ZRANGE", "ratelimit:user:1", "0", "-1", "WITHSCORES"],
    )
    .await;
    assert_eq!(members.len(), 10);
    // Redis orders members of one millisecond by their names, in which 10 comes before 9.
    let sequences = members.iter().map(|(member, score)| {
        let sequence = member.strip_prefix(&format!("{score}:")).unwrap();
        sequence.parse::<u64>().unwrap()
    });
    let sequences: BTreeSet<u64> = sequences.collect();
    assert_eq!(sequences, (1..=10).collect());
    let expires: i64 = ask(&mut conn, &["PTTL", "ratelimit:user:1"]).await;
    assert!((50_000..=61_000).contains(&expires), "{expires}");
    let sequence: String = ask(&mut conn, &["GET", "ratelimit:user:1:seq"]).await;
    assert_eq!(sequence, "10");
    let sequence_expires: i64 = ask(&mut conn, &["PTTL", "ratelimit:user:1:seq"]).await;
    assert_eq!(sequence_expires, -1);
}

#[tokio::test]
async fn fifty_checks_at_once_on_two_nodes_admit_exactly_the_limit() {
    let limiter = Limiter::start().await;
    let options = NodeOptions::new("node-2", limiter.redis.url());
    let second = NodeProcess::start(options).await.unwrap();
    let mut checks = JoinSet::new();
    for number in 0..50 {
        let first = number % 2 == 0;
        let address = if first {
            limiter.node.address()
        } else {
            second.address()
        };
        checks.spawn(async move {
            let body = r#"{"key":"contended"}"#;
            let answer = lab::http::request(&address, Method::POST, "/check", body, SOON).await;
            answer.unwrap().status
        });
    }
    let statuses = checks.join_all().await;
    let count = |status| statuses.iter().filter(|&&found| found == status).count();
    assert_eq!((count(200), count(429)), (10, 40));
}

#[tokio::test]
async fn limits_come_from_the_request_then_the_store_then_the_defaults() {
    let limiter = Limiter::start().await;
    let stored = json!({"limit": 2, "window_ms": 60_000});
    let answer = limiter.send(Method::PUT, "/api/limits/two", stored).await;
    assert_eq!(answer.status, 200);

    assert_eq!(limiter.check_key("two").await.1["remaining"], 1);
    assert_eq!(limiter.check_key("two").await.1["remaining"], 0);
    assert_eq!(limiter.check_key("two").await.0, 429);
    let own = json!({"key": "two", "limit": 4});
    assert_eq!(limiter.check(own).await.1["remaining"], 1);

    // As recorded: a node that shows stored limits and does not know them.
    let fault = Faults {
        stored_limits_not_enforced: true,
        ..Faults::default()
    };
    limiter.node.set_faults(&fault).await.unwrap();
    assert_eq!(limiter.check_key("two").await.1["remaining"], 6);
}

#[tokio::test]
async fn a_limit_of_nothing_refuses_and_a_window_of_nothing_never_does() {
    let limiter = Limiter::start().await;
    for limit in [0, -3] {
        let (status, verdict) = limiter.check(json!({"key": "none", "limit": limit})).await;
        assert_eq!((status, &verdict["remaining"]), (429, &json!(0)));
    }
    let mut conn = limiter.conn().await;
    let written: i64 = ask(
        &mut conn,
        &["EXISTS", "ratelimit:none", "ratelimit:none:seq"],
    )
    .await;
    assert_eq!(written, 0);

    for window in [0, -1] {
        for _ in 0..3 {
            let body = json!({"key": "w", "limit": 1, "window_ms": window});
            assert_eq!(limiter.check(body).await.0, 200);
        }
    }
    let huge = json!({"key": "huge", "limit": 9_223_372_036_854_775_808_u64});
    assert_eq!(
        limiter.check(huge).await.1["remaining"],
        json!(9_223_372_036_854_775_807_u64)
    );
}

#[tokio::test]
async fn an_invalid_check_is_422_and_counts_nothing() {
    let limiter = Limiter::start().await;
    for body in [
        json!({}),
        json!({"key": 7}),
        json!({"key": "k", "limit": "x"}),
        json!([]),
    ] {
        assert_eq!(limiter.check(body.clone()).await.0, 422, "{body}");
    }
    let mut conn = limiter.conn().await;
    let keys: Vec<String> = ask(&mut conn, &["KEYS", "ratelimit:*"]).await;
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn a_key_called_limit_foo_collides_with_the_limit_of_foo() {
    let limiter = Limiter::start().await;
    assert_eq!(limiter.check_key("limit:foo").await.0, 200);
    assert_eq!(limiter.check_key("foo").await.0, 500);
}

#[tokio::test]
async fn failing_open_admits_over_the_limit_and_without_redis() {
    let mut limiter = Limiter::start().await;
    let fault = Faults {
        fail_open: true,
        ..Faults::default()
    };
    limiter.node.set_faults(&fault).await.unwrap();
    for _ in 0..3 {
        let (status, verdict) = limiter.check(json!({"key": "k", "limit": 1})).await;
        assert_eq!((status, &verdict["allowed"]), (200, &Value::Bool(true)));
    }
    let mut conn = limiter.conn().await;
    let count: i64 = ask(&mut conn, &["ZCARD", "ratelimit:k"]).await;
    assert_eq!(count, 3);
    limiter.redis.kill();
    assert_eq!(limiter.check_key("k").await.0, 200);
}

#[tokio::test]
async fn checks_fail_while_redis_is_gone_and_recover_with_it() {
    let mut limiter = Limiter::start().await;
    assert_eq!(limiter.check_key("k").await.0, 200);
    limiter.redis.stop().await.unwrap();
    assert_eq!(limiter.check_key("k").await.0, 500);
    assert_eq!(limiter.get("/api/nodes").await.status, 500);
    assert_eq!(limiter.get("/health").await.status, 200);
    let failed =
        limiter.metric(r#"http_requests_total{handler="/check",method="POST",status="5xx"}"#);
    assert_eq!(failed.await, Some(1.0));

    limiter.redis.restart().await.unwrap();
    assert_eq!(limiter.check_key("k").await.1["current_count"], 1);
    // The connection it holds now is closed under it: that is not worth a 500.
    limiter.redis.restart().await.unwrap();
    assert_eq!(limiter.check_key("k").await.1["current_count"], 1);
}
