//! The backtest: one recording under one configuration or two, and in figures what each would have reported.

use std::cmp::Reverse;
use std::ops::Range;

use jiff::Timestamp;
use serde::Serialize;

use super::EvaluateError;
use super::history::{History, InvariantHistory, SubjectHistory};
use super::judge::Judge;
use super::reading::{ReplayInput, Tally};
use crate::clock::elapsed;
use crate::invariants::CheckerConfig;
use crate::report::{InvariantName, Rule};

/// Subjects that are listed for each invariant. The figures have the number of all.
const MOST_LISTED: usize = 100;

/// Gaps that are listed.
const MOST_GAPS: usize = 1_000;

/// A configuration to replay under.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// `candidate` or `current`.
    pub name: &'static str,
    /// The file that it comes from, for people.
    pub origin: String,
    /// The configuration.
    pub config: CheckerConfig,
}

/// The result of a backtest.
#[derive(Clone, Debug, Serialize)]
pub struct Backtest {
    /// What was replayed.
    pub recording: Recording,
    /// What each configuration would have reported.
    pub outcomes: Vec<Outcome>,
}

impl Backtest {
    /// The indexes of the invariants, which are the same in every outcome.
    pub(super) fn places(&self) -> Range<usize> {
        0..self.outcomes.first().map_or(0, |it| it.invariants.len())
    }
}

/// What was replayed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recording {
    /// Its name.
    pub name: String,
    /// How many of its lines were judged, and how many were skipped.
    #[serde(flatten)]
    pub tally: Tally,
    /// The time of the first observation, on the recorded timeline that never steps, as all times here.
    pub first: Option<Timestamp>,
    /// The time of the last observation.
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
    /// The file that it comes from, for people.
    pub origin: String,
    /// Each invariant.
    pub invariants: Vec<InvariantOutcome>,
    #[serde(skip)]
    pub(super) history: History,
}

/// What would have been reported of one invariant.
#[derive(Clone, Debug, Serialize)]
pub struct InvariantOutcome {
    /// The invariant.
    pub name: InvariantName,
    /// Whether it is checked at all.
    pub enabled: bool,
    /// Its settings.
    pub rule: Rule,
    /// How often a violation would have been reported.
    pub violations: u64,
    /// How many subjects would have been reported; at least so many if `incomplete`.
    pub subjects: u64,
    /// There were more subjects than are counted separately. The others are not in these figures.
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
    /// How often a violation ended before its grace period did.
    pub pending_only: u64,
    /// How long something could not be evaluated.
    pub seconds_not_evaluable: f64,
    /// The subjects, the longest reported first, a hundred at most; those that were only pending come last.
    pub(super) listed: Vec<SubjectHistory>,
}

/// Replays `input` under each of `candidates`. It keeps what time lines need if they are to be `drawn`.
pub fn backtest(
    input: ReplayInput<'_>,
    candidates: &[Candidate],
    drawn: bool,
) -> Result<Backtest, EvaluateError> {
    let mut recording = Recording {
        name: input.source.name.clone(),
        ..Recording::default()
    };
    let mut runs: Vec<(Judge, History)> = candidates
        .iter()
        .map(|it| (Judge::new(&it.config), History::new(&it.config, drawn)))
        .collect();
    let holds = candidates.iter().map(|it| it.config.unknown_hold);
    let longest_hold = holds.max().unwrap_or_default();
    recording.tally = input.run(|at, observation| {
        let to = at.steady;
        if let Some(from) = recording.last
            && elapsed(from, to) > longest_hold
            && recording.gaps.len() < MOST_GAPS
        {
            recording.gaps.push(Gap { from, to });
        }
        recording.first.get_or_insert(to);
        recording.last = recording.last.max(Some(to));
        for (judge, history) in &mut runs {
            history.take(&judge.judge(at, observation));
        }
        Ok(())
    })?;
    let outcomes = candidates
        .iter()
        .zip(runs)
        .map(|(candidate, (_, history))| {
            let history = history.finished();
            let invariants = history.invariants.iter();
            Outcome {
                name: candidate.name,
                origin: candidate.origin.clone(),
                invariants: invariants.map(InvariantOutcome::from).collect(),
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
        let sum = |of: fn(&SubjectHistory) -> u64| subjects.iter().map(of).sum();
        let listed = ranked(subjects).into_iter().take(MOST_LISTED);
        Self {
            name: history.config.name,
            enabled: history.config.enabled,
            rule: Rule::from(&history.config),
            violations: sum(|subject| subject.violations),
            subjects: history.reported().count() as u64,
            incomplete: history.incomplete,
            most_at_once: history.most_at_once,
            first: history.reported().filter_map(|it| it.first).min(),
            last: history.reported().filter_map(|it| it.last).max(),
            seconds_in_violation: history.reported_for.as_secs_f64(),
            flaps: sum(|subject| subject.flaps),
            pending_only: sum(|subject| subject.pending_only),
            seconds_not_evaluable: history.unknown_for.as_secs_f64(),
            listed: listed.cloned().collect(),
        }
    }
}

/// The longest and most often reported first, then by name.
pub(super) fn ranked<'a>(
    subjects: impl IntoIterator<Item = &'a SubjectHistory>,
) -> Vec<&'a SubjectHistory> {
    let mut ranked: Vec<_> = subjects.into_iter().collect();
    let rank = |it: &SubjectHistory| {
        (
            Reverse(it.reported_for),
            Reverse(it.violations),
            Reverse(it.pending_only),
        )
    };
    ranked.sort_by(|one, other| {
        let by_rank = rank(one).cmp(&rank(other));
        by_rank.then_with(|| one.subject.cmp(&other.subject))
    });
    ranked
}
