//! TLS of the server: makes the configuration of rustls from `tls_server_config` and the files that it names.

use std::fmt::Display;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::web_file::{ClientAuth, TlsSection, TlsVersion};
use crate::credentials::{certificates, private_key, roots};

/// Reads the files; an error names the key and the file that is wrong.
pub(super) fn server_config(section: &TlsSection) -> Result<ServerConfig, String> {
    let wrong = |what: &str, error: &dyn Display| format!("tls_server_config{what}: {error}");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&SupportedProtocolVersion] = match (section.min_version, section.max_version) {
        (Some(TlsVersion::Tls13), _) => &[&TLS13],
        (_, Some(TlsVersion::Tls12)) => &[&TLS12],
        (None | Some(TlsVersion::Tls12), None | Some(TlsVersion::Tls13)) => &[&TLS12, &TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| wrong("", &error))?;
    let builder = match &section.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = roots(path).map_err(|error| wrong(".client_ca_file", &error))?;
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if section.client_auth_type == ClientAuth::VerifyClientCertIfGiven {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("", &error))?)
        }
    };
    let chain = certificates(&section.cert_file).map_err(|error| wrong(".cert_file", &error))?;
    let key = private_key(&section.key_file).map_err(|error| wrong(".key_file", &error))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let path = section.cert_file.display();
        wrong(".cert_file", &format!("{path}: {error}"))
    })?;
    config.ignore_client_order = section.prefer_server_cipher_suites.unwrap_or(true);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
