//! One collection: observe, then check. Scrapes that arrive together share one run, and a run ends by the earliest
//! deadline among them, with what it got. Its settings can change between two runs.

mod saving;
mod single_flight;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::clock::Clock;
use crate::lock::lock;
use crate::observation::Observation;
use crate::report::{InvariantName, Report};
use crate::snapshot::{OwnCounters, Snapshot};
use crate::state::State;
use crate::subject::{InvariantChecker, Subject};
use saving::{Saving, ToSave};
use single_flight::SingleFlight;

/// How often the registry is looked at between collections: well inside the life of a registration (30 s), which
/// Prometheus's default scrape interval (1 min) is not. It costs two commands a node.
pub const GLANCE_EVERY: Duration = Duration::from_secs(8);

/// How long after its deadline a collection may end. Everything in it is cut off at the deadline; what follows is the
/// checking of what was seen, a second for a million keys.
const OVERDUE: Duration = Duration::from_secs(15);

/// How long what goes on between collections keeps others waiting at the most, with some to spare.
const HELD: Duration = Duration::from_millis(200);

/// Runs collections.
#[derive(Debug)]
pub struct Collect<S, C> {
    work: tokio::sync::Mutex<Work<S, C>>,
    single_flight: Mutex<SingleFlight>,
    last: watch::Sender<Option<Arc<Snapshot>>>,
    coalesced: AtomicU64,
    tasks: TaskTracker,
    saving: Saving,
    /// Collections so far, by which one that goes on between them knows that it is over.
    begun: AtomicU64,
    /// Nobody goes on between collections while there are any.
    holds: AtomicUsize,
    ending: CancellationToken,
    /// What its log lines are told apart by.
    span: Span,
}

#[derive(Debug)]
struct Work<S, C> {
    subject: S,
    checker: C,
    clock: Clock,
    /// Where state survives a restart.
    state_file: Option<PathBuf>,
    reported: Reported,
    own: OwnCounters,
}

impl<S: Subject + 'static, C: InvariantChecker + 'static> Collect<S, C> {
    /// Gets ready to collect, by `clock`. With a `state_file`, what is known is written there after each collection.
    pub fn new(subject: S, checker: C, clock: Clock, state_file: Option<PathBuf>) -> Self {
        Self {
            work: tokio::sync::Mutex::new(Work {
                subject,
                checker,
                clock,
                state_file,
                reported: Reported::new(),
                own: OwnCounters::default(),
            }),
            single_flight: Mutex::default(),
            last: watch::Sender::new(None),
            coalesced: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            saving: Saving::default(),
            begun: AtomicU64::new(0),
            holds: AtomicUsize::new(0),
            ending: CancellationToken::new(),
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
        let owed = lock(&self.single_flight).owed?;
        at.checked_duration_since(owed + OVERDUE)
    }

    /// Waits until no collection is under way, and keeps the next one waiting.
    pub async fn between(&self) -> Between<'_, S, C> {
        Between(self.work.lock().await)
    }

    /// Keeps the next collection waiting, if none is under way.
    pub fn try_between(&self) -> Option<Between<'_, S, C>> {
        self.work.try_lock().ok().map(Between)
    }

    /// Waits for the collection under way, if any.
    pub async fn finish(&self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn join(self: &Arc<Self>, deadline: Instant) -> watch::Receiver<Option<Arc<Snapshot>>> {
        let (done, leader) = lock(&self.single_flight).join(Instant::now(), deadline);
        let Some(leader) = leader else {
            self.coalesced.fetch_add(1, Ordering::Relaxed);
            return done;
        };
        let this = Arc::clone(self);
        // The run is a task of its own, so that a client that hangs up takes nothing from the others.
        let run = async move {
            let number = this.begun.fetch_add(1, Ordering::Relaxed) + 1;
            let mut work = this.work.lock().await;
            work.own.state_written = this.saving.written();
            let mut snapshot = work.collect(leader.deadline.clone()).await;
            snapshot.own.coalesced = this.coalesced.load(Ordering::Relaxed);
            let snapshot = Arc::new(snapshot);
            lock(&this.single_flight).end(&leader);
            this.last.send_replace(Some(Arc::clone(&snapshot)));
            leader.finished.send_replace(Some(snapshot));
            let to_save = work.to_save();
            drop(work);
            // Nobody waits for the disk.
            if let Some(to_save) = to_save {
                this.saving.save(to_save).await;
            }
            // Not kept alive by this: who is not asked any more has nothing to go on with.
            let (ending, asked) = (this.ending.clone(), Arc::downgrade(&this));
            drop(this);
            let going_on = async {
                while let Some(this) = asked.upgrade()
                    && this.go_on(number).await
                {}
            };
            ending.run_until_cancelled(going_on).await;
        };
        self.tasks.spawn(run.instrument(self.span.clone()));
        done
    }

    /// Goes on for a moment after the collection with this number. Returns whether there is more to do before the next.
    async fn go_on(&self, number: u64) -> bool {
        if self.holds.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(HELD).await;
            return true;
        }
        // It is fair: a collection that waits is next.
        let mut work = self.work.lock().await;
        self.begun.load(Ordering::Relaxed) == number && {
            let Work {
                subject, checker, ..
            } = &mut *work;
            subject.go_on(checker).await
        }
    }

    /// Nobody goes on between collections while this is held, so that there is a moment in which nothing is under way.
    pub fn hold(&self) -> Hold<'_> {
        self.holds.fetch_add(1, Ordering::Relaxed);
        Hold(&self.holds)
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
        // What goes on between collections makes room; a collection looks for itself.
        if let Ok(mut work) = tokio::time::timeout(HELD, self.work.lock()).await {
            work.subject.glance().await;
        }
    }
}

/// Keeps others from going on between collections.
#[derive(Debug)]
pub struct Hold<'a>(&'a AtomicUsize);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time between two collections, while it is held.
#[derive(Debug)]
pub struct Between<'a, S, C>(tokio::sync::MutexGuard<'a, Work<S, C>>);

impl<S: Subject, C: InvariantChecker> Between<'_, S, C> {
    /// Goes on with `next` and other settings. What is in progress and what is remembered stays, unless `next` observes
    /// something else.
    pub fn reconfigure(&mut self, next: S, checker: C::Config) {
        let work = &mut *self.0;
        let before = std::mem::replace(&mut work.subject, next);
        if !work.subject.take_over(before) {
            tracing::info!(
                "another limiter is observed: what was known of the one before is forgotten"
            );
            work.checker.clear_state();
            work.reported = Reported::new();
            work.own.last_success.clear();
        }
        work.checker.reconfigure(checker);
    }
}

impl<S: Subject, C: InvariantChecker> Work<S, C> {
    async fn collect(&mut self, deadline: watch::Receiver<Instant>) -> Snapshot {
        let started = self.clock.now();
        let mut observation = self.subject.observe(deadline, &mut self.checker).await;
        observation.cut_long_texts();
        // The moment of the whole: counters were judged as they were read, none later than this.
        let now = self.clock.now();
        let report = self.checker.check(now, &observation);
        report.withhold_made_up(&mut observation);
        observation.judged();
        self.count_own(&observation, now.wall);
        self.reported = log_changes(&self.reported, &report, &observation);
        Snapshot {
            observation,
            report,
            seconds: now.since(started.steady).as_secs_f64(),
            own: self.own.clone(),
        }
    }

    /// What is to be written now, if state is kept.
    fn to_save(&self) -> Option<ToSave> {
        Some(ToSave {
            path: self.state_file.clone()?,
            state: State::new(self.clock.now(), self.checker.save(), self.subject.memory()),
            bulk: self.subject.bulk(),
        })
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

#[cfg(test)]
mod tests;
