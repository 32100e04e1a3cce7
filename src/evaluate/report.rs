//! A backtest as one page: the figures, and a time line for each invariant and subject. The page loads nothing else: no
//! scripts, no fonts. Place and height say what the colours say.

mod lanes;

use maud::{Markup, PreEscaped, html};

use lanes::{Axis, invariant_lanes, legend};

use super::backtest::{Backtest, InvariantOutcome, Outcome};
use super::table::{COLUMNS, cells, extent, reported_only_by, spelled};

const STYLE: &str = include_str!("report/style.css");

/// Subjects that are named in the differences, for each invariant and configuration.
const MOST_NAMED: usize = 50;

/// The page.
pub fn page(backtest: &Backtest) -> String {
    let recording = &backtest.recording;
    let name = visible(&recording.name);
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
                p {
                    (extent(recording))
                    "; gaps without observations: " (recording.gaps.len())
                    "; lines skipped: " (recording.tally.broken_lines)
                    ". Times are UTC. Made by ratelimiter-exporter " (env!("CARGO_PKG_VERSION")) "."
                }
                h2 { "Settings" }
                (settings(backtest))
                h2 { "What would have been reported" }
                (figures(backtest))
                @if let [one, other] = &backtest.outcomes[..] {
                    (differences(one, other))
                    (differences(other, one))
                }
                (time_lines(backtest))
            }
        }
    };
    page.into_string() + "\n"
}

/// Text of others. A browser shows no control characters, and HTML forbids some; maud escapes the rest.
fn visible(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The settings side by side; rows that differ are marked.
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
            "In violation: at least one subject was reported. Flaps: violations reported again within ten minutes. "
            "Pending only: violations that ended before their grace period. Not evaluable: something could not be read."
        }
    }
}

fn differences(one: &Outcome, other: &Outcome) -> Markup {
    let rows = reported_only_by(one, other, MOST_NAMED);
    html! {
        h2 { "Reported by the " (one.name) " only" }
        @if rows.is_empty() {
            p { "Nothing." }
        } @else {
            table { @for row in &rows { tr { @for cell in row { td { (visible(cell)) } } } } }
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
        @if outcomes.iter().any(|outcome| outcome.history.undrawn()) {
            p { b { "There were too many changes to draw them all: the time lines are incomplete, the figures are not." } }
        }
        @for place in backtest.places() { (invariant_lanes(backtest, place, &axis)) }
    }
}
