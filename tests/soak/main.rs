//! Soak: random sequences of faults against an oracle. Each seed is a limiter of its own on loopback, with real
//! processes. Each scrape is compared with what the exporter must, may and must not report.
//!
//! `make soak SOAK_ARGS="--minutes 20 --seed 7 --seeds 4"`: seeds 7 to 10, 20 minutes each, at once. A run that
//! disagrees prints its schedule up to the disagreement. It is repeated with fewer events as long as it still fails
//! (`--shrink 0`: not).

#[path = "../truth/exporter.rs"]
#[expect(
    dead_code,
    reason = "shared with the truth suite, which uses all of it"
)]
mod exporter;
mod facts;
mod oracle;
mod random;
mod run;
mod sampling;
mod schedule;
#[path = "../truth/scrape.rs"]
#[expect(
    dead_code,
    reason = "shared with the truth suite, which uses all of it"
)]
mod scrape;
mod servers;
mod world;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use facts::figure;
use run::{Disagreement, Outcome, run};
use schedule::Schedule;

/// How much of the schedule before a disagreement is printed, in milliseconds: earlier events affect what is reported.
const SHOWN: f64 = 240_000.0;

struct Arguments {
    minutes: f64,
    seed: u64,
    seeds: u64,
    at_once: usize,
    shrink: u32,
}

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut arguments = Self {
            minutes: 20.0,
            seed: 1,
            seeds: 1,
            at_once: 4,
            shrink: 6,
        };
        let mut words = words;
        while let Some(flag) = words.next() {
            let value = words
                .next()
                .with_context(|| format!("{flag}: expected a number behind it"))?;
            let wrong = || format!("{flag} {value}: expected a number");
            match flag.as_str() {
                "--minutes" => arguments.minutes = value.parse().with_context(wrong)?,
                "--seed" => arguments.seed = value.parse().with_context(wrong)?,
                "--seeds" => arguments.seeds = value.parse().with_context(wrong)?,
                "--at-once" => arguments.at_once = value.parse().with_context(wrong)?,
                "--shrink" => arguments.shrink = value.parse().with_context(wrong)?,
                _ => bail!("{flag}: expected --minutes, --seed, --seeds, --at-once or --shrink"),
            }
        }
        Ok(arguments)
    }

    fn length(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "minutes of a run"
        )]
        let millis = (self.minutes * 60_000.0) as u64;
        millis
    }
}

/// One thread: child processes end with the thread that started them, and this one lives longer than every run.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("soak: {error:#}");
            return ExitCode::from(2);
        }
    };
    let failed = tokio::task::LocalSet::new()
        .run_until(soak(&arguments))
        .await;
    let passed = arguments.seeds - failed;
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs all seeds. Returns how many disagreed.
async fn soak(arguments: &Arguments) -> u64 {
    let length = arguments.length();
    let mut failed = 0;
    let seeds: Vec<u64> = (arguments.seed..arguments.seed + arguments.seeds).collect();
    for some in seeds.chunks(arguments.at_once.max(1)) {
        let runs = some.iter().map(|seed| {
            let schedule = Schedule::new(*seed, length);
            async move {
                let outcome = run(&schedule, length).await;
                (*seed, schedule, outcome)
            }
        });
        for (seed, schedule, outcome) in futures_util::future::join_all(runs).await {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    println!("seed {seed}: the run itself failed: {error:#}");
                    failed += 1;
                    continue;
                }
            };
            print_outcome(seed, &schedule, &outcome);
            if let Some(first) = outcome.disagreements.first() {
                failed += 1;
                shrink(&schedule, first, arguments.shrink).await;
            }
        }
    }
    failed
}

fn print_outcome(seed: u64, schedule: &Schedule, outcome: &Outcome) {
    println!(
        "seed {seed}: {} events, {} scrapes, {} expected reports, {} expected absences, the machine stalled {} times",
        outcome.events.values().sum::<u64>(),
        outcome.scrapes,
        outcome.musts,
        outcome.must_nots,
        outcome.hiccups,
    );
    println!(
        "seed {seed}: violations {} in time, {} late, {} missed, {} without a cause",
        outcome.in_time, outcome.late, outcome.missed, outcome.without_cause,
    );
    println!("seed {seed}: {:?}", outcome.events);
    for wrong in &outcome.disagreements {
        let said = if wrong.missed {
            "is missing"
        } else {
            "is reported"
        };
        println!(
            "  {:.1} s: {}{{{}}} {said}",
            wrong.at, wrong.invariant, wrong.subject
        );
    }
    if let Some(last) = outcome.disagreements.last() {
        println!(
            "  canary {}, state file {}, {} scrape, replica {}, {:?}",
            schedule.canary,
            schedule.state_file,
            schedule.servers,
            schedule.replica,
            schedule.times
        );
        let until = last.at * 1e3;
        for event in &schedule.events {
            if figure(event.at) <= until && figure(event.until) >= until - SHOWN {
                println!("    {event}");
            }
        }
        println!("  the exporter's log:\n{}", outcome.log);
    }
}

/// Removes events as long as the run fails in the same way, and prints the rest.
async fn shrink(schedule: &Schedule, first: &Disagreement, tries: u32) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds of a run"
    )]
    let length = (first.at * 1e3) as u64 + 3_000;
    let mut left = schedule.clone();
    left.events.retain(|event| event.at < length);
    for _ in 0..tries {
        let parts = left.events.len().min(4);
        if parts < 2 {
            break;
        }
        let size = left.events.len().div_ceil(parts);
        let candidates = (0..parts).map(|part| {
            let mut fewer = left.clone();
            let range = part * size..((part + 1) * size).min(fewer.events.len());
            fewer.events.drain(range);
            fewer
        });
        let runs = candidates.map(|fewer| async move {
            let outcome = run(&fewer, length).await;
            let fails = outcome.is_ok_and(|outcome| {
                let mut wrong = outcome.disagreements.iter();
                wrong.any(|wrong| wrong.is_like(first))
            });
            fails.then_some(fewer)
        });
        let failing = futures_util::future::join_all(runs).await;
        let Some(fewer) = failing.into_iter().flatten().next() else {
            break;
        };
        left = fewer;
    }
    if tries == 0 {
        return;
    }
    println!("  these {} are enough:", left.events.len());
    for event in &left.events {
        println!("    {event}");
    }
}
