//! Goes through a recording in its order, and through what is wrong with it.

use std::io::{self, Write};

use super::blocks::Source;
use super::judge::{Recorded, Timeline};
use super::pipeline::{Broken, Parsed, Pipeline};
use super::{EvaluateError, Progress};
use crate::observation::KeyLabel;

/// Broken lines that are named one by one; the rest is counted.
const MOST_NAMED: u64 = 20;

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
pub(super) enum Event {
    /// An observation.
    Recorded(Box<Recorded>),
    /// Nothing more is there at the moment: the input may still be growing.
    Pause,
}

/// How to go through a recording, and whom to tell about it.
pub struct Reading<'a> {
    /// The recording.
    pub source: Source,
    /// How keys are shown.
    pub label: KeyLabel,
    /// What to do about broken lines.
    pub mistakes: Mistakes,
    /// Where broken lines that are passed over are named.
    pub named: &'a mut dyn Write,
    /// Shows how far it is.
    pub progress: Progress,
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading")
            .field("source", &self.source)
            .field("mistakes", &self.mistakes)
            .finish_non_exhaustive()
    }
}

impl Reading<'_> {
    /// Calls `take` with each event. An error of its own ends it, as does a broken line unless they are passed over.
    pub(super) fn run(
        mut self,
        mut take: impl FnMut(Event) -> io::Result<()>,
    ) -> Result<Tally, EvaluateError> {
        let name = self.source.name().to_owned();
        let unreadable = |error| EvaluateError::Read {
            name: name.clone(),
            error,
        };
        self.progress.watch(&self.source);
        let blocks = self.source.blocks().map_err(unreadable)?;
        let mut timeline = Timeline::new();
        let mut tally = Tally::default();
        let mut lines_before = 0;
        for parsed in Pipeline::start(blocks, self.label) {
            let (lines, many) = match parsed {
                Parsed::Lines(lines, many) => (lines, many),
                Parsed::Failed(error) => return Err(unreadable(error)),
                Parsed::End => break,
            };
            for (place, line) in lines {
                match line {
                    Ok(line) => {
                        tally.observations += 1;
                        take(Event::Recorded(Box::new(timeline.take(line))))?;
                    }
                    Err(Broken { column, message }) => {
                        let error = EvaluateError::Broken {
                            name: name.clone(),
                            line: lines_before + place + 1,
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
                            self.progress.clear();
                            writeln!(self.named, "{error}; passed over")?;
                        }
                    }
                }
            }
            lines_before += many;
            take(Event::Pause)?;
            self.progress.tell(tally.observations);
        }
        Ok(tally)
    }
}
