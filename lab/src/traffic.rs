//! Steady traffic of rate limit checks against nodes on this machine.
//!
//! Every node has its own workers, so that a node that hangs delays no other. It leaves out
//! measuring: latency is the nodes' business, here are only counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper::Method;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use crate::http::Connection;

/// How long a check may take before its client gives up.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks a second that one worker is trusted with. Few workers keep few checks in flight, so a
/// short stop of Redis makes few checks slow.
const CHECKS_PER_WORKER: f64 = 25.0;

/// The most workers, and so the most checks in flight, for one node.
const MAX_WORKERS: usize = 32;

/// What traffic to send.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficOptions {
    /// The nodes' addresses, `IP:PORT`; loopback only.
    pub nodes: Vec<String>,
    /// Over how many keys the checks go, in turn.
    pub keys: usize,
    /// Checks a second, over all nodes.
    pub rate_per_second: f64,
    /// What every key begins with; a number follows.
    pub key_prefix: String,
}

/// Traffic that flows until it is stopped or dropped.
#[derive(Debug)]
pub struct Traffic {
    workers: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    next_key: AtomicU64,
    sent: AtomicU64,
    allowed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Traffic {
    /// Starts the traffic. An error when there is nothing to send, or somewhere else to send it:
    /// a load generator must not be pointed at other people's machines.
    pub fn start(options: TrafficOptions) -> anyhow::Result<Self> {
        ensure!(!options.nodes.is_empty(), "traffic needs a node");
        ensure!(options.keys > 0, "traffic needs a key");
        ensure!(
            options.rate_per_second.is_finite() && options.rate_per_second > 0.0,
            "traffic needs a rate above 0, not {}",
            options.rate_per_second
        );
        for node in &options.nodes {
            let address: SocketAddr = node
                .parse()
                .with_context(|| format!("not an address of the form IP:PORT: {node:?}"))?;
            ensure!(
                address.ip().is_loopback(),
                "traffic goes to this machine only, not to {address}"
            );
        }

        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 nodes")]
        let rate_per_node = options.rate_per_second / options.nodes.len() as f64;
        let options = Arc::new(options);
        let counts = Arc::new(Counts::default());
        let mut workers = JoinSet::new();
        for node in &options.nodes {
            let mut interval = tokio::time::interval(Duration::from_secs_f64(1.0 / rate_per_node));
            // A node that hung is not owed the checks of that time.
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let ticks = Arc::new(Mutex::new(interval));
            for _ in 0..workers_for(rate_per_node) {
                workers.spawn(work(
                    Connection::new(node.clone()),
                    Arc::clone(&ticks),
                    Arc::clone(&options),
                    Arc::clone(&counts),
                ));
            }
        }
        Ok(Self { workers, counts })
    }

    /// Checks sent so far, answered or not.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// Checks answered by 200.
    pub fn allowed(&self) -> u64 {
        self.counts.allowed.load(Ordering::Relaxed)
    }

    /// Checks answered by 429.
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Checks without an answer in time, or with any other status.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Stops it; nothing is in flight when this returns.
    pub async fn stop(mut self) {
        self.workers.shutdown().await;
    }
}

/// One worker at least, and enough for the rate at a normal latency.
fn workers_for(rate_per_node: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and what it saturates to is capped"
    )]
    let wanted = (rate_per_node / CHECKS_PER_WORKER).ceil() as usize;
    wanted.clamp(1, MAX_WORKERS)
}

async fn work(
    mut connection: Connection,
    ticks: Arc<Mutex<Interval>>,
    options: Arc<TrafficOptions>,
    counts: Arc<Counts>,
) {
    loop {
        ticks.lock().await.tick().await;
        let number = counts.next_key.fetch_add(1, Ordering::Relaxed) % options.keys as u64;
        let key = format!("{}{number}", options.key_prefix);
        let body = serde_json::json!({ "key": key }).to_string();
        counts.sent.fetch_add(1, Ordering::Relaxed);
        let answer = connection
            .send(Method::POST, "/check", body, CLIENT_TIMEOUT)
            .await;
        let outcome = match answer.map(|answer| answer.status) {
            Ok(200) => &counts.allowed,
            Ok(429) => &counts.refused,
            Ok(_) | Err(_) => &counts.failed,
        };
        outcome.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(node: &str) -> TrafficOptions {
        TrafficOptions {
            nodes: vec![node.to_owned()],
            keys: 1,
            rate_per_second: 10.0,
            key_prefix: "k".to_owned(),
        }
    }

    #[tokio::test]
    async fn traffic_to_other_machines_is_refused() {
        let error = Traffic::start(options("192.0.2.1:80")).unwrap_err();
        assert!(error.to_string().contains("this machine only"), "{error}");
        assert!(
            Traffic::start(options("localhost:80")).is_err(),
            "a name may lead anywhere"
        );
        assert!(Traffic::start(options("127.0.0.1:9")).is_ok());
        assert!(Traffic::start(options("[::1]:9")).is_ok());
    }

    #[test]
    fn the_number_of_workers_follows_the_rate_and_is_bounded() {
        assert_eq!(workers_for(0.5), 1);
        assert_eq!(workers_for(20.0), 1);
        assert_eq!(workers_for(60.0), 3);
        assert_eq!(workers_for(1e9), MAX_WORKERS);
    }
}
