//! Secrets and certificates from files, read again when a file has changed. Whoever uses one asks for it each time. Knows
//! nothing of the settings that name the files, nor of the servers that are logged in to.

mod secret;
mod tls;
mod watched;

pub use secret::{Secret, SecretSource};
pub(crate) use tls::trusting_nobody;
pub use tls::{TlsError, TlsFiles, TlsSource};
pub(crate) use watched::Stamp;
