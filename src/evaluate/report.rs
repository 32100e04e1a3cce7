//! A backtest as one page: the figures, and a time line per invariant and subject. It needs nothing but itself: no
//! scripts, no fonts, nothing from elsewhere. What a line says is said by its place and its height, not by colour alone.

mod lanes;

use maud::{Markup, PreEscaped, html};

use lanes::{Axis, invariant_lanes, legend};

use super::backtest::{Backtest, InvariantOutcome, Outcome, reported_by_one_only};
use super::table::{cells, spelled};

const STYLE: &str = include_str!("report/style.css");

/// Subjects that are named in the list of differences, for each invariant and side.
const MOST_NAMED: usize = 50;

/// The page.
pub fn page(backtest: &Backtest) -> String {
    let name = visible(&backtest.recording.name);
    let page = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Backtest of " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Backtest of " (name) }
                (head(backtest))
                h2 { "Settings" }
                (settings(backtest))
                h2 { "What would have been reported" }
                (figures(backtest))
                @if let [one, other] = &backtest.outcomes[..] {
                    (reported_only_by(one, other))
                    (reported_only_by(other, one))
                }
                (time_lines(backtest))
            }
        }
    };
    page.into_string() + "\n"
}

/// Text that others wrote. Control characters would vanish, or be no HTML at all; maud escapes the rest.
fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn head(backtest: &Backtest) -> Markup {
    let recording = &backtest.recording;
    html! {
        p {
            (recording.observations) " observations"
            @if let (Some(first), Some(last)) = (recording.first, recording.last) {
                @let span = spelled(last.duration_since(first).as_secs_f64());
                (format!(" from {first:.0} to {last:.0} ({span})"))
            }
            "; gaps without observations: " (recording.gaps.len()) "; lines passed over: " (recording.broken_lines)
            ". Times are UTC. Made by ratelimiter-exporter " (env!("CARGO_PKG_VERSION")) "."
        }
    }
}

/// The settings side by side; what differs is marked.
fn settings(backtest: &Backtest) -> Markup {
    html! {
        table {
            tr {
                th { "Invariant" }
                @for outcome in &backtest.outcomes {
                    th { (outcome.name) ": " (visible(&outcome.origin)) }
                }
            }
            @for place in backtest.places() {
                @let cells: Vec<String> =
                    backtest.outcomes.iter().map(|outcome| setting(&outcome.invariants[place])).collect();
                @let differ = cells.iter().any(|cell| *cell != cells[0]);
                tr class=[differ.then_some("differs")] {
                    th class="name" {
                        (backtest.outcomes[0].invariants[place].name)
                        @if differ { " ≠" }
                    }
                    @for cell in &cells { td { (cell) } }
                }
            }
        }
    }
}

fn setting(invariant: &InvariantOutcome) -> String {
    if !invariant.enabled {
        return "switched off".to_owned();
    }
    let (terms, severity) = (&invariant.rule.terms, invariant.rule.severity);
    let when = visible(&terms.violated_when);
    let grace = spelled(terms.grace_period_seconds);
    format!("{when}; grace period {grace}; {severity}")
}

fn figures(backtest: &Backtest) -> Markup {
    const COLUMNS: [&str; 11] = [
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
    html! {
        table class="figures" {
            tr { @for column in COLUMNS { th { (column) } } }
            @for place in backtest.places() {
                @for outcome in &backtest.outcomes {
                    @let it = &outcome.invariants[place];
                    tr {
                        th { (it.name) }
                        td { (outcome.name) }
                        @if it.enabled {
                            @for figure in cells(it) { td { (figure) } }
                        } @else {
                            td colspan="9" { "switched off" }
                        }
                    }
                }
            }
        }
        p {
            "In violation: at least one subject was reported. Flaps: reported again within ten minutes. "
            "Pending only: well again before the grace period was over. Not evaluable: something could not be read."
        }
    }
}

/// What `one` reports and `other` does not.
fn reported_only_by(one: &Outcome, other: &Outcome) -> Markup {
    let all = reported_by_one_only(one, other);
    html! {
        h2 { "Reported by the " (one.name) " only" }
        ul {
            @for (name, only) in &all {
                @for subject in only.iter().take(MOST_NAMED) {
                    li {
                        (name) " " b { (visible(&subject.subject)) }
                        ": " (subject.violations) "×, " (spelled(subject.reported.as_secs_f64()))
                    }
                }
                @if only.len() > MOST_NAMED {
                    li { (name) ": and " (only.len() - MOST_NAMED) " more" }
                }
            }
            @if all.iter().all(|(_, only)| only.is_empty()) { li { "Nothing." } }
        }
    }
}

fn time_lines(backtest: &Backtest) -> Markup {
    let Some(axis) = Axis::new(&backtest.recording) else {
        return Markup::default();
    };
    let outcomes = &backtest.outcomes;
    let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name).collect();
    html! {
        h2 { "Time lines" }
        p class="legend" { (legend(&names)) }
        @if outcomes.iter().any(|outcome| outcome.history.undrawn) {
            p {
                b {
                    "There were more changes than are kept for drawing: the time lines are incomplete, the figures are not."
                }
            }
        }
        @for place in backtest.places() { (invariant_lanes(backtest, place, &axis)) }
    }
}
