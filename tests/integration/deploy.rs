//! What ships beside the exporter: rules, dashboards, manifests, and what installs the programs.

mod alerts;
mod dashboards;
mod programs;
mod shipped;
