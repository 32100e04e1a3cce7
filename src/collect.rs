//! One collection: observe, then check. Scrapes that arrive together share one run, and a run ends by the earliest
//! deadline among them, with what it got. Its settings can change between two runs.

mod flights;
mod listed;
mod summary;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::clock::Clock;
use crate::invariants::{Checker, CheckerConfig, InvariantName, Report};
use crate::observation::{CountersRead, KeyLabel, KeyTotals, Observation, Reason, decode_key};
use crate::snapshot::{OwnCounters, Snapshot};
use crate::state::{self, State};
use crate::subject::{InvariantChecker, Subject};
use flights::Flights;
use listed::Listed;
use summary::{KeysKept, Summary};

/// How often the registry is looked at between collections: well inside the life of a registration (30 s), which
/// Prometheus's default scrape interval (1 min) is not. It costs two commands a node.
pub const GLANCE_EVERY: Duration = Duration::from_secs(8);

/// What is kept of each collection, and how it is shown.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// How keys are shown.
    pub label: KeyLabel,
    /// How many of the fullest keys are listed.
    pub max_series: usize,
    /// Keys that are looked at and listed in any case.
    pub keys: BTreeSet<Box<[u8]>>,
    /// For a recording: every key above its limit is listed, with all that a replay needs.
    pub recording: bool,
    /// Where state survives a restart.
    pub state_file: Option<PathBuf>,
}

/// How long after its deadline a collection may end. Everything in it is cut off at the deadline; what follows is the
/// checking of what was seen, a second for a million keys.
const OVERDUE: Duration = Duration::from_secs(15);

/// Runs collections.
#[derive(Debug)]
pub struct Collect<S> {
    work: tokio::sync::Mutex<Work<S>>,
    flights: Mutex<Flights>,
    last: watch::Sender<Option<Arc<Snapshot>>>,
    coalesced: AtomicU64,
    tasks: TaskTracker,
    /// What its log lines are told apart by.
    span: Span,
}

#[derive(Debug)]
struct Work<S> {
    subject: S,
    checker: Checker,
    clock: Clock,
    label: KeyLabel,
    max_series: usize,
    recording: bool,
    state_file: Option<PathBuf>,
    kept: KeysKept,
    reported: Reported,
    own: OwnCounters,
}

impl<S: Subject + 'static> Collect<S> {
    /// Gets ready to collect.
    pub fn new(subject: S, checker: Checker, clock: Clock, keep: Keep) -> Self {
        Self {
            work: tokio::sync::Mutex::new(Work {
                subject,
                checker,
                clock,
                label: keep.label,
                max_series: keep.max_series,
                recording: keep.recording,
                state_file: keep.state_file,
                kept: KeysKept::new(Listed::new(keep.recording, keep.keys)),
                reported: Reported::new(),
                own: OwnCounters::default(),
            }),
            flights: Mutex::default(),
            last: watch::Sender::new(None),
            coalesced: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            span: Span::none(),
        }
    }

    /// Puts `limiter` into every line that is logged, where several are watched.
    #[must_use]
    pub fn named(self, limiter: &str) -> Self {
        Self {
            span: tracing::error_span!("collection", limiter),
            ..self
        }
    }

    /// A collection that ends by `deadline`: the one under way if there is one, else a new one. `None` if it died, or is
    /// long overdue.
    pub async fn snapshot(self: &Arc<Self>, deadline: Instant) -> Option<Arc<Snapshot>> {
        let mut done = self.join(deadline);
        let done = done.wait_for(Option::is_some);
        let snapshot = tokio::time::timeout_at(deadline + OVERDUE, done).await;
        snapshot.ok()?.ok()?.clone()
    }

    /// Makes sure that a collection is under way or done, without waiting for it.
    pub fn start(self: &Arc<Self>, deadline: Instant) {
        drop(self.join(deadline));
    }

    /// The last finished collection, if there was one.
    pub fn last(&self) -> Option<Arc<Snapshot>> {
        self.last.borrow().clone()
    }

    /// How long ago a collection should have ended at the latest, if it should: none can be completed then, whatever is
    /// asked for.
    pub fn overdue(&self, at: Instant) -> Option<Duration> {
        let owed = lock(&self.flights).owed?;
        at.checked_duration_since(owed + OVERDUE)
    }

    /// Waits until no collection is under way, and keeps the next one waiting.
    pub async fn between(&self) -> Between<'_, S> {
        Between(self.work.lock().await)
    }

    /// Keeps the next collection waiting, if none is under way.
    pub fn try_between(&self) -> Option<Between<'_, S>> {
        self.work.try_lock().ok().map(Between)
    }

    /// Waits for the collection under way, if any.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn join(self: &Arc<Self>, deadline: Instant) -> watch::Receiver<Option<Arc<Snapshot>>> {
        let (done, seat) = lock(&self.flights).join(Instant::now(), deadline);
        let Some(seat) = seat else {
            self.coalesced.fetch_add(1, Ordering::Relaxed);
            return done;
        };
        let this = Arc::clone(self);
        // The run is a task of its own, so that a client that hangs up takes nothing from the others.
        let run = async move {
            let mut work = this.work.lock().await;
            let mut snapshot = work.collect(seat.deadline.clone()).await;
            snapshot.own.coalesced = this.coalesced.load(Ordering::Relaxed);
            let snapshot = Arc::new(snapshot);
            lock(&this.flights).land(&seat);
            this.last.send_replace(Some(Arc::clone(&snapshot)));
            seat.finished.send_replace(Some(snapshot));
            // Nobody waits for the disk, but the next collection does, so that files are written in order.
            work.save().await;
        };
        self.tasks.spawn(run.instrument(self.span.clone()));
        done
    }

    /// Now and then a light look at the subject, if nothing else is going on. Never ends.
    pub async fn glance_at_times(&self) {
        loop {
            tokio::time::sleep(GLANCE_EVERY).await;
            self.glance().await;
        }
    }

    /// A light look at the subject, if nothing else is going on.
    pub async fn glance(&self) {
        if let Ok(mut work) = self.work.try_lock() {
            work.subject.glance().await;
        }
    }
}

/// The time between two collections, while it is held.
#[derive(Debug)]
pub struct Between<'a, S>(tokio::sync::MutexGuard<'a, Work<S>>);

impl<S: Subject> Between<'_, S> {
    /// Goes on with `next` and other settings. What is in progress and what is remembered stays, unless `next` observes
    /// something else.
    pub fn reconfigure(
        &mut self,
        next: S,
        checker: CheckerConfig,
        label: KeyLabel,
        max_series: usize,
    ) {
        let work = &mut *self.0;
        let before = std::mem::replace(&mut work.subject, next);
        if !work.subject.succeed(before) {
            tracing::info!(
                "another limiter is observed: what was known of the one before is forgotten"
            );
            work.checker.clear_state();
            work.kept = KeysKept::new(Listed::new(work.recording, BTreeSet::new()));
            work.reported = Reported::new();
            work.own.last_success.clear();
        }
        work.checker.reconfigure(checker, label);
        work.label = label;
        work.max_series = max_series;
    }
}

impl<S: Subject> Work<S> {
    async fn collect(&mut self, deadline: watch::Receiver<Instant>) -> Snapshot {
        let started = self.clock.now();
        let mut watched = self.checker.watched_keys();
        watched.extend(self.kept.watched().cloned());
        let watched = watched.into_iter().collect();
        let mut summary = Summary::new(&mut self.checker, &mut self.kept, self.max_series);
        let mut observation = self.subject.observe(deadline, watched, &mut summary).await;
        observation.cut_long_texts();
        let (counted, counters) = summary.finish(self.label);
        let read = observation.totals.take().unwrap_or_default();
        observation.totals = Some(KeyTotals {
            keys: counted.keys,
            utilization: counted.utilization,
            utilization_sum: counted.utilization_sum,
            without_limit: counted.without_limit,
            ..read
        });
        observation.counters = counters;
        // The moment of the whole: counters were judged as they were read, none later than this.
        let now = self.clock.now();
        let report = self.checker.check(now, &observation);
        report.withhold_made_up(&mut observation);
        observation.keys_hashed = self.label == KeyLabel::Hash;
        self.label_keys(&mut observation);
        if self.kept.list_is_incomplete() && observation.counters_read == CountersRead::Full {
            // The checker saw them all, but whoever reads this does not.
            observation.counters_read = CountersRead::Partial {
                gone: Vec::new(),
                reason: Reason::TooLarge,
            };
        }
        self.count_own(&observation, now.wall);
        self.reported = log_changes(&self.reported, &report, &observation);
        Snapshot {
            observation,
            report,
            seconds: now.since(started.steady).as_secs_f64(),
            own: self.own.clone(),
        }
    }

    /// The keys that are gone, or could not be judged, were for the checker. Only a recording tells them on, as it shows
    /// all keys.
    fn label_keys(&self, observation: &mut Observation) {
        let label = |key: &str| self.label.of(&decode_key(key));
        let unjudged = std::mem::take(&mut observation.unjudged).into_iter();
        let unjudged = unjudged.filter(|_| self.recording);
        observation.unjudged = unjudged
            .map(|(key, reason)| (label(&key), reason))
            .collect();
        if let CountersRead::Partial { gone, .. } = &mut observation.counters_read {
            if !self.recording {
                gone.clear();
            }
            for key in gone {
                *key = label(key);
            }
        }
    }

    async fn save(&mut self) {
        let Some(path) = self.state_file.clone() else {
            return;
        };
        let state = State::new(self.clock.now(), self.checker.save(), self.subject.memory());
        let saved = tokio::task::spawn_blocking(move || {
            state::save(&path, &state).map_err(|error| (path, error))
        });
        let before = self.own.state_written.unwrap_or(true);
        let saved = saved.await;
        let written = matches!(saved, Ok(Ok(())));
        match saved {
            Ok(Err((path, error))) if before => tracing::error!(
                "--state.file: cannot write {}: {error}; tried again after each collection",
                path.display()
            ),
            Ok(Ok(())) if !before => tracing::info!("--state.file: written again"),
            _ => {}
        }
        self.own.state_written = Some(written);
    }

    fn count_own(&mut self, observation: &Observation, now: Timestamp) {
        for failure in &observation.failures {
            let key = (failure.collector, failure.reason);
            *self.own.errors.entry(key).or_default() += failure.times;
        }
        for (collector, run) in &observation.collectors {
            if run.success {
                self.own.last_success.insert(*collector, now);
            }
        }
    }
}

/// Subjects in reported violation, by invariant.
type Reported = BTreeSet<(InvariantName, String)>;

/// Logs what could not be read, and each violation once when it starts and once when it ends.
fn log_changes(before: &Reported, report: &Report, observation: &Observation) -> Reported {
    for failure in &observation.failures {
        tracing::debug!(
            collector = failure.collector.name(),
            reason = failure.reason.name(),
            subject = failure.subject,
            "{}",
            failure.message
        );
    }
    let mut now = Reported::new();
    for violation in &report.violations {
        let subject = (violation.name, violation.subject.clone());
        if !before.contains(&subject) {
            tracing::warn!(
                invariant = violation.name.name(),
                severity = violation.severity.name(),
                subject = violation.subject,
                "violated: {}",
                violation.message
            );
        }
        now.insert(subject);
    }
    for (name, subject) in before.difference(&now) {
        tracing::info!(invariant = name.name(), subject, "no longer violated");
    }
    now
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The lock is held for plain assignments only: a panic cannot leave anything half-done behind it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
