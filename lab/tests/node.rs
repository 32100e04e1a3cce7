//! The lab's node and tools against a real Redis, each as a process of its own.
//!
//! They leave out the demo, whose subject is the exporter (`demo.rs`). Every wait is for an event, with a
//! deadline.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helper, as in a test, it is how to fail"
)]

#[path = "node/api.rs"]
mod api;
#[path = "node/checks.rs"]
mod checks;
#[path = "node/monitoring.rs"]
mod monitoring;
#[path = "node/registry.rs"]
mod registry;
#[path = "node/tools.rs"]
mod tools;

use std::time::Duration;

use hyper::Method;
use lab::http::{self, Answer};
use lab::node::{NodeOptions, NodeProcess};
use lab::redis_server::RedisServer;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

/// For what takes milliseconds, on a machine that is busy.
const SOON: Duration = Duration::from_secs(10);

/// A Redis of its own and one node on it.
struct Limiter {
    // Before the Redis, so that it is dropped first.
    node: NodeProcess,
    redis: RedisServer,
}

impl Limiter {
    async fn start() -> Self {
        let redis = RedisServer::start(&[]).await.unwrap();
        let options = NodeOptions::new("node-1", redis.url());
        let node = NodeProcess::start(options).await.unwrap();
        Self { node, redis }
    }

    async fn conn(&self) -> MultiplexedConnection {
        self.redis.connection().await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        http::get(&self.node.address(), path, SOON).await.unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Answer {
        let address = self.node.address();
        http::request(&address, method, path, body.to_string(), SOON)
            .await
            .unwrap()
    }

    async fn check(&self, body: Value) -> (u16, Value) {
        let answer = self.send(Method::POST, "/check", body).await;
        (answer.status, answer.json().unwrap_or(Value::Null))
    }

    async fn check_key(&self, key: &str) -> (u16, Value) {
        self.check(json!({ "key": key })).await
    }

    /// The number in the one line of `/metrics` that begins so.
    async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").await.text();
        let lines = text.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        values.next()?.parse().ok()
    }
}

/// A command to Redis, for its answer.
async fn ask<T: redis::FromRedisValue>(conn: &mut MultiplexedConnection, command: &[&str]) -> T {
    let mut cmd = redis::Cmd::new();
    for word in command {
        cmd.arg(word);
    }
    cmd.query_async(conn).await.unwrap()
}
