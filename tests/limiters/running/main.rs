//! Real applications on real rate limiters, watched by the exporter: nothing is reported under honest traffic, the counts
//! are those of the traffic, and what is broken is found.
//!
//! `make limiters` installs their libraries and runs this; words behind it choose applications by name. Each has a Redis
//! and an exporter of its own. It leaves out what a description makes of stored states: the captures show that.

mod app;
mod applications;
mod arguments;
mod bugs;
mod course;
#[path = "../../truth/expect.rs"]
#[expect(
    dead_code,
    reason = "shared with the truth suite, which uses all of it"
)]
mod expect;
mod expected;
#[path = "../../truth/exporter.rs"]
#[expect(
    dead_code,
    reason = "shared with the truth suite, which uses all of it"
)]
mod exporter;
mod faults;
mod names;
mod outages;
mod runner;
#[path = "../../truth/scrape.rs"]
mod scrape;
mod table;

use std::process::ExitCode;

use arguments::Arguments;

/// One thread: children die with the thread that started them, and this one outlives every application.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("limiters: {error:#}");
            return ExitCode::from(2);
        }
    };
    let failed = tokio::task::LocalSet::new()
        .run_until(runner::run(&arguments))
        .await;
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
