//! A backtest as tables for people.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::backtest::{Backtest, InvariantOutcome, Outcome, reported_by_one_only};
use crate::text_table::{shown, write_table};

/// Subjects that are named for each invariant and side.
const MOST_NAMED: usize = 10;

/// The backtest as text.
pub fn table(backtest: &Backtest) -> String {
    let mut out = head(backtest);
    out.push('\n');
    let names = [
        "INVARIANT",
        "SETTINGS",
        "VIOLATIONS",
        "SUBJECTS",
        "FIRST",
        "LAST",
        "IN VIOLATION",
        "FLAPS",
        "PENDING ONLY",
        "NOT EVALUABLE",
    ];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for place in backtest.places() {
        for (number, outcome) in backtest.outcomes.iter().enumerate() {
            let invariant = &outcome.invariants[place];
            let name = if number == 0 {
                invariant.name.to_string()
            } else {
                String::new()
            };
            rows.push(row(name, outcome.name, invariant));
        }
    }
    write_table(&mut out, &rows);
    if let [one, other] = &backtest.outcomes[..] {
        differences(&mut out, one, other);
        differences(&mut out, other, one);
    }
    out
}

fn head(backtest: &Backtest) -> String {
    let recording = &backtest.recording;
    let mut out = format!("{} observations", recording.observations);
    // Writing into a String cannot fail.
    if let (Some(first), Some(last)) = (recording.first, recording.last) {
        let span = last.duration_since(first);
        let _ = write!(
            out,
            " from {first:.0} to {last:.0} ({})",
            spelled(span.as_secs_f64())
        );
    }
    let _ = writeln!(out, ": {}", shown(&recording.name));
    for outcome in &backtest.outcomes {
        let _ = writeln!(out, "{}: {}", outcome.name, shown(&outcome.origin));
    }
    if recording.broken_lines > 0 {
        let _ = writeln!(out, "lines passed over: {}", recording.broken_lines);
    }
    if !recording.gaps.is_empty() {
        let _ = writeln!(out, "gaps without observations: {}", recording.gaps.len());
    }
    out
}

fn row(name: String, settings: &str, invariant: &InvariantOutcome) -> Vec<String> {
    if !invariant.enabled {
        let mut row = vec![name, settings.to_owned(), "switched off".to_owned()];
        row.resize(10, String::new());
        return row;
    }
    let [violations, subjects, _, rest @ ..] = cells(invariant);
    [name, settings.to_owned(), violations, subjects]
        .into_iter()
        .chain(rest)
        .collect()
}

/// What would have been reported: violations, subjects, the most at once, first, last, in violation, flaps, pending
/// only, not evaluable.
pub(super) fn cells(invariant: &InvariantOutcome) -> [String; 9] {
    let more = if invariant.incomplete { "+" } else { "" };
    let shown = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
    [
        format!("{}{more}", invariant.violations),
        format!("{}{more}", invariant.subjects),
        invariant.most_at_once.to_string(),
        shown(invariant.first),
        shown(invariant.last),
        spelled(invariant.seconds_in_violation),
        invariant.flaps.to_string(),
        invariant.pending_only.to_string(),
        spelled(invariant.seconds_not_evaluable),
    ]
}

/// What `one` reports and `other` does not.
fn differences(out: &mut String, one: &Outcome, other: &Outcome) {
    let mut rows = Vec::new();
    for (name, only) in reported_by_one_only(one, other) {
        for subject in only.iter().take(MOST_NAMED) {
            rows.push(vec![
                name.to_string(),
                shown(&subject.subject),
                format!("{}×", subject.violations),
                spelled(subject.reported.as_secs_f64()),
            ]);
        }
        if only.len() > MOST_NAMED {
            let more = format!("and {} more", only.len() - MOST_NAMED);
            rows.push(vec![name.to_string(), more, String::new(), String::new()]);
        }
    }
    if !rows.is_empty() {
        let _ = writeln!(out, "\nREPORTED BY THE {} ONLY", one.name.to_uppercase());
        write_table(out, &rows);
    }
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
