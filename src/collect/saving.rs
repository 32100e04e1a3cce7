//! Writes the state after each collection, on a thread that may wait for the disk, while collections continue. There is
//! one write at a time. A newer state replaces one that still waits.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;
use crate::state::{self, State};
use crate::subject::Bulk;

/// The longest time that a write may take before the state counts as not written.
const LATE: Duration = Duration::from_secs(5);

/// The state that one collection leaves to be written.
#[derive(Debug)]
pub(super) struct ToSave {
    pub(super) path: PathBuf,
    pub(super) state: State,
    pub(super) bulk: Option<Bulk>,
}

/// Writes state.
#[derive(Debug, Default)]
pub(super) struct Saving(Mutex<Now>);

#[derive(Debug, Default)]
struct Now {
    next: Option<ToSave>,
    /// Since when a state is being written.
    busy_since: Option<Instant>,
    /// Whether the last state was written; `None` before the first.
    written: Option<bool>,
    /// The version of [`Bulk`] that is on the disk.
    bulk: Option<u64>,
}

impl Saving {
    /// Whether the last state was written, and in time; `None` before the first.
    pub(super) fn written(&self) -> Option<bool> {
        let now = lock(&self.0);
        let late = now.busy_since.is_some_and(|since| since.elapsed() > LATE);
        if late { Some(false) } else { now.written }
    }

    /// Writes `to_save`, or leaves it to the task that is writing now.
    pub(super) async fn save(&self, to_save: ToSave) {
        {
            let mut now = lock(&self.0);
            now.next = Some(to_save);
            if now.busy_since.is_some() {
                return;
            }
            now.busy_since = Some(Instant::now());
        }
        loop {
            let (next, on_disk) = {
                let mut now = lock(&self.0);
                let Some(mut next) = now.next.take() else {
                    now.busy_since = None;
                    return;
                };
                now.busy_since = Some(Instant::now());
                // Drops a bulk that is on the disk already: while it is held, a change of the limits would copy them.
                let on_disk = now.bulk;
                next.bulk = next.bulk.filter(|bulk| on_disk != Some(bulk.version));
                (next, on_disk)
            };
            let path = next.path.clone();
            let written = tokio::task::spawn_blocking(move || write(next, on_disk)).await;
            let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let mut now = lock(&self.0);
            match &written {
                Err(error) if now.written.unwrap_or(true) => tracing::error!(
                    "--state.file: cannot write {}: {error}; tried again after each collection",
                    path.display()
                ),
                Ok(_) if now.written == Some(false) => {
                    tracing::info!("--state.file: written again");
                }
                _ => {}
            }
            now.written = Some(written.is_ok());
            if let Ok(bulk) = written {
                now.bulk = bulk;
            }
        }
    }
}

/// Writes the state, and the bulk if there is one. Returns the version of the bulk on the disk.
fn write(to_save: ToSave, on_disk: Option<u64>) -> std::io::Result<Option<u64>> {
    let ToSave { path, state, bulk } = to_save;
    // The bulk first: it is read back only together with the state.
    let bulk = match bulk {
        Some(bulk) => {
            state::save_bulk(&path, bulk.write)?;
            Some(bulk.version)
        }
        None => on_disk,
    };
    state::save(&path, &state)?;
    Ok(bulk)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    fn to_save(path: &std::path::Path, version: u64) -> ToSave {
        let state = State::new(Clock::start().now(), Vec::new(), serde_json::Value::Null);
        ToSave {
            path: path.to_owned(),
            state,
            bulk: Some(Bulk {
                version,
                write: Box::new(move |to: &mut dyn io::Write| write!(to, "{version}")),
            }),
        }
    }

    #[tokio::test]
    async fn limits_that_did_not_change_are_not_written_again() {
        let folder = std::env::temp_dir().join(format!("exporter-saving-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.json");
        let saving = Saving::default();
        assert_eq!(saving.written(), None);
        saving.save(to_save(&path, 1)).await;
        let limits = state::bulk_of(&path);
        assert_eq!(fs::read_to_string(&limits).unwrap(), "1");
        fs::remove_file(&limits).unwrap();
        saving.save(to_save(&path, 1)).await;
        assert!(!limits.exists() && path.exists());
        saving.save(to_save(&path, 2)).await;
        assert_eq!(fs::read_to_string(&limits).unwrap(), "2");
        assert_eq!(saving.written(), Some(true));

        fs::remove_dir_all(&folder).unwrap();
        saving.save(to_save(&path, 3)).await;
        assert_eq!(saving.written(), Some(false));
        fs::create_dir_all(&folder).unwrap();
        saving.save(to_save(&path, 3)).await;
        assert_eq!(fs::read_to_string(&limits).unwrap(), "3");
        fs::remove_dir_all(&folder).unwrap();
    }

    /// A disk that hangs: the write waits for the receiver.
    #[tokio::test]
    async fn a_disk_that_hangs_delays_no_collection_and_the_newest_state_follows() {
        let folder = std::env::temp_dir().join(format!("exporter-hangs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.json");
        let (loose, hangs) = std::sync::mpsc::channel::<()>();
        let mut first = to_save(&path, 1);
        first.bulk = Some(Bulk {
            version: 1,
            write: Box::new(move |_: &mut dyn io::Write| {
                // The disk answers again: the sender is dropped.
                assert!(hangs.recv().is_err());
                Ok(())
            }),
        });
        let saving = Saving::default();
        let others = async {
            for version in 2..5 {
                let save = saving.save(to_save(&path, version));
                let saved = tokio::time::timeout(Duration::from_secs(10), save).await;
                assert!(saved.is_ok(), "version {version} waited for the disk");
            }
            drop(loose);
        };
        tokio::join!(saving.save(first), others);
        let limits = fs::read_to_string(state::bulk_of(&path)).unwrap();
        assert_eq!(limits, "4");
        fs::remove_dir_all(&folder).unwrap();
    }
}
