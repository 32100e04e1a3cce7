//! What the test reads of the limiter itself: counters in Redis, the nodes' histograms, and whether the machine stalls.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use lab::exposition::Exposition;
use redis::aio::MultiplexedConnection;

use crate::facts::{Checks, Life, Sample};
use crate::schedule::KEYS;
use crate::world::Shared;

/// The limit of keys without their own.
const DEFAULT_LIMIT: u64 = 10;

/// Seconds as whole milliseconds.
pub(crate) fn millis(seconds: f64) -> i64 {
    let whole = Duration::from_secs_f64(seconds).as_millis();
    i64::try_from(whole).unwrap_or(i64::MAX)
}

/// Timeout of one command of the test.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// The count of a key inside its window, and its limit; `None` if Redis does not answer, or if the key is not a
/// counter.
pub(crate) async fn read_counter(
    connection: &mut MultiplexedConnection,
    key: usize,
    window: f64,
    at: f64,
) -> Option<Sample> {
    let from = lab::clock::now_ms() - millis(window);
    let mut pipe = redis::pipe();
    pipe.cmd("ZCOUNT")
        .arg(format!("ratelimit:user:{key}"))
        .arg(from)
        .arg("+inf");
    pipe.cmd("HGET")
        .arg(format!("ratelimit:limit:user:{key}"))
        .arg("limit");
    let asked = pipe.query_async::<(u64, Option<String>)>(connection);
    let (count, limit) = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    let limit = match limit {
        None => Some(DEFAULT_LIMIT),
        Some(text) => text.parse().ok(),
    };
    Some(Sample { at, count, limit })
}

/// Reads every counter five times a second. Never ends.
pub(crate) async fn sample(shared: Rc<Shared>, client: redis::Client) {
    let mut connection = None;
    let window = shared.facts.borrow().times.window;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if connection.is_none() {
            connection = lab::link::connect(&client, PATIENCE).await.ok();
        }
        let Some(open) = &mut connection else {
            continue;
        };
        for key in 0..KEYS {
            let at = shared.seconds();
            if let Some(sample) = read_counter(open, key, window, at).await {
                shared.facts.borrow_mut().samples[key].push(sample);
            } else {
                connection = None;
                break;
            }
        }
    }
}

/// Between two readings of a node's histogram.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Reads the histogram of every node that answers. Never ends.
pub(crate) async fn read_checks(shared: Rc<Shared>) {
    // By address: when it was read, and how many checks were counted and slow by then.
    let mut before: BTreeMap<String, (f64, Counted)> = BTreeMap::new();
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let nodes: Vec<(usize, String)> = {
            let facts = shared.facts.borrow();
            let nodes = facts.nodes.iter().enumerate();
            let alive =
                nodes.filter(|(_, node)| node.replaced.is_none() && node.life.now() == Life::Runs);
            alive
                .map(|(place, node)| (place, node.address.clone()))
                .collect()
        };
        let shared = &shared;
        let reading = nodes.into_iter().map(|(place, address)| async move {
            let asked = shared.seconds();
            let answer = lab::http::get(&address, "/metrics", 2 * PATIENCE).await;
            let took = shared.seconds() - asked;
            let counted = answer.ok().and_then(|answer| counted(&answer.text()));
            (place, address, counted, took)
        });
        for (place, address, counted, took) in futures_util::future::join_all(reading).await {
            let Some(counted) = counted else {
                continue;
            };
            let to = shared.seconds();
            let last = before.insert(address, (to, counted));
            let (from, mut earlier) = last.unwrap_or((to, counted));
            if counted.all < earlier.all {
                // The node started again, so its histogram began anew.
                earlier = Counted::default();
            }
            let checks = Checks {
                from,
                to,
                all: counted.all - earlier.all,
                slow: counted.slow - earlier.slow,
                took,
            };
            shared.facts.borrow_mut().nodes[place].checks.push(checks);
        }
    }
}

/// How many checks a node counted since it started, and how many of them took longer than 50 ms.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    all: f64,
    slow: f64,
}

fn counted(metrics: &str) -> Option<Counted> {
    let metrics = Exposition::parse(metrics).ok()?;
    let all = metrics.value("ratelimiter_check_duration_seconds_count", &[])?;
    let fast = metrics.value(
        "ratelimiter_check_duration_seconds_bucket",
        &[("le", "0.05")],
    )?;
    let slow = all - fast;
    Some(Counted { all, slow })
}

/// How much longer than requested a sleep of this process may take.
const TURN: f64 = 0.3;

/// Records when the machine stalls. Never ends.
pub(crate) async fn watch_machine(shared: Rc<Shared>) {
    loop {
        let from = shared.seconds();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let to = shared.seconds();
        if to - from > 0.05 + TURN {
            shared.facts.borrow_mut().hiccups.push((from, to));
        }
    }
}
