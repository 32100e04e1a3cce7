//! Limits that fell: what was legal before is excused for as long as it may be left over, and no longer.

use ratelimiter_exporter::limiters::{
    CounterReading, Description, Former, Invalid, Limits, Outcome, built_in,
};

use crate::store::{Rule, Store};

/// A Thursday in November 2026, at the beginning of an hour.
const FELL_MS: u64 = 1_795_690_800_000;
const FELL_S: u64 = FELL_MS / 1000;

/// A counter at its old limit when that fell to the new one.
struct Fallen {
    kind: &'static str,
    name: String,
    store: Store,
    before: Rule,
    now: Rule,
}

impl Fallen {
    fn read(&self, ago_s: u64) -> CounterReading {
        let kind = built_in(self.kind).unwrap_or(self.kind);
        let description = Description::parse(kind).unwrap();
        let ago_ms = ago_s * 1000;
        let former = Former {
            limits: self.before.0,
            ago_ms,
        };
        let limits = (self.now, Some(former));
        let name = self.name.as_bytes();
        let finding = self
            .store
            .read_fallen(&description, limits, FELL_MS + ago_ms, true, name);
        match finding.outcome {
            Outcome::Counted(reading) => reading,
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// Whether the count is above the limit, and whether it is excused.
    fn state(&self, ago_s: u64) -> (bool, bool) {
        let reading = self.read(ago_s);
        let draining = reading.draining;
        let excused =
            draining.is_some_and(|it| reading.count <= it.limit && it.ago_ms < it.lasts_ms);
        (reading.is_over_limit() == Some(true), excused)
    }

    /// Asserts that the count is above the limit, and excused until `until_s` after the fall.
    #[track_caller]
    fn is_excused_until(&self, until_s: u64) {
        for (ago_s, excused) in [(0, true), (until_s - 1, true), (until_s, false)] {
            assert_eq!(self.state(ago_s).1, excused, "{}: {ago_s} s", self.name);
        }
        assert!(self.state(0).0, "{}", self.name);
    }
}

fn rule(limit: u64, window_s: u64) -> Rule {
    Rule::new(Some(limit), Some(window_s))
}

fn throttled(algorithm: &str, fields: &[(&str, u64)], before: Rule, now: Rule) -> Fallen {
    let mut store = Store::default();
    let name = format!("throttled:v1:{algorithm}:u");
    let texts: Vec<String> = fields.iter().map(|(_, value)| value.to_string()).collect();
    let fields = fields.iter().zip(&texts);
    let fields: Vec<_> = fields
        .map(|((field, _), text)| (*field, text.as_str()))
        .collect();
    match &fields[..] {
        [("tat", text)] => store.string(&name, text, 1000),
        fields => store.hash(&name, fields, 1000),
    }
    Fallen {
        kind: "throttled-py",
        name,
        store,
        before,
        now,
    }
}

/// A bucket with this level at the fall.
fn bucket(algorithm: &str, level: u64, before: Rule, now: Rule) -> Fallen {
    let fields = [("tokens", level), ("last_refreshed", FELL_S)];
    throttled(algorithm, &fields, before, now)
}

/// A GCRA whose time is `ahead_s` ahead at the fall.
fn gcra(ahead_s: u64, before: Rule, now: Rule) -> Fallen {
    let fields = [("tat", FELL_S + ahead_s - 1_735_660_800)];
    throttled("gcra", &fields, before, now)
}

fn text(kind: &'static str, name: &str, count: &str, before: Rule, now: Rule) -> Fallen {
    let mut store = Store::default();
    store.string(name, count, 500_000);
    Fallen {
        kind,
        name: name.to_owned(),
        store,
        before,
        now,
    }
}

#[test]
fn a_count_of_a_longer_window_is_excused_until_that_window_ends() {
    let name = "fastapi-limiter:1.2.3.4:/x:0:0";
    let (before, now) = (rule(100, 600), rule(10, 5));
    text("fastapi-limiter", name, "50", before, now).is_excused_until(600);
}

#[test]
fn what_redis_rate_admitted_half_an_interval_early_is_excused_with_its_limit() {
    let time = (FELL_S + 740 - 1_483_228_800).to_string();
    let fallen = text("gcra", "rate:u", &time, rule(2, 600), rule(1, 60));
    for ago_s in [0, 610] {
        assert_eq!(fallen.state(ago_s), (true, true), "{ago_s} s");
    }
}

#[test]
fn a_count_of_two_windows_is_excused_until_both_are_over() {
    let (before, now) = (rule(60, 20), rule(10, 20));
    let name = format!("throttled:v1:sliding_window:u:period:{}", FELL_S / 20);
    let fallen = text("throttled-py", &name, "55", before, now);
    for ago_s in [0, 19, 33, 36, 37] {
        assert_eq!(fallen.state(ago_s), (ago_s < 37, true), "{ago_s} s");
    }
    let name = format!("throttled:v1:sliding_window:u:period:{}", FELL_S / 20 + 2);
    let fallen = text("throttled-py", &name, "55", before, now);
    assert_eq!(fallen.state(40), (true, false));
}

#[test]
fn a_leaky_bucket_is_excused_while_it_drains_at_the_new_rate() {
    bucket("leaking_bucket", 55, rule(60, 60), rule(10, 60)).is_excused_until(360);
    let (before, now) = (rule(1, 1).burst(600), rule(1, 1).burst(300));
    let fallen = bucket("leaking_bucket", 500, before, now);
    fallen.is_excused_until(600);
    assert_eq!(fallen.read(199).count, 301);
    // What was above the old limit, too, is not left over.
    assert_eq!(
        bucket("leaking_bucket", 61, rule(60, 60), rule(10, 60)).state(0),
        (true, false)
    );
}

#[test]
fn a_time_ahead_is_excused_in_the_intervals_of_before() {
    let (before, now) = (rule(1, 1).burst(600), rule(1, 1).burst(300));
    gcra(500, before, now).is_excused_until(600);
    // A higher rate, and the same limit in a shorter window.
    for now in [rule(10, 60), rule(60, 60)] {
        let fallen = gcra(1_800, rule(60, 3_600), now);
        fallen.is_excused_until(3_600);
        assert_eq!(fallen.read(60).invalid, None);
        let far = gcra(3_700, rule(60, 3_600), now);
        assert_eq!(far.state(0), (true, false));
        assert_eq!(far.read(0).invalid, Some(Invalid::AboveCapacity));
    }
}

#[test]
fn an_idle_bucket_keeps_its_level_until_its_key_expires() {
    let (before, now) = (rule(1, 1).burst(600), rule(1, 1).burst(300));
    for algorithm in ["token_bucket", "leaking_bucket"] {
        let fallen = bucket(algorithm, 600, before, now);
        // The key lives for two fills and a second.
        let invalid = [4, 1_200, 1_201].map(|ago_s| fallen.read(ago_s).invalid);
        assert_eq!(
            invalid,
            [None, None, Some(Invalid::AboveCapacity)],
            "{algorithm}"
        );
        let more = bucket(algorithm, 601, before, now);
        assert_eq!(
            more.read(4).invalid,
            Some(Invalid::AboveCapacity),
            "{algorithm}"
        );
    }
}

/// Counters that can be without a window.
const OWN: &str = "
name: own
title: own
counters:
  - {name: a, key: '^a:(?P<key>.+)$', type: string, count: value, refused: not_counted, expiry: normal_without}
  - {name: b, key: '^b:(?P<key>.+)$', type: string, count: value, refused: not_counted, expiry: {is: required, max: 1h}, without_expiry: leaks}
  - {name: d, key: '^d:(?P<key>.+)$', type: hash, count: {hash: {field: n, ends: {field: end, unit: s}}}, refused: not_counted, expiry: normal_without}
  - {name: c, key: '^c:(?P<key>.+)$', type: zset, count: {log: {unit: ms}}, refused: not_counted, expiry: normal_without}
";

#[test]
fn a_count_without_a_window_is_excused_for_the_longest_expiry_or_five_minutes() {
    let none = |limit| {
        Rule(Limits {
            limit: Some(limit),
            ..Limits::default()
        })
    };
    text(OWN, "a:u", "50", none(60), none(10)).is_excused_until(300);
    text(OWN, "b:u", "50", none(60), none(10)).is_excused_until(3_600);
}

#[test]
fn a_log_is_excused_for_the_window_of_now_alone() {
    let mut store = Store::default();
    let times: Vec<f64> = (0..20).map(|_| 1_795_690_799_000.0).collect();
    store.zset("c:u", &times, -1);
    let fallen = Fallen {
        kind: OWN,
        name: "c:u".to_owned(),
        store,
        before: rule(60, 600),
        now: rule(10, 5),
    };
    fallen.is_excused_until(5);
}

#[test]
fn an_end_within_the_longer_window_of_before_is_not_in_the_future() {
    let mut store = Store::default();
    let end = (FELL_S + 500).to_string();
    store.hash("d:u", &[("n", "50"), ("end", &end)], -1);
    let fallen = Fallen {
        kind: OWN,
        name: "d:u".to_owned(),
        store,
        before: rule(100, 600),
        now: rule(10, 5),
    };
    assert_eq!((fallen.read(1).count, fallen.read(1).invalid), (50, None));
    assert_eq!(fallen.state(1), (true, true));
}
