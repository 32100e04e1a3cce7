//! Random recordings, as plain figures in whole units: tenths of milliseconds, thousandths of a limit. What is read from
//! them by `evaluate` is the JSON that they are written as; the model takes the figures.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// What is replayed, and how it is judged.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    pub(super) settings: Settings,
    pub(super) looks: Vec<Look>,
}

/// How a recording is judged.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// By invariant, in the order in which they are shown.
    pub(super) rules: Vec<Rule>,
    pub(super) unknown_hold: i64,
    pub(super) lowered_limit_grace: bool,
}

/// An invariant's settings.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) enabled: bool,
    pub(super) grace: i64,
    /// Tenths of milliseconds, or thousandths of the limit.
    pub(super) threshold: u64,
}

/// One observation. Times are milliseconds since the epoch.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Without a time, it is a second after the one before.
    pub(super) wall: Option<i64>,
    pub(super) steady: Option<i64>,
    pub(super) nodes: BTreeMap<&'static str, Node>,
    pub(super) metrics: BTreeMap<&'static str, Metrics>,
    /// What the latencies are taken over, in milliseconds.
    pub(super) window: Option<i64>,
    pub(super) redis: Option<bool>,
    pub(super) redis_reason: Option<&'static str>,
    pub(super) keys: BTreeMap<&'static str, Key>,
    pub(super) read: Read,
    /// Keys that were read and could not be judged.
    pub(super) unjudged: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) state: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
    pub(super) redis: Option<bool>,
    pub(super) redis_reason: Option<&'static str>,
    pub(super) canary: Option<bool>,
}

/// Latencies in tenths of milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) p99: Option<u64>,
    pub(super) bucket: Option<(u64, Option<u64>)>,
    pub(super) newest: Option<Newest>,
    pub(super) canary: Option<u64>,
    pub(super) canary_newest: Option<u64>,
    pub(super) source: Option<&'static str>,
    /// Why there is no latency.
    pub(super) why: Option<&'static str>,
}

/// The newest checks: a figure and a bucket as above, how far back they reach in milliseconds, how many are slow, and
/// how many would be if they came as before.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    pub(super) p99: Option<u64>,
    pub(super) bucket: Option<(u64, Option<u64>)>,
    pub(super) reach: i64,
    pub(super) slow: (u64, u64),
}

/// Numbers of slow checks, each with how many were to be expected, and whether so few would come less often than once
/// in a thousand times: e^-6 is 0.0025 and e^-7 is 0.0009; 10 e^-9 is 0.0012 and 11 e^-10 is 0.0005.
pub(super) const FEWER: [((u64, u64), bool); 8] = [
    ((0, 0), false),
    ((0, 6), false),
    ((0, 7), true),
    ((1, 9), false),
    ((1, 10), true),
    ((30, 30), false),
    ((950, 1_000), false),
    ((800, 1_000), true),
];

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) count: u64,
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) window: Option<i64>,
    /// The limit before, how long before the look it fell, and for how long that matters if not for a window.
    pub(super) fell: Option<(u64, i64, Option<i64>)>,
    /// How long before the look it was counted, if that is told: for the last and for the first time.
    pub(super) counted: Option<(i64, Option<i64>)>,
}

/// How far the keys were read.
#[derive(Clone, Debug)]
pub(super) enum Read {
    Full,
    /// These are known to be gone.
    Partial(Vec<&'static str>),
    Failed,
}

pub(super) const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
pub(super) const KEYS: [&str; 4] = ["a", "b:seq", "ключ", "with \"quotes\"\n\\"];

/// What periods are made of, and looks at their very ends.
const PERIODS: [i64; 6] = [0, 1_000, 15_000, 30_000, 60_000, 300_000];

fn settings() -> impl Strategy<Value = Settings> {
    let rule = |thresholds: &'static [u64]| {
        let enabled = prop::bool::weighted(0.9);
        (enabled, select(&PERIODS[..]), select(thresholds)).prop_map(
            |(enabled, grace, threshold)| Rule {
                enabled,
                grace,
                threshold,
            },
        )
    };
    let none: &[u64] = &[0];
    let rules = (
        rule(none),
        rule(none),
        rule(&[500, 350, 49, 10_010, 10_030, 59]),
        rule(&[0, 50, 100, 250, 333, 1_000]),
        rule(none),
    );
    let hold = select(vec![0, 10_000, 30_000, 300_000]);
    (rules, hold, any::<bool>()).prop_map(|(rules, unknown_hold, lowered_limit_grace)| Settings {
        rules: vec![rules.0, rules.1, rules.2, rules.3, rules.4],
        unknown_hold,
        lowered_limit_grace,
    })
}

/// Mostly onwards to where a period may end, to the millisecond; standing still, backwards, and far.
fn step() -> impl Strategy<Value = i64> {
    let edge = (select(&PERIODS[1..]), -1_i64..=1).prop_map(|(period, aside)| period + aside);
    prop_oneof![
        5 => edge,
        3 => select(vec![1_000_i64, 5_000, 15_000]),
        1 => Just(0),
        1 => select(vec![-1_i64, -15_000, -100_000]),
        1 => Just(4_000_000),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let state = prop_oneof![
        4 => Just(Some("Up")),
        3 => Just(Some("Down")),
        1 => Just(Some("Draining")),
        2 => Just(None),
    ];
    let redis = prop_oneof![3 => Just(None), 1 => Just(Some(true)), 2 => Just(Some(false))];
    let canary = prop_oneof![4 => Just(None), 1 => Just(Some(true)), 2 => Just(Some(false))];
    let why = option::of(select(vec!["GET /health: refused", "never_reached"]));
    (state, why.clone(), redis, why, canary).prop_map(
        |(state, reason, redis, redis_reason, canary)| Node {
            state,
            reason,
            redis,
            redis_reason,
            canary,
        },
    )
}

fn metrics() -> impl Strategy<Value = Metrics> {
    // At the thresholds above, beside them, and elsewhere.
    let edge = select(vec![0_u64, 49, 59, 350, 500, 1_000, 10_010, 10_030]);
    let tenths = (edge.clone(), 0_u64..=1).prop_map(|(edge, above)| edge + above);
    let bucket = (edge.clone(), option::weighted(0.8, edge)).prop_map(|(one, other)| {
        (
            one.min(other.unwrap_or(one)),
            other.map(|other| other.max(one)),
        )
    });
    let slow = select(FEWER.map(|(slow, _)| slow).to_vec());
    // Within what is taken to be still coming, at its end, and beyond it.
    let reach = select(vec![0_i64, 15_000, 20_000, 20_001, 30_000, 60_000, 300_000]);
    let newest = (
        option::weighted(0.5, tenths.clone()),
        option::weighted(0.5, bucket.clone()),
        reach,
        slow,
    )
        .prop_map(|(p99, bucket, reach, slow)| Newest {
            p99,
            bucket,
            reach,
            slow,
        });
    (
        option::weighted(0.8, tenths.clone()),
        option::weighted(0.4, bucket),
        option::weighted(0.4, newest),
        option::weighted(0.3, tenths.clone()),
        option::weighted(0.3, tenths),
        option::of(Just("http_request_duration_seconds")),
        option::of(select(vec![
            "no_samples",
            "histogram_never_counts",
            "first_sample",
            "deadline",
        ])),
    )
        .prop_map(
            |(p99, bucket, newest, canary, canary_newest, source, why)| Metrics {
                p99,
                bucket,
                newest,
                canary,
                canary_newest,
                source,
                why,
            },
        )
}

fn key() -> impl Strategy<Value = Key> {
    let limit = select(vec![0_u64, 1, 10, 30, 70, 100, 1_000_000]);
    // Shares of the limit in thousandths: at the thresholds above, and one request beside.
    let share = select(vec![0_u64, 500, 1_000, 1_050, 1_100, 1_250, 1_333, 2_000]);
    let window = option::weighted(0.8, select(vec![10_000_i64, 60_000]));
    let before = select(vec![0_i64, 9_999, 10_000, 59_999, 60_000, -5_000]);
    let lasts = option::weighted(0.3, select(vec![5_000_i64, 10_000, 60_000, 90_000]));
    let fell = (select(vec![5_u64, 12, 100, 2_000_000]), before, lasts);
    let fell = option::weighted(0.4, fell);
    let counted = option::weighted(0.3, (0_i64..2_000, option::of(0_i64..2_000)));
    (
        limit,
        share,
        0_u64..=2,
        any::<bool>(),
        window,
        fell,
        counted,
    )
        .prop_map(|(limit, share, aside, said, window, fell, counted)| {
            let count = (limit * share / 1_000 + aside).saturating_sub(1);
            Key {
                count,
                limit,
                remaining: limit
                    .saturating_sub(count)
                    .max(u64::from(said && limit == 0)),
                window,
                fell,
                counted: counted.map(|(last, more)| (last, more.map(|more| last + more))),
            }
        })
}

fn read() -> impl Strategy<Value = Read> {
    prop_oneof![
        5 => Just(Read::Full),
        3 => proptest::sample::subsequence(KEYS.to_vec(), 0..=2).prop_map(Read::Partial),
        1 => Just(Read::Failed),
    ]
}

fn look() -> impl Strategy<Value = (i64, i64, Look)> {
    let nodes = btree_map(select(&NODES[..]), node(), 0..=3);
    let metrics = btree_map(select(&NODES[..]), metrics(), 0..=3);
    let window = option::weighted(0.3, select(vec![10_500_i64, 45_000, 60_000, 600_000]));
    let redis = prop_oneof![3 => Just(Some(true)), 3 => Just(Some(false)), 1 => Just(None)];
    let reason = option::of(Just("PING: no answer within 1s"));
    let keys = btree_map(select(&KEYS[..]), key(), 0..=4);
    let jump = prop_oneof![8 => Just(0_i64), 1 => -900_i64..900, 1 => -4_000_000_i64..4_000_000];
    let unjudged = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::sample::subsequence(KEYS.to_vec(), 1..=2),
    ];
    let read = (read(), unjudged);
    (
        step(),
        jump,
        nodes,
        (metrics, window),
        redis,
        reason,
        keys,
        read,
    )
        .prop_map(
            |(
                step,
                jump,
                nodes,
                (metrics, window),
                redis,
                redis_reason,
                keys,
                (read, unjudged),
            )| {
                let look = Look {
                    wall: None,
                    steady: None,
                    nodes,
                    metrics,
                    window,
                    redis,
                    redis_reason,
                    keys,
                    read,
                    unjudged,
                };
                (step, jump, look)
            },
        )
}

/// How lines tell the time.
#[derive(Clone, Copy, Debug)]
enum Clocks {
    /// Not at all: a second a line.
    None,
    /// By the wall clock.
    Wall,
    /// By both clocks, of which the wall clock is stepped at times.
    Both,
}

pub(super) fn recording() -> impl Strategy<Value = Recording> {
    let clocks =
        prop_oneof![1 => Just(Clocks::None), 4 => Just(Clocks::Wall), 2 => Just(Clocks::Both)];
    (settings(), clocks, vec(look(), 1..16)).prop_map(|(settings, clocks, steps)| {
        let (mut now, mut offset) = (1_700_000_000_000, 0);
        let looks = steps.into_iter().map(|(step, jump, mut look)| {
            now += step;
            offset += jump;
            match clocks {
                Clocks::None => {}
                Clocks::Wall => look.wall = Some(now),
                Clocks::Both => {
                    look.wall = Some(now + offset);
                    look.steady = Some(now);
                }
            }
            look
        });
        Recording {
            settings,
            looks: looks.collect(),
        }
    })
}

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

/// A figure of so many parts, each of which is a `whole`th.
#[expect(clippy::cast_precision_loss, reason = "small figures")]
pub(super) fn share(parts: u64, whole: u64) -> f64 {
    parts as f64 / whole as f64
}

impl Look {
    /// The line that is replayed. `steady` is where it stands on the timeline that never steps.
    pub(super) fn json(&self, steady: i64) -> Value {
        let nodes: Vec<Value> = self.nodes.iter().map(|(id, node)| node.json(id)).collect();
        let metrics = self.metrics.iter();
        let metrics: Map<String, Value> = metrics
            .map(|(id, metrics)| ((*id).to_owned(), metrics.json()))
            .collect();
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|(key, it)| it.json(key, steady))
            .collect();
        let unjudged = self.unjudged.iter();
        let unjudged: Map<String, Value> = unjudged
            .map(|key| {
                (
                    ratelimiter_exporter::observation::encode_key(key.as_bytes()),
                    json!("invalid_limit"),
                )
            })
            .collect();
        let mut line = json!({
            "unjudged": unjudged, "nodes": nodes, "counters": keys, "node_metrics": metrics,
            "redis_connected": self.redis, "redis": {"reason": self.redis_reason},
            "counters_read": match &self.read {
                Read::Full => json!("full"),
                Read::Partial(gone) => json!({"partial": {"gone": gone, "reason": "timeout"}}),
                Read::Failed => json!({"failed": {"reason": "redis_down"}}),
            },
        });
        if let Some(window) = self.window {
            line["latency_window_seconds"] = json!(share(window.unsigned_abs(), 1_000));
        }
        if let Some(wall) = self.wall {
            line["observed_at"] = json!(time(wall));
        }
        if let Some(steady) = self.steady {
            line["steady_at"] = json!(time(steady));
        }
        line
    }
}

impl Node {
    fn json(&self, id: &str) -> Value {
        json!({"id": id, "state": self.state, "reason": self.reason, "redis_connected": self.redis,
               "redis_reason": self.redis_reason, "canary_refused": self.canary})
    }
}

impl Metrics {
    fn json(&self) -> Value {
        let bucket = |(lower, upper): (u64, Option<u64>)| json!({"lower": share(lower, 10_000), "upper": upper.map(|upper| share(upper, 10_000))});
        let millis = |figure: Option<u64>| figure.map(|figure| share(figure, 10));
        let newest = self.newest.as_ref().map(|newest| {
            json!({"p99_ms": millis(newest.p99), "bucket": newest.bucket.map(bucket),
                   "seconds": share(newest.reach.unsigned_abs(), 1_000), "slow": newest.slow.0,
                   "slow_expected": newest.slow.1})
        });
        json!({"latency_p99_ms": millis(self.p99), "latency_p99_bucket": self.bucket.map(bucket),
               "latency_newest": newest, "canary_p99_ms": millis(self.canary),
               "canary_newest_ms": millis(self.canary_newest), "latency_source": self.source, "latency_unknown": self.why})
    }
}

impl Key {
    fn json(&self, key: &str, steady: i64) -> Value {
        let fell = self.fell.map(|(limit, before, lasts)| {
            let until = lasts.map(|lasts| time(steady - before + lasts));
            json!({"limit": limit, "at": time(steady - before), "until": until})
        });
        let mut counter = json!({"key": key, "count": self.count, "limit": self.limit,
            "remaining": self.remaining, "window_ms": self.window, "fell_from": fell});
        if let Some((last, first)) = self.counted {
            counter["counted_at"] = json!(time(steady - last));
            counter["counted_from"] = json!(first.map(|first| time(steady - first)));
        }
        counter
    }
}
