//! Secrets and certificates from files, which are read again when a file has changed. The settings that name the files,
//! and the servers that the credentials are for, are not known here.

mod secret;
mod tls;
mod watched;

pub use secret::{Secret, SecretSource};
pub(crate) use tls::trusting_nobody;
pub use tls::{TlsError, TlsFiles, TlsSource};
pub(crate) use watched::Stamp;
