//! `alerts/`: the rules, their tests, the runbooks and Alertmanager's configuration agree with one another and with what
//! the exporter exports, and real Prometheus tools and a real Alertmanager take them.

mod alertmanager;
mod commands;
mod consistency;
mod files;
mod known;
mod promql;
mod runbooks;
mod tools;
