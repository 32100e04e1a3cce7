//! Real applications with real rate limiters, watched by the exporter. Under honest traffic, nothing is reported and the counts
//! are those of the traffic. Faults are found.
//!
//! `make limiters` installs their libraries and runs this. Arguments select applications by parts of their names. Each
//! application has its own Redis and exporter. How descriptions read stored states is not tested here, but on the captures.

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

/// One thread: child processes die with the thread that started them, and this thread outlives every application.
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
