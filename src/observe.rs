//! All the I/O of a collection, joined under one deadline into an [`Observation`](crate::observation::Observation). Decides nothing: a source that
//! fails is a named failure, and the rest is still there.

mod counters;
mod deadline;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod latency;
mod limiter;
mod nodes;
mod redis;
mod take_over;

pub use counters::limits::LimitRule;
pub use http::access::{Authorization, HttpAccess};
pub use latency::exposition::Selector;
pub use limiter::{Kind, Limiter, ObserveConfig, SetupError, reset_counter};
pub use nodes::state::RegistryTiming;
pub use redis::deployment::{Login, RedisTarget, Tls};
