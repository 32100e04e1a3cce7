//! Reads a recording ahead of whoever judges it: one thread reads and cuts, a few parse, and what they parsed comes out
//! in the order of the file. Everything between them is bounded, so that memory does not grow with the file.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::blocks::{Block, Blocks, MOST_LINE};
use super::line::{Line, label_keys};
use crate::observation::KeyLabel;
use crate::text::one_line;

/// Parsing is most of the work, but more threads than this wait for the one that judges.
const MOST_PARSERS: usize = 4;

/// Blocks under way for each parser.
const AHEAD: usize = 2;

/// What became of one block.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Its lines that are not empty, by their place in the block, and how many lines it has.
    Lines(Vec<(u64, Result<Line, Broken>)>, u64),
    /// The text cannot be read any further.
    Failed(io::Error),
    /// The end of the text. Without it, whoever should have sent it has died.
    End,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Where, in bytes from 1.
    pub(super) column: usize,
    /// What, and what was expected.
    pub(super) message: String,
}

/// The parsed blocks in the order of the file.
#[derive(Debug)]
pub(super) struct Pipeline {
    parsed: Vec<Receiver<Parsed>>,
    next: usize,
}

impl Pipeline {
    /// Begins to read. The threads end with the text, or when nobody takes what they bring: the one that reads may
    /// then still wait for its input, which nothing can interrupt, so none of them is waited for.
    pub(super) fn start(blocks: Blocks, label: KeyLabel) -> Self {
        let many = thread::available_parallelism().map_or(1, |many| many.get().min(MOST_PARSERS));
        let (mut work, mut parsed) = (Vec::new(), Vec::new());
        for _ in 0..many {
            let (block_sent, block) = sync_channel(AHEAD);
            let (lines_sent, lines) = sync_channel(AHEAD);
            thread::spawn(move || parse_all(&block, &lines_sent, label));
            work.push(block_sent);
            parsed.push(lines);
        }
        thread::spawn(move || {
            let all = blocks.map(Some).chain([None]);
            for (turn, block) in all.enumerate() {
                if work[turn % many].send(block).is_err() {
                    return;
                }
            }
        });
        Self { parsed, next: 0 }
    }
}

impl Iterator for Pipeline {
    type Item = Parsed;

    fn next(&mut self) -> Option<Parsed> {
        let parsed = self.parsed[self.next].recv();
        self.next = (self.next + 1) % self.parsed.len();
        match parsed {
            Ok(Parsed::End) => None,
            Ok(parsed) => Some(parsed),
            Err(_) => Some(Parsed::Failed(io::Error::other("a thread of ours died"))),
        }
    }
}

fn parse_all(blocks: &Receiver<Option<Block>>, parsed: &SyncSender<Parsed>, label: KeyLabel) {
    for block in blocks {
        let lines = match block {
            Some(Block::Lines(text)) => parse_block(&text, label),
            Some(Block::TooLong) => {
                let message = format!("longer than {} MiB", MOST_LINE >> 20);
                let column = MOST_LINE + 1;
                Parsed::Lines(vec![(0, Err(Broken { column, message }))], 1)
            }
            Some(Block::Failed(error)) => Parsed::Failed(error),
            None => Parsed::End,
        };
        if parsed.send(lines).is_err() {
            return;
        }
    }
}

/// The lines of `text`.
pub(super) fn parse_block(text: &[u8], label: KeyLabel) -> Parsed {
    let mut lines = Vec::new();
    let mut many = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !line.trim_ascii().is_empty() {
            let parsed = parse_line(line).map(|mut line| {
                label_keys(&mut line, label);
                line
            });
            lines.push((many, parsed));
        }
        many += 1;
    }
    Parsed::Lines(lines, many)
}

fn parse_line(line: &[u8]) -> Result<Line, Broken> {
    // All at once is faster than string by string.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(line: &[u8]) -> (usize, String) {
        let broken = parse_line(line).unwrap_err();
        (broken.column, broken.message)
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
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
        let Parsed::Lines(lines, many) = parse_block(b"\n \r\nx\n\n", KeyLabel::Plain) else {
            panic!("nothing failed");
        };
        let places: Vec<u64> = lines.iter().map(|(place, _)| *place).collect();
        assert_eq!((places, many), (vec![2], 4));
    }
}
