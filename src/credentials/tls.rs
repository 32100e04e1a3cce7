//! The client's side of TLS: from PEM files to what rustls takes, read again when one of the files has changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::watched::Stamp;
use crate::lock::lock;

/// Whom to trust and how to show oneself. Whoever uses it asks for it each time, so that it can change meanwhile.
#[derive(Clone)]
pub struct TlsSource(Arc<Watched>);

struct Watched {
    files: TlsFiles,
    kept: Mutex<(Vec<Stamp>, Arc<ClientConfig>)>,
}

/// The files, all of them PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates to trust; `None` for those that the system trusts.
    pub authorities: Option<PathBuf>,
    /// The exporter's own certificate chain and its key.
    pub identity: Option<[PathBuf; 2]>,
}

/// The file that is not usable, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}expected {expected}", shown(path.as_deref()))]
pub struct TlsError {
    /// `None` where it is no file's fault.
    pub path: Option<PathBuf>,
    /// What it should have been.
    pub expected: String,
}

impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.files.fmt(f)
    }
}

impl PartialEq for TlsSource {
    /// Whether both are read from the same files, so that they say the same now and after every change.
    fn eq(&self, other: &Self) -> bool {
        self.0.files == other.0.files
    }
}

impl Eq for TlsSource {}

impl TlsSource {
    /// Reads the files for the first time.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let kept = (files.stamps(), Arc::new(files.client()?));
        let kept = Mutex::new(kept);
        Ok(Self(Arc::new(Watched { files, kept })))
    }

    /// TLS as the files say now. While one of them cannot be used, or a certificate is there without its key yet, it is as
    /// it was before.
    pub fn current(&self) -> Arc<ClientConfig> {
        let mut kept = lock(&self.0.kept);
        let stamps = self.0.files.stamps();
        if stamps != kept.0 {
            // Noted in any case, so that what is wrong is said once.
            kept.0 = stamps;
            match self.0.files.client() {
                Ok(config) => {
                    kept.1 = Arc::new(config);
                    tracing::info!("TLS files read again: {}", self.0.files);
                }
                Err(error) => {
                    tracing::error!("TLS file: {error}; what was read before stays in use");
                }
            }
        }
        Arc::clone(&kept.1)
    }
}

impl fmt::Display for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self
            .paths()
            .map(|path| path.display().to_string())
            .collect();
        f.write_str(&paths.join(", "))
    }
}

impl TlsFiles {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flatten();
        self.authorities
            .iter()
            .chain(identity)
            .map(PathBuf::as_path)
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.paths().map(Stamp::of).collect()
    }

    fn client(&self) -> Result<ClientConfig, TlsError> {
        let ours = |error: rustls::Error| TlsError::new(None, format!("usable TLS: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(ours)?;
        let builder = match &self.authorities {
            Some(path) => builder.with_root_certificates(roots(path)?),
            None => builder.dangerous().with_custom_certificate_verifier(
                system_verifier(provider).map_err(|error| {
                    let why = format!(
                        "a file of certificates to trust: the system's are not usable ({error})"
                    );
                    TlsError::new(None, why)
                })?,
            ),
        };
        let Some([chain, key]) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let certificates = certificates(chain)?;
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|error| TlsError::new(Some(key), format!("a private key in PEM: {error}")))?;
        builder
            .with_client_auth_cert(certificates, private)
            .map_err(|error| {
                let expected = format!("the key of {}: {error}", chain.display());
                TlsError::new(Some(key), expected)
            })
    }
}

impl TlsError {
    fn new(path: Option<&Path>, expected: String) -> Self {
        Self {
            path: path.map(Path::to_owned),
            expected,
        }
    }
}

fn shown(path: Option<&Path>) -> String {
    path.map_or(String::new(), |path| format!("{}: ", path.display()))
}

/// For clients that have no `https://` to ask: they need no certificates, and a machine need not have any.
pub(crate) fn trusting_nobody() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn system_verifier(
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    Ok(Arc::new(rustls_platform_verifier::Verifier::new(provider)?))
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            TlsError::new(Some(path), format!("certificates of authorities: {error}"))
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::new(Some(path), "certificates in PEM".to_owned())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path)
        .map_err(|error| TlsError::new(Some(path), format!("a readable file ({error})")))
}
