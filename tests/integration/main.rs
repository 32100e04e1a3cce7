//! The exporter as its users meet it: the real binary, real Redis servers, real limiter nodes, all on loopback and each
//! ended by its own handle. Nothing is mocked but what must misbehave in ways that no real server would.

mod certificates;
mod deploy;
mod docs;
mod harness;
mod judging;
mod reading;
mod repository;
mod serving;
mod web;
