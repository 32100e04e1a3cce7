//! Runs scenarios side by side and prints their table. Scenarios about milliseconds run at the end, a few at once: beside many
//! others, a check may really take longer than they allow. Only the longest ones, which wait for minutes, run beside them.

use std::cmp::Reverse;
use std::pin::Pin;
use std::time::Duration;

use lab::jobs::{self, Job};
use tokio::time::Instant;

use crate::chain::PageTimes;

/// What a scenario may take at most, its waiting included, unless it says itself that it takes long.
const PATIENCE: Duration = Duration::from_secs(450);

/// A scenario that takes so many seconds decides how long the suite takes: no other waits for its end.
const LONGEST: u32 = 400;

type Running = Pin<Box<dyn Future<Output = anyhow::Result<Seen>>>>;

/// One scenario.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// What happens, in words.
    pub(crate) name: &'static str,
    /// What must be seen, in words.
    expected: &'static str,
    /// Runs it. An error says what was seen instead.
    run: fn() -> Running,
    /// About how long it takes: the longest start first.
    seconds: u32,
    /// Whether a busy machine changes what is true in it.
    time_critical: bool,
}

impl Scenario {
    /// A scenario that takes about so many seconds.
    pub(crate) fn new(
        name: &'static str,
        expected: &'static str,
        seconds: u32,
        run: fn() -> Running,
    ) -> Self {
        Self {
            name,
            expected,
            run,
            seconds,
            time_critical: false,
        }
    }

    /// It is about milliseconds: a check that is slow because the machine is busy is a fault in it, or hides one.
    pub(crate) fn time_critical(self) -> Self {
        Self {
            time_critical: true,
            ..self
        }
    }
}

/// What a scenario that passed saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// In words.
    pub(crate) what: String,
    /// From the fault to the scrape, or the page, that reported it; none where there is no fault.
    pub(crate) seconds: Option<f64>,
    /// The pages, in the scenarios with a pager.
    pub(crate) page_times: Vec<PageTimes>,
}

/// Runs them all, `at_once` at a time, prints the table, and returns how many failed.
pub(crate) async fn run(scenarios: Vec<Scenario>, at_once: usize) -> usize {
    let started = Instant::now();
    let mut order: Vec<usize> = (0..scenarios.len()).collect();
    order.sort_by_key(|&index| {
        let scenario = scenarios[index];
        (scenario.time_critical, Reverse(scenario.seconds))
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let longest = scenarios.iter().filter(|one| one.seconds >= LONGEST);
    // Each of these takes less than a tenth of a core.
    let beside_longest = longest.count() + 2 * cores;
    let jobs = order.iter().map(|&index| {
        let scenario = scenarios[index];
        let most = if scenario.time_critical {
            beside_longest
        } else {
            at_once
        };
        Job {
            name: scenario.name.to_owned(),
            at_once: at_once.min(most),
            patience: PATIENCE.max(2 * Duration::from_secs(scenario.seconds.into())),
            run: (scenario.run)(),
        }
    });
    let results = jobs::run(jobs.collect()).await;
    let mut results: Vec<_> = order.into_iter().zip(results).collect();
    results.sort_by_key(|(index, _)| *index);
    let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
    print_table(&scenarios, &results);
    print_pages(&scenarios, &results);
    let failed = results.iter().filter(|result| result.is_err()).count();
    let passed = results.len() - failed;
    println!("\n{passed} passed, {failed} failed");
    eprintln!("in {:.0} s", started.elapsed().as_secs_f64());
    failed
}

fn print_table(scenarios: &[Scenario], results: &[Result<Seen, String>]) {
    println!("| scenario | expected | seen | seconds from fault to report |");
    println!("|---|---|---|---|");
    for (scenario, result) in scenarios.iter().zip(results) {
        let (what, seconds) = match result {
            Ok(seen) => (seen.what.clone(), seen.seconds),
            Err(error) => (format!("**FAILED**: {}", error.replace('\n', " ")), None),
        };
        let seconds = seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}"));
        let (name, expected) = (scenario.name, scenario.expected);
        println!(
            "| {name} | {expected} | {} | {seconds} |",
            what.replace('|', "\\|")
        );
    }
}

/// The pages and their receivers, with the time that the configured intervals take at the least and at the most.
fn print_pages(scenarios: &[Scenario], results: &[Result<Seen, String>]) {
    let page_times = scenarios
        .iter()
        .zip(results)
        .flat_map(|(scenario, result)| {
            let seen = result.iter();
            let page_times = seen.flat_map(|seen| &seen.page_times);
            let (_, fault) = scenario.name.split_once(": ").unwrap_or_default();
            page_times.map(move |page_times| (fault, page_times))
        });
    for (row, (fault, page_times)) in page_times.enumerate() {
        if row == 0 {
            println!(
                "\n| fault | page | seconds from fault to page | at best / at the latest | seconds from repair to resolution | at best / at the latest |"
            );
            println!("|---|---|---|---|---|---|");
        }
        println!(
            "| {fault} | {} | {:.1} | {} | {:.1} | {} |",
            page_times.page,
            page_times.paged.as_secs_f64(),
            page_times.paged_bounds,
            page_times.resolved.as_secs_f64(),
            page_times.resolved_bounds
        );
    }
}
