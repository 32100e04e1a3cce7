//! On what terms clients are served: TLS, client certificates, users. They stand in `--web.config.file`, which is read
//! again, with the certificates that it names, when one of the files has changed at a connection or a request.
//!
//! Terms that cannot be read, and terms that would let in whom the old ones kept out (TLS, users or client certificates
//! gone from the file), are not taken: a file that is just being written is empty for a moment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use super::basic_auth::{Login, Users};
use super::tls::server_config;
use super::web_file::{ClientAuth, TlsVersion, WebFile};
use crate::credentials::Stamp;
use crate::export::Unauthorized;
use crate::lock::lock;

/// The terms, kept up to date with their file.
#[derive(Clone)]
pub struct Guard(Arc<Kept>);

struct Kept {
    /// `None`: everybody is served.
    path: Option<PathBuf>,
    /// In force.
    terms: Mutex<Arc<Terms>>,
    /// Of the files that were read last, also if that brought nothing of use. Locked while they are compared and read.
    stamps: Arc<tokio::sync::Mutex<Stamps>>,
    /// What the files say now is not in force.
    refused: AtomicBool,
    /// Logins that were refused, whatever terms were in force.
    missing: AtomicU64,
    wrong: AtomicU64,
}

type Stamps = Vec<(PathBuf, Stamp)>;

/// The terms at one time.
#[derive(Default)]
pub(super) struct Terms {
    /// `None`: plain HTTP.
    pub(super) tls: Option<Arc<ServerConfig>>,
    client_auth: ClientAuth,
    min_version: Option<TlsVersion>,
    /// `None`: nobody has to log in.
    pub(super) users: Option<Arc<Users>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.0.path).finish()
    }
}

impl Guard {
    /// Reads the file at `path`; without one, everybody is served. An error is one line that says what is wrong with it.
    pub fn new(path: Option<&Path>) -> Result<Self, String> {
        let (terms, stamps) = match path {
            None => (Ok(Terms::default()), Vec::new()),
            Some(path) => read(path),
        };
        Ok(Self::with(path, terms?, stamps))
    }

    fn with(path: Option<&Path>, terms: Terms, stamps: Stamps) -> Self {
        Self(Arc::new(Kept {
            path: path.map(Path::to_owned),
            terms: Mutex::new(Arc::new(terms)),
            stamps: Arc::new(tokio::sync::Mutex::new(stamps)),
            refused: AtomicBool::new(false),
            missing: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        }))
    }

    /// The terms of a file as it is now, whatever becomes of it: comparing it takes a thread and so its time.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn unwatched(path: Option<&Path>) -> Result<Self, String> {
        let terms = path.map_or(Ok(Terms::default()), |path| read(path).0)?;
        Ok(Self::with(None, terms, Stamps::new()))
    }

    /// Counts a login, if it was refused.
    pub(super) fn count(&self, login: &Login) {
        let counter = match login {
            Login::Admitted(_) => return,
            Login::Missing => &self.0.missing,
            Login::Wrong => &self.0.wrong,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Logins that were refused since this was made.
    pub(super) fn unauthorized(&self) -> Unauthorized {
        Unauthorized {
            missing: self.0.missing.load(Ordering::Relaxed),
            wrong: self.0.wrong.load(Ordering::Relaxed),
        }
    }

    /// Whether everybody who is served is known: by a password, or by a certificate.
    pub fn authenticates(&self) -> bool {
        let terms = self.0.in_force();
        terms.users.is_some() || terms.client_auth == ClientAuth::RequireAndVerifyClientCert
    }

    /// Whether what is in force is what the files say, as of the last request.
    pub(super) fn is_up_to_date(&self) -> bool {
        !self.0.refused.load(Ordering::Relaxed)
    }

    /// Whether what `next` has read will be taken; an error says why not.
    pub fn takes(&self, next: &Self) -> Result<(), String> {
        next.0.in_force().not_below(&self.0.in_force())
    }

    /// The terms as the files have them now.
    pub(super) async fn terms(&self) -> Arc<Terms> {
        let kept = &self.0;
        if let Some(path) = kept.path.clone() {
            let mut stamps = Arc::clone(&kept.stamps).lock_owned().await;
            let reader = Arc::clone(kept);
            // Off the async threads: a disk may take its time.
            let read = tokio::task::spawn_blocking(move || reader.read_again(&path, &mut stamps));
            // It fails only when the exporter ends.
            let _ = read.await;
        }
        kept.in_force()
    }
}

impl Kept {
    fn in_force(&self) -> Arc<Terms> {
        Arc::clone(&lock(&self.terms))
    }

    /// Reads the files if one of them has changed.
    fn read_again(&self, path: &Path, stamps: &mut Stamps) {
        if stamps.iter().all(|(path, stamp)| Stamp::of(path) == *stamp) {
            return;
        }
        let (read, new) = read(path);
        *stamps = new;
        let taken = read.and_then(|terms| {
            terms.not_below(&self.in_force())?;
            *lock(&self.terms) = Arc::new(terms);
            Ok(())
        });
        self.refused.store(taken.is_err(), Ordering::Relaxed);
        match taken {
            Ok(()) => tracing::info!("--web.config.file: {}: read again", path.display()),
            Err(error) => tracing::error!(
                "--web.config.file: {}: not taken, what was read before stays in force: {error}",
                path.display()
            ),
        }
    }
}

impl Terms {
    /// An error names what asks for less than in `old`.
    fn not_below(&self, old: &Self) -> Result<(), String> {
        let gone = if self.tls.is_none() && old.tls.is_some() {
            "tls_server_config"
        } else if self.users.is_none() && old.users.is_some() {
            "basic_auth_users"
        } else if self.client_auth < old.client_auth {
            "client_auth_type"
        } else if self.min_version < old.min_version {
            "min_version"
        } else {
            return Ok(());
        };
        Err(format!(
            "{gone} asks for less than before, which takes a restart"
        ))
    }
}

/// Reads the file and what it names. The stamps are from before the reading: what changes meanwhile shows next time.
fn read(path: &Path) -> (Result<Terms, String>, Stamps) {
    let mut stamps = vec![(path.to_owned(), Stamp::of(path))];
    let file = std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| WebFile::parse(&text, path.parent().unwrap_or(Path::new(""))));
    let terms = file.and_then(|file| {
        stamps.extend(file.files().map(|path| (path.to_owned(), Stamp::of(path))));
        let tls = file.tls_server_config.as_ref();
        Ok(Terms {
            tls: tls.map(server_config).transpose()?.map(Arc::new),
            client_auth: tls.map(|tls| tls.client_auth_type).unwrap_or_default(),
            min_version: tls.map(|tls| tls.min_version),
            users: Users::new(file.users())?.map(Arc::new),
        })
    });
    (terms, stamps)
}
