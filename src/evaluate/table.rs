//! A backtest as tables for people, and the texts that its page has in common with them.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::backtest::{Backtest, InvariantOutcome, Outcome, Recording, ranked};
use crate::text_table::{shown, write_table};

/// Subjects that are named for each invariant and configuration.
const MOST_NAMED: usize = 10;

/// The columns of the figures: invariant and configuration, then [`cells`].
pub(super) const COLUMNS: [&str; 11] = [
    "Invariant",
    "Settings",
    "Violations",
    "Subjects",
    "Most at once",
    "First",
    "Last",
    "In violation",
    "Flaps",
    "Pending only",
    "Not evaluable",
];

/// The one of [`COLUMNS`] that only the page has room for.
const ONLY_ON_THE_PAGE: usize = 4;

/// The backtest as text.
pub fn table(backtest: &Backtest) -> String {
    let mut out = head(backtest);
    out.push('\n');
    let mut rows = vec![COLUMNS.map(str::to_uppercase).to_vec()];
    for place in backtest.places() {
        for (number, outcome) in backtest.outcomes.iter().enumerate() {
            let invariant = &outcome.invariants[place];
            let mut row = vec![String::new(), outcome.name.to_owned()];
            if number == 0 {
                row[0] = invariant.name.to_string();
            }
            if invariant.enabled {
                row.extend(cells(invariant));
            } else {
                row.push("switched off".to_owned());
            }
            row.resize(COLUMNS.len(), String::new());
            rows.push(row);
        }
    }
    for row in &mut rows {
        row.remove(ONLY_ON_THE_PAGE);
    }
    write_table(&mut out, &rows);
    if let [one, other] = &backtest.outcomes[..] {
        for (one, other) in [(one, other), (other, one)] {
            let rows = reported_only_by(one, other, MOST_NAMED);
            if !rows.is_empty() {
                // Writing into a String cannot fail.
                let _ = writeln!(out, "\nREPORTED BY THE {} ONLY", one.name.to_uppercase());
                let rows = rows
                    .iter()
                    .map(|row| row.each_ref().map(|it| shown(it)).to_vec());
                write_table(&mut out, &rows.collect::<Vec<_>>());
            }
        }
    }
    out
}

fn head(backtest: &Backtest) -> String {
    let recording = &backtest.recording;
    let mut out = format!("{}: {}\n", extent(recording), shown(&recording.name));
    for outcome in &backtest.outcomes {
        let _ = writeln!(out, "{}: {}", outcome.name, shown(&outcome.origin));
    }
    let skipped = recording.tally.broken_lines;
    if skipped > 0 {
        let _ = writeln!(out, "lines skipped: {skipped}");
    }
    if !recording.gaps.is_empty() {
        let _ = writeln!(out, "gaps without observations: {}", recording.gaps.len());
    }
    out
}

/// How many observations a recording has, and of what time.
pub(super) fn extent(recording: &Recording) -> String {
    let observations = recording.tally.observations;
    let (Some(first), Some(last)) = (recording.first, recording.last) else {
        return format!("{observations} observations");
    };
    let span = spelled(last.duration_since(first).as_secs_f64());
    format!("{observations} observations from {first:.0} to {last:.0} ({span})")
}

/// The figures of one invariant.
pub(super) fn cells(invariant: &InvariantOutcome) -> [String; 9] {
    let more = if invariant.incomplete { "+" } else { "" };
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
    [
        format!("{}{more}", invariant.violations),
        format!("{}{more}", invariant.subjects),
        invariant.most_at_once.to_string(),
        time(invariant.first),
        time(invariant.last),
        spelled(invariant.seconds_in_violation),
        invariant.flaps.to_string(),
        invariant.pending_only.to_string(),
        spelled(invariant.seconds_not_evaluable),
    ]
}

/// The subjects that `one` reports and `other` does not, the longest reported first: invariant, subject, how often and
/// for how long. At most `most` for each invariant, then how many more there are.
pub(super) fn reported_only_by(one: &Outcome, other: &Outcome, most: usize) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    let both = one.history.invariants.iter().zip(&other.history.invariants);
    for (mine, theirs) in both {
        let name = mine.config.name.to_string();
        let reported = |subject| theirs.subject(subject).is_some_and(|it| it.violations > 0);
        let only = ranked(mine.reported().filter(|it| !reported(&it.subject)));
        rows.extend(only.iter().take(most).map(|it| {
            let (often, long) = (it.violations, spelled(it.reported_for.as_secs_f64()));
            [name.clone(), it.subject.clone(), format!("{often}×"), long]
        }));
        if only.len() > most {
            let more = format!("and {} more", only.len() - most);
            rows.push([name, more, String::new(), String::new()]);
        }
    }
    rows
}

/// A time span in words, to the second.
pub(super) fn spelled(seconds: f64) -> String {
    let duration = SignedDuration::try_from_secs_f64(seconds.round()).unwrap_or_default();
    format!("{duration:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_spelled_to_the_second() {
        assert_eq!(spelled(0.0), "0s");
        assert_eq!(spelled(3_725.4), "1h 2m 5s");
    }
}
