//! Secrets and certificates from files, which are read again when a file has changed. Knows neither the settings that name
//! the files, nor the servers that the credentials are for.

mod secret;
mod tls;
mod watched;

pub use secret::{Secret, SecretSource};
pub(crate) use tls::trusting_nobody;
pub use tls::{TlsError, TlsFiles, TlsSource};
pub(crate) use watched::Stamp;
