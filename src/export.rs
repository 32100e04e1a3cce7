//! Makes metric families of observation and report, anew for every scrape. Pure.

mod definitions;
mod families;
mod metrics;

pub use definitions::{DEFINITIONS, Definition, Kind};
pub use metrics::{Exporter, Reload, render, render_target};
