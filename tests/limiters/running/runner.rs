//! Runs the applications concurrently and prints their table.

use std::time::Duration;

use lab::jobs::{self, Job};
use tokio::time::Instant;

use crate::arguments::{Arguments, Case};
use crate::course;
use crate::table::{Row, versions};

/// The most time for an application: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// The reports that `expect.rs` has seen.
#[derive(Debug, Default)]
#[expect(
    dead_code,
    reason = "the table says more than the words of the truth suite"
)]
pub(crate) struct Seen {
    /// In words.
    pub(crate) what: String,
    /// From the fault to the scrape that reported it.
    pub(crate) seconds: Option<f64>,
    /// Only the truth suite has more.
    pub(crate) rest: (),
}

/// The rows of an application, or why it failed.
type Outcome = Result<Vec<Row>, String>;

/// Runs the cases, prints the table, and returns how many failed.
pub(crate) async fn run(arguments: &Arguments) -> usize {
    let started = Instant::now();
    let with_exporter = arguments.exporter;
    let jobs = arguments.cases.iter().map(|&case| Job {
        name: match case {
            Case::Course(application) => application.file.to_owned(),
            Case::Bug(bug) => format!("{}: {}", bug.file, bug.what),
        },
        at_once: arguments.at_once,
        patience: PATIENCE,
        run: Box::pin(async move {
            match case {
                Case::Course(application) => course::run(application, with_exporter).await,
                Case::Bug(bug) => bug.run().await.map(|row| vec![row]),
            }
        }),
    });
    let results: Vec<Outcome> = jobs::run(jobs.collect()).await;
    print_table(&arguments.cases, &results);
    let passed = results.iter().filter(|one| one.is_ok()).count();
    let failed = results.len() - passed;
    if !with_exporter {
        println!("\nNo exporter watched: this shows the applications alone.");
    }
    println!("\n{passed} passed, {failed} failed");
    eprintln!("in {:.0} s", started.elapsed().as_secs_f64());
    failed
}

fn print_table(cases: &[Case], results: &[Outcome]) {
    println!("| application | libraries | event | expected | seen |");
    println!("|---|---|---|---|---|");
    for (case, result) in cases.iter().zip(results) {
        let application = case.application();
        let file = application.file;
        let libraries = versions(application.packages, application.is_python());
        let libraries = libraries.unwrap_or_else(|error| format!("**{error:#}**"));
        match result {
            Ok(rows) => {
                for row in rows {
                    let Row {
                        event,
                        expected,
                        seen,
                    } = row;
                    println!("| {file} | {libraries} | {event} | {expected} | {seen} |");
                }
            }
            Err(error) => {
                let line = error.lines().next().unwrap_or_default();
                println!("| {file} | {libraries} | | | **FAILED**: {line} |");
            }
        }
    }
}
