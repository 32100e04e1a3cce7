//! HTTP to nodes and Prometheus: the client, its logins, and the management API.

pub(in crate::observe) mod access;
pub(in crate::observe) mod api_reading;
pub(in crate::observe) mod client;
pub(in crate::observe) mod default_limits;
pub(in crate::observe) mod management_api;
pub(in crate::observe) mod optional;
