//! TLS for the exporter's connections: makes a configuration for rustls of PEM files, and reads them again when one of
//! them has changed. The server takes its certificates from here, too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use super::watched::Watched;
use crate::files;

/// Certificates to trust, and the exporter's own. They may change, so their users ask for them each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSource(Arc<Watched<Arc<ClientConfig>>>);

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
    /// `None` if the error is not about one file.
    pub path: Option<PathBuf>,
    /// What was expected.
    pub expected: String,
}

impl TlsSource {
    /// Reads the files for the first time.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let identity = files.identity.iter().flatten();
        let paths: Vec<PathBuf> = files.authorities.iter().chain(identity).cloned().collect();
        let shown: Vec<String> = paths.iter().map(|it| it.display().to_string()).collect();
        let name = format!("TLS files {}", shown.join(", "));
        let watched = Watched::new(name, paths, move || files.client().map(Arc::new))?;
        Ok(Self(Arc::new(watched)))
    }

    /// The configuration of the files as they are now. It stays as before while a file is not usable, or while a
    /// certificate and its key do not match.
    pub fn current(&self) -> Arc<ClientConfig> {
        self.0.current()
    }
}

impl TlsFiles {
    fn client(&self) -> Result<ClientConfig, TlsError> {
        let ours = |error: rustls::Error| TlsError::new(None, format!("usable TLS: {error}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(ours)?;
        let builder = if let Some(path) = &self.authorities {
            builder.with_root_certificates(roots(path)?)
        } else {
            let system = Verifier::new(provider).map_err(|error| {
                let why = format!(
                    "a file of certificates to trust: the system's are not usable ({error})"
                );
                TlsError::new(None, why)
            })?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(system))
        };
        let Some([chain, key]) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let certificates = certificates(chain)?;
        builder
            .with_client_auth_cert(certificates, private_key(key)?)
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

/// For clients that use no `https://` URL: the machine may have no certificates.
pub(crate) fn trusting_nobody() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

/// The authorities in the file at `path`.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            TlsError::new(Some(path), format!("certificates of authorities: {error}"))
        })?;
    }
    Ok(roots)
}

/// The certificates in the file at `path`: one at the least.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::new(Some(path), "certificates in PEM".to_owned())),
    }
}

/// The private key in the file at `path`.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| TlsError::new(Some(path), format!("a private key in PEM: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    files::read(path)
        .map_err(|error| TlsError::new(Some(path), format!("a readable file ({error})")))
}
