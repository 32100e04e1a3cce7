//! The text of a recording, line by line. What `gzip` packed is unpacked; its first bytes show it. A line has an upper
//! bound, so that memory does not grow with the input.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

/// The longest line in bytes: an observation of about a million counters.
pub(super) const MAX_LINE: usize = 64 * 1024 * 1024;

/// What is read at once: some tens of lines.
const BUFFER: usize = 256 * 1024;

/// How text that `gzip` packed begins.
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where observations come from.
pub struct Source {
    name: String,
    input: Box<dyn Read>,
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
    pub fn new(name: impl Into<String>, input: impl Read + 'static) -> Self {
        Self {
            name: name.into(),
            input: Box::new(input),
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

    /// Its lines. `progress` counts the bytes as they are read, the first of them here.
    pub(super) fn lines(self, progress: &ProgressBar) -> io::Result<Lines> {
        let mut input = progress.wrap_read(self.input);
        let mut first = Vec::new();
        input
            .by_ref()
            .take(GZIP.len() as u64)
            .read_to_end(&mut first)?;
        let packed = first == GZIP;
        let whole = Cursor::new(first).chain(input);
        let text: Box<dyn Read> = if packed {
            // Several members in a row, as they come from recordings that were appended to, are one text.
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

/// A line of the text.
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// With its end, which only the last one may lack.
    Whole(&'a [u8]),
    /// Longer than [`MAX_LINE`].
    TooLong,
}

/// The text, one line after the other.
pub(super) struct Lines {
    text: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    inside_long_line: bool,
}

impl Lines {
    /// The next line, or `None` at the end of the text.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
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
            self.line = Vec::new();
            self.inside_long_line = true;
            return Ok(Some(Line::TooLong));
        }
        Ok(Some(Line::Whole(&self.line)))
    }

    /// Whether the next line, or the end, must be waited for.
    pub(super) fn must_wait(&self) -> bool {
        !self.text.buffer().contains(&b'\n')
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

    fn open(pieces: &[&[u8]]) -> Lines {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        let source = Source::new("pieces", Pieces(pieces));
        source.lines(&ProgressBar::hidden()).unwrap()
    }

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut shown) = (open(pieces), Vec::new());
        loop {
            match lines.next() {
                Ok(Some(Line::Whole(text))) => {
                    shown.push(String::from_utf8(text.to_vec()).unwrap());
                }
                Ok(Some(Line::TooLong)) => shown.push("too long".to_owned()),
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
    fn only_what_is_not_there_yet_is_waited_for() {
        // The first two bytes are read apart.
        let mut lines = open(&[b"a\n", b"b\nc\nhalf", b" more\n"]);
        let waits = [true, true, false, true, true];
        for expected in waits {
            assert_eq!(lines.must_wait(), expected);
            lines.next().unwrap();
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_the_next_is_not() {
        let part = vec![b'x'; BUFFER];
        let longest = vec![&part[..]; MAX_LINE / BUFFER];
        assert_eq!(lines(&[&longest[..], &[b"\nnext\n"]].concat()).len(), 2);
        for (rest, expected) in [
            (&b"x\nnext\n"[..], &["too long", "next\n"][..]),
            (b"x", &["too long"]),
        ] {
            assert_eq!(lines(&[&longest[..], &[rest]].concat()), expected);
        }
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
        assert_eq!(lines(&[&whole]), ["one\n", "two\n"]);
        let cut = lines(&[&whole[..whole.len() - 4]]);
        assert_eq!(cut[0], "one\n");
        assert!(cut.last().unwrap().contains("end of file"), "{cut:?}");
    }
}
