//! The time lines: a row for each subject, a lane in it for each configuration.

use jiff::Timestamp;

use super::{escape, put};
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
pub(super) fn legend(out: &mut String, names: &[&str]) {
    for (lane, name) in names.iter().enumerate() {
        put(
            out,
            format_args!(
                "<svg class=\"swatch\" viewBox=\"0 0 12 12\"><rect class=\"l{lane}\" width=\"12\" height=\"12\"/></svg>{name} "
            ),
        );
    }
    out.push_str(
        "(from above in each row). High bars: reported. Low bars: pending, inside the grace period. Grey over the \
         whole height: no observations.",
    );
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
pub(super) fn invariant_lanes(out: &mut String, backtest: &Backtest, place: usize, axis: &Axis) {
    let Some(first) = backtest.outcomes.first() else {
        return;
    };
    put(
        out,
        format_args!("<h3>{}</h3>\n", first.invariants[place].name),
    );
    let rows = rows(backtest, place);
    let unknown = backtest.outcomes.iter();
    let unknown: Vec<&[Span]> = unknown
        .map(|outcome| &outcome.history.invariants[place].unknown_spans[..])
        .collect();
    let all_evaluable = unknown.iter().all(|spans| spans.is_empty());
    if rows.is_empty() && all_evaluable {
        out.push_str("<p class=\"dim\">Never violated.</p>\n");
        return;
    }
    out.push_str("<table class=\"lanes\">\n<tr><th></th><td>");
    ticks(out, axis);
    out.push_str("</td><td class=\"said\"></td></tr>\n");
    for (name, lanes) in rows.iter().take(MOST_ROWS) {
        let name = escape(name);
        put(out, format_args!("<tr><th>{name}</th><td>"));
        let spans: Vec<&[Span]> = lanes
            .iter()
            .map(|lane| lane.map_or(&[][..], |it| &it.spans[..]))
            .collect();
        row(out, &name, &spans, axis);
        out.push_str("</td><td class=\"said\">");
        for lane in lanes {
            match lane {
                Some(it) => put(
                    out,
                    format_args!(
                        "{}×, {}<br>",
                        it.violations,
                        spelled(it.reported.as_secs_f64())
                    ),
                ),
                None => out.push_str("–<br>"),
            }
        }
        out.push_str("</td></tr>\n");
    }
    if !all_evaluable {
        out.push_str("<tr class=\"dim\"><th>not evaluable</th><td>");
        row(out, "not evaluable", &unknown, axis);
        out.push_str("</td><td class=\"said\"></td></tr>\n");
    }
    out.push_str("</table>\n");
    if rows.len() > MOST_ROWS {
        let more = rows.len() - MOST_ROWS;
        put(
            out,
            format_args!("<p class=\"dim\">And {more} subjects more.</p>\n"),
        );
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

fn row(out: &mut String, name: &str, lanes: &[&[Span]], axis: &Axis) {
    let height = LANE * lanes.len();
    put(
        out,
        format_args!(
            "<svg viewBox=\"0 0 {WIDTH:.0} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name}\">"
        ),
    );
    for gap in &axis.gaps {
        let (from, to) = (axis.place(gap.from), axis.place(gap.to));
        put(
            out,
            format_args!(
                "<rect class=\"gap\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{height}\"><title>no observations from {:.0} to {:.0}</title></rect>",
                to - from,
                gap.from,
                gap.to
            ),
        );
    }
    for (number, lane) in lanes.iter().enumerate() {
        for state in [State::Pending, State::Reported, State::Unknown] {
            let of_state: Vec<&Span> = lane.iter().filter(|span| span.state == state).collect();
            for span in joined(&of_state, axis) {
                bar(out, number, state, &span, axis);
            }
        }
    }
    out.push_str("</svg>");
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

fn bar(out: &mut String, lane: usize, state: State, span: &Span, axis: &Axis) {
    let from = axis.place(span.from);
    let width = (axis.place(span.to) - from).max(2.0);
    let (height, what) = match state {
        State::Reported => (LANE - 2, "reported"),
        State::Pending => (3, "pending"),
        State::Unknown => (LANE / 2, "not evaluable"),
    };
    let y = LANE * lane + (LANE - 1 - height);
    put(
        out,
        format_args!(
            "<rect class=\"l{lane}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\"><title>{what} from {:.0} to {:.0}</title></rect>",
            span.from, span.to
        ),
    );
}

fn ticks(out: &mut String, axis: &Axis) {
    let fits = |step: &&i64| axis.seconds / whole(**step) <= MOST_TICKS;
    // A recording of many months has none, rather than more than fit.
    let Some(step) = STEPS.iter().find(fits).copied() else {
        return;
    };
    out.push_str("<div class=\"ticks\">");
    let form = match step {
        ..60 => "%H:%M:%S",
        60..86_400 => "%m-%d %H:%M",
        _ => "%Y-%m-%d",
    };
    let begin = axis.first.as_second();
    let first = begin - begin.rem_euclid(step) + step;
    let mut tick = first;
    while whole(tick - begin) < axis.seconds {
        let at = Timestamp::from_second(tick).unwrap_or(axis.first);
        let left = axis.place(at) / WIDTH * 100.0;
        put(
            out,
            format_args!(
                "<span style=\"left:{left:.2}%\">{}</span>",
                at.strftime(form)
            ),
        );
        tick += step;
    }
    out.push_str("</div>");
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
fn whole(seconds: i64) -> f64 {
    seconds as f64
}
