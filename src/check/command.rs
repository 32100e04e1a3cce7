//! The subcommand `check`: collects, shows, and returns the exit status.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::recorder::{Destination, Recorder};
use super::schedule::{MOST_TIME, Schedule, repeat};
use super::watch::Screen;
use super::{exit_status, explain, json, line, table};
use crate::clock::Clock;
use crate::config::Config;
use crate::invariants::Checker;
use crate::observation::{decode_key, is_cut_key, names_of};
use crate::observe::{Limiter, ObserveConfig};
use crate::overall_status::OverallStatus;
use crate::snapshot::Snapshot;

/// The collections of a limiter.
type Collect = crate::collect::Collect<Limiter, Checker>;

/// What to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// One collection as tables.
    Table,
    /// One collection as JSON.
    Json,
    /// The explanation of one subject, as text or as JSON.
    Explained {
        /// The node id, `redis`, or the key as it is shown.
        subject: String,
        /// JSON instead of text.
        json: bool,
    },
    /// The tables of repeated collections, in one place of a terminal.
    Watch(Schedule),
    /// A line of a recording for each collection; for a single one without a schedule.
    Lines(Option<Schedule>, Destination),
}

/// What to collect and show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What to show.
    pub output: Output,
    /// How long the nodes' latency histograms are watched before a single collection: a latency needs two readings.
    pub sample: Duration,
}

impl Check {
    /// Whether the output may be drawn on a terminal.
    pub fn is_watched(&self) -> bool {
        matches!(self.output, Output::Watch(_))
    }
}

/// Collects, shows, and returns the exit status.
pub async fn check(task: &Check, config: &Config) -> anyhow::Result<u8> {
    let asked_for = match &task.output {
        // A name that was cut is not a key. Its subject is explained if it is listed.
        Output::Explained { subject, .. } if !is_cut_key(subject) => Some(decode_key(subject)),
        _ => None,
    };
    let observe = ObserveConfig {
        // The key is counted in any case: it may be one of a million without a violation.
        named_keys: asked_for.iter().map(|key| Box::from(&**key)).collect(),
        recording: matches!(task.output, Output::Lines(..)),
        ..config.observe.clone()
    };
    let clock = Clock::start();
    let limiter = Limiter::new(observe, clock.clone())?;
    let checker = Checker::new(config.checker.clone());
    let collect = Arc::new(Collect::new(limiter, checker, clock, None));
    let (text, status) = match &task.output {
        Output::Lines(schedule, to) => return record(&collect, *schedule, to, task.sample).await,
        Output::Watch(schedule) => return watch(&collect, *schedule).await,
        Output::Explained { subject, json } => {
            let snapshot = once(&collect, task.sample).await?;
            let key = asked_for.map(|key| config.observe.key_label.of(&key));
            let names: Vec<String> = names_of(subject).into_iter().chain(key).collect();
            let explained = snapshot.report.explain(&snapshot.observation, &names);
            let text = if *json {
                serde_json::to_string_pretty(&explained)? + "\n"
            } else {
                explain::text(&explained)
            };
            (text, explain::overall_status(&explained).exit_status())
        }
        Output::Json => {
            let snapshot = once(&collect, task.sample).await?;
            (json(&snapshot)? + "\n", exit_status(&snapshot.report))
        }
        Output::Table => {
            let snapshot = once(&collect, task.sample).await?;
            (table(&snapshot), exit_status(&snapshot.report))
        }
    };
    print(&text).map(|()| status)
}

/// Prints `text`. It is no error if the reader has closed the pipe.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    unless_reader_is_gone(printed.map_err(Into::into)).context("standard output")
}

/// One collection, after watching the nodes' latency histograms for `sample`.
async fn once(collect: &Arc<Collect>, sample: Duration) -> anyhow::Result<Arc<Snapshot>> {
    let mut snapshot = collect.snapshot(Instant::now() + MOST_TIME).await;
    if !sample.is_zero() {
        tokio::time::sleep(sample).await;
        snapshot = collect.snapshot(Instant::now() + MOST_TIME).await;
    }
    snapshot.context("the collection failed")
}

/// Shows tables until the schedule, a signal or the reader ends it. The exit status is that of the last collection.
async fn watch(collect: &Arc<Collect>, schedule: Schedule) -> anyhow::Result<u8> {
    let mut screen = Screen::new()?;
    let mut status = OverallStatus::Unknown.exit_status();
    let ended = repeat(collect, schedule, |snapshot| {
        status = exit_status(&snapshot.report);
        let text = table(snapshot);
        let (verdict, tables) = text.split_once('\n').unwrap_or_default();
        let (at, every) = (snapshot.report.at.wall, schedule.every);
        let took = snapshot.seconds * 1e3;
        let text = format!("{verdict}\n{at:.0}, in {took:.0} ms, every {every:?}\n{tables}");
        Ok(screen.draw(&text)?)
    })
    .await;
    unless_reader_is_gone(ended).map(|()| status)
}

/// Records one collection, or repeats it until the schedule, a signal or the reader ends it.
async fn record(
    collect: &Arc<Collect>,
    schedule: Option<Schedule>,
    to: &Destination,
    sample: Duration,
) -> anyhow::Result<u8> {
    // Before the first collection, so that an unusable output is reported at once.
    let mut recorder = Recorder::open(to)?;
    let Some(schedule) = schedule else {
        let snapshot = once(collect, sample).await?;
        recorder.write(&line(&snapshot)?)?;
        recorder.finish()?;
        return Ok(exit_status(&snapshot.report));
    };
    let progress = if to.file.is_some() || !io::stdout().is_terminal() {
        ProgressBar::no_length()
    } else {
        // The lines themselves show it.
        ProgressBar::hidden()
    };
    let progress = progress.with_style(ProgressStyle::with_template("{msg}")?);
    let mut observations = 0_u64;
    let ended = repeat(collect, schedule, |snapshot| {
        recorder.write(&line(snapshot)?)?;
        observations += 1;
        let violations = snapshot.report.violations.len();
        progress.set_message(format!(
            "{observations} observations recorded, {violations} violations in the last"
        ));
        Ok(())
    })
    .await;
    progress.abandon();
    let ended = ended.and_then(|()| Ok(recorder.finish()?));
    unless_reader_is_gone(ended)
        .context("the recording")
        .map(|()| 0)
}

/// A reader that closes the pipe ends the output; that is not an error.
fn unless_reader_is_gone(ended: anyhow::Result<()>) -> anyhow::Result<()> {
    ended.or_else(|error| match error.downcast_ref::<io::Error>() {
        Some(io) if io.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}
