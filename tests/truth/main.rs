//! The truth suite: every fault found, no false page, shown against real processes.
//!
//! Each scenario has a Redis, limiter nodes and an exporter of its own, does something real to them, and judges what
//! the scrapes say. Run `cargo test --test truth`, with a word from the names to run only those. It prints a table
//! and ends unsuccessfully if one scenario failed. Grace periods and lifetimes are waited out, not shortened.

mod arguments;
mod bench;
mod benign;
mod benign_keys;
mod chain;
mod counters;
mod expect;
mod exporter;
mod latency;
mod nodes;
mod pager;
mod prometheus;
mod redis_faults;
mod redis_of_exporter;
mod redis_of_nodes;
mod runner;
mod scrape;
mod state;
mod unusual;

use std::process::ExitCode;

use arguments::Arguments;
use runner::{Scenario, run};

/// The faults first, then what must stay silent, then state and agreement. The order of running is another.
fn scenarios() -> Vec<Scenario> {
    [
        nodes::scenarios(),
        redis_faults::scenarios(),
        redis_of_nodes::scenarios(),
        redis_of_exporter::scenarios(),
        latency::scenarios(),
        counters::scenarios(),
        benign::scenarios(),
        benign_keys::scenarios(),
        unusual::scenarios(),
        state::scenarios(),
        prometheus::scenarios(),
        pager::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One thread: children die with the thread that started them, and this one outlives every scenario.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse(std::env::args().skip(1));
    let chosen: Vec<Scenario> = scenarios()
        .into_iter()
        .filter(|scenario| arguments.selects(scenario.name))
        .collect();
    if arguments.list {
        for scenario in chosen {
            println!("{}: test", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let failed = tokio::task::LocalSet::new()
        .run_until(run(chosen, arguments.at_once))
        .await;
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
