//! A temporary folder that is removed with its owner.
//!
//! It leaves out files that must survive: what a failed test should show goes into its message.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;

/// Attempts to remove a folder that another process still writes to.
const REMOVAL_ATTEMPTS: u32 = 50;

/// Between two of these attempts.
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// A temporary folder, removed with everything in it on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Creates a folder in the system's folder for temporary files.
    pub fn new(what: &str) -> anyhow::Result<Self> {
        Self::new_in(&std::env::temp_dir(), what)
    }

    /// Creates a folder in `base`.
    pub fn new_in(base: &Path, what: &str) -> anyhow::Result<Self> {
        // Tests run as threads of one process, so that the process id alone is not unique.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!(
            "ratelimiter-lab-{what}-{}-{number}",
            std::process::id()
        ));
        // A folder of that name is left over from another process with the same id.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create the folder {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Processes of a process that was killed, such as a browser's, take a moment to end, and make new files meanwhile.
        // Any other failure leaves the folder behind, which does no harm.
        for _ in 0..REMOVAL_ATTEMPTS {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(REMOVAL_PAUSE);
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_owner() {
        let folder = TempDir::new("unit").unwrap();
        let path = folder.path().to_path_buf();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_goes_although_somebody_writes_to_it_for_a_moment_longer() {
        let folder = TempDir::new("unit").unwrap();
        let path = folder.path().to_path_buf();
        let inner = path.clone();
        let (begun, begins) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            for number in 0..1000 {
                // Fails once the folder is gone.
                if std::fs::write(inner.join(number.to_string()), "x").is_err() {
                    break;
                }
                let _ = begun.send(());
            }
        });
        begins.recv().unwrap();
        drop(folder);
        writer.join().unwrap();
        assert!(!path.exists());
    }
}
