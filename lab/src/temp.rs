//! A temporary folder that is removed with its owner.
//!
//! It leaves out files that must survive: what a failed test should show goes into its message.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;

/// A folder of one's own, removed with everything in it on drop.
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
        // Tests run as threads of one process: the process id alone does not tell them apart.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!(
            "ratelimiter-lab-{what}-{}-{number}",
            std::process::id()
        ));
        // A folder of that name belongs to a process that is gone: ids come round again.
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
        // Nothing sensible can be done about a failure here, and it hurts nobody.
        let _ = std::fs::remove_dir_all(&self.path);
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
}
