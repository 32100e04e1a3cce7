//! A backtest as one page: the figures, and a time line per invariant and subject. It needs nothing but itself: no
//! scripts, no fonts, nothing from elsewhere. What a line says is said by its place and its height, not by colour alone.

mod lanes;

use std::fmt::Write as _;

use lanes::{Axis, invariant_lanes};

use super::backtest::{Backtest, InvariantOutcome, reported_by_one_only};
use super::table::{cells, spelled};

const STYLE: &str = include_str!("report/style.css");

/// Subjects that are named in the list of differences, for each invariant and side.
const MOST_NAMED: usize = 50;

/// The page.
pub fn page(backtest: &Backtest) -> String {
    let name = escape(&backtest.recording.name);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Backtest of {name}</title>\n<style>\n{STYLE}</style></head><body>\n<h1>Backtest of {name}</h1>\n"
    );
    head(&mut out, backtest);
    out.push_str("<h2>Settings</h2>\n");
    settings(&mut out, backtest);
    out.push_str("<h2>What would have been reported</h2>\n");
    figures(&mut out, backtest);
    differences(&mut out, backtest);
    time_lines(&mut out, backtest);
    out.push_str("</body></html>\n");
    out
}

/// Text that others wrote, as it may stand between tags and inside a quoted attribute.
fn escape(text: &str) -> String {
    // Control characters would vanish, or be no HTML at all.
    text.replace(char::is_control, "\u{fffd}")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Writing into a String cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn head(out: &mut String, backtest: &Backtest) {
    let recording = &backtest.recording;
    put(
        out,
        format_args!("<p>{} observations", recording.observations),
    );
    if let (Some(first), Some(last)) = (recording.first, recording.last) {
        let span = spelled(last.duration_since(first).as_secs_f64());
        put(out, format_args!(" from {first:.0} to {last:.0} ({span})"));
    }
    put(
        out,
        format_args!(
            "; gaps without observations: {}; lines passed over: {}. Times are UTC. Made by ratelimiter-exporter {}.</p>\n",
            recording.gaps.len(),
            recording.broken_lines,
            env!("CARGO_PKG_VERSION"),
        ),
    );
}

/// The settings side by side; what differs is marked.
fn settings(out: &mut String, backtest: &Backtest) {
    out.push_str("<table><tr><th>Invariant</th>");
    for outcome in &backtest.outcomes {
        let origin = escape(&outcome.origin);
        put(out, format_args!("<th>{}: {origin}</th>", outcome.name));
    }
    out.push_str("</tr>\n");
    for place in backtest.places() {
        let cells: Vec<String> = backtest
            .outcomes
            .iter()
            .map(|outcome| setting(&outcome.invariants[place]))
            .collect();
        let differ = cells.iter().any(|cell| *cell != cells[0]);
        let (class, mark) = if differ {
            (" class=\"differs\"", " ≠")
        } else {
            ("", "")
        };
        let name = backtest.outcomes[0].invariants[place].name;
        put(
            out,
            format_args!("<tr{class}><th class=\"name\">{name}{mark}</th>"),
        );
        for cell in cells {
            put(out, format_args!("<td>{cell}</td>"));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

fn setting(invariant: &InvariantOutcome) -> String {
    if !invariant.enabled {
        return "switched off".to_owned();
    }
    let (terms, severity) = (&invariant.rule.terms, invariant.rule.severity);
    let when = escape(&terms.violated_when);
    let grace = spelled(terms.grace_period_seconds);
    format!("{when}; grace period {grace}; {severity}")
}

fn figures(out: &mut String, backtest: &Backtest) {
    out.push_str(
        "<table class=\"figures\"><tr><th>Invariant</th><th>Settings</th><th>Violations</th><th>Subjects</th>\
         <th>Most at once</th><th>First</th><th>Last</th><th>In violation</th><th>Flaps</th><th>Pending only</th>\
         <th>Not evaluable</th></tr>\n",
    );
    for place in backtest.places() {
        for outcome in &backtest.outcomes {
            let it = &outcome.invariants[place];
            put(
                out,
                format_args!("<tr><th>{}</th><td>{}</td>", it.name, outcome.name),
            );
            if it.enabled {
                for figure in cells(it) {
                    put(out, format_args!("<td>{figure}</td>"));
                }
            } else {
                out.push_str("<td colspan=\"9\">switched off</td>");
            }
            out.push_str("</tr>\n");
        }
    }
    out.push_str(
        "</table>\n<p>In violation: at least one subject was reported. Flaps: reported again within ten minutes. \
         Pending only: well again before the grace period was over. Not evaluable: something could not be read.</p>\n",
    );
}

/// What only one of two would have reported.
fn differences(out: &mut String, backtest: &Backtest) {
    let [one, other] = &backtest.outcomes[..] else {
        return;
    };
    for (mine, theirs) in [(one, other), (other, one)] {
        put(
            out,
            format_args!("<h2>Reported by the {} only</h2>\n<ul>\n", mine.name),
        );
        let before = out.len();
        for (name, only) in reported_by_one_only(mine, theirs) {
            for subject in only.iter().take(MOST_NAMED) {
                put(
                    out,
                    format_args!(
                        "<li>{name} <b>{}</b>: {}×, {}</li>\n",
                        escape(&subject.subject),
                        subject.violations,
                        spelled(subject.reported.as_secs_f64()),
                    ),
                );
            }
            if only.len() > MOST_NAMED {
                put(
                    out,
                    format_args!("<li>{name}: and {} more</li>\n", only.len() - MOST_NAMED),
                );
            }
        }
        if out.len() == before {
            out.push_str("<li>Nothing.</li>\n");
        }
        out.push_str("</ul>\n");
    }
}

fn time_lines(out: &mut String, backtest: &Backtest) {
    let Some(axis) = Axis::new(&backtest.recording) else {
        return;
    };
    out.push_str("<h2>Time lines</h2>\n<p class=\"legend\">");
    let names: Vec<&str> = backtest
        .outcomes
        .iter()
        .map(|outcome| outcome.name)
        .collect();
    lanes::legend(out, &names);
    out.push_str("</p>\n");
    if backtest
        .outcomes
        .iter()
        .any(|outcome| outcome.history.undrawn)
    {
        out.push_str("<p><b>There were more changes than are kept for drawing: the time lines are incomplete, the figures are not.</b></p>\n");
    }
    for place in backtest.places() {
        invariant_lanes(out, backtest, place, &axis);
    }
}
