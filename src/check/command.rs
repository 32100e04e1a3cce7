//! The subcommand: what is to be looked at and shown, put together.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::looks::{Pace, look};
use super::recorder::{Recorder, Target};
use super::{Verdict, json, line, table};
use crate::clock::Clock;
use crate::collect::{Collect, Keep};
use crate::config::Config;
use crate::invariants::Checker;
use crate::observe::Limiter;
use crate::snapshot::Snapshot;

/// What a single collection may take.
const MOST_TIME: Duration = Duration::from_secs(30);

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// One collection as tables.
    Table,
    /// One collection as JSON.
    Json,
    /// A line of a recording for each collection, of which there is one without a pace.
    Lines(Option<Pace>, Target),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What to show.
    pub output: Output,
    /// How long the nodes' latency histograms are watched before a single collection: a latency needs two readings.
    pub watch: Duration,
}

/// Looks, shows, and tells the exit status.
pub async fn check(task: &Check, config: &Config) -> anyhow::Result<u8> {
    let recording = matches!(task.output, Output::Lines(..));
    let clock = Clock::start();
    let limiter = Limiter::new(config.observe.clone(), clock.clone())?;
    let checker = Checker::new(config.checker.clone(), config.key_label);
    let keep = Keep {
        label: config.key_label,
        max_series: config.max_series,
        recording,
        ..Keep::default()
    };
    let collect = Arc::new(Collect::new(limiter, checker, clock, keep));
    let shown = match &task.output {
        Output::Lines(Some(pace), target) => {
            record(&collect, *pace, target).await?;
            return Ok(0);
        }
        Output::Lines(None, target) => {
            // Before the look, since an output that cannot be had is known at once.
            let mut recorder = Recorder::open(target)?;
            let snapshot = once(&collect, task.watch).await?;
            recorder.write(&line(&snapshot)?)?;
            recorder.finish()?;
            return Ok(Verdict::of(&snapshot).exit_status());
        }
        Output::Table | Output::Json => once(&collect, task.watch).await?,
    };
    let text = match task.output {
        Output::Json => json(&shown)? + "\n",
        _ => table(&shown),
    };
    // That nobody reads it changes nothing about how things stand.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(Verdict::of(&shown).exit_status())
}

/// One collection, after watching the nodes' latency histograms for `watch`.
async fn once(collect: &Arc<Collect<Limiter>>, watch: Duration) -> anyhow::Result<Arc<Snapshot>> {
    let mut snapshot = collect.snapshot(Instant::now() + MOST_TIME).await;
    if !watch.is_zero() {
        tokio::time::sleep(watch).await;
        snapshot = collect.snapshot(Instant::now() + MOST_TIME).await;
    }
    snapshot.context("the collection failed")
}

/// Records until the time is up, somebody says stop, or nobody reads any further.
async fn record(
    collect: &Arc<Collect<Limiter>>,
    pace: Pace,
    target: &Target,
) -> anyhow::Result<()> {
    let mut recorder = Recorder::open(target)?;
    let told = io::stderr().is_terminal() && (target.file.is_some() || !io::stdout().is_terminal());
    let mut observations = 0_u64;
    let looked = look(collect, pace, |snapshot| {
        recorder.write(&line(snapshot)?)?;
        observations += 1;
        if told {
            let violations = snapshot.report.violations.len();
            // If the terminal is gone there is nobody to tell.
            let _ = write!(
                io::stderr(),
                "\r{observations} observations recorded, {violations} violations in the last\x1b[K"
            );
        }
        Ok(())
    })
    .await;
    if told && observations > 0 {
        let _ = writeln!(io::stderr());
    }
    let ended = looked.and_then(|()| Ok(recorder.finish()?));
    match ended {
        Err(error) if reader_is_gone(&error) => Ok(()),
        ended => ended.context("the recording"),
    }
}

fn reader_is_gone(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
