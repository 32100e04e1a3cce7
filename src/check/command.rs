//! The subcommand: what is to be looked at and shown, put together.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::looks::{MOST_TIME, Schedule, look};
use super::recorder::{Destination, Recorder};
use super::watch::Screen;
use super::{exit_status, explain, json, line, table};
use crate::clock::Clock;
use crate::collect::Collect;
use crate::config::Config;
use crate::invariants::Checker;
use crate::observation::{decode_key, is_cut_key, names_of};
use crate::observe::{Limiter, ObserveConfig};
use crate::snapshot::Snapshot;
use crate::standing::Standing;

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// One collection as tables.
    Table,
    /// One collection as JSON.
    Json,
    /// Why one subject is reported, or is not, as text or as JSON.
    Explained {
        /// The node id, `redis`, or the key as it is shown.
        subject: String,
        /// JSON instead of text.
        json: bool,
    },
    /// The tables of one collection after the other, on the same place of a terminal.
    Watch(Schedule),
    /// A line of a recording for each collection, of which there is one without a pace.
    Lines(Option<Schedule>, Destination),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What to show.
    pub output: Output,
    /// How long the nodes' latency histograms are watched before a single collection: a latency needs two readings.
    pub watch: Duration,
}

impl Check {
    /// Whether somebody watches, on a terminal perhaps.
    pub fn is_watched(&self) -> bool {
        matches!(self.output, Output::Watch(_))
    }
}

/// Looks, shows, and tells the exit status.
pub async fn check(task: &Check, config: &Config) -> anyhow::Result<u8> {
    let recording = matches!(task.output, Output::Lines(..));
    let asked_for = match &task.output {
        // A name that was cut is no key's. What it stands for is explained if it is listed.
        Output::Explained { subject, .. } if !is_cut_key(subject) => Some(decode_key(subject)),
        Output::Explained { .. }
        | Output::Table
        | Output::Json
        | Output::Watch(_)
        | Output::Lines(..) => None,
    };
    let observe = ObserveConfig {
        // Counted in any case, since it may be one of a million that are well.
        named_keys: asked_for.iter().map(|key| Box::from(&**key)).collect(),
        recording,
        ..config.observe.clone()
    };
    let clock = Clock::start();
    let limiter = Limiter::new(observe, clock.clone())?;
    let checker = Checker::new(config.checker.clone());
    let collect = Arc::new(Collect::new(limiter, checker, clock, None));
    let (text, status) = match &task.output {
        Output::Lines(pace, target) => {
            return record(&collect, *pace, target, task.watch).await;
        }
        Output::Watch(pace) => return watch(&collect, *pace).await,
        Output::Explained { subject, json } => {
            let snapshot = once(&collect, task.watch).await?;
            let key = asked_for.map(|key| config.observe.key_label.of(&key));
            let names: Vec<String> = names_of(subject).into_iter().chain(key).collect();
            let explained = snapshot.report.explain(&snapshot.observation, &names);
            let text = if *json {
                serde_json::to_string_pretty(&explained)? + "\n"
            } else {
                explain::text(&explained)
            };
            (text, explain::standing(&explained).exit_status())
        }
        Output::Json => {
            let snapshot = once(&collect, task.watch).await?;
            (json(&snapshot)? + "\n", exit_status(&snapshot.report))
        }
        Output::Table => {
            let snapshot = once(&collect, task.watch).await?;
            (table(&snapshot), exit_status(&snapshot.report))
        }
    };
    // That nobody reads it changes nothing about how things stand.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(status)
}

/// One collection, after watching the nodes' latency histograms for `watch`.
async fn once(
    collect: &Arc<Collect<Limiter, Checker>>,
    watch: Duration,
) -> anyhow::Result<Arc<Snapshot>> {
    let mut snapshot = collect.snapshot(Instant::now() + MOST_TIME).await;
    if !watch.is_zero() {
        tokio::time::sleep(watch).await;
        snapshot = collect.snapshot(Instant::now() + MOST_TIME).await;
    }
    snapshot.context("the collection failed")
}

/// Shows until the time is up, somebody says stop, or nobody looks any more. The exit status is that of the last look.
async fn watch(collect: &Arc<Collect<Limiter, Checker>>, pace: Schedule) -> anyhow::Result<u8> {
    let mut screen = Screen::new()?;
    let mut status = Standing::Unknown.exit_status();
    let looked = look(collect, pace, |snapshot| {
        status = exit_status(&snapshot.report);
        let text = table(snapshot);
        let (verdict, tables) = text.split_once('\n').unwrap_or_default();
        let (at, every) = (snapshot.report.at.wall, pace.every);
        let took = snapshot.seconds * 1e3;
        let text = format!("{verdict}\n{at:.0}, in {took:.0} ms, every {every:?}\n{tables}");
        Ok(screen.draw(&text)?)
    })
    .await;
    match looked {
        Err(error) if reader_is_gone(&error) => Ok(status),
        looked => looked.map(|()| status),
    }
}

/// Records one look, or looks until the time is up, somebody says stop, or nobody reads any further.
async fn record(
    collect: &Arc<Collect<Limiter, Checker>>,
    pace: Option<Schedule>,
    target: &Destination,
    watch: Duration,
) -> anyhow::Result<u8> {
    // Before the first look, since an output that cannot be had is known at once.
    let mut recorder = Recorder::open(target)?;
    let Some(pace) = pace else {
        let snapshot = once(collect, watch).await?;
        recorder.write(&line(&snapshot)?)?;
        recorder.finish()?;
        return Ok(exit_status(&snapshot.report));
    };
    let progress = if target.file.is_some() || !io::stdout().is_terminal() {
        ProgressBar::no_length()
    } else {
        // The lines themselves show it.
        ProgressBar::hidden()
    };
    let progress = progress.with_style(ProgressStyle::with_template("{msg}")?);
    let mut observations = 0_u64;
    let looked = look(collect, pace, |snapshot| {
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
    let ended = looked.and_then(|()| Ok(recorder.finish()?));
    match ended {
        Err(error) if reader_is_gone(&error) => Ok(0),
        ended => ended.context("the recording").map(|()| 0),
    }
}

fn reader_is_gone(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
