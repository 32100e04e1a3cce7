//! A day of a limiter, look by look: faults that begin, last and end at random, over each other and again, by a seed. Unlike
//! the random recordings, where each look is another world, what is true at one look mostly is at the next.

use std::collections::BTreeMap;

use super::recordings::{
    FEWER, KEYS, Key, Look, Metrics, NODES, Newest, Node, Read, Recording, Rule, Settings,
};

const DAY: i64 = 86_400_000;

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of[at]
    }
}

/// Something that is wrong until a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Down(&'static str),
    Unprobed(&'static str),
    Gone(&'static str),
    CutOff(&'static str),
    Slow(&'static str),
    /// A few slow checks, and then too few checks to judge.
    Stalled(&'static str),
    Idle(&'static str),
    Unread(&'static str),
    FailsOpen(&'static str),
    RedisAway,
    Over(&'static str, u64),
    Lowered(&'static str),
    Unjudged(&'static str),
    Partly,
}

fn fault(random: &mut Random) -> Fault {
    let node = random.one_of(&NODES);
    let key = random.one_of(&KEYS);
    match random.below(16) {
        0 => Fault::Down(node),
        1 => Fault::Unprobed(node),
        2 => Fault::Gone(node),
        3 => Fault::CutOff(node),
        4 | 5 => Fault::Slow(node),
        6 => Fault::Stalled(node),
        7 => Fault::Idle(node),
        8 => Fault::Unread(node),
        9 => Fault::FailsOpen(node),
        10 => Fault::RedisAway,
        11 | 12 => Fault::Over(key, random.one_of(&[1, 2, 5, 60])),
        13 => Fault::Lowered(key),
        14 => Fault::Unjudged(key),
        _ => Fault::Partly,
    }
}

/// A day under the usual settings.
pub(super) fn day(seed: u64) -> Recording {
    let mut random = Random(seed);
    let rule = |grace, threshold| Rule {
        enabled: true,
        grace,
        threshold,
    };
    let settings = Settings {
        rules: vec![
            rule(0, 0),
            rule(0, 0),
            rule(60_000, 500),
            rule(30_000, 100),
            rule(0, 0),
        ],
        unknown_hold: 300_000,
        lowered_limit_grace: true,
    };
    let start = 1_700_000_000_000;
    let (mut now, mut looks) = (start, Vec::new());
    let mut faults: Vec<(Fault, i64, i64)> = Vec::new();
    while now < start + DAY {
        faults.retain(|(_, _, until)| *until > now);
        if random.below(4) == 0 {
            let lasts = random.one_of(&[1, 20_000, 59_000, 61_000, 200_000, 400_000, 1_500_000]);
            faults.push((fault(&mut random), now, now + lasts));
        }
        looks.push(look(now, &faults, &mut random));
        // Two servers, a gap, and now and then the clock that stands still.
        now += random.one_of(&[15_000, 30_000, 45_000, 60_000, 60_000, 90_000]);
        if random.below(200) == 0 {
            now += random.one_of(&[-40_000, 600_000, 4_000_000]);
        }
    }
    Recording { settings, looks }
}

fn look(now: i64, faults: &[(Fault, i64, i64)], random: &mut Random) -> Look {
    let is = |fault| faults.iter().any(|(other, ..)| *other == fault);
    let away = is(Fault::RedisAway);
    let mut nodes = BTreeMap::new();
    let mut metrics = BTreeMap::new();
    for id in NODES.into_iter().filter(|id| !is(Fault::Gone(id))) {
        let (down, unprobed) = (is(Fault::Down(id)), is(Fault::Unprobed(id)));
        let cut_off = is(Fault::CutOff(id));
        let node = Node {
            state: (!unprobed).then_some(if down { "Down" } else { "Up" }),
            reason: (down || unprobed).then_some("no answer"),
            redis: (!away).then_some(!cut_off),
            redis_reason: (away || cut_off).then_some("heartbeat overdue"),
            canary: Some(!is(Fault::FailsOpen(id))),
        };
        nodes.insert(id, node);
        if !is(Fault::Unread(id)) {
            metrics.insert(id, latency(id, &is, random));
        }
    }
    let keys = KEYS.into_iter().filter(|key| !is(Fault::Unjudged(key)));
    let keys = keys.map(|key| (key, counter(now, key, faults)));
    let read = match (away, is(Fault::Partly)) {
        (true, _) => Read::Failed,
        (_, true) => Read::Partial(Vec::new()),
        _ => Read::Full,
    };
    Look {
        wall: Some(now),
        steady: None,
        nodes,
        metrics,
        window: None,
        redis: Some(!away),
        redis_reason: away.then_some("PING: no answer within 1s"),
        keys: if away {
            BTreeMap::new()
        } else {
            keys.collect()
        },
        read,
        unjudged: KEYS
            .into_iter()
            .filter(|key| is(Fault::Unjudged(key)))
            .collect(),
    }
}

fn latency(id: &'static str, is: &impl Fn(Fault) -> bool, random: &mut Random) -> Metrics {
    let (slow, stalled, idle) = (
        is(Fault::Slow(id)),
        is(Fault::Stalled(id)),
        is(Fault::Idle(id)),
    );
    let p99 = if slow || stalled { 1_200 } else { 80 };
    let newest = Newest {
        p99: Some(if slow { 1_200 } else { 80 }),
        bucket: None,
        reach: random.one_of(&[10_000, 15_000, 20_000, 30_000, 60_000, 90_000]),
        slow: random.one_of(&FEWER).0,
    };
    Metrics {
        p99: (!idle).then_some(p99),
        bucket: None,
        newest: Some(newest),
        canary: None,
        canary_newest: None,
        source: Some("ratelimiter_check_duration_seconds"),
        why: idle.then_some("no_samples"),
    }
}

fn counter(now: i64, key: &'static str, faults: &[(Fault, i64, i64)]) -> Key {
    let over = faults.iter().find_map(|(fault, ..)| match fault {
        Fault::Over(other, more) if *other == key => Some(*more),
        _ => None,
    });
    let fell = faults.iter().find_map(|(fault, since, _)| {
        (*fault == Fault::Lowered(key)).then_some((100, now - since, None))
    });
    let (limit, count) = match (over, fell) {
        (_, Some(_)) => (20, 70),
        (Some(more), None) => (100, 100 + more),
        (None, None) => (100, 40),
    };
    Key {
        count,
        limit,
        remaining: limit.saturating_sub(count),
        window: Some(60_000),
        fell,
        counted: None,
    }
}
