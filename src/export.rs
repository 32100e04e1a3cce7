//! Observation and report become metric families, built anew for every scrape. Pure.

mod definitions;
mod families;
mod metrics;

pub use definitions::{DEFINITIONS, Definition, Kind};
pub use metrics::{Reload, render, render_target};
