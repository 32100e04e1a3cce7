//! Logins over HTTP, and the servers that receive them. Credentials go to the configured origins. Nodes' addresses come
//! from Redis, where every client with write access can store any address. So nodes get no credentials, unless
//! `--ratelimiter.send-credentials-to-nodes` is set.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{RequestBuilder, Url};
use rustls::ClientConfig;
use url::Origin;

use crate::credentials::{Secret, SecretSource, TlsSource};

/// The credentials of a login.
#[derive(Clone, Debug)]
pub enum Authorization {
    /// A bearer token.
    Bearer(SecretSource),
    /// A user and a password.
    Basic(String, SecretSource),
}

/// The trusted certificates, and the logins.
#[derive(Clone, Debug, Default)]
pub struct HttpAccess {
    /// The trusted certificates. `None` if no request uses TLS.
    pub tls: Option<TlsSource>,
    /// The login for each server.
    pub configured: Vec<(Origin, Authorization)>,
    /// The login for every other server.
    pub elsewhere: Option<Authorization>,
}

impl HttpAccess {
    /// The currently trusted certificates.
    pub(in crate::observe) fn tls_now(&self) -> Option<Arc<ClientConfig>> {
        self.tls.as_ref().map(TlsSource::current)
    }

    /// Adds the login for the server at `url` to `request`. A token goes into `token_header` if that is set. Also returns
    /// the secrets, in each form in which the server may repeat them.
    pub(in crate::observe) fn authorize(
        &self,
        url: &Url,
        token_header: Option<&str>,
        request: RequestBuilder,
    ) -> (RequestBuilder, Vec<Secret>) {
        match self.of(url) {
            None => (request, Vec::new()),
            Some(Authorization::Bearer(token)) => {
                let token = token.current();
                let request = match token_header {
                    Some(header) => request.header(header, token.expose()),
                    None => request.bearer_auth(token.expose()),
                };
                (request, vec![token])
            }
            Some(Authorization::Basic(user, password)) => {
                let password = password.current();
                let encoded = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
                let request = request.basic_auth(user, Some(password.expose()));
                (request, vec![Secret::new(encoded), password])
            }
        }
    }

    fn of(&self, url: &Url) -> Option<&Authorization> {
        let origin = url.origin();
        let known = self.configured.iter().find(|(known, _)| *known == origin);
        known
            .map(|(_, authorization)| authorization)
            .or(self.elsewhere.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_origins_get_credentials() {
        let url = |text: &str| Url::parse(text).unwrap();
        let token = || Authorization::Bearer(SecretSource::fixed(Secret::new("t")));
        let mut access = HttpAccess {
            configured: vec![(url("https://limiter").origin(), token())],
            ..HttpAccess::default()
        };
        assert!(access.of(&url("https://limiter:443/health")).is_some());
        for other in [
            "http://limiter/health",
            "https://limiter:8443/health",
            "https://limiter.evil/health",
            "https://evil/health",
        ] {
            assert!(access.of(&url(other)).is_none(), "{other}");
        }
        access.elsewhere = Some(token());
        assert!(access.of(&url("http://10.0.0.9:8000/health")).is_some());
    }
}
