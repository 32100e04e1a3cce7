//! The nodes: the evidence (registrations, probes, checks, canary), and the node states that follow from it.

pub(in crate::observe) mod canary;
pub(in crate::observe) mod discovery;
pub(in crate::observe) mod failing_checks;
pub(in crate::observe) mod health;
pub(in crate::observe) mod history;
pub(in crate::observe) mod judging;
pub(in crate::observe) mod probes;
pub(in crate::observe) mod reader;
pub(in crate::observe) mod redis_basics;
pub(in crate::observe) mod redis_errors;
pub(in crate::observe) mod registry;
pub(in crate::observe) mod requests;
pub(in crate::observe) mod state;
