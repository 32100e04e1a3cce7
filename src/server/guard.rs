//! On what terms clients are served: TLS, client certificates, users. They stand in `--web.config.file`, which is read
//! again, with the certificates that it names, when one of the files has changed at a connection or a request.
//!
//! Terms that cannot be read, and terms that would let in whom the old ones kept out (TLS, users or client certificates
//! gone from the file), are not taken: a file that is just being written is empty for a moment. Nobody waits long for a
//! disk that does not answer: the terms of before stay in force meanwhile.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::basic_auth::{Login, Users};
use super::tls::{Demands, Tls, read_tls};
use super::web_file::{ClientAuth, TlsVersion, WebFile};
use crate::credentials::Stamp;
use crate::export::Unauthorized;

/// How long a connection or a request waits for the files: they are small, and a disk that takes longer is none to wait for.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// The terms, kept up to date with their file.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    /// `None`: everybody is served.
    path: Option<PathBuf>,
    /// In force.
    terms: Mutex<Arc<Terms>>,
    /// Of the files that were read last, also if that brought nothing of use. Locked while they are looked at.
    stamps: Arc<tokio::sync::Mutex<Stamps>>,
    /// Looking at the files takes too long, as far as is known.
    late: AtomicBool,
    /// What they said last was not taken.
    refused: AtomicBool,
    /// Logins that were refused, whatever terms were in force.
    missing: AtomicU64,
    wrong: AtomicU64,
    unverified: AtomicU64,
}

type Stamps = Vec<(PathBuf, Stamp)>;

/// The terms at one time.
#[derive(Default)]
pub(super) struct Terms {
    /// `None`: plain HTTP.
    pub(super) tls: Option<Tls>,
    /// `None`: nobody has to log in.
    pub(super) users: Option<Arc<Users>>,
}

impl Guard {
    /// Reads the file at `path`; without one, everybody is served. An error is one line that says what is wrong with it.
    pub fn new(path: Option<&Path>) -> Result<Self, String> {
        let (terms, stamps) = match path {
            None => (Terms::default(), Vec::new()),
            Some(path) => {
                let (read, stamps) = read(path);
                (read?, stamps)
            }
        };
        Ok(Self::around(path, terms, stamps))
    }

    fn around(path: Option<&Path>, terms: Terms, stamps: Stamps) -> Self {
        Self(Arc::new(Kept {
            path: path.map(Path::to_owned),
            terms: Mutex::new(Arc::new(terms)),
            stamps: Arc::new(tokio::sync::Mutex::new(stamps)),
            late: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            missing: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            unverified: AtomicU64::new(0),
        }))
    }

    /// The terms of a file as it is now, whatever becomes of it: looking at it takes a thread and so its time.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn unwatched(path: Option<&Path>) -> Result<Self, String> {
        let terms = path.map_or(Ok(Terms::default()), |path| read(path).0)?;
        Ok(Self::around(None, terms, Stamps::new()))
    }

    /// Counts a login, if it was refused.
    pub(super) fn count(&self, login: &Login) {
        let counter = match login {
            Login::Admitted(_) => return,
            Login::Missing => &self.0.missing,
            Login::Wrong => &self.0.wrong,
            Login::Busy => &self.0.unverified,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Logins that were refused since this was made.
    pub(super) fn unauthorized(&self) -> Unauthorized {
        Unauthorized {
            missing: self.0.missing.load(Ordering::Relaxed),
            wrong: self.0.wrong.load(Ordering::Relaxed),
            unverified: self.0.unverified.load(Ordering::Relaxed),
        }
    }

    /// Whether everybody who is served is known: by a password, or by a certificate.
    pub fn authenticates(&self) -> bool {
        let terms = self.0.in_force();
        terms.users.is_some() || terms.client_auth() == ClientAuth::RequireAndVerifyClientCert
    }

    /// Whether what is in force is what the files say, as of the last request.
    pub(super) fn is_up_to_date(&self) -> bool {
        !self.0.late.load(Ordering::Relaxed) && !self.0.refused.load(Ordering::Relaxed)
    }

    /// Whether what `next` has read will be taken; an error says why not.
    pub fn takes(&self, next: &Self) -> Result<(), String> {
        next.0.in_force().not_below(&self.0.in_force())
    }

    /// The terms as the files have them now.
    pub(super) async fn terms(&self) -> Arc<Terms> {
        let kept = &self.0;
        if let Some(path) = &kept.path {
            let look = async {
                let stamps = Arc::clone(&kept.stamps).lock_owned().await;
                let (kept, path) = (Arc::clone(kept), path.clone());
                // Off the async threads, and not ended by the patience of those who wait for it: no other begins meanwhile.
                tokio::task::spawn_blocking(move || kept.look_again(&path, stamps)).await
            };
            // What is known to be late is not waited for again by everybody who comes.
            let patience = if kept.late.load(Ordering::Relaxed) {
                Duration::ZERO
            } else {
                READ_PATIENCE
            };
            let looked = tokio::time::timeout(patience, look).await;
            if looked.is_err() && !kept.late.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "--web.config.file: {}: not read within {READ_PATIENCE:?}, what was read before stays in force",
                    path.display()
                );
            }
        }
        kept.in_force()
    }
}

impl Kept {
    fn in_force(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files if one of them has changed.
    fn look_again(&self, path: &Path, mut stamps: OwnedMutexGuard<Stamps>) {
        let changed = |(path, stamp): &(PathBuf, Stamp)| Stamp::of(path) != *stamp;
        if stamps.iter().any(changed) {
            let (read, new) = read(path);
            *stamps = new;
            let taken = read.and_then(|terms| {
                terms.not_below(&self.in_force())?;
                *self.terms.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
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
        self.late.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("tls", &self.tls.is_some())
            .field("users", &self.users)
            .field("client_auth", &self.client_auth())
            .finish()
    }
}

impl Terms {
    fn client_auth(&self) -> ClientAuth {
        let demands = self.tls.as_ref().map(|tls| tls.demands.client_auth);
        demands.unwrap_or_default()
    }

    fn oldest_version(&self) -> Option<TlsVersion> {
        let tls = self.tls.as_ref();
        tls.map(|tls| *tls.demands.versions.start())
    }

    /// Whether they let in whoever is connected over TLS with these demands, or without TLS.
    pub(super) fn admit(&self, connected: Option<&Demands>) -> bool {
        self.tls.as_ref().is_none_or(|tls| {
            connected.is_some_and(|demands| tls.demands.are_met_by_those_of(demands))
        })
    }

    /// An error names what asks for less than in `old`.
    fn not_below(&self, old: &Self) -> Result<(), String> {
        let gone = if self.tls.is_none() && old.tls.is_some() {
            "tls_server_config"
        } else if self.users.is_none() && old.users.is_some() {
            "basic_auth_users"
        } else if self.client_auth() < old.client_auth() {
            "client_auth_type"
        } else if self.oldest_version() < old.oldest_version() {
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
        terms(&file)
    });
    (terms, stamps)
}

fn terms(file: &WebFile) -> Result<Terms, String> {
    let section = file.tls_server_config.as_ref();
    Ok(Terms {
        tls: section.map(read_tls).transpose()?,
        users: Users::new(file.users())?.map(Arc::new),
    })
}
