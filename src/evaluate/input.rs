//! Reads the text of a recording line by line. Text that `gzip` compressed is decompressed; its first bytes identify it.
//! A line has a maximum length, so that memory does not grow with the input.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

/// The longest line in bytes: an observation of about a million counters.
const MAX_LINE: usize = 64 * 1024 * 1024;

/// What is read at once: some tens of lines.
const BUFFER: usize = 256 * 1024;

/// The first bytes of text that `gzip` compressed.
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where observations come from.
pub struct Source {
    /// Its name in messages.
    pub(super) name: String,
    input: Box<dyn Read>,
    /// Its bytes, if their number is known.
    pub(super) size: Option<u64>,
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

    /// Any reader, with its name in messages.
    pub fn new(name: impl Into<String>, input: impl Read + 'static) -> Self {
        Self {
            name: name.into(),
            input: Box::new(input),
            size: None,
        }
    }

    /// Its lines. `progress` counts the bytes as they are read, the first of them here.
    pub(super) fn lines(self, progress: &ProgressBar) -> io::Result<Lines> {
        let mut input = progress.wrap_read(self.input);
        let mut first = Vec::new();
        input
            .by_ref()
            .take(GZIP.len() as u64)
            .read_to_end(&mut first)?;
        let compressed = first == GZIP;
        let whole = Cursor::new(first).chain(input);
        let text: Box<dyn Read> = if compressed {
            // A compressed recording that was continued has several members: they are one text.
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole)))
        } else {
            Box::new(whole)
        };
        Ok(Lines {
            text: BufReader::with_capacity(BUFFER, text),
            line: Vec::new(),
            inside_long_line: false,
        })
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The place, in bytes from 1.
    pub(super) column: usize,
    /// What is wrong, and what was expected.
    pub(super) message: String,
}

/// The text, one line after the other.
pub(super) struct Lines {
    text: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    inside_long_line: bool,
}

impl Lines {
    /// The next line, or `None` at the end of the text. A line has its end, which only the last one may lack.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<&[u8], Broken>>> {
        if std::mem::take(&mut self.inside_long_line) {
            self.text.skip_until(b'\n')?;
        }
        self.line.clear();
        let at_most = MAX_LINE as u64 + 1;
        let mut bounded = self.text.by_ref().take(at_most);
        bounded.read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.len() > MAX_LINE && !self.line.ends_with(b"\n") {
            // Frees its memory.
            self.line = Vec::new();
            self.inside_long_line = true;
            return Ok(Some(Err(Broken {
                column: MAX_LINE + 1,
                message: format!("longer than {} MiB", MAX_LINE >> 20),
            })));
        }
        Ok(Some(Ok(&self.line)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Write as _;

    use super::*;

    /// Returns one piece at each read.
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

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        let source = Source::new("pieces", Pieces(pieces));
        let mut lines = source.lines(&ProgressBar::hidden()).unwrap();
        let mut shown = Vec::new();
        loop {
            match lines.next() {
                Ok(Some(Ok(text))) => shown.push(String::from_utf8(text.to_vec()).unwrap()),
                Ok(Some(Err(broken))) => shown.push(broken.message),
                Ok(None) => return shown,
                Err(error) => {
                    shown.push(error.to_string());
                    return shown;
                }
            }
        }
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_nowhere_else() {
        let pieces: &[&[u8]] = &[b"a", b"b", b"c\nd\nhalf", b" more\n", b"last"];
        assert_eq!(lines(pieces), ["abc\n", "d\n", "half more\n", "last"]);
        assert_eq!(lines(&[]), [""; 0]);
        assert_eq!(lines(&[b"x"]), ["x"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_and_the_next_is_read() {
        let part = vec![b'x'; BUFFER];
        let longest = vec![&part[..]; MAX_LINE / BUFFER];
        assert_eq!(lines(&[&longest[..], &[b"\nnext\n"]].concat()).len(), 2);
        for (rest, expected) in [
            (&b"x\nnext\n"[..], &["longer than 64 MiB", "next\n"][..]),
            (b"x", &["longer than 64 MiB"]),
        ] {
            assert_eq!(lines(&[&longest[..], &[rest]].concat()), expected);
        }
    }

    #[test]
    fn compressed_text_is_decompressed_member_by_member() {
        let pack = |text: &str| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap()
        };
        let (one, two) = (pack("one\n"), pack("two\n"));
        let whole = [&one[..], &two[..]].concat();
        assert_eq!(lines(&[&whole]), ["one\n", "two\n"]);
        let cut = lines(&[&whole[..whole.len() - 4]]);
        assert_eq!(cut[0], "one\n");
        assert!(cut.last().unwrap().contains("end of file"), "{cut:?}");
    }
}
