//! TLS of the server: makes the configuration of rustls from `tls_server_config` and the files that it names.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::web_file::{ClientAuth, TlsSection, TlsVersion};

/// Reads the files; an error names the key and the file that is wrong.
pub(super) fn server_config(section: &TlsSection) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&SupportedProtocolVersion] = match (section.min_version, section.max_version) {
        (TlsVersion::Tls12, TlsVersion::Tls12) => &[&TLS12],
        (TlsVersion::Tls12, TlsVersion::Tls13) => &[&TLS12, &TLS13],
        (TlsVersion::Tls13, _) => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("tls_server_config: {error}"))?;
    let builder = match &section.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let failed = |error: &dyn Display| named("client_ca_file", path, error);
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca_file", path)? {
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if section.client_auth_type == ClientAuth::VerifyClientCertIfGiven {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(&error))?)
        }
    };
    let chain = certificates("cert_file", &section.cert_file)?;
    let key = &section.key_file;
    let expected = "expected a private key in PEM";
    let key = PrivateKeyDer::from_pem_slice(&read("key_file", key)?)
        .map_err(|_| named("key_file", key, &expected))?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| named("cert_file", &section.cert_file, &error))?;
    config.ignore_client_order = section.prefer_server_cipher_suites;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(key, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(named(key, path, &"expected certificates in PEM")),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| named(key, path, &error))
}

fn named(key: &str, path: &Path, why: &dyn Display) -> String {
    format!("tls_server_config.{key}: {}: {why}", path.display())
}
