//! Values from files that may change while the exporter runs.

use std::fmt::{self, Display};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::lock::lock;

/// What distinguishes one content of a file from the next. A missing file also has a stamp.
///
/// It takes one or two system calls, which do not wait for a local disk, so async code may call it. A network file
/// system that hangs can hang the exporter this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Option<[i128; 6]>);

impl Stamp {
    /// The present stamp of `path`, or of the file that it links to.
    pub(crate) fn of(path: &Path) -> Self {
        // The time of modification is not enough: Kubernetes replaces a file by pointing a link at another, perhaps older one,
        // and two writes may fall into one tick of the file system's clock.
        Self(std::fs::metadata(path).ok().map(|data| {
            [
                data.ino().into(),
                data.size().into(),
                data.mtime().into(),
                data.mtime_nsec().into(),
                data.ctime().into(),
                data.ctime_nsec().into(),
            ]
        }))
    }
}

/// A value that is read from files, and read again when one of them has changed.
pub(super) struct Watched<T> {
    /// What the log calls it.
    name: String,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    kept: Mutex<(Vec<Stamp>, T)>,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

impl<T> PartialEq for Watched<T> {
    /// Whether both are read from the same files, so that they are equal now and after every change.
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl<T> Eq for Watched<T> {}

impl<T: Clone> Watched<T> {
    /// Reads the value for the first time.
    pub(super) fn new<E: Display>(
        name: String,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let kept = Mutex::new((stamps(&files), read()?));
        Ok(Self {
            name,
            files,
            read: Box::new(move || read().map_err(|error| error.to_string())),
            kept,
        })
    }

    /// The value as the files have it now, or the previous one while they cannot be read.
    pub(super) fn current(&self) -> T {
        let name = &self.name;
        let mut kept = lock(&self.kept);
        let stamps = stamps(&self.files);
        if stamps != kept.0 {
            // Kept in any case, so that an error is logged once.
            kept.0 = stamps;
            match (self.read)() {
                Ok(value) => {
                    kept.1 = value;
                    tracing::info!("{name}: read again");
                }
                Err(error) => {
                    tracing::error!("{name}: {error}; the previous one stays in use");
                }
            }
        }
        kept.1.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|path| Stamp::of(path)).collect()
}
