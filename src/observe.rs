//! All the I/O of a collection, joined under one deadline into an [`Observation`](crate::observation::Observation). Decides nothing: a source that
//! fails is a named failure, and the rest is still there.

mod api_line;
mod canary;
mod connector;
mod control;
mod counters;
mod deadline;
mod exposition;
mod failing_checks;
mod first;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod greeting;
mod http;
mod http_access;
mod key_reader;
mod latency;
mod limiter;
mod limits;
mod management_api;
mod node_judging;
mod node_metrics;
mod node_reader;
mod nodes;
mod pace;
mod pass;
mod peer;
mod probes;
mod prometheus;
mod redis;
mod redis_basics;
mod redis_target;
mod requests;
mod router;
mod sentinels;
mod server_state;
mod shard_reader;
mod succession;
mod tracker;

pub use exposition::Selector;
pub use http_access::{Authorization, HttpAccess};
pub use limiter::{Limiter, ObserveConfig, SetupError, reset_counter};
pub use limits::LimitRule;
pub use nodes::RegistryTiming;
pub use redis_target::{Login, RedisTarget, Tls};
