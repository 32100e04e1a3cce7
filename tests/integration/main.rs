//! The exporter as its users meet it: the real binary, real Redis servers, real limiter nodes, all on loopback and each
//! ended by its own handle. Nothing is mocked but what must misbehave in ways that no real server would.

mod actions;
mod alerts;
mod bad_answers;
mod browser;
mod captures;
mod cli;
mod dashboards;
mod docs;
mod faults;
mod harness;
mod keys;
mod page;
mod scale;
mod secrets;
mod topology;
mod violations;
mod web;
