//! All the I/O of a collection, joined under one deadline into an [`Observation`](crate::observation::Observation). Decides nothing: a source that
//! fails is a named failure, and the rest is still there.

mod actor;
mod certificate_hint;
mod config;
mod counters;
mod deadline;
mod fallback;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod latency;
mod limiter;
mod nodes;
mod redis;
mod take_over;

pub use actor::{KEY, LimiterActor, RESET_COUNTER};
pub use config::ObserveConfig;
pub use counters::described::{Inspected, Inspection, inspect};
pub use counters::limits::LimitRule;
pub use counters::pace::RedisShares;
pub use http::access::{Authorization, HttpAccess};
pub(crate) use http::management_api::address_of;
pub use limiter::{Limiter, SetupError};
pub use nodes::state::RegistryTiming;
pub use redis::deployment::{Login, RedisDeployment, Tls};
