//! What was true when: each fact as a line of values over time, in seconds from the start. The oracle reads it; nothing of
//! it comes from the exporter.

use crate::schedule::Times;

/// A value over time.
#[derive(Clone, Debug)]
pub(crate) struct Track<T>(Vec<(f64, T)>);

impl<T: Copy + PartialEq> Track<T> {
    pub(crate) fn new(at: f64, value: T) -> Self {
        Self(vec![(at, value)])
    }

    /// From `at` on it is `value`.
    pub(crate) fn set(&mut self, at: f64, value: T) {
        self.0.push((at, value));
    }

    pub(crate) fn now(&self) -> T {
        self.0[self.0.len() - 1].1
    }

    /// Every value between two moments, those in force at the first one included.
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

    /// When it last became what it is at `at`, and what that is.
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
    Killed,
    Stopped,
}

/// A node's way to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    Refused,
    Hangs,
    /// To a server that is not the primary any more.
    FormerPrimary,
}

/// Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redis {
    Up,
    Dead,
    Stalled,
    ReadOnly,
    Full,
    /// It wants a password, which nobody has.
    Denied,
    /// The replica is being promoted: some sentinels name the one server, some the other.
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
    /// Milliseconds that its clock is ahead.
    pub(crate) ahead: Track<u32>,
    /// What its own histogram counted.
    pub(crate) checks: Vec<Checks>,
}

/// Checks of one node, as its histogram counted them between two readings that have nothing to do with the exporter. Which
/// checks were slow on a busy machine, no schedule knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// How many took longer than 50 ms.
    pub(crate) slow: f64,
    /// Seconds that the second reading took.
    pub(crate) took: f64,
}

/// A look into Redis that has nothing to do with the exporter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: f64,
    pub(crate) count: u64,
    /// `None` if what is stored is no limit.
    pub(crate) limit: Option<u64>,
}

/// Everything that was true.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) times: Times,
    pub(crate) nodes: Vec<NodeFacts>,
    /// The address in `--ratelimiter.url`.
    pub(crate) configured: String,
    /// Whether the exporter keeps its state in a file.
    pub(crate) state_file: bool,
    pub(crate) redis: Track<Redis>,
    /// Moments at which registrations went without their nodes' doing.
    pub(crate) emptied: Vec<f64>,
    /// What was written from the first moment on was lost at the second one, in a failover.
    pub(crate) lost: Vec<(f64, f64)>,
    /// Checks a second.
    pub(crate) traffic: Track<u64>,
    /// Seconds between scrapes.
    pub(crate) interval: Track<u64>,
    /// Whether the exporter runs.
    pub(crate) exporter: Track<bool>,
    /// Whether there is a malformed key that is asked for.
    pub(crate) malformed_key: Track<bool>,
    /// By key: what was seen of it, and when its limit was changed.
    pub(crate) samples: Vec<Vec<Sample>>,
    pub(crate) limit_changes: Vec<Vec<f64>>,
    /// Scrapes that were answered: begun and ended.
    pub(crate) scrapes: Vec<(f64, f64)>,
    /// When the machine stood still, from and to: no process on it can keep to its times then.
    pub(crate) hiccups: Vec<(f64, f64)>,
}

impl Facts {
    /// From when on what was written at `at` is there for good: a failover may have lost it, until the next heartbeat.
    pub(crate) fn kept_since(&self, at: f64) -> f64 {
        self.lost.iter().fold(at, |at, (from, to)| {
            if (*from..=*to).contains(&at) {
                to + self.times.heartbeat + 1.0
            } else {
                at
            }
        })
    }

    /// The longest time between two collections, of those that reach into this span.
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

    /// Whether the machine stood still at some time.
    pub(crate) fn hiccup(&self, from: f64, to: f64) -> bool {
        let mut hiccups = self.hiccups.iter().rev();
        hiccups.any(|(begun, ended)| *begun <= to && *ended >= from)
    }
}

/// A number of things as a figure.
pub(crate) fn figure(many: u64) -> f64 {
    u32::try_from(many).map_or(f64::INFINITY, f64::from)
}
