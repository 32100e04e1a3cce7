//! Writes a recording to standard output or to the end of a file, with or without compression. Each line is written
//! whole before the next collection, and an orderly end writes the trailer of gzip.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

/// The destination of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The file that it is appended to; standard output if `None`.
    pub file: Option<PathBuf>,
    /// Whether it is compressed by gzip.
    pub gzip: bool,
}

/// Writes lines.
pub(super) enum Recorder {
    Plain(Box<dyn Write + Send>),
    Packed(GzEncoder<Box<dyn Write + Send>>),
}

impl Recorder {
    /// Opens the destination. The present content of the file stays.
    pub(super) fn open(target: &Destination) -> anyhow::Result<Self> {
        let out: Box<dyn Write + Send> = match &target.file {
            None => Box::new(io::stdout()),
            Some(path) => {
                let file = append_to(path, target.gzip)
                    .with_context(|| format!("--output-file: {}", path.display()))?;
                Box::new(file)
            }
        };
        Ok(if target.gzip {
            Self::Packed(GzEncoder::new(out, Compression::default()))
        } else {
            Self::Plain(out)
        })
    }

    /// Writes one line through to the destination.
    pub(super) fn write(&mut self, line: &str) -> io::Result<()> {
        let out: &mut dyn Write = match self {
            Self::Plain(out) => out,
            Self::Packed(out) => out,
        };
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Ends the recording.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Packed(out) => out.finish()?.flush(),
        }
    }
}

/// Opens `path` to append to it. If a previous run left half a line, the line is ended; a compressed file is refused.
fn append_to(path: &Path, gzip: bool) -> anyhow::Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        bail!("is a disk");
    }
    // In a pipe or a device there is nothing to append to.
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(file);
    }
    let mut first = [0; 2];
    let packed = file.read_exact(&mut first).is_ok() && first == [0x1f, 0x8b];
    if packed != gzip {
        let (is, was) = if packed { ("", "not ") } else { ("not ", "") };
        bail!("is {is}compressed by gzip, and the new lines would be {was}compressed");
    }
    if packed {
        file.seek(SeekFrom::Start(0))?;
        let mut whole = MultiGzDecoder::new(BufReader::new(&file));
        io::copy(&mut whole, &mut io::sink()).context(
            "was cut off, so that nothing after it could be decompressed: move it away first",
        )?;
    } else {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            // Half a line stays a broken line, and the next one is whole.
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("recorder-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn record(path: &Path, gzip: bool, lines: &[&str]) -> anyhow::Result<()> {
        let target = Destination {
            file: Some(path.to_owned()),
            gzip,
        };
        let mut recorder = Recorder::open(&target)?;
        for line in lines {
            recorder.write(line)?;
        }
        Ok(recorder.finish()?)
    }

    fn unpacked(path: &Path) -> String {
        let mut text = String::new();
        let file = BufReader::new(File::open(path).unwrap());
        MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_recording_is_appended_to() {
        let folder = folder("append");
        let plain = folder.join("plain");
        record(&plain, false, &["a", "b"]).unwrap();
        record(&plain, false, &["c"]).unwrap();
        assert_eq!(std::fs::read_to_string(&plain).unwrap(), "a\nb\nc\n");
        let packed = folder.join("packed");
        record(&packed, true, &["a"]).unwrap();
        record(&packed, true, &["b"]).unwrap();
        assert_eq!(unpacked(&packed), "a\nb\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_recording_that_was_cut_off_spoils_no_line_of_the_next_run() {
        let folder = folder("half");
        let plain = folder.join("plain");
        std::fs::write(&plain, "a\nhal").unwrap();
        record(&plain, false, &["b"]).unwrap();
        assert_eq!(std::fs::read_to_string(&plain).unwrap(), "a\nhal\nb\n");
        let packed = folder.join("packed");
        record(&packed, true, &["a"]).unwrap();
        let whole = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &whole[..whole.len() - 3]).unwrap();
        let error = format!("{:#}", record(&packed, true, &["b"]).unwrap_err());
        assert!(error.contains("packed: was cut off"), "{error}");
        let error = format!("{:#}", record(&packed, false, &["b"]).unwrap_err());
        assert!(error.contains("is compressed by gzip"), "{error}");
        assert_eq!(std::fs::read(&packed).unwrap().len(), whole.len() - 3);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn each_line_can_be_decompressed_before_the_end() {
        let folder = folder("flush");
        let target = Destination {
            file: Some(folder.join("packed")),
            gzip: true,
        };
        let mut recorder = Recorder::open(&target).unwrap();
        recorder.write("a whole line").unwrap();
        let written = std::fs::read(folder.join("packed")).unwrap();
        let mut text = [0; 13];
        let mut unpacking = flate2::read::GzDecoder::new(&written[..]);
        unpacking.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"a whole line\n");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
