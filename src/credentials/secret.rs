//! Values that must never be shown, and the files that they come from.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use super::watched::Watched;
use crate::files;

/// A secret. Its `Debug` and `Display` do not show it; only [`Secret::expose`] does.
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

/// Where a secret comes from. It may change, so its users ask for it each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource(Source);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Fixed(Secret),
    File(Arc<Watched<Secret>>),
}

impl SecretSource {
    /// A secret that never changes.
    pub fn fixed(secret: Secret) -> Self {
        Self(Source::Fixed(secret))
    }

    /// The content of the file at `path`, which the setting `origin` names, without the newlines at its end.
    pub fn file(origin: &str, path: &Path) -> Result<Self, io::Error> {
        let (name, path) = (format!("{origin}: {}", path.display()), path.to_owned());
        let watched = Watched::new(name, vec![path.clone()], move || read(&path))?;
        Ok(Self(Source::File(Arc::new(watched))))
    }

    /// The secret as it is now. An empty file is an error: it may be half written.
    pub fn current(&self) -> Secret {
        match &self.0 {
            Source::Fixed(secret) => secret.clone(),
            Source::File(file) => file.current(),
        }
    }
}

fn read(path: &Path) -> Result<Secret, io::Error> {
    let text = files::read_text(path)?;
    // Editors leave a newline at the end.
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(Secret::new(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_is_read_again_and_an_empty_one_leaves_the_previous_secret() {
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
