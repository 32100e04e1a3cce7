//! The terms on which clients are served: TLS, client certificates, users. They come from `--web.config.file`. At each
//! connection and request, the file and the certificates that it names are read again if one of them has changed.
//!
//! Terms that cannot be read are not applied, nor are terms without the TLS, users or client certificates of those before:
//! a file that is just being written is empty for a moment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use super::basic_auth::{Login, Users};
use super::tls::server_config;
use super::web_file::{ClientAuth, WebFile};
use crate::credentials::Stamp;
use crate::files;
use crate::lock::lock;

/// The terms, kept up to date with their files.
pub struct Guard {
    /// The web configuration file; without one, everybody is served.
    path: Option<PathBuf>,
    /// The terms in force.
    terms: Mutex<Arc<Terms>>,
    /// The stamps of the files at the last reading, whether or not it succeeded. Locked while files are compared and read.
    stamps: Arc<tokio::sync::Mutex<Stamps>>,
    /// Why the terms that the files have now are not those in force.
    refused: Mutex<Option<String>>,
    /// Refused logins without credentials, since the start.
    missing: AtomicU64,
    /// Refused logins with wrong credentials, since the start.
    wrong: AtomicU64,
}

type Stamps = Vec<(PathBuf, Stamp)>;

/// The terms at one time.
#[derive(Default)]
pub(super) struct Terms {
    /// `None`: plain HTTP.
    pub(super) tls: Option<Arc<ServerConfig>>,
    client_auth: ClientAuth,
    /// `None`: nobody has to log in.
    pub(super) users: Option<Arc<Users>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.path).finish()
    }
}

impl Guard {
    /// Reads the file at `path`; without one, everybody is served. An error is one line that says what is wrong with the file.
    pub fn new(path: Option<&Path>) -> Result<Self, String> {
        let (terms, stamps) = match path {
            None => (Ok(Terms::default()), Vec::new()),
            Some(path) => read(path),
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            terms: Mutex::new(Arc::new(terms?)),
            stamps: Arc::new(tokio::sync::Mutex::new(stamps)),
            refused: Mutex::default(),
            missing: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        })
    }

    /// The present terms of a file, which is not read again: each comparison would need a thread, and so time.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn unwatched(path: Option<&Path>) -> Result<Self, String> {
        let guard = Self::new(path)?;
        Ok(Self {
            path: None,
            ..guard
        })
    }

    /// Counts a refused login.
    pub(super) fn count(&self, login: &Login) {
        let counter = match login {
            Login::Admitted(_) => return,
            Login::Missing => &self.missing,
            Login::Wrong => &self.wrong,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The refused logins since the start.
    pub(super) fn unauthorized(&self) -> [(&'static str, u64); 2] {
        [("missing", &self.missing), ("wrong", &self.wrong)]
            .map(|(credentials, count)| (credentials, count.load(Ordering::Relaxed)))
    }

    /// Whether every client must show a password or a certificate.
    pub fn authenticates(&self) -> bool {
        let terms = self.in_force();
        terms.users.is_some() || terms.client_auth == ClientAuth::RequireAndVerifyClientCert
    }

    /// Whether the terms in force were those of the files at the last request.
    pub(super) fn is_up_to_date(&self) -> bool {
        lock(&self.refused).is_none()
    }

    /// The present terms. Reads the files if they have changed.
    pub(super) async fn terms(self: &Arc<Self>) -> Arc<Terms> {
        // Why they are not applied is in the log.
        let _ = self.refresh(false).await;
        self.in_force()
    }

    /// Reads the files if they have changed, and with `again` also if they could not be applied before: a disk may have failed for
    /// a moment. An error says why what they have now is not applied.
    pub async fn refresh(self: &Arc<Self>, again: bool) -> Result<(), String> {
        if let Some(path) = self.path.clone() {
            let force = again && !self.is_up_to_date();
            let mut stamps = Arc::clone(&self.stamps).lock_owned().await;
            let this = Arc::clone(self);
            // Off the async threads: a disk may be slow.
            let read =
                tokio::task::spawn_blocking(move || this.read_again(&path, &mut stamps, force));
            // It fails only when the exporter ends.
            let _ = read.await;
        }
        lock(&self.refused).clone().map_or(Ok(()), Err)
    }

    fn in_force(&self) -> Arc<Terms> {
        Arc::clone(&lock(&self.terms))
    }

    /// Reads the files again if one of them has changed, or anyhow with `force`.
    fn read_again(&self, path: &Path, stamps: &mut Stamps, force: bool) {
        if !force && stamps.iter().all(|(path, stamp)| Stamp::of(path) == *stamp) {
            return;
        }
        let (read, new) = read(path);
        *stamps = new;
        let taken = read.and_then(|terms| {
            terms.not_below(&self.in_force())?;
            *lock(&self.terms) = Arc::new(terms);
            Ok(())
        });
        match &taken {
            Ok(()) => tracing::info!("--web.config.file: {}: read again", path.display()),
            Err(error) => tracing::error!(
                "--web.config.file: {}: not applied, the previous one stays in force: {error}",
                path.display()
            ),
        }
        *lock(&self.refused) = taken.err();
    }
}

impl Terms {
    /// An error names what is weaker than in `old`.
    fn not_below(&self, old: &Self) -> Result<(), String> {
        let gone = if self.tls.is_none() && old.tls.is_some() {
            "tls_server_config"
        } else if self.users.is_none() && old.users.is_some() {
            "basic_auth_users"
        } else if self.client_auth < old.client_auth {
            "client_auth_type"
        } else {
            return Ok(());
        };
        Err(format!(
            "{gone} is weaker than before, which needs a restart"
        ))
    }
}

/// Reads the file and the files that it names. The stamps are from before: a change during the reading shows at the next.
fn read(path: &Path) -> (Result<Terms, String>, Stamps) {
    let mut stamps = vec![(path.to_owned(), Stamp::of(path))];
    let file = files::read_text_of_file(path)
        .map_err(|error| error.to_string())
        .and_then(|text| WebFile::parse(&text, path.parent().unwrap_or(Path::new(""))));
    let terms = file.and_then(|file| {
        stamps.extend(file.files().map(|path| (path.to_owned(), Stamp::of(path))));
        let tls = file.tls_server_config.as_ref();
        Ok(Terms {
            tls: tls.map(server_config).transpose()?.map(Arc::new),
            client_auth: tls.map(|tls| tls.client_auth_type).unwrap_or_default(),
            users: Users::new(file.users())?.map(Arc::new),
        })
    });
    (terms, stamps)
}
