//! Named failures: which source, about what, and a reason from a closed list, so that it can be a label value.

use serde::{Deserialize, Serialize};

use super::Lacks;

closed_list! {
    /// A source that a collection asks. The names are label values of `ratelimiter_scrape_collector_*`.
    pub enum Collector;

    /// The limiter's management API.
    ManagementApi => "management_api",
    /// PING and INFO of Redis.
    Redis => "redis",
    /// The node registry in Redis.
    Registry => "registry",
    /// The counters and limits in Redis.
    Counters => "counters",
    /// The health of the nodes.
    Probes => "probes",
    /// The metrics of the nodes.
    NodeMetrics => "node_metrics",
    /// The Prometheus server that latencies are read from.
    Prometheus => "prometheus",
    /// The canary.
    Canary => "canary",
}

closed_list! {
    /// Why something could not be read: a closed list, never error text.
    pub enum Reason;

    /// No answer in time.
    Timeout => "timeout",
    /// The collection's own deadline passed first.
    Deadline => "deadline",
    /// The connection was refused.
    Refused => "refused",
    /// The name did not resolve.
    Dns => "dns",
    /// TLS failed.
    Tls => "tls",
    /// Any other network error.
    Network => "network",
    /// The answer ended before it was complete.
    Truncated => "truncated",
    /// The answer was larger than its bound.
    TooLarge => "too_large",
    /// An HTTP status that is not a success.
    HttpStatus => "http_status",
    /// The answer is not JSON of the expected shape.
    InvalidJson => "invalid_json",
    /// The answer is not Prometheus text format.
    InvalidMetrics => "invalid_metrics",
    /// Redis is loading its data.
    Loading => "loading",
    /// Redis is out of memory.
    Oom => "oom",
    /// Redis is a read-only replica.
    Readonly => "readonly",
    /// Redis wants a password, or refuses the one given.
    Auth => "auth",
    /// The Redis user lacks a permission.
    Noperm => "noperm",
    /// The replica has lost its master.
    Masterdown => "masterdown",
    /// A replica lost its primary: its data is old.
    ReplicaStale => "replica_stale",
    /// A script holds Redis.
    Busy => "busy",
    /// Redis Cluster does not serve the slot.
    Clusterdown => "clusterdown",
    /// A key of Redis Cluster is moving from one server to another.
    Resharding => "resharding",
    /// Any other error answer of Redis.
    RedisError => "redis_error",
    /// A key has another type than expected.
    WrongType => "wrong_type",
    /// A stored limit is not a whole number from 0 to 2^64-1.
    InvalidLimit => "invalid_limit",
    /// A stored window is not a whole number of milliseconds from 1 on.
    InvalidWindow => "invalid_window",
    /// The default limit is not known (yet).
    NoDefaultLimit => "no_default_limit",
    /// The limit of a counter is unknown: no rule, name or setting of the limiter gives it.
    NoLimit => "no_limit",
    /// The limits are in an API of the limiter that was not read yet.
    LimitsUnread => "limits_unread",
    /// The window of a counter is unknown.
    NoWindow => "no_window",
    /// A value is compressed, or in a form that the exporter does not read.
    Unreadable => "unreadable",
    /// The sweep used up its budget and continues in the next collection.
    Budget => "budget",
    /// Nothing could be read, because Redis did not answer.
    RedisDown => "redis_down",
    /// The source answered, but not as it must.
    Unexpected => "unexpected",
}

/// A named failure of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which source.
    pub collector: Collector,
    /// What could not be read: a node, a URL, a key; empty for the source as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Why, from the closed list.
    pub reason: Reason,
    /// Why, for people: the operation, the input and what was expected.
    pub message: String,
    /// How many times, for failures that are counted per item.
    #[serde(default = "one")]
    pub times: u64,
    /// Of counters that could not be judged: what is unknown about at least one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<Lacks>,
}

fn one() -> u64 {
    1
}

impl Failure {
    /// One failure of `collector` about `subject`.
    pub fn new(
        collector: Collector,
        subject: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            collector,
            subject: subject.into(),
            reason,
            message: message.into(),
            times: 1,
            lacks: None,
        }
    }

    /// What is unknown about at least one counter. A recording of an older version does not say it: then it is the limit.
    pub fn lacks(&self) -> Lacks {
        let without_limit = matches!(
            (self.collector, self.reason),
            (
                Collector::Counters,
                Reason::NoLimit | Reason::LimitsUnread | Reason::NoWindow | Reason::Unreadable
            )
        );
        let older = if without_limit {
            Lacks::Limit
        } else {
            Lacks::Nothing
        };
        self.lacks.unwrap_or(older)
    }
}
