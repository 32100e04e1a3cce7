//! All the I/O of a collection, joined under one deadline into an [`Observation`](crate::observation::Observation). Decides nothing: a source that
//! fails is a named failure, and the rest is still there.

mod api_line;
mod canary;
mod connector;
mod counters;
mod deadline;
mod exposition;
mod http;
mod key_reader;
mod latency;
mod limiter;
mod limits;
mod management_api;
mod node_judging;
mod node_metrics;
mod node_reader;
mod nodes;
mod probes;
mod prometheus;
mod redis;
mod redis_basics;
mod requests;
mod tracker;

pub use exposition::Selector;
pub use limiter::{ActionError, Limiter, ObserveConfig, SetupError, reset_counter};
pub use limits::LimitRule;
pub use nodes::RegistryTiming;
