//! The checker that serves, fed from a recording: time comes from the lines, and lists are not capped.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::line::{Counters, Line, split};
use crate::clock::Moment;
use crate::invariants::{Checker, CheckerConfig, Report};
use crate::observation::{KeyLabel, Observation};
use crate::subject::InvariantChecker as _;

/// An observation at its moment.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) at: Moment,
    observation: Observation,
    counters: Counters,
}

/// Gives each line its moment.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Where a line stands that does not say.
    next: Timestamp,
}

impl Timeline {
    /// One second a line from the epoch, for lines that do not say.
    pub(super) fn new() -> Self {
        Self {
            next: Timestamp::UNIX_EPOCH,
        }
    }

    /// The next line.
    pub(super) fn take(&mut self, line: Line) -> Recorded {
        let wall = line.observed_at.unwrap_or(self.next);
        let at = Moment {
            wall,
            steady: line.steady_at.unwrap_or(wall),
        };
        self.next = wall;
        self.skip();
        let (observation, counters) = split(line);
        Recorded {
            at,
            observation,
            counters,
        }
    }

    /// The next line is none.
    pub(super) fn skip(&mut self) {
        let second = SignedDuration::from_secs(1);
        self.next = self.next.checked_add(second).unwrap_or(self.next);
    }
}

/// Judges a recording, line by line.
#[derive(Debug)]
pub(super) struct Judge(Checker);

impl Judge {
    pub(super) fn new(config: &CheckerConfig) -> Self {
        let config = CheckerConfig {
            // The cap is for what Prometheus stores. Here every violation is asked for.
            max_listed: usize::MAX,
            // What was cleared stays listed for the sake of its series, of which there are none.
            cleared_hold: Duration::ZERO,
            ..config.clone()
        };
        // Keys are labelled as they are read: those of some recordings are hashes already.
        Self(Checker::new(config, KeyLabel::Plain))
    }

    pub(super) fn judge(&mut self, recorded: &Recorded) -> Report {
        let at = recorded.at;
        let views = recorded.counters.views();
        match recorded.counters.times(at) {
            None => self.0.counters(at, &views),
            Some(times) => {
                for (steady, place) in times {
                    self.0.counters(back_to(at, steady), &views[place..=place]);
                }
            }
        }
        self.0.check(at, &recorded.observation)
    }
}

/// `steady` as a moment of the same clocks as `at`.
fn back_to(at: Moment, steady: Timestamp) -> Moment {
    let offset = at.wall.duration_since(at.steady);
    Moment {
        wall: steady.checked_add(offset).unwrap_or(at.wall),
        steady,
    }
}
