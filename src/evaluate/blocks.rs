//! Cuts the input into blocks of whole lines, however long the file and however odd its lines: no line is longer than
//! [`MOST_LINE`], and nothing is kept of what was handed on. What `gzip` packed is unpacked, told by its first bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

/// The longest line: an observation of about a million counters.
pub(super) const MOST_LINE: usize = 64 * 1024 * 1024;

/// What is read at once where there is much to read. Lines are much shorter, so that a block holds many.
const BLOCK: usize = 256 * 1024;

/// What is read at once at first: a short recording, or a pipe into which a line is written now and then, needs no more.
const LEAST: usize = 8 * 1024;

/// Where observations come from.
pub struct Source {
    name: String,
    input: Metered,
    size: Option<u64>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// The file at `path`, or standard input for `-`.
    pub fn open(path: &str) -> io::Result<Self> {
        if path == "-" {
            return Ok(Self::new("standard input", io::stdin()));
        }
        let file = File::open(path)?;
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self {
            size: found.is_file().then_some(found.len()),
            ..Self::new(path, file)
        })
    }

    /// Anything that can be read, by the name that it has in messages.
    pub fn new(name: impl Into<String>, input: impl Read + Send + 'static) -> Self {
        Self {
            name: name.into(),
            input: Metered {
                inner: Box::new(input),
                read: Arc::new(AtomicU64::new(0)),
            },
            size: None,
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes it has, if that is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// How many bytes were read so far; it goes on counting.
    pub(super) fn read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.input.read)
    }

    /// Its text. The first bytes are read here.
    pub(super) fn blocks(mut self) -> io::Result<Blocks> {
        let mut first = [0; 2];
        let mut got = 0;
        // A pipe may hand over a single byte first.
        while got < first.len() {
            match self.input.read(&mut first[got..]) {
                Ok(0) => break,
                Ok(some) => got += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let whole = Cursor::new(first).take(got as u64).chain(self.input);
        let text: Box<dyn Read + Send> = if first == [0x1f, 0x8b] {
            // Several members in a row, as they come from recordings that were gone on with, are one text.
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK, whole)))
        } else {
            Box::new(whole)
        };
        Ok(Blocks {
            text,
            rest: Vec::new(),
            room: LEAST,
            skipping: false,
            ended: false,
        })
    }
}

/// Counts what is read through it.
struct Metered {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Metered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let some = self.inner.read(into)?;
        self.read.fetch_add(some as u64, Ordering::Relaxed);
        Ok(some)
    }
}

/// A piece of the text.
#[derive(Debug)]
pub(super) enum Block {
    /// Whole lines; only the last one of the text may lack its end.
    Lines(Vec<u8>),
    /// One line that is longer than [`MOST_LINE`]; it was passed over.
    TooLong,
    /// The text cannot be read any further.
    Failed(io::Error),
}

/// The text in blocks, as it arrives: a line that is there is handed on before the next one is waited for.
pub(super) struct Blocks {
    text: Box<dyn Read + Send>,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
    /// How much to read at once.
    room: usize,
    /// Inside a line that is too long.
    skipping: bool,
    ended: bool,
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        while !self.ended {
            let before = self.rest.len();
            self.rest.resize(before + self.room, 0);
            let read = self.text.read(&mut self.rest[before..]);
            if read.as_ref().is_ok_and(|read| *read == self.room) {
                self.room = BLOCK.min(self.room * 2);
            }
            self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    self.ended = true;
                    let skipped = std::mem::take(&mut self.skipping);
                    let rest = std::mem::take(&mut self.rest);
                    return (!rest.is_empty() && !skipped).then_some(Block::Lines(rest));
                }
                Ok(_) => {
                    if let Some(block) = self.cut(before) {
                        return Some(block);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    return Some(Block::Failed(error));
                }
            }
        }
        None
    }
}

impl Blocks {
    /// The whole lines in what was read, of which the first `before` bytes hold no line's end.
    fn cut(&mut self, before: usize) -> Option<Block> {
        if self.skipping {
            let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') else {
                self.rest.clear();
                return None;
            };
            self.rest.drain(..=end);
            self.skipping = false;
            return self.cut(0);
        }
        let last = self.rest[before..].iter().rposition(|byte| *byte == b'\n');
        if let Some(last) = last {
            let rest = self.rest.split_off(before + last + 1);
            return Some(Block::Lines(std::mem::replace(&mut self.rest, rest)));
        }
        if self.rest.len() > MOST_LINE {
            self.rest = Vec::new();
            self.skipping = true;
            return Some(Block::TooLong);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Write as _;

    use super::*;

    /// Hands over one piece for each time that it is read.
    struct Pieces(VecDeque<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some(mut piece) = self.0.pop_front() else {
                return Ok(0);
            };
            let some = piece.len().min(into.len());
            into[..some].copy_from_slice(&piece[..some]);
            if some < piece.len() {
                self.0.push_front(piece.split_off(some));
            }
            Ok(some)
        }
    }

    fn blocks(pieces: &[&[u8]]) -> Vec<String> {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        let blocks = Source::new("pieces", Pieces(pieces)).blocks().unwrap();
        let shown = blocks.map(|block| match block {
            Block::Lines(text) => String::from_utf8(text).unwrap(),
            Block::TooLong => "too long".to_owned(),
            Block::Failed(error) => error.to_string(),
        });
        shown.collect()
    }

    #[test]
    fn lines_are_handed_on_as_they_arrive() {
        let pieces: &[&[u8]] = &[b"a", b"b", b"c\nd\nhalf", b" more\n", b"last"];
        assert_eq!(blocks(pieces), ["abc\nd\n", "half more\n", "last"]);
        assert_eq!(blocks(&[]), [""; 0]);
        assert_eq!(blocks(&[b"x"]), ["x"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_the_next_is_not() {
        let long = vec![b'x'; BLOCK];
        let mut pieces = vec![&long[..]; MOST_LINE / BLOCK + 2];
        pieces.push(b"x\nnext\n");
        assert_eq!(blocks(&pieces), ["too long", "next\n"]);
    }

    #[test]
    fn what_gzip_packed_is_unpacked_member_by_member() {
        let pack = |text: &str| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap()
        };
        let (one, two) = (pack("one\n"), pack("two\n"));
        let whole = [&one[..], &two[..]].concat();
        assert_eq!(blocks(&[&whole]).concat(), "one\ntwo\n");
        let cut = blocks(&[&whole[..whole.len() - 4]]);
        assert_eq!(cut[0], "one\n");
        assert!(cut.last().unwrap().contains("end of file"), "{cut:?}");
    }
}
