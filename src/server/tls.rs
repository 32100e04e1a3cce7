//! The server's side of TLS: from the files that `tls_server_config` names to what rustls takes.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::web_file::{ClientAuth, TlsSection, TlsVersion};

/// TLS as of one reading of the files.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) demands: Arc<Demands>,
}

/// What TLS demands of clients. It stays the same when the server's own certificate is renewed.
pub(super) struct Demands {
    pub(super) client_auth: ClientAuth,
    authorities: Vec<CertificateDer<'static>>,
    pub(super) versions: RangeInclusive<TlsVersion>,
}

impl Demands {
    /// Whether these are met by every connection that met `earlier` ones.
    pub(super) fn are_met_by_those_of(&self, earlier: &Self) -> bool {
        let known = |authority| self.authorities.contains(authority);
        self.client_auth <= earlier.client_auth
            && earlier.authorities.iter().all(known)
            && self.versions.contains(earlier.versions.start())
            && self.versions.contains(earlier.versions.end())
    }
}

/// Reads the certificates; an error names the file that is not what it should be.
pub(super) fn read_tls(section: &TlsSection) -> Result<Tls, String> {
    let authorities = match &section.client_ca_file {
        None => Vec::new(),
        Some(path) => certificates("client_ca_file", path)?,
    };
    Ok(Tls {
        config: Arc::new(server_config(section, &authorities)?),
        demands: Arc::new(Demands {
            client_auth: section.client_auth_type,
            authorities,
            versions: section.min_version..=section.max_version,
        }),
    })
}

fn server_config(
    section: &TlsSection,
    authorities: &[CertificateDer<'static>],
) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(section))
        .map_err(|error| format!("tls_server_config: {error}"))?;
    let builder = match &section.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in authorities {
                roots
                    .add(certificate.clone())
                    .map_err(|error| named("client_ca_file", path, error))?;
            }
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if section.client_auth_type == ClientAuth::VerifyClientCertIfGiven {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier
                .build()
                .map_err(|error| named("client_ca_file", path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates("cert_file", &section.cert_file)?;
    let key =
        PrivateKeyDer::from_pem_slice(&read("key_file", &section.key_file)?).map_err(|_| {
            named(
                "key_file",
                &section.key_file,
                "expected a private key in PEM",
            )
        })?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| named("cert_file", &section.cert_file, error))?;
    config.ignore_client_order = section.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn versions(section: &TlsSection) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)];
    let wanted = section.min_version..=section.max_version;
    let taken = known
        .into_iter()
        .filter(|(version, _)| wanted.contains(version));
    taken.map(|(_, supported)| supported).collect()
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(key, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(named(key, path, "expected certificates in PEM")),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| named(key, path, error))
}

fn named(key: &str, path: &Path, why: impl std::fmt::Display) -> String {
    format!("tls_server_config.{key}: {}: {why}", path.display())
}
