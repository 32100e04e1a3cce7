//! Goes through a recording line by line, gives each observation its time, and reports broken lines.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::EvaluateError;
use super::input::{Broken, Source};
use super::judge::label_keys;
use crate::clock::{Moment, later};
use crate::observation::{KeyLabel, Observation};
use crate::text::one_line;

/// Broken lines that are named one by one; the others are only counted.
const MOST_NAMED: u64 = 20;

/// How often per second the progress is drawn at most: often enough to see it move.
const DRAWN_PER_SECOND: u8 = 5;

/// How many lines were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Observations that were judged.
    pub observations: u64,
    /// Lines that were skipped.
    pub broken_lines: u64,
}

/// A recording, and how to read it.
pub struct ReplayInput<'a> {
    /// The recording.
    pub source: Source,
    /// How keys are shown.
    pub label: KeyLabel,
    /// Whether a broken line is counted and skipped, instead of ending the replay.
    pub keep_going: bool,
    /// Where skipped lines are named.
    pub named: &'a mut dyn Write,
    /// Whether to show the progress, on standard error if that is a terminal.
    pub progress: bool,
}

impl std::fmt::Debug for ReplayInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayInput")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl ReplayInput<'_> {
    /// Calls `take` with each observation and its time. An error of `take` ends the replay, as does a broken line unless
    /// those are skipped.
    pub(super) fn run(
        self,
        mut take: impl FnMut(Moment, &Observation) -> io::Result<()>,
    ) -> Result<Tally, EvaluateError> {
        let name = self.source.name.clone();
        let unreadable = |error| EvaluateError::Read {
            name: name.clone(),
            error,
        };
        let progress = progress_bar(self.progress, self.source.size);
        let mut lines = self.source.lines(&progress).map_err(unreadable)?;
        let mut tally = Tally::default();
        // The time of an observation that names none: a second after the line before, the first at the epoch.
        let mut next = Timestamp::UNIX_EPOCH;
        for line in 1.. {
            let parsed = match lines.next().map_err(unreadable)? {
                None => break,
                Some(Ok(text)) if text.trim_ascii().is_empty() => continue,
                Some(text) => text.and_then(parse),
            };
            let wall = match &parsed {
                Ok(observation) => observation.observed_at.unwrap_or(next),
                Err(_) => next,
            };
            next = later(wall, Duration::from_secs(1));
            match parsed {
                Ok(mut observation) => {
                    let steady = observation.steady_at.unwrap_or(wall);
                    label_keys(&mut observation, self.label);
                    take(Moment { wall, steady }, &observation)?;
                    tally.observations += 1;
                    progress.set_message(tally.observations.to_string());
                }
                Err(Broken { column, message }) => {
                    let error = EvaluateError::Broken {
                        name: name.clone(),
                        line,
                        column,
                        message,
                    };
                    if !self.keep_going {
                        return Err(error);
                    }
                    tally.broken_lines += 1;
                    if tally.broken_lines <= MOST_NAMED {
                        progress.suspend(|| writeln!(self.named, "{error}; skipped"))?;
                    }
                }
            }
        }
        Ok(tally)
    }
}

/// The observation in `line`.
pub(super) fn parse(line: &[u8]) -> Result<Observation, Broken> {
    // serde_json does not check the bytes of a text in a field that it ignores.
    let text = std::str::from_utf8(line).map_err(|error| Broken {
        column: error.valid_up_to() + 1,
        message: "invalid UTF-8".to_owned(),
    })?;
    serde_json::from_str(text.trim_ascii_end()).map_err(|error| {
        let message = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        Broken {
            column: error.column(),
            // The message repeats names of the recording.
            message: one_line(message.strip_suffix(&position).unwrap_or(&message)),
        }
    })
}

/// Shows how much is read, and how long the rest will take where the `size` is known. It disappears at the end.
fn progress_bar(shown: bool, size: Option<u64>) -> ProgressBar {
    let target = if shown {
        ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template(template(size));
    ProgressBar::with_draw_target(size, target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_finish(ProgressFinish::AndClear)
        .with_message("0")
}

fn template(size: Option<u64>) -> &'static str {
    match size {
        Some(_) => "{percent:>3} %  {msg} observations, {eta} left",
        None => "{msg} observations, {bytes} read",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(line: &[u8]) -> (usize, String) {
        let broken = parse(line).unwrap_err();
        (broken.column, broken.message)
    }

    #[test]
    fn a_broken_line_is_reported_with_its_column() {
        let (column, message) = broken(b"{\"nodes\":[],\"counters\":[}\n");
        assert_eq!((column, &*message), (25, "expected value"));
        let (column, message) = broken(b"{\"nodes\":[]}\r\n");
        assert_eq!((column, &*message), (12, "missing field `counters`"));
        assert_eq!(broken(b"{\"\xff\"}").0, 3);
        let (column, message) = broken(b"{\"nodes\":[");
        assert_eq!(column, 10);
        assert!(message.contains("EOF"), "{message}");
        let (_, message) = broken(b"{\"collectors\":{\"a\\n\\u001b\":1}}");
        assert!(message.contains("`a\\n\\u{1b}`"), "{message}");
    }

    #[test]
    fn empty_lines_are_ignored_but_counted_in_line_numbers() {
        let mut named = Vec::new();
        let reading = ReplayInput {
            source: Source::new("text", io::Cursor::new("\n \r\nx\n\n")),
            label: KeyLabel::Plain,
            keep_going: true,
            named: &mut named,
            progress: false,
        };
        let tally = reading.run(|_, _| Ok(())).unwrap();
        assert_eq!((tally.observations, tally.broken_lines), (0, 1));
        let named = String::from_utf8(named).unwrap();
        assert!(named.starts_with("text: line 3 column 1: "), "{named}");
    }

    #[test]
    fn the_templates_of_the_progress_are_valid() {
        for size in [Some(100), None] {
            assert!(ProgressStyle::with_template(template(size)).is_ok());
        }
    }
}
