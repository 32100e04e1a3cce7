//! What one configuration would have reported over a whole recording: per invariant and subject how often, since when,
//! for how long. A state holds from its observation to the next one, but not longer than an unknown one would be held.
//!
//! Memory is bounded: what is beyond the bounds is left out, and told to be.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::clock::elapsed;
use crate::invariants::CheckerConfig;
use crate::report::{InvariantConfig, Report};

/// A violation that is reported again so soon after its end flaps.
pub(super) const FLAP: Duration = Duration::from_secs(10 * 60);

/// Subjects that are told apart, per invariant.
const MOST_SUBJECTS: usize = 10_000;

/// Spans that are kept for drawing, over all.
const MOST_SPANS: usize = 200_000;

/// How a subject stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Reported.
    Reported,
    /// Inside its grace period.
    Pending,
    /// Of an invariant as a whole: not everything could be evaluated.
    Unknown,
}

/// A time during which a subject stood in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) state: State,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// What became of one subject.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SubjectHistory {
    /// The node id, `redis`, or the key.
    pub(super) subject: String,
    /// How often it was reported.
    pub(super) violations: u64,
    /// When first.
    pub(super) first: Option<Timestamp>,
    /// When last.
    pub(super) last: Option<Timestamp>,
    /// How long it was reported.
    #[serde(rename = "seconds_in_violation", serialize_with = "seconds")]
    pub(super) reported: Duration,
    /// How often it was reported again soon after.
    pub(super) flaps: u64,
    /// How often it was pending and then well, without a report.
    pub(super) pending_only: u64,
    #[serde(skip)]
    pub(super) spans: Vec<Span>,
    #[serde(skip)]
    now: Option<(State, Timestamp)>,
    #[serde(skip)]
    ended: Option<Timestamp>,
    /// The observation at which it was last in violation.
    #[serde(skip)]
    seen: u64,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// What became of one invariant.
#[derive(Clone, Debug)]
pub(super) struct InvariantHistory {
    pub(super) config: InvariantConfig,
    pub(super) subjects: Vec<SubjectHistory>,
    /// There were more subjects than are told apart.
    pub(super) incomplete: bool,
    /// How long at least one subject was reported.
    pub(super) reported: Duration,
    /// How long not everything could be evaluated.
    pub(super) unknown: Duration,
    /// The most subjects reported at once.
    pub(super) most_at_once: u64,
    /// The times of that.
    pub(super) unknown_spans: Vec<Span>,
    places: HashMap<String, usize>,
    active: Vec<usize>,
    /// Since when not everything can be evaluated.
    unknown_since: Option<Timestamp>,
}

/// What became of a recording under one configuration.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) invariants: Vec<InvariantHistory>,
    /// Not every span was kept.
    pub(super) undrawn: bool,
    spans_left: usize,
    hold: Duration,
    now: Option<Timestamp>,
    observations: u64,
}

impl History {
    /// Nothing yet. Spans are kept only if they are to be `drawn`.
    pub(super) fn new(config: &CheckerConfig, drawn: bool) -> Self {
        let invariants = config.invariants.iter().map(|config| InvariantHistory {
            config: config.clone(),
            subjects: Vec::new(),
            incomplete: false,
            reported: Duration::ZERO,
            unknown: Duration::ZERO,
            most_at_once: 0,
            unknown_spans: Vec::new(),
            places: HashMap::new(),
            active: Vec::new(),
            unknown_since: None,
        });
        Self {
            invariants: invariants.collect(),
            undrawn: false,
            spans_left: if drawn { MOST_SPANS } else { 0 },
            hold: config.unknown_hold,
            now: None,
            observations: 0,
        }
    }

    /// The next report of the recording.
    pub(super) fn take(&mut self, report: &Report) {
        let before = self.now.unwrap_or(report.at.steady);
        // Time that runs backwards stands still, as it does for the checker.
        let now = before.max(report.at.steady);
        self.now = Some(now);
        self.observations += 1;
        let lasted = elapsed(before, now).min(self.hold);
        let mut room = Room {
            left: self.spans_left,
            missed: self.undrawn,
        };
        for invariant in &mut self.invariants {
            invariant.pass_time(lasted);
            let name = invariant.config.name;
            for (list, state) in [
                (&report.violations, State::Reported),
                (&report.pending, State::Pending),
            ] {
                for violation in list.iter().filter(|violation| violation.name == name) {
                    let subject = &violation.subject;
                    invariant.seen(subject, state, now, self.observations, &mut room);
                }
            }
            invariant.end_unseen(now, self.observations, &mut room);
            let mut statuses = report.invariants.iter();
            let status = statuses.find(|status| status.config.name == name);
            invariant.evaluable(status.is_none_or(|status| status.evaluable), now, &mut room);
            let reported = status.map_or(0, |status| status.violations);
            invariant.most_at_once = invariant.most_at_once.max(reported);
        }
        self.spans_left = room.left;
        self.undrawn = room.missed;
    }

    /// The recording has ended: what is in progress ends with it.
    pub(super) fn finish(&mut self) {
        let Some(now) = self.now else { return };
        let mut room = Room {
            left: self.spans_left,
            missed: self.undrawn,
        };
        for invariant in &mut self.invariants {
            for place in std::mem::take(&mut invariant.active) {
                invariant.subjects[place].leave(now, &mut room);
            }
            invariant.evaluable(true, now, &mut room);
        }
        self.undrawn = room.missed;
    }
}

/// Room for spans.
struct Room {
    left: usize,
    missed: bool,
}

impl Room {
    fn keep(&mut self, spans: &mut Vec<Span>, state: State, from: Timestamp, to: Timestamp) {
        if self.left == 0 {
            self.missed = true;
            return;
        }
        self.left -= 1;
        spans.push(Span { state, from, to });
    }
}

impl InvariantHistory {
    fn pass_time(&mut self, lasted: Duration) {
        let mut any = false;
        for place in &self.active {
            let subject = &mut self.subjects[*place];
            if matches!(subject.now, Some((State::Reported, _))) {
                subject.reported += lasted;
                any = true;
            }
        }
        if any {
            self.reported += lasted;
        }
        if self.unknown_since.is_some() {
            self.unknown += lasted;
        }
    }

    fn evaluable(&mut self, evaluable: bool, now: Timestamp, room: &mut Room) {
        if !evaluable {
            self.unknown_since.get_or_insert(now);
        } else if let Some(since) = self.unknown_since.take() {
            room.keep(&mut self.unknown_spans, State::Unknown, since, now);
        }
    }

    fn seen(&mut self, subject: &str, state: State, now: Timestamp, seen: u64, room: &mut Room) {
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
        subject.seen = seen;
        subject.enter(state, now, room);
    }

    /// Those that were in violation, and are not at the observation `seen`, are well.
    fn end_unseen(&mut self, now: Timestamp, seen: u64, room: &mut Room) {
        let subjects = &mut self.subjects;
        self.active.retain(|place| {
            let subject = &mut subjects[*place];
            let still = subject.seen == seen;
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
        room.keep(&mut self.spans, state, from, now);
    }
}

#[cfg(test)]
mod tests;
