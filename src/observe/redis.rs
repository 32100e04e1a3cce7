//! Redis: connections, TLS, topology (single server, cluster, sentinels), routing and errors. Knows nothing about limiters.

pub(in crate::observe) mod address;
pub(in crate::observe) mod cluster;
pub(in crate::observe) mod connector;
pub(in crate::observe) mod deployment;
pub(in crate::observe) mod endpoint;
pub(in crate::observe) mod errors;
pub(in crate::observe) mod greeting;
pub(in crate::observe) mod peer;
pub(in crate::observe) mod router;
pub(in crate::observe) mod sentinels;
pub(in crate::observe) mod server_state;
pub(in crate::observe) mod timed;
pub(in crate::observe) mod topology;
