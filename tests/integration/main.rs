//! The exporter as its users meet it: the real binary, real Redis servers, real limiter nodes, all on loopback and each
//! ended by its own handle. Nothing is mocked but what must misbehave in ways that no real server would.

mod actions;
mod alerts;
mod api;
mod backtest;
mod bad_answers;
mod browser;
mod captures;
mod cli;
mod configuration;
mod connections;
mod credentials;
mod dashboards;
mod dependencies;
mod deploy;
mod differential;
mod docs;
mod evaluate;
mod faults;
mod harness;
mod keys;
mod life_cycle;
mod page;
mod record;
mod reference;
mod reload;
mod repository;
mod scale;
mod scraping;
mod secrets;
mod targets;
mod topology;
mod violations;
mod web;
mod web_access;
mod web_limits;
