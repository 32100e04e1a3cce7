use std::collections::BTreeMap;
use std::sync::atomic::AtomicU8;

use serde_json::{Value, json};

use super::*;
use crate::clock::later;
use crate::export::{Exporter, Reload, render};
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{Condition, CounterView};
use crate::subject::{Act, ActionDefinition, Actor, Parameters};

const GOOD: u8 = 0;
const PANICS: u8 = 1;
const HANGS: u8 = 2;
const GOES_ON: u8 = 3;

/// Behaves as the test sets it, whatever the deadline.
#[derive(Debug)]
struct Controlled(Arc<AtomicU8>);

impl Subject for Controlled {
    async fn observe<C: InvariantChecker>(
        &mut self,
        _: watch::Receiver<Instant>,
        _: &mut C,
    ) -> Observation {
        match self.0.load(Ordering::Relaxed) {
            GOOD | GOES_ON => Observation::default(),
            PANICS => panic!("as the test wants"),
            _ => std::future::pending().await,
        }
    }

    async fn observe_more<C: InvariantChecker>(
        &mut self,
        _: &mut C,
        give_way: impl Future<Output = ()> + Send,
    ) -> bool {
        let goes_on = self.0.load(Ordering::Relaxed) == GOES_ON;
        if goes_on {
            give_way.await;
        }
        goes_on
    }

    async fn glance(&mut self) -> Duration {
        Duration::MAX
    }

    fn remember(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn recall(&mut self, _: serde_json::Value) -> Result<(), String> {
        Ok(())
    }

    fn take_over(&mut self, _: Self) -> bool {
        true
    }

    fn actor(&self) -> Arc<dyn Actor> {
        Arc::new(Idle)
    }
}

/// An actor without actions.
#[derive(Debug)]
struct Idle;

impl Actor for Idle {
    fn actions(&self) -> Vec<ActionDefinition> {
        Vec::new()
    }

    fn about(&self, _: &Parameters) -> String {
        String::new()
    }

    fn act<'a>(&'a self, _: &'a str, _: &'a Parameters) -> Act<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn collect(behaviour: &Arc<AtomicU8>) -> Arc<Collect<Controlled, Checker>> {
    let checker = Checker::new(CheckerConfig::default());
    let subject = Controlled(Arc::clone(behaviour));
    Arc::new(Collect::new(subject, checker, Clock::start(), None))
}

/// Checks counters of the limit 10, and returns the keys that allow too many: those that the log has named.
fn ghosts_logged(max_listed: usize) -> impl FnMut(&[(&str, u64)]) -> Vec<String> {
    let mut checker = Checker::new(CheckerConfig {
        max_listed,
        ..CheckerConfig::default()
    });
    let at = Clock::start().now();
    let mut reported = Reported::new();
    move |counts| {
        let counters = counts.iter().map(|(key, count)| CounterView {
            key: key.as_bytes(),
            count: *count,
            limit: 10,
            remaining: 0,
            window_ms: None,
            fell_from: None,
            condition: Condition::default(),
        });
        checker.counters(at, &counters.collect::<Vec<_>>());
        let observation = Observation::default();
        let report = checker.check(at, &observation);
        let before = std::mem::take(&mut reported);
        reported = log_changes(before, &report, &observation, &checker);
        let ghosts = reported.iter();
        let ghosts = ghosts.filter(|(name, _)| *name == InvariantName::GhostAllowing);
        ghosts.map(|(_, key)| key.clone()).collect()
    }
}

#[test]
fn a_violation_that_the_list_has_no_room_for_is_not_over() {
    let mut ghosts_logged = ghosts_logged(1);
    let mut ghosts = |counts: [(&str, u64); 2]| ghosts_logged(&counts);
    assert_eq!(ghosts([("a", 12), ("b", 11)]), ["a"]);
    assert_eq!(ghosts([("a", 12), ("b", 13)]), ["a", "b"]);
    assert_eq!(ghosts([("a", 1), ("b", 13)]), ["b"]);
}

#[test]
fn of_many_violations_that_end_at_once_none_goes_on_in_the_log() {
    let mut ghosts = ghosts_logged(20);
    let keys: Vec<String> = (0..300).map(|n| format!("k{n:03}")).collect();
    // In each round, others are the worst.
    let counts = |worst: std::ops::Range<usize>, ended: std::ops::Range<usize>| {
        let count = move |n| match n {
            n if ended.contains(&n) => 1,
            n if worst.contains(&n) => 30,
            _ => 20,
        };
        let all = keys.iter().enumerate();
        all.map(|(n, key)| (key.as_str(), count(n)))
            .collect::<Vec<_>>()
    };
    for round in 1..=10 {
        let logged = ghosts(&counts((round - 1) * 20..round * 20, 0..0));
        assert_eq!(logged, keys[..round * 20]);
    }
    // 150 end, and 150 go on: the first 50 of these are in the log.
    assert_eq!(ghosts(&counts(180..200, 0..150)), keys[150..200]);
    // Those that begin again are in the log again.
    let again = [&keys[..20], &keys[150..200]].concat();
    assert_eq!(ghosts(&counts(0..20, 0..0)), again);
    assert!(ghosts(&counts(0..0, 0..300)).is_empty());
}

#[tokio::test]
async fn collections_that_panic_are_overdue_until_one_succeeds() {
    let behaviour = Arc::new(AtomicU8::new(PANICS));
    let collect = collect(&behaviour);
    let now = Instant::now();
    let late = now + OVERDUE * 2;
    assert_eq!(collect.overdue(late), None, "none was wanted");
    for _ in 0..3 {
        assert!(collect.snapshot(now).await.is_none());
    }
    assert_eq!(collect.overdue(now), None);
    assert_eq!(collect.overdue(late), Some(OVERDUE));
    behaviour.store(GOOD, Ordering::Relaxed);
    assert!(collect.snapshot(now).await.is_some());
    assert_eq!(collect.overdue(late), None);
}

#[tokio::test]
async fn a_collection_that_hangs_is_overdue_and_no_request_waits_for_ever() {
    let collect = collect(&Arc::new(AtomicU8::new(HANGS)));
    let now = Instant::now();
    // As if both had waited as long as there is patience.
    let past = now.checked_sub(OVERDUE).unwrap_or(now);
    assert!(collect.snapshot(past).await.is_none());
    assert!(collect.snapshot(past).await.is_none());
    assert!(collect.overdue(now + OVERDUE).is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_work_between_collections() {
    let behaviour = Arc::new(AtomicU8::new(GOES_ON));
    let collect = collect(&behaviour);
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(collect.snapshot(begun + OVERDUE).await.is_some());
        // The work begins, and would never end by itself.
        while collect.work.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        collect.glance().await;
        drop(collect.between().await);
    }
    assert!(begun.elapsed() < HELD, "{:?}", begun.elapsed());
    // While it is held, it does not begin.
    let hold = collect.hold();
    drop(collect.between().await);
    tokio::task::yield_now().await;
    assert!(collect.try_between().is_some());
    drop(hold);
    behaviour.store(GOOD, Ordering::Relaxed);
    collect.finish().await;
}

/// A cluster of stores, which has nothing in common with a rate limiter: ids, addresses, states and latencies.
#[derive(Debug)]
struct Stores {
    cluster: &'static str,
    /// Id, state, and p99 in milliseconds.
    nodes: Vec<(&'static str, &'static str, f64)>,
    /// Collections so far.
    observed: u64,
}

impl Subject for Stores {
    async fn observe<C: InvariantChecker>(
        &mut self,
        _: watch::Receiver<Instant>,
        checker: &mut C,
    ) -> Observation {
        assert!(checker.watched_keys().is_empty(), "it has no keys");
        self.observed += 1;
        let nodes = self.nodes.iter().map(|(id, state, _)| {
            json!({"id": id, "address": format!("{id}.stores:7000"), "state": state, "reason": "gossip"})
        });
        let metrics = self.nodes.iter().map(|(id, _, p99)| {
            let metrics = json!({"latency_p99_ms": p99, "latency_source": "read_latency"});
            ((*id).to_owned(), metrics)
        });
        let observation = json!({
            "nodes": nodes.collect::<Vec<_>>(), "counters": [], "redis_connected": null,
            "node_metrics": metrics.collect::<serde_json::Map<_, _>>(),
        });
        serde_json::from_value(observation).expect("it is an observation")
    }

    async fn glance(&mut self) -> Duration {
        Duration::MAX
    }

    fn remember(&self) -> Value {
        self.observed.into()
    }

    fn recall(&mut self, memory: Value) -> Result<(), String> {
        self.observed = memory.as_u64().ok_or("expected a number")?;
        Ok(())
    }

    fn take_over(&mut self, before: Self) -> bool {
        let same = self.cluster == before.cluster;
        if same {
            self.observed = before.observed;
        }
        same
    }

    fn actor(&self) -> Arc<dyn Actor> {
        Arc::new(Idle)
    }
}

fn stores(cluster: &'static str) -> Stores {
    Stores {
        cluster,
        nodes: vec![("s1", "Up", 3.0), ("s2", "Down", 0.0), ("s3", "Up", 80.0)],
        observed: 0,
    }
}

/// The invariants for a cluster of stores.
fn about_stores() -> CheckerConfig {
    let mut config = CheckerConfig::default();
    for name in InvariantName::ALL {
        config.of_mut(name).enabled = match name {
            InvariantName::NodeDown | InvariantName::HighLatency => true,
            InvariantName::RedisDisconnected
            | InvariantName::CounterDrift
            | InvariantName::GhostAllowing
            | InvariantName::StuckCounter
            | InvariantName::InvalidCounter => false,
        };
    }
    config
}

impl Collect<Stores, Checker> {
    /// The reported violations on `/metrics` by their labels, after one collection.
    async fn violations(self: &Arc<Self>) -> BTreeMap<String, String> {
        let snapshot = self.snapshot(Instant::now() + OVERDUE).await.unwrap();
        let exporter = Exporter {
            reload: Reload {
                ok: true,
                at: snapshot.report.at.wall,
            },
            unauthorized: [("missing", 0), ("wrong", 0)],
        };
        let text = String::from_utf8(render(&snapshot, exporter).unwrap()).unwrap();
        let lines = text.lines().filter_map(|line| {
            let (labels, value) = line
                .strip_prefix("invariant_violation{")?
                .split_once("} ")?;
            Some((labels.to_owned(), value.to_owned()))
        });
        lines.collect()
    }

    /// Lets time pass without waiting.
    async fn pass(&self, time: Duration) {
        let clock = &mut self.work.lock().await.clock;
        let steady = later(clock.now().steady, time);
        *clock = clock.clone().resume(|_| steady);
    }
}

#[tokio::test]
async fn another_subject_is_collected_checked_and_exported_without_a_limiter() {
    let checker = Checker::new(about_stores());
    let collect = Collect::new(stores("a"), checker, Clock::start(), None);
    let collect = Arc::new(collect);
    let node_down = |value| {
        let labels = r#"name="node_down",severity="critical",subject="#;
        [("s1", "0"), ("s2", value), ("s3", "0")]
            .map(|(id, value)| (format!("{labels}\"{id}\""), value.to_owned()))
    };
    let high_latency = |value: &str| {
        let labels = r#"name="high_latency",severity="warning",subject="#;
        [("s1", "0"), ("s2", "0"), ("s3", value)]
            .map(|(id, value)| (format!("{labels}\"{id}\""), value.to_owned()))
    };
    let expected = |down, slow| BTreeMap::from_iter([node_down(down), high_latency(slow)].concat());
    // Slow stores have a grace period of a minute.
    assert_eq!(collect.violations().await, expected("1", "0"));
    collect.pass(Duration::from_secs(59)).await;
    assert_eq!(collect.violations().await, expected("1", "0"));
    collect.pass(Duration::from_secs(1)).await;
    assert_eq!(collect.violations().await, expected("1", "1"));

    // Violations in progress stay if the same cluster is observed, and are forgotten otherwise.
    let next = Stores {
        nodes: vec![("s1", "Up", 3.0), ("s2", "Up", 1.0), ("s3", "Up", 80.0)],
        ..stores("a")
    };
    collect.between().await.reconfigure(next, about_stores());
    assert_eq!(collect.violations().await, expected("0", "1"));
    assert_eq!(collect.work.lock().await.subject.observed, 4);
    let other = stores("b");
    collect.between().await.reconfigure(other, about_stores());
    assert_eq!(collect.violations().await, expected("1", "0"));
    assert_eq!(collect.work.lock().await.subject.observed, 1);
}
