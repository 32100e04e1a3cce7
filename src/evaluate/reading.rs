//! Goes through a recording in its order, line by line, and names what is wrong with it.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::EvaluateError;
use super::input::{Line, MAX_LINE, Source};
use super::judge::{Recorded, Timeline, label_keys};
use crate::observation::{KeyLabel, Observation};
use crate::text::one_line;

/// Broken lines that are named one by one; the rest is counted.
const MOST_NAMED: u64 = 20;

/// How often a second the progress is drawn at most: often enough to see it move.
const DRAWN_PER_SECOND: u8 = 5;

/// What to do about a broken line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistakes {
    /// The first one ends the replay.
    End,
    /// They are passed over and counted.
    PassOver,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Observations that were judged.
    pub observations: u64,
    /// Lines that were passed over.
    pub broken: u64,
}

/// What comes out of a recording.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// An observation.
    Recorded(&'a Recorded),
    /// Nothing more is there at the moment: the input may still be growing.
    Pause,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Where, in bytes from 1.
    pub(super) column: usize,
    /// What, and what was expected.
    pub(super) message: String,
}

/// How to go through a recording, and what to report about it.
pub struct ReplayInput<'a> {
    /// The recording.
    pub source: Source,
    /// How keys are shown.
    pub label: KeyLabel,
    /// What to do about broken lines.
    pub mistakes: Mistakes,
    /// Where broken lines that are passed over are named.
    pub named: &'a mut dyn Write,
    /// Whether to show how far it is, on standard error if that is a terminal.
    pub progress: bool,
}

impl std::fmt::Debug for ReplayInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayInput")
            .field("source", &self.source)
            .field("mistakes", &self.mistakes)
            .finish_non_exhaustive()
    }
}

impl ReplayInput<'_> {
    /// Calls `take` with each event. An error of its own ends it, as does a broken line unless they are passed over.
    pub(super) fn run(
        self,
        mut take: impl FnMut(Event<'_>) -> io::Result<()>,
    ) -> Result<Tally, EvaluateError> {
        let name = self.source.name().to_owned();
        let unreadable = |error| EvaluateError::Read {
            name: name.clone(),
            error,
        };
        let progress = progress_bar(self.progress, self.source.size());
        let mut lines = self.source.lines(&progress).map_err(unreadable)?;
        let mut timeline = Timeline::new();
        let mut tally = Tally::default();
        for line in 1.. {
            if lines.must_wait() {
                take(Event::Pause)?;
                progress.set_message(tally.observations.to_string());
            }
            let parsed = match lines.next().map_err(unreadable)? {
                None => break,
                Some(Line::Whole(text)) if text.trim_ascii().is_empty() => continue,
                Some(Line::Whole(text)) => parse(text),
                Some(Line::TooLong) => Err(Broken {
                    column: MAX_LINE + 1,
                    message: format!("longer than {} MiB", MAX_LINE >> 20),
                }),
            };
            match parsed {
                Ok(mut observation) => {
                    tally.observations += 1;
                    label_keys(&mut observation, self.label);
                    take(Event::Recorded(&timeline.take(observation)))?;
                }
                Err(Broken { column, message }) => {
                    let error = EvaluateError::Broken {
                        name: name.clone(),
                        line,
                        column,
                        message,
                    };
                    if self.mistakes == Mistakes::End {
                        take(Event::Pause)?;
                        return Err(error);
                    }
                    timeline.skip();
                    tally.broken += 1;
                    if tally.broken <= MOST_NAMED {
                        progress.suspend(|| writeln!(self.named, "{error}; passed over"))?;
                    }
                }
            }
        }
        Ok(tally)
    }
}

/// The observation that `line` is.
pub(super) fn parse(line: &[u8]) -> Result<Observation, Broken> {
    // serde_json does not look at the bytes of a text that it passes over.
    let text = std::str::from_utf8(line).map_err(|error| Broken {
        column: error.valid_up_to() + 1,
        message: "invalid UTF-8".to_owned(),
    })?;
    serde_json::from_str(text.trim_ascii_end()).map_err(|error| {
        let message = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        Broken {
            column: error.column(),
            // It repeats names of the recording.
            message: one_line(message.strip_suffix(&position).unwrap_or(&message)),
        }
    })
}

/// Shows how much is read and how long the rest will take, where the `size` is known. It is gone at the end.
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
    if size.is_some() {
        "{percent:>3} %  {msg} observations, {eta} left"
    } else {
        "{msg} observations, {bytes} read"
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
    fn what_is_wrong_is_reported_with_its_column() {
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
    fn empty_lines_are_no_observations_but_lines() {
        let mut named = Vec::new();
        let reading = ReplayInput {
            source: Source::new("text", io::Cursor::new("\n \r\nx\n\n")),
            label: KeyLabel::Plain,
            mistakes: Mistakes::PassOver,
            named: &mut named,
            progress: false,
        };
        let tally = reading.run(|_| Ok(())).unwrap();
        assert_eq!((tally.observations, tally.broken), (0, 1));
        let named = String::from_utf8(named).unwrap();
        assert!(named.starts_with("text: line 3 column 1: "), "{named}");
    }

    #[test]
    fn the_progress_can_be_drawn() {
        for size in [Some(100), None] {
            assert!(ProgressStyle::with_template(template(size)).is_ok());
        }
    }
}
