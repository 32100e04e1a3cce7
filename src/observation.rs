//! What a collection read: plain data, and its JSON form. It decides nothing and fetches nothing.
//!
//! A value that could not be read is `None`, never zero, and a [`Failure`] beside it says why. The first four
//! fields of [`Observation`] are the whole of the minimal JSON form; everything else is optional.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod bounded;
mod condition;
mod failure;
mod key;
mod latency_window;

pub use condition::{Condition, CounterKind, Invalid, Lacks, LimiterKind, Refused};
pub use failure::{Collector, Failure, Reason};
pub use key::{
    LONGEST_SAVED_KEY, decode_key, encode_key, hash_key, is_cut_key, names_of, shown_key,
};
pub use latency_window::LatencyWindow;

/// Everything that one collection read, except the counters that it streamed to the checker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Observation {
    /// The limiter's nodes, by id.
    pub nodes: Vec<Node>,
    /// Counters: all of them in a replay, the exported ones (highest utilization first) in a live observation, these
    /// and all above their limits in a recording.
    pub counters: Vec<Counter>,
    /// What the nodes' own metrics say, by node id.
    pub node_metrics: BTreeMap<String, NodeMetrics>,
    /// The time span that their p99 covers, in seconds; 60 if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub latency_window_seconds: LatencyWindow,
    /// Whether Redis answered the exporter's PING in time; `null` when the collection was cut off before that.
    #[serde(deserialize_with = "required_nullable")]
    pub redis_connected: Option<bool>,
    /// When this was observed, by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// The same on the timeline that never steps, in a recording: a replay measures grace periods on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady_at: Option<Timestamp>,
    /// Whether the keys are hashes already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keys_hashed: bool,
    /// Redis as the exporter sees it.
    #[serde(default)]
    pub redis: RedisReading,
    /// Whether the management API answered; `None` if no request was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_up: Option<bool>,
    /// The limit and window of keys without a limit of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_limit: Option<Limit>,
    /// How far the counters were read.
    #[serde(default)]
    pub counters_read: CountersRead,
    /// Keys, as they are shown, that were read one by one and could not be judged, and why. Their violations in
    /// progress are held. For the checker, and for a recording.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unjudged: BTreeMap<String, Reason>,
    /// Which counters are listed.
    #[serde(skip)]
    pub listed: CountersListed,
    /// Exact totals over all live counters, listed or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<KeyTotals>,
    /// The kind of limiter, if it is known. Invariants about what it does not have are not applicable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limiter: Option<LimiterKind>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The outcome of each collector.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub collectors: BTreeMap<Collector, CollectorRun>,
}

/// Whether it is the default, which JSON leaves out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Requires the field, which may be `null`.
fn required_nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// One node of the limiter and what the evidence says about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The node's id as registered, or its address while no id is known.
    pub id: String,
    /// `host:port`, when known.
    #[serde(default)]
    pub address: Option<String>,
    /// `Up`, `Down`, or what the management API says; `null` if the evidence does not decide it.
    #[serde(deserialize_with = "required_nullable")]
    pub state: Option<String>,
    /// Which evidence decided the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the registration was written, as the limiter reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<String>,
    /// Seconds until the registration expires; `None` without a registration or without a TTL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ttl_seconds: Option<f64>,
    /// How long the node took to answer the request for its health, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_seconds: Option<f64>,
    /// Whether the node reaches Redis; `None` without evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_connected: Option<bool>,
    /// Which evidence decided `redis_connected`, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_reason: Option<String>,
    /// Whether the node refused the request of the canary that it must refuse; `None` if none was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_refused: Option<bool>,
    /// Why `canary_refused` is unknown although the request was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_reason: Option<String>,
}

impl Node {
    /// Whether the node is known to be up.
    pub fn is_up(&self) -> bool {
        self.state.as_deref() == Some("Up")
    }
}

/// A key's counter: the requests admitted inside its window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The key, as [`shown_key`] writes it.
    pub key: String,
    /// Requests admitted inside the window.
    pub count: u64,
    /// Requests allowed per window.
    pub limit: u64,
    /// Requests left, as the limiter or the exporter computes it.
    pub remaining: u64,
    /// The window in milliseconds, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// The limit before it was last seen to fall, while that still matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_from: Option<FallenLimit>,
    /// The state of its key, if its limiter is not the reference.
    #[serde(default, skip_serializing_if = "is_default")]
    pub condition: Condition,
    /// When it was last counted in this collection; on the timeline that never steps, in a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_at: Option<Timestamp>,
    /// When it was first counted in this collection, if it was counted more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_from: Option<Timestamp>,
}

impl Counter {
    /// `count / limit`; infinite when something was admitted under a limit of zero.
    pub fn utilization(&self) -> f64 {
        utilization(self.count, self.limit)
    }

    /// The counter as the checker takes it. `key` are the bytes of its key.
    pub fn view<'a>(&self, key: &'a [u8]) -> CounterView<'a> {
        CounterView {
            key,
            count: self.count,
            limit: self.limit,
            remaining: self.remaining,
            window_ms: self.window_ms,
            fell_from: self.fell_from,
            condition: self.condition,
        }
    }
}

/// A counter for the checker: [`Counter`] without owning the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterView<'a> {
    /// The key's bytes.
    pub key: &'a [u8],
    /// Requests admitted inside the window.
    pub count: u64,
    /// Requests allowed per window.
    pub limit: u64,
    /// Requests left.
    pub remaining: u64,
    /// The window in milliseconds, when known.
    pub window_ms: Option<u64>,
    /// The limit before it was last seen to fall, while that still matters.
    pub fell_from: Option<FallenLimit>,
    /// The state of its key.
    pub condition: Condition,
}

impl CounterView<'_> {
    /// Whether more was admitted than allowed: the count is above the limit, or the limit is zero and the limiter
    /// reports requests left. Counts that include refused requests do not prove it.
    pub fn is_above_limit(&self) -> bool {
        let most = self.condition.refused.most_admitted(self.limit);
        let (true, Some(most)) = (self.condition.lacks == Lacks::Nothing, most) else {
            return false;
        };
        self.count > most || (most == 0 && self.remaining > 0)
    }
}

/// How keys are shown in labels and JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyLabel {
    /// As they are, escaped and cut by [`shown_key`].
    #[default]
    Plain,
    /// As a hash, for keys that are personal data.
    Hash,
}

impl KeyLabel {
    /// `key` as it is shown.
    pub fn of(self, key: &[u8]) -> String {
        match self {
            Self::Plain => shown_key(key),
            Self::Hash => hash_key(key),
        }
    }
}

/// `count / limit`, zero for an untouched limit of zero and infinite for a broken one.
#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio for ranking and display: 53 bits are plenty"
)]
pub fn utilization(count: u64, limit: u64) -> f64 {
    match (count, limit) {
        (0, _) => 0.0,
        (_, 0) => f64::INFINITY,
        (count, limit) => count as f64 / limit as f64,
    }
}

/// A limit that was seen to fall: counts that were legal under it drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallenLimit {
    /// The limit before.
    pub limit: u64,
    /// When the fall was seen, on the steady timeline.
    pub at: Timestamp,
    /// Until when counts may be left over from before; one window after the fall if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A limit and the window it counts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limit {
    /// Requests allowed per window.
    pub limit: u64,
    /// The window in milliseconds.
    pub window_ms: u64,
}

/// What a node's own metrics say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeMetrics {
    /// The 99th percentile of the check latency over the window, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99_ms: Option<f64>,
    /// The histogram bucket that holds the p99, in seconds; without it the value itself counts as exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p99_bucket: Option<Bucket>,
    /// The source of the latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_source: Option<String>,
    /// The newest of the checks that the p99 covers. Only slow checks that are still coming prove that a node is slow;
    /// without this the p99 alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_newest: Option<NewestChecks>,
    /// The slowest canary of the window, in milliseconds: it decides where the bucket above cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_p99_ms: Option<f64>,
    /// The slowest of the newest canaries, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_newest_ms: Option<f64>,
    /// Why there is no latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_unknown: Option<String>,
    /// The check latency histogram as the node reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_duration: Option<Histogram>,
    /// `ratelimiter_requests_checked_total` by result, as the node reports it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests_checked: BTreeMap<String, f64>,
    /// 5xx answers to `/check`, as the node reports them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_errors: Option<f64>,
}

impl NodeMetrics {
    /// Whether only the bucket of the p99 is known, and the threshold lies inside it. Any figure in that bucket would
    /// be made up.
    pub(crate) fn p99_is_too_coarse(&self, threshold_seconds: f64) -> bool {
        let bucket = self.latency_p99_bucket;
        bucket.is_some_and(|bucket| bucket.side(threshold_seconds) == Side::Around)
    }

    /// Uses the canary's latency instead of the histogram's, if the canary measured one.
    pub fn take_canary(&mut self) {
        if self.canary_p99_ms.is_some() {
            self.latency_p99_ms = self.canary_p99_ms;
            self.latency_p99_bucket = None;
            self.latency_source = Some("canary".to_owned());
            self.latency_newest = self.canary_newest_ms.map(NewestChecks::measured);
            self.latency_unknown = None;
        }
    }
}

/// Why a p99 is withheld, and proves nothing: the threshold lies inside the bucket that holds it.
pub(crate) const TOO_COARSE: &str = "bucket_too_coarse";

/// The newest checks of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NewestChecks {
    /// How far back they reach, in seconds: to the first collection that is at least a sixth of the window ago.
    #[serde(default)]
    pub seconds: f64,
    /// Their p99 in milliseconds, if it was measured; `None` without checks, and with a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// The bucket that holds their p99, in seconds; `None` without checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Bucket>,
    /// How many of them are as slow as the p99 of the window: in its bucket or above it.
    #[serde(default)]
    pub slow: f64,
    /// How many would be, if such checks came as often as they did in the whole window.
    #[serde(default)]
    pub slow_expected: f64,
}

impl NewestChecks {
    /// Checks of which only the slowest is known.
    pub fn measured(p99_ms: f64) -> Self {
        Self {
            p99_ms: Some(p99_ms),
            ..Self::default()
        }
    }
}

/// A histogram bucket's bounds in seconds: above `lower`, at or below `upper` (`null` = +Inf).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// The exclusive lower bound.
    pub lower: f64,
    /// The inclusive upper bound; `None` for +Inf.
    pub upper: Option<f64>,
}

/// On which side of a threshold a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Above,
    /// At the threshold, too.
    Below,
    /// Somewhere in a bucket that holds the threshold.
    Around,
}

impl Bucket {
    /// On which side of the threshold its values lie.
    pub(crate) fn side(&self, threshold_seconds: f64) -> Side {
        if self.lower >= threshold_seconds {
            Side::Above
        } else if self.upper.is_some_and(|upper| upper <= threshold_seconds) {
            Side::Below
        } else {
            Side::Around
        }
    }

    /// Its bounds in milliseconds, for people.
    pub fn in_millis(&self) -> String {
        // 0.07 × 1000 is 70.00000000000001.
        let millis = |seconds: f64| (seconds * 1e6).round() / 1e3;
        let lower = millis(self.lower);
        match self.upper {
            Some(upper) => format!("{lower} to {} ms", millis(upper)),
            None => format!("above {lower} ms"),
        }
    }
}

/// A cumulative histogram: finite bucket bounds in ascending order, and the totals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Upper bounds in seconds and the cumulative count at or below each; without +Inf.
    pub buckets: Vec<(f64, f64)>,
    /// All samples.
    pub count: f64,
    /// The sum of all samples, in seconds; `None` if the node reports none, or a value that is not a number.
    pub sum: Option<f64>,
}

/// Redis as the exporter sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RedisReading {
    /// How long PING took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping_seconds: Option<f64>,
    /// Why Redis counts as disconnected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The answer to INFO; for a cluster, the sum over all primaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<RedisInfo>,
    /// Each server that holds data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<RedisShard>,
}

/// A server that holds data: the only one, or a primary of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisShard {
    /// `host:port` of the primary.
    pub address: String,
    /// Whether it answered PING in time.
    pub connected: bool,
    /// Why it counts as disconnected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `host:port` of the server that the counters were read from: the primary or a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swept_from: Option<String>,
}

/// The part of Redis's INFO that is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisInfo {
    /// `redis_version`; of Valkey `valkey_version`.
    pub version: String,
    /// `role`: master or slave.
    pub role: String,
    /// `redis_mode`, of Valkey `server_mode`: standalone, sentinel or cluster.
    pub mode: String,
    /// `run_id`: changes with every start of the server.
    pub run_id: String,
    /// `evicted_keys`: keys evicted since the server started.
    pub evicted_keys: Option<u64>,
    /// `used_memory` in bytes.
    pub used_memory: Option<u64>,
    /// `maxmemory` in bytes; 0 = no limit.
    pub max_memory: Option<u64>,
    /// `instantaneous_ops_per_sec`: how busy it is.
    #[serde(default)]
    pub operations_per_second: Option<u64>,
}

/// Which counters an observation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountersListed {
    /// The fullest ones, to be shown. Keys that only the checker needs are left out once it has judged.
    #[default]
    Fullest,
    /// The fullest ones and all above their limits, for a recording, which is judged again.
    AboveLimits,
    /// As many of these as a line of a recording holds; there were more.
    TooMany,
}

impl Observation {
    /// Whether the limiter is of another kind than the reference.
    pub fn is_described(&self) -> bool {
        let limiter = self.limiter.as_ref();
        limiter.is_some_and(|limiter| limiter.name != "reference")
    }

    /// Removes what only the checker needs, once it has judged.
    pub fn judged(&mut self) {
        match self.listed {
            CountersListed::Fullest => {
                self.unjudged.clear();
                if let CountersRead::Partial { gone, .. } = &mut self.counters_read {
                    gone.clear();
                }
            }
            // The checker saw them all, but the reader of this observation does not.
            CountersListed::TooMany if self.counters_read == CountersRead::Full => {
                self.counters_read = CountersRead::Partial {
                    gone: Vec::new(),
                    reason: Reason::TooLarge,
                };
            }
            CountersListed::AboveLimits | CountersListed::TooMany => {}
        }
    }
}

/// How far the counters were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountersRead {
    /// All of them: a key that was not seen is gone.
    #[default]
    Full,
    /// Some of them: a key that was not seen is unknown, except for those in `gone`.
    Partial {
        /// Keys, as they are shown, that were read one by one and do not exist. For the checker, and for a recording.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone: Vec<String>,
        /// Why it stopped.
        reason: Reason,
    },
    /// None of them.
    Failed {
        /// Why.
        reason: Reason,
    },
}

/// Totals over all live counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyTotals {
    /// Live counters.
    pub keys: u64,
    /// How many have a utilization at or below each of [`UTILIZATION_BOUNDS`], cumulative.
    pub utilization: Vec<u64>,
    /// The sum of the utilizations of keys whose utilization is finite.
    pub utilization_sum: f64,
    /// Share of the key space that was swept, 0 to 1; `None` if unknown.
    pub coverage: Option<f64>,
    /// When the last full pass ended, by the wall clock.
    pub last_full_pass: Option<Timestamp>,
    /// Redis commands sent for counters since the exporter started.
    pub commands_total: u64,
    /// Live counters whose limit is not known: they have no utilization.
    #[serde(default)]
    pub without_limit: u64,
    /// Keys that should expire and do not, by kind of counter: estimated from a sample of the last full pass.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without_expiry: BTreeMap<String, u64>,
    /// Names in the last full pass that fit no counter of the kind; `None` where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<u64>,
}

/// Upper bounds of the utilization histogram.
pub const UTILIZATION_BOUNDS: [f64; 11] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.1, 1.5, 2.0];

/// The outcome of a collector in one collection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectorRun {
    /// Whether it read everything that it should.
    pub success: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
}
