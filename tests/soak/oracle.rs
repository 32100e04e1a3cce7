//! What the exporter must, may and must not report at a scrape, by the facts and the documents alone. It shares no code
//! with the exporter. Where the documents allow a delay, the oracle allows it, too: within it the report is "may".

use std::collections::BTreeMap;

use crate::facts::{Checks, Facts, Life, NodeFacts, Redis, Sample, Way, figure};
use crate::schedule::KEYS;

/// What is expected of one invariant and subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Must,
    May,
    MustNot,
}

/// By invariant and subject.
pub(crate) type Expectations = BTreeMap<(String, String), Expected>;

/// The delay that a busy machine may add to a heartbeat.
const BUSY: f64 = 5.0;

/// How long a counter may have requests in the future after the clock that was ahead is right again.
const FUTURE: f64 = 120.0;

/// How long after the machine stalled nothing is expected of a scrape.
const STILL: f64 = 3.0;

/// What a scrape from `begun` to `ended` is expected to report.
pub(crate) fn expectations(facts: &Facts, begun: f64, ended: f64) -> Expectations {
    let mut expected = Expectations::new();
    for (number, node) in facts.nodes.iter().enumerate() {
        if node.born > ended {
            continue;
        }
        let mut add = |name: &str, what| {
            // The id may be that of an earlier process: the latest one counts.
            expected.insert((name.to_owned(), node.id.clone()), what);
        };
        let replaced = node.replaced.is_some_and(|at| at <= ended);
        if replaced {
            // The state of a node whose address now answers with another id: the documents leave it open for an hour.
            add("node_down", Expected::May);
            add("redis_disconnected", Expected::May);
            add("high_latency", Expected::May);
            add_canary(&mut expected, facts, node, Expected::May);
            continue;
        }
        add("node_down", node_down(facts, node, begun, ended));
        add("redis_disconnected", lost_redis(facts, node, begun, ended));
        add("high_latency", high_latency(facts, number, begun, ended));
        let canary = fails_open(facts, node, begun, ended);
        add_canary(&mut expected, facts, node, canary);
    }
    let configured = ("node_down".to_owned(), facts.configured.clone());
    expected.insert(configured, configured_address(facts, begun, ended));
    let redis = ("redis_disconnected".to_owned(), "redis".to_owned());
    expected.insert(redis, redis_down(facts, begun, ended));
    for key in 0..KEYS {
        let subject = format!("user:{key}");
        let (ghost, drift) = counter(facts, key, begun, ended);
        expected.insert(("ghost_allowing".to_owned(), subject.clone()), ghost);
        expected.insert(("counter_drift".to_owned(), subject.clone()), drift);
        let invalid = invalid_counter(facts, begun, ended);
        expected.insert(("invalid_counter".to_owned(), subject), invalid);
    }
    if facts.hiccup(begun - STILL, ended) {
        // The machine was busy: requests may have timed out.
        for what in expected.values_mut() {
            *what = Expected::May;
        }
    }
    expected
}

/// Without canaries there is no such subject.
fn add_canary(expected: &mut Expectations, facts: &Facts, node: &NodeFacts, what: Expected) {
    if facts.canary {
        let subject = format!("canary:{}", node.id);
        expected.insert(("ghost_allowing".to_owned(), subject), what);
    }
}

fn readable(redis: Redis) -> bool {
    matches!(redis, Redis::Up | Redis::ReadOnly | Redis::Full)
}

/// Whether the exporter has seen the node alive and registered in a collection since it last forgot everything.
fn was_seen(facts: &Facts, node: &NodeFacts, before: f64) -> bool {
    let heartbeat = facts.times.heartbeat + BUSY;
    let (runs_since, runs) = facts.exporter.since(before);
    let mut scrapes = facts.scrapes.iter();
    runs && scrapes.any(|(begun, ended)| {
        let whole = |holds: bool| holds && *begun >= runs_since && *ended <= before;
        whole(*begun >= node.born)
            && node
                .life
                .always(begun - 0.5, *ended, |life| life == Life::Runs)
            && facts
                .redis
                .always(begun - heartbeat, *ended, |redis| redis == Redis::Up)
            && node
                .way
                .always((begun - heartbeat).max(node.born), *ended, |way| {
                    way == Way::Open
                })
    })
}

/// Whether a collection since `at` could read the registry. Without it the exporter cannot know that a node left or
/// moved.
fn registry_read(facts: &Facts, at: f64, begun: f64, ended: f64) -> bool {
    let this = (begun, ended);
    let mut scrapes = facts.scrapes.iter().chain([&this]);
    scrapes.any(|(begun, ended)| {
        *begun >= at + 0.5
            && facts
                .redis
                .always(begun - 0.5, *ended, |redis| redis == Redis::Up)
    })
}

fn emptied(facts: &Facts, from: f64, to: f64) -> bool {
    facts.emptied.iter().any(|at| (from..=to).contains(at))
}

fn node_down(facts: &Facts, node: &NodeFacts, begun: f64, ended: f64) -> Expected {
    let heartbeat = facts.times.heartbeat + BUSY;
    let ttl = facts.times.registration_ttl;
    let (since, life) = node.life.since(begun);
    let down = |life| matches!(life, Life::Killed | Life::Hangs | Life::Far);
    if down(life) && node.life.always(begun, ended, down) {
        let died = first_of_the_fault(node, since);
        // The exporter may take a registration that disappeared early for a clean stop, unless it saw the registration
        // before.
        let doubtful = emptied(facts, died - heartbeat, died + ttl + 1.0)
            || !facts
                .redis
                .always(died - heartbeat, died, |redis| redis == Redis::Up)
            || !node
                .way
                .always((died - heartbeat).max(node.born), died, |way| {
                    way == Way::Open
                });
        // Without a state file, a restart forgets the node. Its registration may have expired meanwhile.
        let remembered = facts.state_file || facts.exporter.always(died, ended, |runs| runs);
        let known = remembered && was_seen(facts, node, died);
        return if known && !doubtful && begun - died < 3_000.0 {
            Expected::Must
        } else {
            Expected::May
        };
    }
    if life == Life::Stopped && node.life.always(begun, ended, |life| life == Life::Stopped) {
        let deleted = facts
            .redis
            .always(since - 1.0, since + 1.0, |redis| redis == Redis::Up)
            && node
                .way
                .always((since - 1.0).max(node.born), since, |way| way == Way::Open)
            && was_seen(facts, node, since)
            && facts.exporter.always(since - 12.0, ended, |runs| runs)
            && facts.kept_since(since) <= since;
        return if deleted && registry_read(facts, since, begun, ended) {
            Expected::MustNot
        } else {
            Expected::May
        };
    }
    let settled = (begun - 3.0).max(node.born + 1.0);
    let runs = node.life.always(settled, ended, |life| life == Life::Runs);
    let found = registry_read(facts, facts.kept_since(node.moved), begun, ended);
    if settled < begun && runs && found && answers_quickly(node, begun, ended) {
        return Expected::MustNot;
    }
    Expected::May
}

/// Whether the node answers the test far within the exporter's timeout of 1 s. On a busy machine it may not.
fn answers_quickly(node: &NodeFacts, begun: f64, ended: f64) -> bool {
    let near = |checks: &&Checks| checks.to >= begun - 1.5 && checks.to <= ended + 2.5;
    let mut near = node.checks.iter().filter(near).peekable();
    near.peek().is_some() && near.all(|checks| checks.took < 0.3)
}

/// When the fault began. For a node that was killed while it hung, this is when it began to hang: the exporter cannot
/// distinguish the two.
fn first_of_the_fault(node: &NodeFacts, since: f64) -> f64 {
    match node.life.since(since - 0.001) {
        (before, Life::Hangs) if before < since => before,
        _ => since,
    }
}

/// How long before a scrape the last check of a canary that must be refused may be, apart from the interval.
const REFUSAL_EVERY: f64 = 33.0;

fn fails_open(facts: &Facts, node: &NodeFacts, begun: f64, ended: f64) -> Expected {
    if !node.open.ever(node.born, ended, |open| open) {
        return Expected::MustNot;
    }
    let interval = facts.longest_interval(begun - REFUSAL_EVERY, begun);
    let since = begun - REFUSAL_EVERY - interval;
    let answered = node.way.always(since, ended, |way| way == Way::Open)
        && node.life.always(since, ended, |life| life == Life::Runs)
        && facts.redis.always(since, ended, |redis| redis == Redis::Up)
        && facts.exporter.always(since, ended, |runs| runs)
        && was_seen(facts, node, since)
        && answers_quickly(node, begun, ended)
        && !facts.hiccup(since, ended);
    if answered && node.open.always(since, ended, |open| open) {
        Expected::Must
    } else if answered && !node.open.ever(since, ended, |open| open) {
        Expected::MustNot
    } else {
        Expected::May
    }
}

fn redis_down(facts: &Facts, begun: f64, ended: f64) -> Expected {
    let away = |redis| {
        matches!(
            redis,
            Redis::Dead | Redis::Stalled | Redis::Far | Redis::Denied
        )
    };
    if facts.redis.always(begun, ended, away) {
        Expected::Must
    } else if facts.redis.always(begun - 1.5, ended, readable) {
        Expected::MustNot
    } else {
        Expected::May
    }
}

fn lost_redis(facts: &Facts, node: &NodeFacts, begun: f64, ended: f64) -> Expected {
    let heartbeat = facts.times.heartbeat + BUSY;
    let overdue = 2.0 * facts.times.heartbeat + 2.0;
    let ttl = facts.times.registration_ttl;
    let interval = facts.longest_interval(begun - overdue, begun);
    let since = begun - overdue - interval;
    let runs = node
        .life
        .always(since.max(node.born), ended, |life| life == Life::Runs);
    let cut = node
        .way
        .always(since, ended, |way| !matches!(way, Way::Open | Way::Slow))
        && facts
            .redis
            .always(since - heartbeat, ended, |redis| redis == Redis::Up);
    // A node that reached Redis meanwhile has the time of two heartbeats: its checks were answered.
    let denied = node
        .way
        .always(since - heartbeat, ended, |way| way == Way::Open)
        && (facts.redis.always(since, ended, |redis| redis == Redis::Full)
            // The registrations of a replica without its primary are unknown: only failing checks are evidence.
            || facts.redis.always(since, ended, |redis| redis == Redis::ReadOnly)
                && facts.traffic.always(since, ended, |rate| rate >= 60))
        // Its checks are answered, whatever becomes of Redis.
        && !node.open.ever(since - heartbeat, ended, |open| open);
    // Each collection sends a canary. Nothing else shows that answers of Redis come too late.
    let canary_fails = facts.canary
        && node.way.always(begun - interval - 2.0, ended, |way| {
            matches!(way, Way::Refused | Way::Hangs | Way::Slow)
        })
        && facts
            .redis
            .always(since - heartbeat, ended, |redis| redis == Redis::Up)
        && !facts.hiccup(since, ended);
    let steady = !emptied(facts, since - ttl - heartbeat, ended);
    // What the exporter saw before counts only as long as it runs.
    let watched = facts.exporter.always(since, ended, |runs| runs);
    if runs && (cut || denied || canary_fails) && steady && watched && was_seen(facts, node, since)
    {
        return Expected::Must;
    }
    let calm = begun - heartbeat;
    let healthy = node
        .way
        .always(calm.max(node.born), ended, |way| way == Way::Open)
        && node
            .life
            .always(calm.max(node.born), ended, |life| life == Life::Runs)
        && facts.redis.always(calm, ended, |redis| redis == Redis::Up)
        && !facts.malformed_key.ever(calm, ended, |there| there);
    if healthy && answers_quickly(node, begun, ended) {
        return Expected::MustNot;
    }
    Expected::May
}

fn high_latency(facts: &Facts, number: usize, begun: f64, ended: f64) -> Expected {
    let (window, grace) = (facts.times.latency_window, facts.times.latency_grace);
    let node = &facts.nodes[number];
    if begun - node.born < grace || !could_be_slow(facts, node, begun) {
        return Expected::MustNot;
    }
    let interval = facts.longest_interval(begun - 6.0 * window, begun);
    let works = |since: f64| {
        node.way
            .always(since - window, ended, |way| way == Way::Open)
            && node
                .life
                .always(since - 1.0, ended, |life| life == Life::Runs)
            && facts
                .redis
                .always(since - window, ended, |redis| redis == Redis::Up)
            && facts.exporter.always(since - interval, ended, |runs| runs)
    };
    let since = begun - (grace + 3.0 + 2.0 * interval);
    let steadily = node.delay.always(since, ended, |delay| delay >= 120)
        && facts.traffic.always(since, ended, |rate| rate >= 60)
        && interval <= window / 3.0;
    // The next slow check after the grace period is reported. It may have to be newer than all checks that the exporter
    // takes together.
    let together = (window / 3.0).max(interval);
    let long_since = since - interval - together - BREAK * window;
    let now_and_then = interval <= window / 2.0 + 1.0
        && node
            .checks
            .last()
            .is_some_and(|last| last.to >= begun - 3.0)
        && checks_between(node, long_since, begun)
            .all(|checks| slow_now_and_then(node, window, interval, checks.to))
        && !facts.hiccup(long_since, ended);
    if steadily && works(since) || now_and_then && works(long_since) {
        Expected::Must
    } else {
        Expected::May
    }
}

/// How much of a window may be between two slow checks that come now and then.
const BREAK: f64 = 0.7;

fn checks_between(node: &NodeFacts, from: f64, to: f64) -> impl Iterator<Item = &Checks> {
    let checks = node.checks.iter().rev();
    let checks = checks.skip_while(move |checks| checks.to > to);
    checks.take_while(move |checks| checks.from >= from)
}

/// Whether some checks in the window before `at` were slow: enough for the p99, and too few to be missed when none come
/// for a while.
fn slow_now_and_then(node: &NodeFacts, window: f64, interval: f64, at: f64) -> bool {
    let sums = |span: f64| {
        let sum = |(all, slow), checks: &Checks| (all + checks.all, slow + checks.slow);
        checks_between(node, at - span, at).fold((0.0, 0.0), sum)
    };
    let (_, newest) = sums(BREAK * window);
    // The exporter's window begins at a collection, up to half an interval earlier or later.
    let (_, slow) = sums(window - interval / 2.0 - 3.0);
    let (all, most) = sums(window + interval / 2.0 + 3.0);
    newest >= 1.0 && slow >= 1.0 && slow >= 0.03 * all && most <= 6.0
}

/// Whether slow checks came for so long that they can be reported now: the p99 needs some in each window, and the newest
/// must come a grace period after the first. Checks within the last third of the window count as coming now, as long as
/// there was no break.
fn could_be_slow(facts: &Facts, node: &NodeFacts, begun: f64) -> bool {
    let (window, grace) = (facts.times.latency_window, facts.times.latency_grace);
    // The span that counts as now.
    let recent = window / 3.0;
    let interval = facts.longest_interval(begun - 3.0 * window, begun);
    let seen = || node.checks.iter().filter(|checks| checks.slow > 0.0);
    let (mut first, mut last, mut longest_break) = (begun, None, 0.0_f64);
    for checks in seen().rev().filter(|checks| checks.from <= begun) {
        if first - checks.to > window + 2.0 + 2.0 * interval {
            break;
        }
        if last.is_some() {
            longest_break = longest_break.max(first - checks.to);
        }
        first = checks.from;
        last.get_or_insert(checks.to);
    }
    let now = if longest_break > recent + 2.0 + 2.0 * interval {
        0.0
    } else {
        recent
    };
    if last.unwrap_or(first) - first < grace - now - 2.0 {
        return false;
    }
    // If there were many slow checks in the minute before, and then many checks without a slow one, the fault was over.
    let quiet = recent + 5.0 + 2.0 * interval;
    let mut over = seen().filter(|checks| {
        let (from, to) = (checks.to, checks.to + quiet);
        let quiet_since = seen().all(|other| other.to <= from || other.from >= to);
        let many: f64 = seen()
            .filter(|other| other.from >= from - window / 2.0 && other.to <= from)
            .map(|other| other.slow)
            .sum();
        let flows = facts
            .traffic
            .always(from - window, begun, |rate| rate >= 60)
            && node.life.always(from, begun, |life| life == Life::Runs)
            && node.way.always(from, begun, |way| way == Way::Open)
            && facts.redis.always(from, begun, |redis| redis == Redis::Up);
        to <= begun && begun - to < grace - recent - 5.0 && quiet_since && many >= 100.0 && flows
    });
    over.next().is_none()
}

/// What is expected of the address in `--ratelimiter.url` as a node. It is a node of its own as long as the exporter
/// has never seen an id there.
fn configured_address(facts: &Facts, begun: f64, ended: f64) -> Expected {
    let ttl = facts.times.registration_ttl;
    let there = |node: &&NodeFacts| node.address == facts.configured && node.born <= begun;
    let Some(node) = facts.nodes.iter().rfind(there) else {
        return Expected::May;
    };
    let settled = (begun - 3.0).max(node.born + 1.0);
    let runs = node.life.always(settled, ended, |life| life == Life::Runs);
    if settled < begun && runs && answers_quickly(node, begun, ended) {
        return Expected::MustNot;
    }
    let (runs_since, _) = facts.exporter.since(begun);
    let (gone_since, _) = node.life.since(begun);
    let gone = |life| !matches!(life, Life::Runs | Life::Far);
    // When the exporter starts, it knows nothing of the node: there is neither its registration nor a state file.
    let unknown = !facts.state_file
        && runs_since > 5.0
        && node.life.always(runs_since - ttl - 2.0, ended, gone)
        && node.born < runs_since - ttl - 2.0
        && gone_since < runs_since - ttl - 2.0
        && facts
            .redis
            .always(runs_since - ttl, ended, |redis| redis == Redis::Up);
    if unknown {
        Expected::Must
    } else {
        Expected::May
    }
}

/// Only clocks that are ahead cause requests in the future here. The schedule does not show whether they come for as
/// long as the grace period.
fn invalid_counter(facts: &Facts, begun: f64, ended: f64) -> Expected {
    let mut nodes = facts.nodes.iter();
    let from = begun - FUTURE;
    if nodes.any(|node| node.ahead.ever(from, ended, |millis| millis >= 2_000)) {
        Expected::May
    } else {
        Expected::MustNot
    }
}

/// What is expected of `ghost_allowing` and `counter_drift`.
fn counter(facts: &Facts, key: usize, begun: f64, ended: f64) -> (Expected, Expected) {
    let window = facts.times.window;
    let interval = facts.longest_interval(begun - 2.0 * window, begun);
    let above = |sample: &Sample, ratio: f64| {
        let limit = sample.limit.map(figure);
        limit.is_some_and(|limit| figure(sample.count) > limit * ratio)
    };
    let seen_since = |from: f64| {
        let samples = facts.samples[key].iter();
        samples.filter(move |sample| sample.at >= from)
    };
    // A replica without its primary has old counters, which are unknown. The soak makes Redis read-only in this way.
    let fresh = |redis| matches!(redis, Redis::Up | Redis::Full);
    let up = |from: f64| facts.redis.always(from, ended, fresh);
    let changed = |from: f64| {
        let mut changes = facts.limit_changes[key].iter();
        changes.any(|at| (from..=ended).contains(at))
    };
    // It was above the limit for at least `grace`, and the window after a lowered limit is over.
    let must = |ratio: f64, grace: f64| {
        let since = begun - grace - 1.0;
        seen_since(since).filter(|sample| sample.at < begun).count() >= 2
            && seen_since(since).all(|sample| above(sample, ratio))
            && up(since - 1.5)
            && !changed(since - window - interval - 5.0)
            && facts.exporter.always(since - interval, ended, |runs| runs)
    };
    // It could be read and judged all the time, so no violation is held.
    let legible = up(begun - 2.0)
        && !changed(begun - 2.0)
        && seen_since(begun - facts.times.unknown_hold).all(|sample| sample.limit.is_some())
        && seen_since(begun - 2.0)
            .filter(|sample| sample.at < begun)
            .count()
            >= 2;
    let never = |ratio: f64, from: f64| seen_since(from).all(|sample| !above(sample, ratio));
    let expected = |must: bool, must_not: bool| match (must, must_not) {
        (true, _) => Expected::Must,
        (_, true) => Expected::MustNot,
        _ => Expected::May,
    };
    let ghost = expected(must(1.0, 0.0), legible && never(1.0, begun - 2.0));
    let drifted =
        seen_since(begun - (facts.times.drift_grace - 2.0)).filter(|sample| sample.at < begun);
    let just_begun = drifted.clone().any(|sample| !above(sample, 1.1));
    let never_drifted = never(1.1, begun - 2.0) || just_begun;
    let grace = facts.times.drift_grace;
    let drift = expected(must(1.1, grace + interval), legible && never_drifted);
    (ghost, drift)
}
