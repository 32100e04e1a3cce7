//! Grace tracking for the subjects of one invariant: pending, reported, held while unknown, cleared.
//!
//! All times are on the steady timeline. The caller passes them and ensures that they never run backwards.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::{earlier, elapsed};
use crate::report::{Decision, Evidence, SavedEntry};
use jiff::Timestamp;

/// A violation in progress. Healthy subjects have none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// When the violation was first seen.
    pub(super) first_seen: Timestamp,
    /// When it was last seen.
    pub(super) last_seen: Timestamp,
    /// Up to when it is proved.
    pub(super) proved_until: Timestamp,
    /// Whether there was a collection that did not prove that it still continued.
    pub(super) interrupted: bool,
    /// Since when it is reported; `None` inside the grace period.
    pub(super) reported_since: Option<Timestamp>,
    /// The latest evidence.
    pub(super) evidence: Evidence,
    /// Until when it stays pending, whatever its grace period, because it is expected to drain by itself.
    pub(super) held_until: Option<Timestamp>,
    /// In which pass the subject was last seen in violation.
    pub(super) pass: u64,
}

impl Entry {
    fn new(evidence: Evidence, now: Timestamp) -> Self {
        Self {
            first_seen: now,
            last_seen: now,
            proved_until: now,
            interrupted: false,
            reported_since: None,
            evidence,
            held_until: None,
            pass: 0,
        }
    }

    /// How much of the grace period has passed.
    fn lasted(&self) -> Duration {
        elapsed(self.first_seen, self.proved_until)
    }

    /// How long it must still last before it is reported.
    pub(super) fn grace_left(&self, grace: Duration, now: Timestamp) -> Duration {
        if self.reported_since.is_some() {
            return Duration::ZERO;
        }
        let passed = self.lasted() + elapsed(self.last_seen, now);
        let held = self.held_until.map(|until| elapsed(now, until));
        grace.saturating_sub(passed).max(held.unwrap_or_default())
    }

    /// Adds the evidence of now.
    fn see(&mut self, evidence: Evidence, now: Timestamp) {
        self.interrupted |= !evidence.is_of_now(elapsed(self.last_seen, now));
        // After a break, slow checks come now and then: the newest may be as old as the evidence reaches back.
        let age = if self.interrupted {
            evidence.reach()
        } else {
            evidence.age()
        };
        self.proved_until = self.proved_until.max(earlier(now, age));
        self.last_seen = now;
        self.evidence = evidence;
    }

    /// The decision on it, if `pass` is the last pass that could have evaluated it.
    pub(super) fn decision(&self, pass: u64) -> Decision {
        let evaluated = self.pass == pass;
        match (self.reported_since, evaluated) {
            (Some(_), true) => Decision::Reported,
            (Some(_), false) => Decision::HeldUnknown,
            (None, false) => Decision::PendingUnknown,
            (None, true) if self.held_until.is_some() => Decision::Draining,
            (None, true) => Decision::InGrace,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct InProgress<K> {
    pub(super) entries: HashMap<K, Entry>,
    /// Subjects that were reported and no longer are, with the time at which they stopped.
    pub(super) cleared: HashMap<K, Timestamp>,
    pub(super) started_total: u64,
}

impl<K> Default for InProgress<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            cleared: HashMap::new(),
            started_total: 0,
        }
    }
}

impl<K: Hash + Eq + Clone> InProgress<K> {
    /// The subject was seen in violation in `pass`.
    ///
    /// Until `held_until` it stays pending, however long it lasts: such a violation is expected to drain by itself.
    pub(super) fn violated<Q>(
        &mut self,
        subject: &Q,
        evidence: Evidence,
        now: Timestamp,
        grace: Duration,
        held_until: Option<Timestamp>,
        pass: u64,
    ) where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(entry) = self.entries.get_mut(subject) {
            entry.see(evidence, now);
        } else {
            let entry = Entry::new(evidence, now);
            self.entries.insert(K::from(subject), entry);
        }
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        entry.held_until = held_until;
        entry.pass = pass;
        let due = entry.lasted() >= grace && held_until.is_none();
        if entry.reported_since.is_none() && due {
            entry.reported_since = Some(now);
            self.started_total += 1;
            self.cleared.remove(subject);
        }
    }

    /// The subject is healthy or gone: a violation in progress ends at once.
    pub(super) fn over<Q>(&mut self, subject: &Q, now: Timestamp)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if self.entries.is_empty() {
            return; // the common case, a million times a collection
        }
        if let Some((subject, entry)) = self.entries.remove_entry(subject)
            && entry.reported_since.is_some()
        {
            self.cleared.insert(subject, now);
        }
    }

    /// Ends every violation that `ends` chooses among those not evaluated in `pass`.
    pub(super) fn end_unseen(
        &mut self,
        pass: u64,
        now: Timestamp,
        ends: impl Fn(&K, &Entry) -> bool,
    ) {
        let ended: Vec<K> = self
            .entries
            .iter()
            .filter(|(subject, entry)| entry.pass != pass && ends(subject, entry))
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in ended {
            self.over(&subject, now);
        }
    }

    /// Subjects with a violation in progress that were not evaluated in `pass`.
    pub(super) fn unseen(&self, pass: u64) -> impl Iterator<Item = &K> {
        let unseen = self.entries.iter().filter(move |(_, it)| it.pass != pass);
        unseen.map(|(subject, _)| subject)
    }

    /// Forgets subjects that were cleared longer than `hold` ago, and the oldest ones above `most`.
    pub(super) fn forget_cleared(&mut self, now: Timestamp, hold: Duration, most: usize) {
        self.cleared
            .retain(|_, cleared_at| elapsed(*cleared_at, now) < hold);
        if self.cleared.len() > most {
            let mut times: Vec<Timestamp> = self.cleared.values().copied().collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            let oldest_kept = times[most.saturating_sub(1)];
            let mut room = most;
            self.cleared.retain(|_, cleared_at| {
                let keep = room > 0 && *cleared_at >= oldest_kept;
                room -= usize::from(keep);
                keep
            });
        }
    }

    /// Entries as they are saved.
    pub(super) fn saved<'a>(
        &'a self,
        name: impl Fn(&K) -> String + 'a,
    ) -> impl Iterator<Item = SavedEntry> + 'a {
        self.entries.iter().map(move |(subject, entry)| SavedEntry {
            subject: name(subject),
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            reported_since: entry.reported_since,
            proved_until: Some(entry.proved_until),
            interrupted: entry.interrupted,
            evidence: entry.evidence.clone(),
        })
    }

    /// Takes a saved entry back.
    pub(super) fn restore(&mut self, subject: K, saved: SavedEntry) {
        let entry = Entry {
            first_seen: saved.first_seen,
            last_seen: saved.last_seen,
            // An older version did not save it. The next evidence proves it anew.
            proved_until: saved.proved_until.unwrap_or(saved.first_seen),
            interrupted: saved.interrupted,
            reported_since: saved.reported_since,
            ..Entry::new(saved.evidence, saved.last_seen)
        };
        self.entries.insert(subject, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::LatencyWindow;

    const GRACE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn slow(age_seconds: f64) -> Evidence {
        Evidence::Latency {
            p99_seconds: Some(0.2),
            bucket: None,
            threshold_seconds: 0.05,
            source: None,
            age_seconds,
            window_seconds: LatencyWindow::default(),
        }
    }

    /// When it is reported. At the seconds of `slow_at` checks are slow; at the others the newest checks are too few to
    /// decide.
    fn reported_at(every: i64, slow_at: impl Fn(i64) -> bool) -> Option<i64> {
        let mut violations: InProgress<String> = InProgress::default();
        (0..400)
            .step_by(usize::try_from(every).unwrap())
            .find(|second| {
                // The newest checks reach back to the last collection that is at least 10 s ago; the oldest check is a
                // minute old.
                let reach = every * (10 + every - 1).div_euclid(every).max(1);
                let seen = (second - reach..=*second).any(&slow_at);
                if !(second - reach.max(60)..=*second).any(&slow_at) {
                    violations.over("n", at(*second));
                    return false;
                }
                let age = if seen { reach } else { reach.max(60) };
                let age = f64::from(i32::try_from(age).unwrap());
                violations.violated("n", slow(age), at(*second), GRACE, None, 1);
                violations.entries["n"].reported_since.is_some()
            })
    }

    /// The longest that it takes to be reported, for collections at any second of the interval. At the seconds that
    /// `slow_at` names checks are slow. The p99 of a minute is above the threshold all the time.
    fn at_the_latest(every: i64, slow_at: impl Fn(i64) -> bool) -> Option<i64> {
        let phases = (0..every).map(|phase| reported_at(every, |second| slow_at(second + phase)));
        phases.collect::<Option<Vec<i64>>>()?.into_iter().max()
    }

    #[test]
    fn a_slow_check_every_half_minute_is_reported() {
        for (every, reported) in [(1, 70), (5, 90), (10, 90), (15, 90), (30, 90), (60, 120)] {
            let at = at_the_latest(every, |second| second % 30 == 0);
            assert_eq!(at, Some(reported), "every {every} s");
        }
        // A scrape that is late finds two of them, and the one before it none.
        let late = |second: i64| [5, 61, 95, 125, 155].contains(&second);
        assert_eq!(reported_at(30, late), Some(120));
    }

    #[test]
    fn stalls_that_are_over_within_the_grace_period_are_not_reported() {
        for every in [1, 5, 10, 15, 30, 60] {
            for apart in [20, 40, 50, 55] {
                let stalls = |second: i64| second < 2 || (apart..apart + 2).contains(&second);
                for phase in 0..every {
                    let at = reported_at(every, |second| stalls(second + phase));
                    assert_eq!(at, None, "every {every} s from {phase} on, {apart} s apart");
                }
            }
        }
    }

    #[test]
    fn a_break_of_slow_checks_counts_if_they_come_again_after_the_grace_period() {
        assert_eq!(reported_at(1, |second| second % 55 < 2), Some(110));
        // Slow for 2 s, repaired, and slow again 38 s later, for good.
        let again = |second| !(2..40).contains(&second);
        assert_eq!(reported_at(1, again), Some(70));
    }

    #[test]
    fn a_lasting_violation_is_reported_in_time_however_far_apart_collections_are() {
        for (every, reported) in [(1, 60), (5, 60), (15, 60), (30, 90), (60, 120)] {
            assert_eq!(
                reported_at(every, |_| true),
                Some(reported),
                "every {every} s"
            );
        }
    }
}
