//! Tokens, users, and certificates to trust, for requests to nodes and to Prometheus.

use std::path::Path;

use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::ConfigError;
use super::reader::SWITCH;
use super::settings::Values;
use crate::credentials::{Secret, SecretSource, TlsFiles, TlsSource};
use crate::observe::{Authorization, HttpAccess};

impl Values {
    /// The access to `urls` by the flags that begin with `who`. Takes users and passwords out of the URLs.
    pub(super) fn http_access(
        &self,
        who: &str,
        urls: &mut [Url],
    ) -> Result<HttpAccess, ConfigError> {
        let flags = self.authorization(who)?;
        let mut configured = Vec::new();
        for url in urls.iter_mut() {
            let own = taken_out(url);
            if let Some(authorization) = flags.clone().or(own) {
                configured.push((url.origin(), authorization));
            }
        }
        let ca = format!("{who}.tls-ca-file");
        let secure = urls.iter().any(|url| url.scheme() == "https");
        if !secure && let Some(typed) = self.given(&ca) {
            return Err(typed.refused(format!("an https:// URL in --{who}.url with it")));
        }
        Ok(HttpAccess {
            tls: secure.then(|| self.tls_source(&ca, None)).transpose()?,
            configured,
            elsewhere: None,
        })
    }

    /// The same for nodes. The exporter may also send the credentials to nodes that it knows only by their
    /// registrations.
    pub(super) fn ratelimiter_access(&self, urls: &mut [Url]) -> Result<HttpAccess, ConfigError> {
        let mut access = self.http_access("ratelimiter", urls)?;
        if self.get("ratelimiter.send-credentials-to-nodes", SWITCH)? {
            access.elsewhere = self.authorization("ratelimiter")?;
        }
        Ok(access)
    }

    /// TLS with the files that these flags name: the authorities, which are optional, and the exporter's chain and key.
    pub(super) fn tls_source(
        &self,
        authorities: &str,
        identity: Option<[&str; 2]>,
    ) -> Result<TlsSource, ConfigError> {
        let files = TlsFiles {
            authorities: self.path(authorities),
            identity: identity.map(|flags| flags.map(|flag| self.path(flag).unwrap_or_default())),
        };
        TlsSource::read(files).map_err(|error| {
            let flags = [authorities]
                .into_iter()
                .chain(identity.into_iter().flatten());
            let mut typed = flags.filter_map(|flag| self.given(flag));
            let named = typed.find(|typed| error.path.as_deref() == Some(Path::new(typed.text())));
            match named {
                Some(typed) => typed.refused(error.expected),
                // The system's certificates are not usable: this flag would replace them.
                None => ConfigError::new(format!("--{authorities}"), "", error.expected),
            }
        })
    }

    fn authorization(&self, who: &str) -> Result<Option<Authorization>, ConfigError> {
        let [token, username, password] =
            ["bearer-token-file", "username", "password-file"].map(|name| format!("{who}.{name}"));
        match [&token, &username, &password].map(|name| self.given(name)) {
            [None, None, None] => Ok(None),
            [Some(_), None, None] => Ok(self.secret(&token)?.map(Authorization::Bearer)),
            [None, Some(user), Some(_)] => {
                let password = self.secret(&password)?;
                Ok(password.map(|it| Authorization::Basic(user.text().to_owned(), it)))
            }
            [token, user, secret] => {
                let typed = user.or(secret).or(token).cloned().unwrap_or_default();
                Err(typed.refused(format!(
                    "--{who}.username and --{who}.password-file, both, or --{who}.bearer-token-file alone"
                )))
            }
        }
    }
}

/// Takes user and password out of `url`, so that it can be shown.
fn taken_out(url: &mut Url) -> Option<Authorization> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = (decoded(url.username()), url.password().map(decoded));
    // These fail only for URLs that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if user.is_empty() && password.is_none() {
        return None;
    }
    let password = SecretSource::fixed(Secret::new(password.unwrap_or_default()));
    Some(Authorization::Basic(user, password))
}
