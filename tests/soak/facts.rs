//! The facts: each is a series of values over time, in seconds from the start. The oracle reads them. None of them
//! comes from the exporter.

use crate::schedule::Times;

/// A value over time.
#[derive(Clone, Debug)]
pub(crate) struct Track<T>(Vec<(f64, T)>);

impl<T: Copy + PartialEq> Track<T> {
    pub(crate) fn new(at: f64, value: T) -> Self {
        Self(vec![(at, value)])
    }

    /// From `at` on, the value is `value`.
    pub(crate) fn set(&mut self, at: f64, value: T) {
        self.0.push((at, value));
    }

    pub(crate) fn now(&self) -> T {
        self.0[self.0.len() - 1].1
    }

    /// Every value between two moments, including the one in force at the first moment.
    fn between(&self, from: f64, to: f64) -> impl Iterator<Item = T> {
        let first = self.0.iter().rposition(|(at, _)| *at <= from);
        let rest = self.0[first.unwrap_or(0)..].iter();
        rest.take_while(move |(at, _)| *at <= to)
            .map(|(_, value)| *value)
    }

    /// Whether it held all the time.
    pub(crate) fn always(&self, from: f64, to: f64, holds: impl Fn(T) -> bool) -> bool {
        self.0[0].0 <= from && self.between(from, to).all(holds)
    }

    /// Whether it held at some time.
    pub(crate) fn ever(&self, from: f64, to: f64, holds: impl Fn(T) -> bool) -> bool {
        self.between(from, to).any(holds)
    }

    /// The value at `at`, and since when it has been that.
    pub(crate) fn since(&self, at: f64) -> (f64, T) {
        let place = self.0.iter().rposition(|(begun, _)| *begun <= at);
        self.0[place.unwrap_or(0)]
    }
}

/// A node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Runs,
    Hangs,
    /// It renews its registration, and answers later than the exporter waits.
    Far,
    Killed,
    Stopped,
}

/// A node's connection to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    Refused,
    Hangs,
    /// It is open, and its answers come later than the node's clients wait.
    Slow,
    /// It is open, and no heartbeat comes.
    WithoutHeartbeats,
    /// It leads to a server that is no longer the primary.
    FormerPrimary,
}

/// Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redis {
    Up,
    Dead,
    Stalled,
    /// Its answers come later than the exporter waits. The nodes reach it.
    Far,
    ReadOnly,
    Full,
    /// It requires a password, which no client has.
    Denied,
    /// The replica is being promoted: some sentinels name the former primary, some the new one.
    FailsOver,
}

/// One node under one id.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) id: String,
    /// Where it listens now.
    pub(crate) address: String,
    /// When it began to listen there.
    pub(crate) moved: f64,
    pub(crate) born: f64,
    /// When another id took its port.
    pub(crate) replaced: Option<f64>,
    pub(crate) life: Track<Life>,
    pub(crate) way: Track<Way>,
    /// Milliseconds that checks take longer.
    pub(crate) delay: Track<u64>,
    /// Whether it admits every check.
    pub(crate) open: Track<bool>,
    /// Milliseconds that its clock is ahead.
    pub(crate) ahead: Track<u32>,
    /// The checks that its own histogram counted.
    pub(crate) checks: Vec<Checks>,
}

/// Checks of one node, as its histogram counted them between two readings of the test. On a busy machine the schedule
/// does not show which checks were slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) all: f64,
    /// How many took longer than 50 ms.
    pub(crate) slow: f64,
    /// How long the second reading took, in seconds.
    pub(crate) took: f64,
}

/// A counter in Redis, as the test read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: f64,
    pub(crate) count: u64,
    /// `None` if the stored value is not a limit.
    pub(crate) limit: Option<u64>,
}

/// All facts.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) times: Times,
    pub(crate) nodes: Vec<NodeFacts>,
    /// The address in `--ratelimiter.url`.
    pub(crate) configured: String,
    /// Whether the exporter sends canaries.
    pub(crate) canary: bool,
    /// Whether the exporter keeps its state in a file.
    pub(crate) state_file: bool,
    pub(crate) redis: Track<Redis>,
    /// When registrations were deleted by others than their nodes.
    pub(crate) emptied: Vec<f64>,
    /// Writes from the first moment on were lost at the second one, in a failover.
    pub(crate) lost: Vec<(f64, f64)>,
    /// Checks a second.
    pub(crate) traffic: Track<u64>,
    /// Seconds between scrapes.
    pub(crate) interval: Track<u64>,
    /// Whether the exporter runs.
    pub(crate) exporter: Track<bool>,
    /// Whether there is a malformed key with requests.
    pub(crate) malformed_key: Track<bool>,
    /// For each key: its samples, and when its limit changed.
    pub(crate) samples: Vec<Vec<Sample>>,
    pub(crate) limit_changes: Vec<Vec<f64>>,
    /// Scrapes that were answered: begun and ended.
    pub(crate) scrapes: Vec<(f64, f64)>,
    /// Spans in which the machine stalled: no process was on time.
    pub(crate) hiccups: Vec<(f64, f64)>,
}

impl Facts {
    /// Since when a write of `at` is in Redis for good: at once or, if a failover lost it, since the next heartbeat.
    pub(crate) fn kept_since(&self, at: f64) -> f64 {
        self.lost.iter().fold(at, |at, (from, to)| {
            if (*from..=*to).contains(&at) {
                to + self.times.heartbeat + 1.0
            } else {
                at
            }
        })
    }

    /// The longest interval between two collections that overlaps this span.
    pub(crate) fn longest_interval(&self, from: f64, to: f64) -> f64 {
        let mut longest: f64 = 0.0;
        let mut before = 0.0;
        for (begun, _) in self.scrapes.iter().chain([&(to, to)]) {
            if *begun >= from {
                longest = longest.max(begun - before);
            }
            before = *begun;
        }
        longest
    }

    /// Whether the machine stalled at some time in this span.
    pub(crate) fn hiccup(&self, from: f64, to: f64) -> bool {
        let mut hiccups = self.hiccups.iter().rev();
        hiccups.any(|(begun, ended)| *begun <= to && *ended >= from)
    }
}

/// A count as a float.
pub(crate) fn figure(many: u64) -> f64 {
    u32::try_from(many).map_or(f64::INFINITY, f64::from)
}
