//! Secrets and certificates from files, which are read again when a file has changed. The settings that name the files,
//! and the servers that the credentials are for, are not known here.

mod secret;
mod tls;
mod watched;

pub use secret::{Secret, SecretSource};
pub use tls::{TlsError, TlsFiles, TlsSource};
pub(crate) use tls::{certificates, private_key, roots, trusting_nobody};
pub(crate) use watched::Stamp;
