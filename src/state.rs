//! State that survives a restart: violations in progress, nodes, limits. Read once at the start. The steady timeline
//! continues where it was, so that no grace period is shortened or begins anew.
//!
//! There are two files, each replaced whole. The small one has times in it and is written after each collection. There
//! can be many limits, so they have a file beside it, which is written when they changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::{Moment, elapsed, later};
use crate::files::{self, with_suffix};
use crate::report::{InvariantName, SavedEntry};
use crate::subject::DEFAULT_TARGET;

/// The layout of the file. One of another version is refused.
const VERSION: u32 = 1;

/// What is saved.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    saved_wall: Timestamp,
    saved_steady: Timestamp,
    /// Violations in progress: (invariant, subject is a key, entry).
    pub violations: Vec<(InvariantName, bool, SavedEntry)>,
    /// The memory of the subject, in its own form.
    pub subject: serde_json::Value,
}

impl State {
    /// The state as of `at`.
    pub fn new(
        at: Moment,
        violations: Vec<(InvariantName, bool, SavedEntry)>,
        subject: serde_json::Value,
    ) -> Self {
        Self {
            version: VERSION,
            saved_wall: at.wall,
            saved_steady: at.steady,
            violations,
            subject,
        }
    }

    /// Where the steady timeline continues at the wall time `now`. The time without an exporter counts as elapsed. A
    /// wall clock that was set back meanwhile adds nothing.
    pub fn resume_at(&self, now: Timestamp) -> Timestamp {
        later(self.saved_steady, elapsed(self.saved_wall, now))
    }
}

/// Reads the state at `path`; `None` if there is none yet. A damaged file is moved aside.
pub fn load(path: &Path) -> anyhow::Result<Option<State>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    match serde_json::from_slice::<State>(&bytes) {
        Ok(state) if state.version == VERSION => Ok(Some(state)),
        Ok(State { version, .. }) => {
            let error = format!("version {version}, expected {VERSION}");
            Err(damaged(path, &error))
        }
        Err(error) => Err(damaged(path, &error.to_string())),
    }
}

/// Writes `state` to `path`, so that a crash at any moment leaves the old file or the new one, whole.
pub fn save(path: &Path, state: &State) -> io::Result<()> {
    files::replace(path, |to| Ok(serde_json::to_writer(to, state)?))
}

/// The path of the limits that belong to the state at `path`.
pub fn bulk_of(path: &Path) -> PathBuf {
    with_suffix(path, ".limits")
}

/// Writes the limits that belong to the state at `path`.
pub fn save_bulk(
    path: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    files::replace(&bulk_of(path), write)
}

/// Reads the limits that belong to the state at `path` back, if there are any. A damaged file is moved aside.
pub fn load_bulk(
    path: &Path,
    recall: impl FnOnce(&mut dyn io::Read) -> Result<(), String>,
) -> anyhow::Result<()> {
    let path = bulk_of(path);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(&path, &error)),
    };
    recall(&mut io::BufReader::new(file)).map_err(|error| damaged(&path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("--state.file: cannot read {}: {error}", path.display())
}

/// Moves a damaged file aside.
fn damaged(path: &Path, error: &str) -> anyhow::Error {
    let aside = aside_of(path);
    let moved = files::regular_or_nothing(&aside).is_ok() && fs::rename(path, &aside).is_ok();
    let (path, aside) = (path.display(), aside.display());
    if moved {
        anyhow!("--state.file: {path} is damaged and was moved to {aside}: {error}")
    } else {
        anyhow!(
            "--state.file: {path} is damaged and will be replaced, as {aside} cannot be written: {error}"
        )
    }
}

fn aside_of(path: &Path) -> PathBuf {
    with_suffix(path, ".damaged")
}

/// The state file of a target: `path` for the default one, `path.NAME` for others.
pub fn file_of(path: &Path, target: &str) -> PathBuf {
    if target == DEFAULT_TARGET {
        return path.to_owned();
    }
    with_suffix(path, &format!(".{target}"))
}

/// The other files that are written for the state in `file`.
pub fn files_beside(file: &Path) -> [PathBuf; 3] {
    [bulk_of(file), files::temporary_of(file), aside_of(file)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn saved_at(wall: i64, steady: i64) -> State {
        let moment = Moment {
            wall: at(wall),
            steady: at(steady),
        };
        State::new(moment, Vec::new(), serde_json::Value::Null)
    }

    #[test]
    fn time_without_an_exporter_has_elapsed() {
        assert_eq!(saved_at(100, 90).resume_at(at(130)), at(120));
    }

    #[test]
    fn a_clock_set_back_adds_nothing() {
        assert_eq!(saved_at(100, 90).resume_at(at(50)), at(90));
    }

    #[test]
    fn what_is_damaged_is_refused_and_kept_aside() {
        let folder = std::env::temp_dir().join(format!("exporter-state-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.json");
        assert!(load(&path).unwrap().is_none());
        save(&path, &saved_at(1, 1)).unwrap();
        assert!(load(&path).unwrap().is_some());
        let whole = fs::read(&path).unwrap();
        for damaged in [
            &whole[..whole.len() / 2],
            b"",
            b"{\"version\":1}",
            b"\x00\xff",
        ] {
            fs::write(&path, damaged).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("state.json is damaged"), "{error}");
            assert!(!path.exists());
        }
        // What cannot be moved is not said to have been moved.
        fs::remove_file(aside_of(&path)).unwrap();
        fs::create_dir(aside_of(&path)).unwrap();
        fs::write(&path, b"").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(!error.contains("was moved") && path.exists(), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
