//! Explains why a server's certificate is unusable, in plain words.

/// A plain explanation for a handshake error of the TLS library about the server's certificate.
pub(in crate::observe) fn certificate_hint(error: &str) -> Option<&'static str> {
    if error.contains("UnsupportedCertVersion") {
        Some(
            "the server's certificate is of X.509 version 1: make one of version 3, with a subjectAltName \
             (openssl x509 needs -extfile for that)",
        )
    } else if error.contains("CaUsedAsEndEntity") {
        Some(
            "the server's certificate is that of an authority (CA:TRUE): make one for the server, signed by it",
        )
    } else {
        None
    }
}
