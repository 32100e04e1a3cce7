//! The time lines: a row for each subject, a lane in it for each configuration.

use std::collections::HashSet;

use jiff::Timestamp;
use maud::{Markup, html};

use super::visible;
use crate::evaluate::backtest::{Backtest, Gap, Recording, ranked};
use crate::evaluate::history::{Span, State, SubjectHistory};
use crate::evaluate::table::spelled;

/// Rows that are drawn for each invariant.
const MOST_ROWS: usize = 40;

/// Steps across a line. Spans that are closer together than one step are drawn as one.
const WIDTH: f64 = 2_000.0;

/// The height of a lane.
const LANE: usize = 13;

/// The most times along the axis.
const MOST_TICKS: f64 = 8.0;

/// The distances that times may have, in seconds.
const STEPS: [i64; 16] = [
    1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    2_592_000,
];

/// The meaning of the marks.
pub(super) fn legend(names: &[&str]) -> Markup {
    html! {
        @for (lane, name) in names.iter().enumerate() {
            svg class="swatch" viewBox="0 0 12 12" { rect class=(format!("l{lane}")) width="12" height="12" {} }
            (name) " "
        }
        "(from the top of each row). High bars: reported. Low bars: pending, inside the grace period. Grey over the "
        "whole height: no observations."
    }
}

/// Gives times their places on a line.
pub(super) struct Axis {
    first: Timestamp,
    seconds: f64,
    gaps: Vec<Gap>,
}

impl Axis {
    /// `None` without any observation.
    pub(super) fn new(recording: &Recording) -> Option<Self> {
        let (first, last) = (recording.first?, recording.last?);
        Some(Self {
            first,
            seconds: last.duration_since(first).as_secs_f64().max(1.0),
            gaps: recording.gaps.clone(),
        })
    }

    /// The place of `at`, in steps from the left.
    fn place(&self, at: Timestamp) -> f64 {
        at.duration_since(self.first).as_secs_f64() / self.seconds * WIDTH
    }
}

/// The rows of the invariant at `place`.
pub(super) fn invariant_lanes(backtest: &Backtest, place: usize, axis: &Axis) -> Markup {
    let outcomes = backtest.outcomes.iter();
    let histories: Vec<_> = outcomes.map(|it| &it.history.invariants[place]).collect();
    let mut named = HashSet::new();
    let mut subjects = ranked(histories.iter().flat_map(|it| &it.subjects));
    subjects.retain(|it| named.insert(&it.subject));
    let unknown: Vec<&[Span]> = histories.iter().map(|it| &it.whole.spans[..]).collect();
    let all_evaluable = unknown.iter().all(|spans| spans.is_empty());
    html! {
        h3 { (histories[0].config.name) }
        @if subjects.is_empty() && all_evaluable {
            p class="dim" { "Never violated." }
        } @else {
            table class="lanes" {
                tr { th {} td { (ticks(axis)) } td class="said" {} }
                @for subject in subjects.iter().take(MOST_ROWS) {
                    @let lanes: Vec<_> = histories.iter().map(|it| it.subject(&subject.subject)).collect();
                    (subject_row(&visible(&subject.subject), &lanes, axis))
                }
                @if !all_evaluable {
                    tr class="dim" {
                        th { "not evaluable" }
                        td { (bars("not evaluable", &unknown, axis)) }
                        td class="said" {}
                    }
                }
            }
            @if subjects.len() > MOST_ROWS {
                p class="dim" { "And " (subjects.len() - MOST_ROWS) " more subjects." }
            }
        }
    }
}

/// A subject, with its history under each configuration.
fn subject_row(name: &str, lanes: &[Option<&SubjectHistory>], axis: &Axis) -> Markup {
    let spans = lanes
        .iter()
        .map(|lane| lane.map_or(&[][..], |it| &it.spans));
    html! {
        tr {
            th { (name) }
            td { (bars(name, &spans.collect::<Vec<_>>(), axis)) }
            td class="said" {
                @for lane in lanes {
                    @match lane {
                        Some(it) => { (it.violations) "×, " (spelled(it.reported_for.as_secs_f64())) }
                        None => "–",
                    }
                    br;
                }
            }
        }
    }
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

/// Spans that are closer together than a step become one.
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
    // A recording of many months has no times along the axis, because too many would not fit.
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
