//! What follows from what was read: live, replayed, and against a model.

mod backtest;
mod differential;
mod evaluate;
mod invalid_counters;
mod record;
mod violations;
