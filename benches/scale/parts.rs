//! Parts alone, in this process: the checker, and the rendering of the metrics.

use ratelimiter_exporter::clock::Clock;
use ratelimiter_exporter::export::{Exporter, Reload, render};
use ratelimiter_exporter::invariants::{Checker, CheckerConfig};
use ratelimiter_exporter::observation::{Condition, Counter, CounterView, Observation};
use ratelimiter_exporter::snapshot::{OwnCounters, Snapshot};
use ratelimiter_exporter::subject::InvariantChecker as _;

use super::figures::{Figures, Wanted};
use super::median;

const BATCHES: u32 = 1_000;
const BATCH: u32 = 1_000;

/// The lines of both.
pub(crate) fn measure(figures: &mut Figures) {
    let clock = Clock::start();
    let keys: Vec<String> = (0..BATCH)
        .map(|n| format!("key-of-thirty-bytes-{n:010}"))
        .collect();
    let views: Vec<CounterView<'_>> = keys
        .iter()
        .map(|key| CounterView {
            key: key.as_bytes(),
            count: 10,
            limit: 20,
            remaining: 10,
            window_ms: Some(60_000),
            fell_from: None,
            condition: Condition::default(),
        })
        .collect();
    let mut checker = Checker::new(CheckerConfig::default());
    let runs = (0..5).map(|_| {
        let started = lab::clock::instant();
        for _ in 0..BATCHES {
            checker.counters(clock.now(), &views);
        }
        started.elapsed().as_secs_f64() * 1e9 / f64::from(BATCHES * BATCH)
    });
    let what = "the checker alone: ns a healthy counter";
    let judged = u64::from(BATCHES * BATCH);
    figures.add(
        judged,
        what,
        median(runs.collect()),
        Wanted::AtMost(50.0),
        "",
    );

    let counters = keys.iter().map(|key| Counter {
        key: key.clone(),
        count: 10,
        limit: 20,
        remaining: 10,
        window_ms: Some(60_000),
        fell_from: None,
        condition: Condition::default(),
        counted_at: None,
        counted_from: None,
    });
    let observation = Observation {
        counters: counters.collect(),
        redis_connected: Some(true),
        ..Observation::default()
    };
    let now = clock.now();
    let snapshot = Snapshot {
        report: checker.check(now, &observation),
        observation,
        seconds: 0.1,
        own: OwnCounters::default(),
    };
    let exporter = Exporter {
        reload: Reload {
            ok: true,
            at: now.wall,
        },
        unauthorized: [("missing", 0), ("wrong", 0)],
    };
    let runs = (0..21).map(|_| {
        let started = lab::clock::instant();
        let text = render(&snapshot, exporter);
        assert!(text.is_ok_and(|text| text.len() > 100_000));
        started.elapsed().as_secs_f64() * 1e3
    });
    let what = "rendering alone, all of them exported: ms";
    figures.add(
        u64::from(BATCH),
        what,
        median(runs.collect()),
        Wanted::AtMost(10.0),
        "",
    );
}
