//! The backtest: one recording under one configuration or two, and what each would have reported, in figures.

use std::collections::HashSet;
use std::ops::Range;

use jiff::Timestamp;
use serde::Serialize;

use super::EvaluateError;
use super::history::{History, InvariantHistory, SubjectHistory};
use super::judge::Judge;
use super::reading::{Event, ReplayInput};
use crate::clock::elapsed;
use crate::invariants::CheckerConfig;
use crate::report::{InvariantName, Rule};

/// Subjects that are listed per invariant, the longest reported first. Their number is told besides.
const MOST_LISTED: usize = 100;

/// Gaps that are told.
const MOST_GAPS: usize = 1_000;

/// A configuration with the name that it goes by.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// `candidate` or `current`.
    pub name: &'static str,
    /// Where it comes from, for people.
    pub origin: String,
    /// The configuration.
    pub config: CheckerConfig,
}

/// What a recording comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Backtest {
    /// What was replayed.
    pub recording: Recording,
    /// What each configuration would have reported.
    pub outcomes: Vec<Outcome>,
}

impl Backtest {
    /// The place of each invariant, the same in every outcome.
    pub(super) fn places(&self) -> Range<usize> {
        0..self.outcomes.first().map_or(0, |it| it.invariants.len())
    }
}

/// What was replayed.
#[derive(Clone, Debug, Serialize)]
pub struct Recording {
    /// Its name.
    pub name: String,
    /// Observations that were judged.
    pub observations: u64,
    /// Lines that were passed over.
    pub broken_lines: u64,
    /// When the first was made, on the recorded timeline that never steps, as all times here.
    pub first: Option<Timestamp>,
    /// When the last was made.
    pub last: Option<Timestamp>,
    /// Times without an observation that are longer than `checker.unknown_hold`.
    pub gaps: Vec<Gap>,
}

/// A time without an observation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gap {
    /// The observation before.
    pub from: Timestamp,
    /// The observation after.
    pub to: Timestamp,
}

/// What one configuration would have reported.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// `candidate` or `current`.
    pub name: &'static str,
    /// Where it comes from, for people.
    pub origin: String,
    /// Each invariant.
    pub invariants: Vec<InvariantOutcome>,
    #[serde(skip)]
    pub(super) history: History,
}

/// What would have been reported of one invariant.
#[derive(Clone, Debug, Serialize)]
pub struct InvariantOutcome {
    /// Which.
    pub name: InvariantName,
    /// Whether it is checked at all.
    pub enabled: bool,
    /// Its settings.
    pub rule: Rule,
    /// How often a violation would have been reported.
    pub violations: u64,
    /// Of how many subjects; at least so many if `incomplete`.
    pub subjects: u64,
    /// There were more subjects than are told apart, and what became of those is not in these figures.
    pub incomplete: bool,
    /// The most subjects reported at once.
    pub most_at_once: u64,
    /// When the first was reported.
    pub first: Option<Timestamp>,
    /// When one was last seen reported.
    pub last: Option<Timestamp>,
    /// How long at least one subject was reported.
    pub seconds_in_violation: f64,
    /// How often a violation was reported again within ten minutes of its end.
    pub flaps: u64,
    /// How often a violation was over before its grace period was.
    pub pending_only: u64,
    /// How long not everything could be evaluated.
    pub seconds_not_evaluable: f64,
    /// The subjects, the longest reported first, a hundred at most; those that were only pending last.
    pub(super) listed: Vec<SubjectHistory>,
}

/// Replays `reading` under each of `candidates`. What is needed to draw time lines is kept if they are to be `drawn`.
pub fn backtest(
    reading: ReplayInput<'_>,
    candidates: &[Candidate],
    drawn: bool,
) -> Result<Backtest, EvaluateError> {
    let mut recording = Recording {
        name: reading.source.name().to_owned(),
        observations: 0,
        broken_lines: 0,
        first: None,
        last: None,
        gaps: Vec::new(),
    };
    let mut lines: Vec<(Judge, History)> = candidates
        .iter()
        .map(|candidate| {
            let config = &candidate.config;
            (Judge::new(config), History::new(config, drawn))
        })
        .collect();
    let longest = candidates
        .iter()
        .map(|candidate| candidate.config.unknown_hold);
    let longest = longest.max().unwrap_or_default();
    let tally = reading.run(|event| {
        if let Event::Recorded(recorded) = event {
            let now = recorded.at.steady;
            if let Some(last) = recording.last
                && elapsed(last, now) > longest
                && recording.gaps.len() < MOST_GAPS
            {
                recording.gaps.push(Gap {
                    from: last,
                    to: now,
                });
            }
            recording.first.get_or_insert(now);
            recording.last = recording.last.max(Some(now));
            for (judge, history) in &mut lines {
                history.take(&judge.judge(recorded));
            }
        }
        Ok(())
    })?;
    recording.observations = tally.observations;
    recording.broken_lines = tally.broken;
    let outcomes = candidates
        .iter()
        .zip(lines)
        .map(|(candidate, (_, mut history))| {
            history.finish();
            Outcome {
                name: candidate.name,
                origin: candidate.origin.clone(),
                invariants: history
                    .invariants
                    .iter()
                    .map(InvariantOutcome::from)
                    .collect(),
                history,
            }
        });
    Ok(Backtest {
        outcomes: outcomes.collect(),
        recording,
    })
}

impl From<&InvariantHistory> for InvariantOutcome {
    fn from(history: &InvariantHistory) -> Self {
        let subjects = &history.subjects;
        let reported = || subjects.iter().filter(|subject| subject.violations > 0);
        let sum = |of: fn(&SubjectHistory) -> u64| subjects.iter().map(of).sum();
        let mut listed: Vec<&SubjectHistory> = subjects.iter().collect();
        listed.sort_by(|one, other| rank(one).cmp(&rank(other)));
        listed.truncate(MOST_LISTED);
        Self {
            name: history.config.name,
            enabled: history.config.enabled,
            rule: Rule::from(&history.config),
            violations: sum(|subject| subject.violations),
            subjects: reported().count() as u64,
            incomplete: history.incomplete,
            most_at_once: history.most_at_once,
            first: reported().filter_map(|subject| subject.first).min(),
            last: reported().filter_map(|subject| subject.last).max(),
            seconds_in_violation: history.reported.as_secs_f64(),
            flaps: sum(|subject| subject.flaps),
            pending_only: sum(|subject| subject.pending_only),
            seconds_not_evaluable: history.unknown.as_secs_f64(),
            listed: listed.into_iter().cloned().collect(),
        }
    }
}

/// The longest and most often reported first, then by name.
pub(super) fn rank(subject: &SubjectHistory) -> impl Ord + use<'_> {
    use std::cmp::Reverse;
    (
        Reverse(subject.reported),
        Reverse(subject.violations),
        Reverse(subject.pending_only),
        &subject.subject,
    )
}

/// The subjects that `one` reports and `other` does not, by invariant, the longest reported first.
pub(super) fn reported_by_one_only<'a>(
    one: &'a Outcome,
    other: &Outcome,
) -> Vec<(InvariantName, Vec<&'a SubjectHistory>)> {
    let (mine, theirs) = (&one.history.invariants, &other.history.invariants);
    let both = mine.iter().zip(theirs);
    let only = both.map(|(mine, theirs)| {
        let reported = |it: &&SubjectHistory| it.violations > 0;
        let known: HashSet<&str> = theirs
            .subjects
            .iter()
            .filter(reported)
            .map(|it| it.subject.as_str())
            .collect();
        let mut only: Vec<_> = mine
            .subjects
            .iter()
            .filter(reported)
            .filter(|it| !known.contains(it.subject.as_str()))
            .collect();
        only.sort_by(|one, other| rank(one).cmp(&rank(other)));
        (mine.config.name, only)
    });
    only.collect()
}
