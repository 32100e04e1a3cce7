//! The schedule of a seed: faults and harmless events, overlapping and repeated. Pure.

use std::fmt;

use crate::random::Random;

/// The keys under traffic.
pub(crate) const KEYS: usize = 6;

/// Something that happens to the limiter, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// SIGKILL; later it is started again under its id.
    NodeKilled(usize),
    /// One node after the other is stopped and started again.
    RollingRestart,
    /// SIGKILL; at once another id starts on its port.
    NodeReplaced(usize),
    /// SIGKILL; at once it starts again under its id, on another port.
    NodeMoved(usize),
    /// Its clock is ahead of the others by this many milliseconds.
    ClockAhead(usize, u32),
    /// SIGTERM; later it is started again.
    NodeStopped(usize),
    /// SIGSTOP, then SIGCONT.
    NodeHung(usize),
    /// Its connections to Redis are refused.
    LinkRefused(usize),
    /// Its connections to Redis swallow everything.
    LinkHangs(usize),
    /// Every check takes this many milliseconds more.
    SlowChecks(usize, u64),
    /// Two checks a second come, over all nodes, and one in this many of this node's is slow.
    SomeSlowChecks(usize, u64),
    /// It admits every check.
    FailsOpen(usize),
    /// The network between it and Redis delays everything by this many milliseconds, in each direction.
    LinkSlow(usize, u64),
    /// The network between it and the exporter is slow: `/health` and `/api/*` answer this many milliseconds later.
    NodeFar(usize, u64),
    /// It no longer renews its registration.
    HeartbeatsStop(usize),
    /// Its `/api/*` never answers.
    ApiHangs(usize),
    /// SIGKILL; later an empty one is started on the port.
    RedisKilled,
    /// SAVE and SIGKILL; later it is started again with its data.
    RedisRestarts,
    /// SIGSTOP, then SIGCONT.
    RedisStalls,
    /// The network between it and the exporter delays everything by this many milliseconds, in each direction.
    RedisFar(u64),
    /// It becomes a replica of a host that is dead.
    RedisReadOnly,
    /// It is out of memory.
    RedisFull,
    /// It requires a password, and all clients are disconnected.
    RedisDenies,
    /// All connections to it are closed.
    ConnectionsClosed,
    /// The replica is promoted. This node keeps the former primary, which was killed (true) or becomes a replica; the
    /// other nodes use the new one.
    RedisFailsOver(usize, bool),
    /// Writes do not reach the replica.
    ReplicaBehind,
    /// Everything is deleted.
    Flushed,
    /// The test adds entries without the limiter, so that there are this many more than the limit allows.
    CounterOver(usize, u64),
    /// The key's limit is set.
    LimitSet(usize, u64),
    /// What is stored as the key's limit is no number.
    LimitMalformed(usize),
    /// A malformed key gets requests all the time.
    KeyMalformed,
    /// The exporter is killed and started again.
    ExporterKilled,
    /// The exporter is stopped and started again.
    ExporterStopped,
    /// The exporter reads its configuration again, which has not changed.
    ExporterReloads,
    /// Checks a second, over all nodes.
    Traffic(u64),
    /// Seconds between two scrapes.
    Interval(u64),
}

/// One event: when it begins and when it ends, in milliseconds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: u64,
    pub(crate) until: u64,
    pub(crate) what: What,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |millis: u64| format!("{}.{}", millis / 1000, millis % 1000 / 100);
        let (at, until) = (seconds(self.at), seconds(self.until));
        write!(f, "{at:>6} s to {until:>6} s  {:?}", self.what)
    }
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) nodes: usize,
    pub(crate) canary: bool,
    pub(crate) state_file: bool,
    /// Whether Redis has a replica, and sentinels.
    pub(crate) replica: bool,
    pub(crate) times: Times,
    /// How many scrape.
    pub(crate) servers: usize,
    /// In order of their beginnings.
    pub(crate) events: Vec<Event>,
}

/// The times that the exporter and the nodes are set to, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) heartbeat: f64,
    pub(crate) registration_ttl: f64,
    /// The window of the counters.
    pub(crate) window: f64,
    pub(crate) latency_window: f64,
    pub(crate) latency_grace: f64,
    pub(crate) drift_grace: f64,
    pub(crate) unknown_hold: f64,
    /// How far apart scrapes may be, apart from 1 s and 5 s.
    intervals: [u64; 3],
}

impl Times {
    const DEFAULT: Self = Self {
        heartbeat: 10.0,
        registration_ttl: 30.0,
        window: 60.0,
        latency_window: 60.0,
        latency_grace: 60.0,
        drift_grace: 30.0,
        unknown_hold: 300.0,
        intervals: [15, 30, 60],
    };

    /// A third of the defaults, so that more happens in an hour. A registration lives for 15 s: the exporter reads it
    /// every 8 s, and it must not expire between two readings.
    const SHORT: Self = Self {
        heartbeat: 5.0,
        registration_ttl: 15.0,
        window: 20.0,
        latency_window: 20.0,
        latency_grace: 20.0,
        drift_grace: 10.0,
        unknown_hold: 100.0,
        intervals: [5, 10, 20],
    };
}

/// Seconds between two scrapes, of which only the first takes place before the event ends.
const GAP: u64 = 600;

/// No event comes before this: the exporter must first see everything healthy.
const CALM: u64 = 4_000;

impl Schedule {
    /// A schedule of `length` milliseconds.
    pub(crate) fn new(seed: u64, length: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = usize::try_from(random.within(3, 5)).unwrap_or(3);
        let (canary, state_file) = (random.once_in(3), !random.once_in(3));
        let servers = if random.once_in(3) { 2 } else { 1 };
        let replica = random.once_in(2);
        let times = random.one_of(&[Times::DEFAULT, Times::SHORT]);
        let mut events: Vec<Event> = Vec::new();
        let mut at = CALM;
        while at < length {
            let what = what(&mut random, nodes, replica, times);
            let until = at + lasts(&mut random, what);
            let event = Event { at, until, what };
            if !events.iter().any(|before| excludes(before, &event)) {
                events.push(event);
            }
            // Bursts, and pauses in which faults heal.
            at += random.one_of(&[200, 1_000, 3_000, 8_000, 15_000, 40_000]);
        }
        Self {
            nodes,
            canary,
            state_file,
            replica,
            times,
            servers,
            events,
        }
    }
}

fn what(random: &mut Random, nodes: usize, replica: bool, times: Times) -> What {
    let node = usize::try_from(random.below(nodes as u64)).unwrap_or(0);
    let key = usize::try_from(random.below(KEYS as u64)).unwrap_or(0);
    match random.below(if replica { 43 } else { 40 }) {
        0 | 1 => What::NodeKilled(node),
        2 => What::NodeReplaced(node),
        3 | 4 => What::NodeStopped(node),
        5 | 6 => What::NodeHung(node),
        7 => What::LinkRefused(node),
        8 => What::LinkHangs(node),
        9 | 10 => What::SlowChecks(node, random.one_of(&[120, 200, 400])),
        11 => What::ApiHangs(node),
        12 => What::RedisKilled,
        13 | 14 => What::RedisStalls,
        15 => What::RedisReadOnly,
        16 => What::RedisFull,
        17 => What::Flushed,
        18 => What::CounterOver(key, random.within(1, 20)),
        19 | 20 => What::LimitSet(key, random.one_of(&[0, 1, 5, 10, 20, 50])),
        21 => What::LimitMalformed(key),
        22 => What::KeyMalformed,
        23 => random.one_of(&[What::ExporterKilled, What::ExporterStopped]),
        24 => What::NodeMoved(node.max(1)),
        25 => What::RedisDenies,
        26 => What::ClockAhead(node, random.one_of(&[500, 2_000, 30_000])),
        28 => What::SomeSlowChecks(node, random.one_of(&[5, 15])),
        29 => What::HeartbeatsStop(node),
        30 => What::RollingRestart,
        31 => What::ConnectionsClosed,
        32 => What::ExporterReloads,
        33 | 34 => What::FailsOpen(node),
        35 => What::RedisRestarts,
        36 => What::LinkSlow(node, random.one_of(&[20, 100, 1_500, 6_000])),
        37 => What::NodeFar(node, random.one_of(&[300, 3_000])),
        38..=40 if replica => What::RedisFailsOver(node, random.once_in(2)),
        41 | 42 => What::ReplicaBehind,
        // Sentinels name the address of Redis itself, so there is no network to delay.
        38 | 39 => What::RedisFar(random.one_of(&[20, 100, 800])),
        _ => random.one_of(&[
            What::Traffic(0),
            What::Traffic(2),
            What::Traffic(60),
            What::Traffic(200),
            What::Interval(1),
            What::Interval(5),
            What::Interval(times.intervals[0]),
            What::Interval(times.intervals[1]),
            What::Interval(times.intervals[2]),
            What::Interval(GAP),
        ]),
    }
}

/// Milliseconds.
fn lasts(random: &mut Random, what: What) -> u64 {
    match what {
        What::RedisStalls => random.one_of(&[100, 800, 3_000, 20_000, 40_000]),
        What::ExporterKilled | What::ExporterStopped => random.one_of(&[100, 5_000, 20_000]),
        What::Flushed
        | What::NodeReplaced(_)
        | What::NodeMoved(_)
        | What::RollingRestart
        | What::ConnectionsClosed
        | What::ExporterReloads
        | What::Traffic(_) => 0,
        // Prometheus comes back.
        What::Interval(_) => random.one_of(&[15_000, 60_000, 130_000]),
        What::RedisFailsOver(..) => random.one_of(&[1_000, 20_000, 45_000, 90_000]),
        What::SomeSlowChecks(..) => random.one_of(&[75_000, 150_000, 240_000]),
        What::SlowChecks(..) => random.one_of(&[2_000, 20_000, 75_000, 110_000]),
        _ => random.one_of(&[1_000, 6_000, 20_000, 45_000, 75_000]),
    }
}

/// Whether both affect the same thing at the same time: the end of one would undo the other.
fn excludes(before: &Event, event: &Event) -> bool {
    let both_nodes = before.what.node().is_some() && event.what.node().is_some();
    let all_nodes = event.what == What::RollingRestart
        && (before.what.node().is_some() || before.what.is_about_redis());
    let same = both_nodes && before.what.node() == event.what.node() || all_nodes;
    let both_redis = before.what.is_about_redis() && event.what.is_about_redis();
    // While the former primary is away, or does not follow yet, there is no replica.
    let replica = event.what == What::ReplicaBehind
        && matches!(before.what, What::ReplicaBehind | What::RedisFailsOver(..));
    let same_key = before.what.key().is_some() && before.what.key() == event.what.key();
    let exporter = |what| matches!(what, What::ExporterKilled | What::ExporterStopped);
    let both_exporter = exporter(before.what) && exporter(event.what);
    let malformed = before.what == What::KeyMalformed && event.what == What::KeyMalformed;
    let interval = |what| matches!(what, What::Interval(_));
    let both_interval = interval(before.what) && interval(event.what);
    (same || both_redis || replica || same_key || both_exporter || malformed || both_interval)
        && event.at <= before.until + 500
}

impl What {
    /// Its name without its parameters.
    pub(crate) fn kind(self) -> String {
        let whole = format!("{self:?}");
        whole.split('(').next().unwrap_or_default().to_owned()
    }

    fn node(self) -> Option<usize> {
        match self {
            Self::NodeKilled(node)
            | Self::NodeReplaced(node)
            | Self::NodeMoved(node)
            | Self::ClockAhead(node, _)
            | Self::NodeStopped(node)
            | Self::NodeHung(node)
            | Self::LinkRefused(node)
            | Self::LinkHangs(node)
            | Self::SlowChecks(node, _)
            | Self::SomeSlowChecks(node, _)
            | Self::FailsOpen(node)
            | Self::LinkSlow(node, _)
            | Self::NodeFar(node, _)
            | Self::HeartbeatsStop(node)
            | Self::RedisFailsOver(node, _)
            | Self::ApiHangs(node) => Some(node),
            _ => None,
        }
    }

    fn key(self) -> Option<usize> {
        match self {
            Self::CounterOver(key, _) | Self::LimitSet(key, _) | Self::LimitMalformed(key) => {
                Some(key)
            }
            _ => None,
        }
    }

    fn is_about_redis(self) -> bool {
        matches!(
            self,
            Self::RedisKilled
                | Self::RedisRestarts
                | Self::RedisStalls
                | Self::RedisFar(_)
                | Self::RedisReadOnly
                | Self::RedisFull
                | Self::RedisDenies
                | Self::RedisFailsOver(..)
                | Self::Flushed
        )
    }
}
