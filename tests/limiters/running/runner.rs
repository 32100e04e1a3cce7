//! Runs the applications, some at a time, and prints what came of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::arguments::{Arguments, Case};
use crate::course;
use crate::table::{Row, versions};

/// What an application may take at most: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// What was reported, as `expect.rs` says it.
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
    /// The truth suite's has more.
    pub(crate) rest: (),
}

/// What became of an application.
type Outcome = Result<Vec<Row>, String>;

/// Runs them, prints the table, and returns how many failed.
pub(crate) async fn run(arguments: &Arguments) -> usize {
    let started = Instant::now();
    let with_exporter = arguments.exporter;
    let mut waiting: VecDeque<usize> = (0..arguments.cases.len()).collect();
    let mut results: Vec<Option<Outcome>> = Vec::new();
    results.resize_with(waiting.len(), || None);
    let mut running = JoinSet::new();
    let mut indexes = HashMap::new();
    loop {
        while running.len() < arguments.at_once
            && let Some(index) = waiting.pop_front()
        {
            let case = arguments.cases[index];
            let task = running.spawn_local(async move {
                let began = Instant::now();
                let run = async {
                    match case {
                        Case::Course(application) => course::run(application, with_exporter).await,
                        Case::Bug(bug) => bug.run().await.map(|row| vec![row]),
                    }
                };
                let outcome = tokio::time::timeout(PATIENCE, run).await;
                let outcome = match outcome {
                    Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                    Err(_) => Err(format!("not finished after {PATIENCE:?}")),
                };
                (outcome, began.elapsed())
            });
            indexes.insert(task.id(), index);
        }
        let Some(ended) = running.join_next_with_id().await else {
            break;
        };
        let (id, outcome, took) = match ended {
            Ok((id, (outcome, took))) => (id, outcome, took),
            Err(error) => (error.id(), Err(error.to_string()), Duration::ZERO),
        };
        if let Some(&index) = indexes.get(&id) {
            let name = match arguments.cases[index] {
                Case::Course(application) => application.file.to_owned(),
                Case::Bug(bug) => format!("{}: {}", bug.file, bug.what),
            };
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            eprintln!("{verdict:6} {:5.1} s  {name}", took.as_secs_f64());
            if let Err(error) = &outcome {
                eprintln!("       {error}");
            }
            results[index] = Some(outcome);
        }
    }
    print_table(&arguments.cases, &results);
    let passed = results.iter().flatten().filter(|one| one.is_ok()).count();
    let failed = results.len() - passed;
    if !with_exporter {
        println!("\nNo exporter watched: this shows the applications alone.");
    }
    println!("\n{passed} passed, {failed} failed");
    eprintln!("in {:.0} s", started.elapsed().as_secs_f64());
    failed
}

fn print_table(cases: &[Case], results: &[Option<Outcome>]) {
    println!("| application | libraries | event | expected | seen |");
    println!("|---|---|---|---|---|");
    for (case, result) in cases.iter().zip(results) {
        let application = case.application();
        let file = application.file;
        let libraries = versions(application.packages, application.is_python());
        let libraries = libraries.unwrap_or_else(|error| format!("**{error:#}**"));
        match result {
            Some(Ok(rows)) => {
                for row in rows {
                    let Row {
                        event,
                        expected,
                        seen,
                    } = row;
                    println!("| {file} | {libraries} | {event} | {expected} | {seen} |");
                }
            }
            Some(Err(error)) => {
                let line = error.lines().last().unwrap_or_default();
                println!("| {file} | {libraries} | | | **FAILED**: {line} |");
            }
            None => println!("| {file} | {libraries} | | | **FAILED**: not run |"),
        }
    }
}
