//! Values that must never be shown, and where they come from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::watched::Stamp;
use crate::lock::lock;

/// A secret. Its `Debug` and `Display` say nothing; only [`Secret::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Where a secret comes from. Whoever uses one asks for it each time, so that it can change meanwhile.
#[derive(Clone, Debug)]
pub struct SecretSource(Source);

#[derive(Clone, Debug)]
enum Source {
    Fixed(Secret),
    File(Arc<SecretFile>),
}

#[derive(Debug)]
struct SecretFile {
    /// The setting that names it.
    origin: String,
    path: PathBuf,
    kept: Mutex<(Stamp, Secret)>,
}

impl PartialEq for SecretSource {
    /// Whether both give the same secret, now and after every change.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Fixed(one), Source::Fixed(other)) => one == other,
            (Source::File(one), Source::File(other)) => one.path == other.path,
            _ => false,
        }
    }
}

impl Eq for SecretSource {}

impl SecretSource {
    /// One that never changes.
    pub fn fixed(secret: Secret) -> Self {
        Self(Source::Fixed(secret))
    }

    /// The file at `path`, named by the setting `origin`, whose end of line is not part of it.
    pub fn file(origin: &str, path: &Path) -> Result<Self, std::io::Error> {
        let path = path.to_owned();
        let kept = (Stamp::of(&path), read(&path)?);
        if kept.1.expose().is_empty() {
            let kind = std::io::ErrorKind::InvalidData;
            return Err(std::io::Error::new(kind, "it is empty"));
        }
        Ok(Self(Source::File(Arc::new(SecretFile {
            origin: origin.to_owned(),
            path,
            kept: Mutex::new(kept),
        }))))
    }

    /// The secret as it is now. What cannot be read, or is empty as a file that is just being written, is not taken.
    pub fn current(&self) -> Secret {
        let file = match &self.0 {
            Source::Fixed(secret) => return secret.clone(),
            Source::File(file) => file,
        };
        let mut kept = lock(&file.kept);
        let stamp = Stamp::of(&file.path);
        if stamp != kept.0 {
            let (origin, path) = (&file.origin, file.path.display());
            // Noted in any case, so that what is wrong is said once.
            kept.0 = stamp;
            match read(&file.path) {
                Ok(secret) if secret.expose().is_empty() => {
                    tracing::error!(
                        "{origin}: {path}: is empty; what was read before stays in use"
                    );
                }
                Ok(secret) => {
                    kept.1 = secret;
                    tracing::info!("{origin}: {path}: read again");
                }
                Err(error) => {
                    tracing::error!("{origin}: {path}: {error}; what was read before stays in use");
                }
            }
        }
        kept.1.clone()
    }
}

fn read(path: &Path) -> Result<Secret, std::io::Error> {
    let text = std::fs::read_to_string(path)?;
    // The newline that editors leave at its end is not part of it.
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changed_and_only_then_taken_when_there_is_something_in_it() {
        let path = std::env::temp_dir().join(format!("exporter-secret-{}", std::process::id()));
        std::fs::write(&path, "one\n").unwrap();
        let source = SecretSource::file("--x", &path).unwrap();
        assert_eq!(source.current().expose(), "one");
        for (text, expected) in [("second\r\n", "second"), ("", "second"), ("three", "three")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.current().expose(), expected);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.current().expose(), "three");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(source.current().expose(), "four");
        std::fs::remove_file(&path).unwrap();
        assert!(!format!("{source:?}").contains("four"));
    }
}
