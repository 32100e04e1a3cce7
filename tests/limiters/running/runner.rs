//! Runs the applications, some at a time, and prints what came of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::applications::Application;
use crate::arguments::Arguments;
use crate::course;
use crate::expected::Answers;

/// What an application may take at most: about twice what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What an application that passed showed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What was reported, in words.
    pub(crate) what: String,
    /// From the fault to the scrape that reported it.
    pub(crate) seconds: Option<f64>,
    /// What its clients were answered.
    pub(crate) answers: Answers,
}

/// Runs them, prints the table, and returns how many failed.
pub(crate) async fn run(arguments: &Arguments) -> usize {
    let started = Instant::now();
    let with_exporter = arguments.exporter;
    let mut waiting: VecDeque<usize> = (0..arguments.applications.len()).collect();
    let mut results: Vec<Option<Result<Seen, String>>> = Vec::new();
    results.resize_with(waiting.len(), || None);
    let mut running = JoinSet::new();
    let mut indexes = HashMap::new();
    loop {
        while running.len() < arguments.at_once
            && let Some(index) = waiting.pop_front()
        {
            let application = arguments.applications[index];
            let task = running.spawn_local(async move {
                let began = Instant::now();
                let outcome =
                    tokio::time::timeout(PATIENCE, course::run(application, with_exporter)).await;
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
            let name = arguments.applications[index].file;
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            eprintln!("{verdict:6} {:5.1} s  {name}", took.as_secs_f64());
            if let Err(error) = &outcome {
                eprintln!("       {error}");
            }
            results[index] = Some(outcome);
        }
    }
    print_table(&arguments.applications, &results);
    let passed = results.iter().flatten().filter(|one| one.is_ok()).count();
    let failed = results.len() - passed;
    if !with_exporter {
        println!("\nNo exporter watched: this shows the applications alone.");
    }
    println!("\n{passed} passed, {failed} failed");
    eprintln!("in {:.0} s", started.elapsed().as_secs_f64());
    failed
}

fn print_table(applications: &[&Application], results: &[Option<Result<Seen, String>>]) {
    println!("| application | kind | counters | requests | reported |");
    println!("|---|---|---|---|---|");
    for (application, result) in applications.iter().zip(results) {
        let strategies = application.strategies.iter();
        let counters: Vec<&str> = strategies.map(|strategy| strategy.counter).collect();
        let (requests, reported) = match result {
            Some(Ok(seen)) => (seen.answers.to_string(), seen.what.clone()),
            Some(Err(error)) => {
                let line = error.lines().last().unwrap_or_default();
                (format!("**FAILED**: {line}"), String::new())
            }
            None => ("**FAILED**: not run".to_owned(), String::new()),
        };
        println!(
            "| {} | {} | {} | {requests} | {reported} |",
            application.file,
            application.kind,
            counters.join(", ")
        );
    }
}
