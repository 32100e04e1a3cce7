//! Paths that a user named. What is read is bounded. A device, or another user's file, that is there already is not moved,
//! emptied or replaced by mistake.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};

/// The longest file that is read. A device can be endless.
const LONGEST: u64 = 4 << 20;

/// The content of a file for people or programs to edit: a configuration, a description, a secret, certificates.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = File::open(path)?
        .take(LONGEST + 1)
        .read_to_end(&mut content)?;
    if read as u64 > LONGEST {
        let why = format!("longer than {} MiB", LONGEST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(content)
}

/// The same as text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| {
        // Without the content, which may be a secret.
        io::Error::new(io::ErrorKind::InvalidData, error.utf8_error())
    })
}

/// The same as text, but not from a named pipe: without a writer, opening it would never end. A pipe that a shell made, such as
/// `<(…)`, has one.
pub(crate) fn read_text_of_file(path: &Path) -> io::Result<String> {
    let found = fs::canonicalize(path).and_then(fs::metadata);
    if found.is_ok_and(|found| found.file_type().is_fifo()) {
        return Err(io::Error::other("a named pipe may have no writer"));
    }
    read_text(path)
}

/// Whether [`replace`] can write to `path`. An error says what was expected. Nothing is written.
pub(crate) fn replaceable(path: &Path) -> Result<(), String> {
    let path = through_links(path)?;
    regular_or_nothing(&path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        format!(
            "in a folder that can be written ({})",
            io::Error::from(error)
        )
    })
}

/// Where `path` leads. A link to a file stays one when the file is replaced.
pub(crate) fn through_links(path: &Path) -> Result<PathBuf, String> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(_) if fs::symlink_metadata(path).is_err() => Ok(path.to_owned()),
        Err(error) => Err(format!(
            "a regular file, not a link that leads nowhere ({error})"
        )),
    }
}

/// Whether there is a regular file at `path` itself, or nothing.
pub(crate) fn regular_or_nothing(path: &Path) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) => Err(format!("a regular file, not {}", kind(found.file_type()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("a regular file ({error})")),
    }
}

fn kind(of: FileType) -> &'static str {
    if of.is_dir() {
        "a folder"
    } else if of.is_symlink() {
        "a link"
    } else if of.is_block_device() || of.is_char_device() {
        "a device"
    } else {
        "a pipe or a socket"
    }
}

/// Replaces the file at `path` by what `write` writes. A crash at any moment leaves the old file or the new one, whole.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    use std::io::Write as _;
    let refused = |why: String| io::Error::other(format!("expected {why}"));
    let path = through_links(path).map_err(refused)?;
    regular_or_nothing(&path).map_err(refused)?;
    let temporary = temporary_of(&path);
    // The file of a run that was killed is overwritten. A link could lead to another user's file.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&temporary)?;
    if !file.metadata()?.is_file() {
        return Err(refused(format!(
            "a regular file at {}",
            temporary.display()
        )));
    }
    let mut buffered = io::BufWriter::new(&mut file);
    let written = write(&mut buffered).and_then(|()| buffered.flush());
    drop(buffered);
    let written = written.and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&temporary, &path))
}

/// Where [`replace`] writes what replaces `path`.
pub(crate) fn temporary_of(path: &Path) -> PathBuf {
    with_suffix(path, ".tmp")
}

/// Opens `path` to be overwritten later: nothing is lost before [`cut_off`]. Refuses the file `read`, and a disk.
pub(crate) fn open_for_later(path: &Path, read: Option<&Path>) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let opened = file.metadata()?;
    if opened.file_type().is_block_device() {
        return Err(io::Error::other("is a disk"));
    }
    let read = read.and_then(|read| fs::metadata(read).ok());
    if read.is_some_and(|read| (read.dev(), read.ino()) == (opened.dev(), opened.ino())) {
        return Err(io::Error::other("is the file that is read"));
    }
    Ok(file)
}

/// Empties a file before it is overwritten. Pipes and devices have nothing to empty.
pub(crate) fn cut_off(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(())
}

/// `path` with `suffix` at the end of its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_are_replaced() {
        let folder = std::env::temp_dir().join(format!("exporter-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let at = |name: &str| folder.join(name);
        symlink("/dev/null", at("device")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("file", at("link")).unwrap();
        fs::write(at("file"), "old").unwrap();
        for (path, expected) in [
            (PathBuf::from("/dev/null"), "a device"),
            (at("device"), "a device"),
            (at("dangling"), "leads nowhere"),
            (folder.clone(), "a folder"),
            (at("absent/file"), "can be written"),
            (PathBuf::from("/proc/file"), "can be written"),
        ] {
            let why = replaceable(&path).and_then(|()| {
                let replaced = replace(&path, |to| to.write_all(b"new"));
                replaced.map_err(|_| "in a folder that can be written".to_owned())
            });
            assert!(why.unwrap_err().contains(expected), "{}", path.display());
        }
        // A link stays a link, and another user's file is not written through one.
        for name in ["link", "new"] {
            replaceable(&at(name)).unwrap();
            replace(&at(name), |to| to.write_all(b"new")).unwrap();
            assert_eq!(fs::read(at(name)).unwrap(), b"new");
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"new");
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        fs::write(at("other"), "theirs").unwrap();
        symlink("other", at("file.tmp")).unwrap();
        replace(&at("file"), |to| to.write_all(b"x")).unwrap_err();
        assert_eq!(fs::read(at("other")).unwrap(), b"theirs");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_endless_file_is_refused_and_what_a_pipe_brings_is_read() {
        let why = read_text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(why.to_string(), "longer than 4 MiB");
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"a: b").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        assert_eq!(read_text_of_file(Path::new(&path)).unwrap(), "a: b");
    }

    #[test]
    fn a_named_pipe_is_refused_where_nobody_may_write_to_it() {
        let pipe = std::env::temp_dir().join(format!("exporter-pipe-{}", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let why = read_text_of_file(&pipe).unwrap_err();
        assert_eq!(why.to_string(), "a named pipe may have no writer");
        fs::remove_file(&pipe).unwrap();
    }

    #[test]
    fn the_file_that_is_read_is_not_overwritten_and_nothing_is_lost_before_the_first_write() {
        let path = std::env::temp_dir().join(format!("exporter-later-{}", std::process::id()));
        fs::write(&path, "old").unwrap();
        open_for_later(&path, Some(&path)).unwrap_err();
        let file = open_for_later(&path, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        cut_off(&file).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        cut_off(&open_for_later(Path::new("/dev/null"), None).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
    }
}
