//! The counters in Redis: how they are swept, which limit holds for each, and what cannot be judged.

pub(in crate::observe) mod api_limits;
pub(in crate::observe) mod closer;
pub(in crate::observe) mod described;
pub(in crate::observe) mod invalidations;
pub(in crate::observe) mod limits;
pub(in crate::observe) mod listed;
pub(in crate::observe) mod memory;
pub(in crate::observe) mod pace;
pub(in crate::observe) mod pass;
pub(in crate::observe) mod reader;
pub(in crate::observe) mod requests;
pub(in crate::observe) mod settings;
pub(in crate::observe) mod shard_reader;
pub(in crate::observe) mod sink;
pub(in crate::observe) mod summary;
pub(in crate::observe) mod sweep;
pub(in crate::observe) mod sweep_report;
pub(in crate::observe) mod sweep_result;
pub(in crate::observe) mod totals;
