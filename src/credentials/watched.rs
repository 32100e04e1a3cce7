//! Files whose content may change while the exporter runs: whether one did, seen without reading it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells one content of a file from the next. A file that is not there has one too.
///
/// Asking is a system call or two that wait for no local disk, so it is done where the answer is needed, in async code as
/// well. A disk across a network that is dead can hang the exporter this way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Option<[i128; 6]>);

impl Stamp {
    /// The present stamp of `path`, or of what it is a link to.
    pub(crate) fn of(path: &Path) -> Self {
        // Not the time of modification alone: Kubernetes replaces a file by pointing a link at another, perhaps older one,
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
