//! One collection: observe, then check. Scrapes that arrive together share one collection. It ends by the earliest of
//! their deadlines, with what it has read until then. Settings can change between two collections.

mod saving;
mod single_flight;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{MutexGuard, watch};
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

/// When the first glance is due, and the least time between two. The subject says when the next one is.
const FIRST_GLANCE: Duration = Duration::from_secs(1);

/// How long after its deadline a collection may end. All reading ends at the deadline; the checks after it take about a
/// second for a million keys.
const OVERDUE: Duration = Duration::from_secs(15);

/// How long a glance waits for a collection under way. Work between collections gives way at once.
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
    /// Collections begun so far. Work between collections ends when this number changes.
    begun: AtomicU64,
    /// The number of [`Hold`]s. Work between collections gives way while there is one.
    holds: watch::Sender<usize>,
    ending: CancellationToken,
    /// The span of its log lines, with the name of the target.
    span: Span,
}

#[derive(Debug)]
struct Work<S, C> {
    subject: S,
    checker: C,
    clock: Clock,
    /// The file of `--state.file`.
    state_file: Option<PathBuf>,
    reported: Reported,
    own: OwnCounters,
}

impl<S: Subject + 'static, C: InvariantChecker + 'static> Collect<S, C> {
    /// Prepares collections of `subject`, with the times of `clock`. With a `state_file`, the state is written there
    /// after each collection.
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
            holds: watch::Sender::new(0),
            ending: CancellationToken::new(),
            span: Span::none(),
        }
    }

    /// Adds the name of the target to every log line, as `limiter`, for an exporter that watches several.
    #[must_use]
    pub fn named(self, target: &str) -> Self {
        Self {
            span: tracing::error_span!("collection", limiter = target),
            ..self
        }
    }

    /// A collection that ends by `deadline`: the one under way, or else a new one. `None` if its task panicked or it is
    /// long overdue.
    pub async fn snapshot(self: &Arc<Self>, deadline: Instant) -> Option<Arc<Snapshot>> {
        let mut done = self.join(deadline);
        let done = done.wait_for(Option::is_some);
        let snapshot = tokio::time::timeout_at(deadline + OVERDUE, done).await;
        snapshot.ok()?.ok()?.clone()
    }

    /// Joins or starts a collection, without waiting for it.
    pub fn start(self: &Arc<Self>, deadline: Instant) {
        drop(self.join(deadline));
    }

    /// The last finished collection, if there was one.
    pub fn last(&self) -> Option<Arc<Snapshot>> {
        self.last.borrow().clone()
    }

    /// How long a collection is overdue. While one is, no collection can be completed.
    pub fn overdue(&self, at: Instant) -> Option<Duration> {
        let due = lock(&self.single_flight).due?;
        at.checked_duration_since(due + OVERDUE)
    }

    /// Waits until no collection is under way, and keeps the next one waiting.
    pub async fn between(&self) -> Between<'_, S, C> {
        Between(self.lock().await)
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
        // The collection is a task of its own, so that it continues for other clients when one disconnects.
        let run = async move {
            let number = this.begun.fetch_add(1, Ordering::Relaxed) + 1;
            let mut work = this.lock().await;
            work.own.state_written = this.saving.written();
            let mut snapshot = work.collect(leader.deadline.clone()).await;
            snapshot.own.coalesced = this.coalesced.load(Ordering::Relaxed);
            let snapshot = Arc::new(snapshot);
            lock(&this.single_flight).end(&leader);
            this.last.send_replace(Some(Arc::clone(&snapshot)));
            leader.finished.send_replace(Some(snapshot));
            let to_save = work.to_save();
            drop(work);
            // No client waits for the disk.
            if let Some(to_save) = to_save {
                this.saving.save(to_save).await;
            }
            // Work between collections does not keep `Collect` alive: a target that was removed stops.
            let (ending, asked) = (this.ending.clone(), Arc::downgrade(&this));
            drop(this);
            let more = async {
                while let Some(this) = asked.upgrade()
                    && this.observe_more(number).await
                {}
            };
            ending.run_until_cancelled(more).await;
        };
        self.tasks.spawn(run.instrument(self.span.clone()));
        done
    }

    /// Continues for a moment the work that the collection with this number left. Returns whether there is more to do
    /// before the next.
    async fn observe_more(&self, number: u64) -> bool {
        let mut holds = self.holds.subscribe();
        // The sender lives as long as `self`.
        let _ = holds.wait_for(|holds| *holds == 0).await;
        let mut work = self.work.lock().await;
        self.begun.load(Ordering::Relaxed) == number && {
            let Work {
                subject, checker, ..
            } = &mut *work;
            let give_way = async { drop(holds.wait_for(|holds| *holds > 0).await) };
            subject.observe_more(checker, give_way).await
        }
    }

    /// Waits until nothing is under way. Work between collections gives way.
    async fn lock(&self) -> MutexGuard<'_, Work<S, C>> {
        let _hold = self.hold();
        self.work.lock().await
    }

    /// Pauses work between collections while this is held, so that there is a moment in which nothing is under way.
    pub fn hold(&self) -> Hold<'_> {
        self.holds.send_modify(|holds| *holds += 1);
        Hold(&self.holds)
    }

    /// Observes now and then, until it ends or is dropped, the little that would be missed between collections.
    pub fn glance_at_times(self: &Arc<Self>) {
        let (ending, asked) = (self.ending.clone(), Arc::downgrade(self));
        let glances = async move {
            let mut pause = FIRST_GLANCE;
            loop {
                tokio::time::sleep(pause).await;
                let Some(this) = asked.upgrade() else { return };
                pause = this
                    .glance()
                    .await
                    .unwrap_or(FIRST_GLANCE)
                    .max(FIRST_GLANCE);
            }
        };
        let task = async move { ending.run_until_cancelled(glances).await };
        self.tasks.spawn(task);
    }

    /// `None` if a collection is under way, which reads all of this itself.
    async fn glance(&self) -> Option<Duration> {
        let work = tokio::time::timeout(HELD, self.lock()).await;
        Some(work.ok()?.subject.glance().await)
    }
}

/// Pauses work between collections.
#[derive(Debug)]
pub struct Hold<'a>(&'a watch::Sender<usize>);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|holds| *holds -= 1);
    }
}

/// The time between two collections, while it is held.
#[derive(Debug)]
pub struct Between<'a, S, C>(MutexGuard<'a, Work<S, C>>);

impl<S: Subject, C: InvariantChecker> Between<'_, S, C> {
    /// Continues with the subject `next` and new settings of the checker. Violations in progress and memory stay,
    /// unless `next` observes another limiter.
    pub fn reconfigure(&mut self, next: S, checker: C::Config) {
        let work = &mut *self.0;
        let before = std::mem::replace(&mut work.subject, next);
        if !work.subject.take_over(before) {
            tracing::info!(
                "another limiter is observed: violations, nodes and limits of the previous one are forgotten"
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
        // The time of the collection. Counters were judged when they were read, none later than this.
        let now = self.clock.now();
        let report = self.checker.check(now, &observation);
        report.withhold_imprecise_p99(&mut observation);
        observation.judged();
        self.count_own(&observation, now.wall);
        let reported = std::mem::take(&mut self.reported);
        self.reported = log_changes(reported, &report, &observation, &self.checker);
        Snapshot {
            observation,
            report,
            seconds: now.since(started.steady).as_secs_f64(),
            own: self.own.clone(),
        }
    }

    /// The state to write now, if there is a state file.
    fn to_save(&self) -> Option<ToSave> {
        Some(ToSave {
            path: self.state_file.clone()?,
            state: State::new(
                self.clock.now(),
                self.checker.save(),
                self.subject.remember(),
            ),
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
fn log_changes(
    before: Reported,
    report: &Report,
    observation: &Observation,
    checker: &impl InvariantChecker,
) -> Reported {
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
    let mut gone: BTreeMap<InvariantName, BTreeSet<String>> = BTreeMap::new();
    for subject in before {
        if !now.contains(&subject) {
            gone.entry(subject.0).or_default().insert(subject.1);
        }
    }
    for (name, subjects) in gone {
        // Where others are worse, the list has no room for all.
        let is_cut = report.status(name).is_some_and(|it| it.dropped > 0);
        let unlisted = is_cut.then(|| checker.still_reported(name, &subjects));
        let unlisted = unlisted.unwrap_or_default();
        for subject in subjects.difference(&unlisted) {
            tracing::info!(invariant = name.name(), subject, "no longer violated");
        }
        now.extend(unlisted.into_iter().map(|subject| (name, subject)));
    }
    now
}

#[cfg(test)]
mod tests;
