//! What the tour has shown: when each invariant was violated and held again, and when its page and the end of that arrived.
//!
//! It leaves out subjects: the tour does one thing at a time to each invariant.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::view::View;
use crate::webhook::{Alert, Status};

/// The invariants that the tour of the reference limiter breaks.
pub(super) const INVARIANTS: [&str; 5] = [
    "node_down",
    "redis_disconnected",
    "ghost_allowing",
    "counter_drift",
    "high_latency",
];

/// Those whose page is ended while the tour lasts. The others are for people who look into the chat
/// now and then: their end arrives five minutes after the page.
pub(super) const ENDS_SOON: [&str; 3] = ["node_down", "ghost_allowing", "redis_disconnected"];

/// The record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    invariants: &'static [&'static str],
    /// Those of them whose page must end as well.
    ends: &'static [&'static str],
    with_pages: bool,
    on_metrics: BTreeMap<&'static str, Span>,
    told: BTreeMap<&'static str, Span>,
}

/// From the first time something was so to the first time that it was over after that.
#[derive(Debug, Clone, Copy)]
struct Span {
    began: Duration,
    ended: Option<Duration>,
}

impl Record {
    /// An empty record of these invariants; `ends` are those whose page must end as well.
    pub(super) fn new(invariants: &'static [&'static str], ends: &'static [&'static str]) -> Self {
        Self {
            invariants,
            ends,
            with_pages: false,
            on_metrics: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// The same, of pages too.
    pub(super) fn with_pages(self, with_pages: bool) -> Self {
        Self { with_pages, ..self }
    }

    /// Notes a reading of `/metrics`.
    pub(super) fn note(&mut self, view: &View, elapsed: Duration) {
        for &name in self.invariants {
            note(&mut self.on_metrics, name, view.is_violated(name), elapsed);
        }
    }

    /// Notes a page, or its end.
    pub(super) fn note_page(&mut self, alert: &Alert, elapsed: Duration) {
        let mut invariants = self.invariants.iter();
        if let Some(&name) = invariants.find(|name| **name == alert.label("name")) {
            let fires = alert.status == Status::Firing;
            note(&mut self.told, name, fires, elapsed);
        }
    }

    /// Whether the page of this invariant, or its end, arrived.
    pub(super) fn was_told(&self, name: &str, status: Status) -> bool {
        self.told
            .get(name)
            .is_some_and(|span| status == Status::Firing || span.ended.is_some())
    }

    /// Every invariant was violated once and held again. With pages, all arrived, and of those
    /// that end soon the end, too.
    pub(super) fn is_complete(&self) -> bool {
        let over = |name: &&str| {
            self.on_metrics
                .get(*name)
                .is_some_and(|span| span.ended.is_some())
        };
        let told = |name: &&str| self.was_told(name, Status::Firing);
        let end_told = |name: &&str| self.was_told(name, Status::Resolved);
        let (mut all, mut ends) = (self.invariants.iter(), self.ends.iter());
        self.invariants.iter().all(over)
            && (!self.with_pages || all.all(told) && ends.all(end_told))
    }
}

fn note(spans: &mut BTreeMap<&str, Span>, name: &'static str, is_so: bool, elapsed: Duration) {
    if is_so {
        spans.entry(name).or_insert(Span {
            began: elapsed,
            ended: None,
        });
    } else if let Some(span) = spans.get_mut(name) {
        span.ended.get_or_insert(elapsed);
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = vec!["first at 1", "back at 0"];
        if self.with_pages {
            columns.extend(["first page", "resolved"]);
        }
        write!(f, "{:<20}", "invariant")?;
        for column in columns {
            write!(f, " {column:>12}")?;
        }
        writeln!(f)?;
        for name in self.invariants {
            write!(f, "{name:<20}")?;
            let spans = [&self.on_metrics, &self.told];
            for spans in spans.iter().take(if self.with_pages { 2 } else { 1 }) {
                let span = spans.get(*name);
                let ended = span.and_then(|span| span.ended);
                for time in [span.map(|span| span.began), ended] {
                    let never = || "not yet".to_owned();
                    let time = time.map_or_else(never, |time| format!("{} s", time.as_secs()));
                    write!(f, " {time:>12}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn view(violated: &[&str]) -> View {
        let line =
            |name: &&str| format!("invariant_violation{{name=\"{name}\",subject=\"x\"}} 1\n");
        View::parse(&violated.iter().map(line).collect::<String>()).unwrap()
    }

    fn page(name: &str, status: Status) -> Alert {
        Alert {
            status,
            labels: BTreeMap::from([("name".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_record_is_complete_once_everything_failed_and_recovered() {
        let mut record = Record::new(&INVARIANTS, &ENDS_SOON);
        record.note(&view(&[]), SECOND);
        assert!(!record.is_complete());
        record.note(&view(&INVARIANTS), 2 * SECOND);
        assert!(!record.is_complete());
        record.note(&view(&["high_latency"]), 4 * SECOND);
        assert!(!record.is_complete());
        record.note(&view(&[]), 6 * SECOND);
        assert!(record.is_complete());
        let table = record.to_string();
        let row = "node_down                     2 s          4 s\n";
        assert!(table.contains(row), "{table}");
        let row = "high_latency                  2 s          6 s\n";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn with_pages_the_record_is_complete_once_all_arrived() {
        let mut record = Record::new(&INVARIANTS, &ENDS_SOON).with_pages(true);
        record.note(&view(&INVARIANTS), SECOND);
        record.note(&view(&[]), 2 * SECOND);
        assert!(!record.is_complete());
        for name in INVARIANTS {
            record.note_page(&page(name, Status::Firing), 3 * SECOND);
        }
        record.note_page(&page("something_else", Status::Firing), 3 * SECOND);
        assert!(!record.is_complete());
        for name in ENDS_SOON {
            record.note_page(&page(name, Status::Resolved), 4 * SECOND);
        }
        assert!(record.is_complete());
        let table = record.to_string();
        let row = "node_down                     1 s          2 s          3 s          4 s\n";
        assert!(table.contains(row), "{table}");
        let row = "high_latency                  1 s          2 s          3 s      not yet\n";
        assert!(table.contains(row), "{table}");
    }
}
