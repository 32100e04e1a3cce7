//! Certificates of the tests, made anew for each.

use std::path::Path;

use anyhow::Context as _;

/// A certificate authority, and a certificate of its own for `127.0.0.1`, as PEM files.
pub(crate) fn certificates(folder: &Path, name: &str) -> anyhow::Result<[String; 3]> {
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    // Without names of their own, the two look like one certificate that signed itself.
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "127.0.0.1");
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let write = |what: &str, pem: String| -> anyhow::Result<String> {
        let path = folder.join(format!("{name}-{what}.pem"));
        std::fs::write(&path, pem)?;
        let path = path.to_str().context("the folder's name is not UTF-8")?;
        Ok(path.to_owned())
    };
    Ok([
        write("ca", authority_certificate.pem())?,
        write("cert", certificate.pem())?,
        write("key", key.serialize_pem())?,
    ])
}
