//! The latency of checks: the nodes' metrics, Prometheus's answers, and the p99 of both.

pub(in crate::observe) mod durations;
pub(in crate::observe) mod exposition;
pub(in crate::observe) mod histogram;
pub(in crate::observe) mod node_metrics;
pub(in crate::observe) mod prometheus;
pub(in crate::observe) mod wanted;
