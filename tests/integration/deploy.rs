//! What ships beside the exporter: rules, dashboards, manifests.

mod alerts;
mod dashboards;
mod shipped;
