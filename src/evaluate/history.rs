//! What one configuration would have reported over a whole recording: for each invariant and subject how often, when and
//! for how long. A state lasts from its observation to the next one, but not longer than an unknown state is held.
//!
//! Memory is bounded: what exceeds the bounds is left out, and marked as incomplete.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::clock::elapsed;
use crate::invariants::CheckerConfig;
use crate::report::{InvariantConfig, Report};

/// A violation that is reported again so soon after its end is a flap.
const FLAP: Duration = Duration::from_secs(10 * 60);

/// Subjects that are counted separately, for each invariant.
const MOST_SUBJECTS: usize = 10_000;

/// Spans that are kept for drawing, of all subjects together.
const MOST_SPANS: usize = 200_000;

/// The state of a subject, where it is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Reported.
    Reported,
    /// Inside its grace period.
    Pending,
    /// Of an invariant as a whole: something could not be evaluated.
    Unknown,
}

/// A time during which a state lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) state: State,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// The history of one subject, or of an invariant as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SubjectHistory {
    /// The node id, `redis`, or the key.
    pub(super) subject: String,
    /// How often it was reported.
    pub(super) violations: u64,
    /// When it was first reported.
    pub(super) first: Option<Timestamp>,
    /// When it was last reported.
    pub(super) last: Option<Timestamp>,
    /// How long it was reported.
    #[serde(rename = "seconds_in_violation", serialize_with = "seconds")]
    pub(super) reported_for: Duration,
    /// How often it was reported again soon after its end.
    pub(super) flaps: u64,
    /// How often it was pending and then well, without a report.
    pub(super) pending_only: u64,
    #[serde(skip)]
    pub(super) spans: Vec<Span>,
    /// The present state and its beginning; `None` while it is well.
    #[serde(skip)]
    now: Option<(State, Timestamp)>,
    /// When it was last no longer reported.
    #[serde(skip)]
    ended: Option<Timestamp>,
    /// The number of the observation at which it was last in violation.
    #[serde(skip)]
    seen: u64,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// The history of one invariant.
#[derive(Clone, Debug)]
pub(super) struct InvariantHistory {
    pub(super) config: InvariantConfig,
    pub(super) subjects: Vec<SubjectHistory>,
    /// There were more subjects than are counted separately.
    pub(super) incomplete: bool,
    /// How long at least one subject was reported.
    pub(super) reported_for: Duration,
    /// How long something could not be evaluated.
    pub(super) unknown_for: Duration,
    /// The most subjects reported at once.
    pub(super) most_at_once: u64,
    /// Whether everything could be evaluated.
    pub(super) whole: SubjectHistory,
    /// The index of each subject.
    places: HashMap<String, usize>,
    /// The indexes of the subjects that are not well.
    active: Vec<usize>,
}

/// The history of a recording under one configuration.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) invariants: Vec<InvariantHistory>,
    room: Room,
    hold: Duration,
    now: Option<Timestamp>,
    observations: u64,
}

/// Room for spans.
#[derive(Clone, Debug)]
struct Room {
    left: usize,
    /// There was no room for some.
    exceeded: bool,
}

impl History {
    /// An empty history. It keeps spans only if they are to be `drawn`.
    pub(super) fn new(config: &CheckerConfig, drawn: bool) -> Self {
        let invariants = config.invariants.iter().map(|config| InvariantHistory {
            config: config.clone(),
            subjects: Vec::new(),
            incomplete: false,
            reported_for: Duration::ZERO,
            unknown_for: Duration::ZERO,
            most_at_once: 0,
            whole: SubjectHistory::default(),
            places: HashMap::new(),
            active: Vec::new(),
        });
        Self {
            invariants: invariants.collect(),
            room: Room {
                left: if drawn { MOST_SPANS } else { 0 },
                exceeded: false,
            },
            hold: config.unknown_hold,
            now: None,
            observations: 0,
        }
    }

    /// Whether some spans are missing.
    pub(super) fn undrawn(&self) -> bool {
        self.room.exceeded
    }

    /// Adds the next report of the recording.
    pub(super) fn take(&mut self, report: &Report) {
        let before = self.now.unwrap_or(report.at.steady);
        // Time that runs backwards does not count, as in the checker.
        let now = before.max(report.at.steady);
        self.now = Some(now);
        self.observations += 1;
        let (number, room) = (self.observations, &mut self.room);
        let lasted = elapsed(before, now).min(self.hold);
        for invariant in &mut self.invariants {
            invariant.pass_time(lasted);
            let name = invariant.config.name;
            for (list, state) in [
                (&report.violations, State::Reported),
                (&report.pending, State::Pending),
            ] {
                for violation in list.iter().filter(|violation| violation.name == name) {
                    invariant.seen(&violation.subject, state, now, number, room);
                }
            }
            invariant.end_unseen(now, number, room);
            let status = report.status(name);
            if status.is_none_or(|status| status.evaluable) {
                invariant.whole.leave(now, room);
            } else {
                invariant.whole.enter(State::Unknown, now, room);
            }
            let reported = status.map_or(0, |status| status.violations);
            invariant.most_at_once = invariant.most_at_once.max(reported);
        }
    }

    /// The history at the end of the recording, where every state ends.
    pub(super) fn finished(mut self) -> Self {
        let now = self.now.unwrap_or_default();
        for invariant in &mut self.invariants {
            for subject in invariant.subjects.iter_mut().chain([&mut invariant.whole]) {
                subject.leave(now, &mut self.room);
            }
        }
        self
    }
}

impl InvariantHistory {
    /// The subjects that were reported.
    pub(super) fn reported(&self) -> impl Iterator<Item = &SubjectHistory> {
        self.subjects.iter().filter(|it| it.violations > 0)
    }

    /// The history of `subject`, if it was ever in violation.
    pub(super) fn subject(&self, subject: &str) -> Option<&SubjectHistory> {
        self.places.get(subject).map(|place| &self.subjects[*place])
    }

    fn pass_time(&mut self, lasted: Duration) {
        let mut any = false;
        for place in &self.active {
            let subject = &mut self.subjects[*place];
            if matches!(subject.now, Some((State::Reported, _))) {
                subject.reported_for += lasted;
                any = true;
            }
        }
        if any {
            self.reported_for += lasted;
        }
        if self.whole.now.is_some() {
            self.unknown_for += lasted;
        }
    }

    /// `subject` is in violation at the observation with this `number`.
    fn seen(&mut self, subject: &str, state: State, now: Timestamp, number: u64, room: &mut Room) {
        let place = match self.places.get(subject) {
            Some(place) => *place,
            None if self.subjects.len() >= MOST_SUBJECTS => {
                self.incomplete = true;
                return;
            }
            None => {
                let place = self.subjects.len();
                self.subjects.push(SubjectHistory {
                    subject: subject.to_owned(),
                    ..SubjectHistory::default()
                });
                self.places.insert(subject.to_owned(), place);
                place
            }
        };
        let subject = &mut self.subjects[place];
        if subject.now.is_none() {
            self.active.push(place);
        }
        subject.seen = number;
        subject.enter(state, now, room);
    }

    /// Subjects that were in violation, and are not at the observation with this `number`, are well.
    fn end_unseen(&mut self, now: Timestamp, number: u64, room: &mut Room) {
        let subjects = &mut self.subjects;
        self.active.retain(|place| {
            let subject = &mut subjects[*place];
            let still = subject.seen == number;
            if !still {
                if matches!(subject.now, Some((State::Pending, _))) {
                    subject.pending_only += 1;
                }
                subject.leave(now, room);
            }
            still
        });
    }
}

impl SubjectHistory {
    fn enter(&mut self, state: State, now: Timestamp, room: &mut Room) {
        let before = self.now.map(|(state, _)| state);
        if before != Some(state) {
            self.leave(now, room);
            self.now = Some((state, now));
            if state == State::Reported {
                self.violations += 1;
                let soon = |ended| elapsed(ended, now) < FLAP;
                self.flaps += u64::from(self.ended.is_some_and(soon));
                self.first.get_or_insert(now);
            }
        }
        if state == State::Reported {
            self.last = Some(now);
        }
    }

    fn leave(&mut self, now: Timestamp, room: &mut Room) {
        let Some((state, from)) = self.now.take() else {
            return;
        };
        if state == State::Reported {
            self.ended = Some(now);
        }
        if room.left == 0 {
            room.exceeded = true;
            return;
        }
        room.left -= 1;
        let to = now;
        self.spans.push(Span { state, from, to });
    }
}

#[cfg(test)]
mod tests;
