//! The time lines: a row for each subject, a lane in it for each configuration.

use jiff::Timestamp;
use maud::{Markup, html};

use super::visible;
use crate::evaluate::backtest::{Backtest, Gap, Recording, rank};
use crate::evaluate::history::{Span, State, SubjectHistory};
use crate::evaluate::table::spelled;

/// Rows that are drawn for an invariant.
const MOST_ROWS: usize = 40;

/// Steps across a line: spans that are closer together are drawn as one.
const WIDTH: f64 = 2_000.0;

/// Height of a lane.
const LANE: usize = 13;

/// Times that stand along the axis, at most.
const MOST_TICKS: f64 = 8.0;

/// How far apart they may be, in seconds: what people count in.
const STEPS: [i64; 16] = [
    1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    2_592_000,
];

/// What the marks mean.
pub(super) fn legend(names: &[&str]) -> Markup {
    html! {
        @for (lane, name) in names.iter().enumerate() {
            svg class="swatch" viewBox="0 0 12 12" { rect class=(format!("l{lane}")) width="12" height="12" {} }
            (name) " "
        }
        "(from above in each row). High bars: reported. Low bars: pending, inside the grace period. Grey over the "
        "whole height: no observations."
    }
}

/// Where times stand on a line.
pub(super) struct Axis {
    first: Timestamp,
    seconds: f64,
    gaps: Vec<Gap>,
}

impl Axis {
    /// `None` without a single observation.
    pub(super) fn new(recording: &Recording) -> Option<Self> {
        let (first, last) = (recording.first?, recording.last?);
        Some(Self {
            first,
            seconds: last.duration_since(first).as_secs_f64().max(1.0),
            gaps: recording.gaps.clone(),
        })
    }

    /// In steps from the left.
    fn place(&self, at: Timestamp) -> f64 {
        at.duration_since(self.first).as_secs_f64() / self.seconds * WIDTH
    }
}

/// The rows of the invariant at `place`.
pub(super) fn invariant_lanes(backtest: &Backtest, place: usize, axis: &Axis) -> Markup {
    let Some(first) = backtest.outcomes.first() else {
        return Markup::default();
    };
    let rows = rows(backtest, place);
    let unknown = backtest.outcomes.iter();
    let unknown: Vec<&[Span]> = unknown
        .map(|outcome| &outcome.history.invariants[place].unknown_spans[..])
        .collect();
    let all_evaluable = unknown.iter().all(|spans| spans.is_empty());
    html! {
        h3 { (first.invariants[place].name) }
        @if rows.is_empty() && all_evaluable {
            p class="dim" { "Never violated." }
        } @else {
            table class="lanes" {
                tr { th {} td { (ticks(axis)) } td class="said" {} }
                @for (name, lanes) in rows.iter().take(MOST_ROWS) {
                    (subject_row(&visible(name), lanes, axis))
                }
                @if !all_evaluable {
                    tr class="dim" {
                        th { "not evaluable" }
                        td { (bars("not evaluable", &unknown, axis)) }
                        td class="said" {}
                    }
                }
            }
            @if rows.len() > MOST_ROWS {
                p class="dim" { "And " (rows.len() - MOST_ROWS) " subjects more." }
            }
        }
    }
}

fn subject_row(name: &str, lanes: &[Option<&SubjectHistory>], axis: &Axis) -> Markup {
    let spans = lanes.iter();
    let spans: Vec<&[Span]> = spans
        .map(|lane| lane.map_or(&[][..], |it| &it.spans[..]))
        .collect();
    html! {
        tr {
            th { (name) }
            td { (bars(name, &spans, axis)) }
            td class="said" {
                @for lane in lanes {
                    @match lane {
                        Some(it) => { (it.violations) "×, " (spelled(it.reported.as_secs_f64())) }
                        None => "–",
                    }
                    br;
                }
            }
        }
    }
}

/// A subject with what became of it under each configuration.
type Row<'a> = (&'a str, Vec<Option<&'a SubjectHistory>>);

/// The longest reported subjects of either configuration first.
fn rows(backtest: &Backtest, place: usize) -> Vec<Row<'_>> {
    let mut all: Vec<&SubjectHistory> = Vec::new();
    let mut by_name = Vec::new();
    for outcome in &backtest.outcomes {
        let subjects = &outcome.history.invariants[place].subjects;
        let named: std::collections::HashMap<&str, &SubjectHistory> = subjects
            .iter()
            .map(|it| (it.subject.as_str(), it))
            .collect();
        by_name.push(named);
        all.extend(subjects);
    }
    all.sort_by(|one, other| rank(one).cmp(&rank(other)));
    let mut seen = std::collections::HashSet::new();
    all.retain(|it| seen.insert(it.subject.as_str()));
    let row = |it: &&'_ SubjectHistory| -> Vec<Option<&SubjectHistory>> {
        let lanes = by_name.iter();
        lanes
            .map(|named| named.get(it.subject.as_str()).copied())
            .collect()
    };
    all.iter()
        .map(|it| (it.subject.as_str(), row(it)))
        .collect()
}

fn bars(name: &str, lanes: &[&[Span]], axis: &Axis) -> Markup {
    let height = LANE * lanes.len();
    let size = format!("0 0 {WIDTH:.0} {height}");
    html! {
        svg viewBox=(size) preserveAspectRatio="none" role="img" aria-label=(name) {
            @for gap in &axis.gaps {
                @let (from, to) = (axis.place(gap.from), axis.place(gap.to));
                rect class="gap" x=(format!("{from:.1}")) y="0" width=(format!("{:.1}", to - from)) height=(height) {
                    title { (format!("no observations from {:.0} to {:.0}", gap.from, gap.to)) }
                }
            }
            @for (number, lane) in lanes.iter().enumerate() {
                @for state in [State::Pending, State::Reported, State::Unknown] {
                    @let of_state: Vec<&Span> = lane.iter().filter(|span| span.state == state).collect();
                    @for span in joined(&of_state, axis) { (bar(number, state, &span, axis)) }
                }
            }
        }
    }
}

/// Spans that are closer together than one can see are one.
fn joined(spans: &[&Span], axis: &Axis) -> Vec<Span> {
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if axis.place(span.from) - axis.place(last.to) < 1.0 => last.to = span.to,
            _ => joined.push(**span),
        }
    }
    joined
}

fn bar(lane: usize, state: State, span: &Span, axis: &Axis) -> Markup {
    let from = axis.place(span.from);
    let width = (axis.place(span.to) - from).max(2.0);
    let (height, what) = match state {
        State::Reported => (LANE - 2, "reported"),
        State::Pending => (3, "pending"),
        State::Unknown => (LANE / 2, "not evaluable"),
    };
    let y = LANE * lane + (LANE - 1 - height);
    html! {
        rect class=(format!("l{lane}")) x=(format!("{from:.1}")) y=(y) width=(format!("{width:.1}")) height=(height) {
            title { (format!("{what} from {:.0} to {:.0}", span.from, span.to)) }
        }
    }
}

fn ticks(axis: &Axis) -> Markup {
    let fits = |step: &&i64| axis.seconds / whole(**step) <= MOST_TICKS;
    // A recording of many months has none, rather than more than fit.
    let Some(step) = STEPS.iter().find(fits).copied() else {
        return Markup::default();
    };
    let form = match step {
        ..60 => "%H:%M:%S",
        60..86_400 => "%m-%d %H:%M",
        _ => "%Y-%m-%d",
    };
    let begin = axis.first.as_second();
    let first = begin - begin.rem_euclid(step) + step;
    let times = (0..).map(|number| first + number * step);
    html! {
        div class="ticks" {
            @for tick in times.take_while(|tick| whole(tick - begin) < axis.seconds) {
                @let at = Timestamp::from_second(tick).unwrap_or(axis.first);
                @let left = format!("left:{:.2}%", axis.place(at) / WIDTH * 100.0);
                span style=(left) { (at.strftime(form)) }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
fn whole(seconds: i64) -> f64 {
    seconds as f64
}
