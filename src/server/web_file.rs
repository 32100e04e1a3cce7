//! The file of `--web.config.file`, in the format of Prometheus's exporter-toolkit. Settings of that format that this
//! exporter does not support are refused, not ignored, because their author relies on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use bcrypt::HashParts;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::yaml;

/// The highest bcrypt cost. Each step doubles the time, and with 16 a first login takes some seconds.
const MOST_COST: u32 = 16;

/// The content of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebFile {
    /// Without it, there is no TLS.
    pub(super) tls_server_config: Option<TlsSection>,
    /// Users and the bcrypt hashes of their passwords; without any, nobody has to log in.
    #[serde(default)]
    basic_auth_users: BTreeMap<String, Spanned<String>>,
}

/// `tls_server_config`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSection {
    pub(super) cert_file: PathBuf,
    pub(super) key_file: PathBuf,
    #[serde(default)]
    pub(super) client_auth_type: ClientAuth,
    pub(super) client_ca_file: Option<PathBuf>,
    pub(super) min_version: Option<TlsVersion>,
    pub(super) max_version: Option<TlsVersion>,
    pub(super) prefer_server_cipher_suites: Option<bool>,
}

/// Whether clients must show certificates. Go's types that ask for a certificate and do not verify it are not supported:
/// they protect nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum ClientAuth {
    #[default]
    NoClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum TlsVersion {
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

impl WebFile {
    /// Parses and validates `text`; paths in it are relative to `folder`. An error is one line that names key and line.
    pub(super) fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let parsed: Option<Self> = yaml::parse(text).map_err(|(at, what)| match at {
            Some(at) => format!("{what} at line {}, column {}", at.line(), at.column()),
            None => what,
        })?;
        let mut file = parsed.unwrap_or_default();
        for (user, hash) in &file.basic_auth_users {
            let line = hash.referenced.line();
            let at = format!("basic_auth_users: line {line}: user {user:?}");
            if user.is_empty() || user.contains(':') {
                return Err(format!("{at}: expected a name, without colons"));
            }
            let parts = HashParts::from_str(&hash.value)
                .map_err(|_| format!("{at}: expected a bcrypt hash of the password"))?;
            let cost = parts.get_cost();
            if cost > MOST_COST {
                return Err(format!(
                    "{at}: expected a bcrypt cost up to {MOST_COST}, not {cost}"
                ));
            }
        }
        if let Some(tls) = &mut file.tls_server_config {
            tls.settle(folder)?;
        }
        Ok(file)
    }

    /// The files that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.tls_server_config.iter().flat_map(|tls| {
            [&tls.cert_file, &tls.key_file]
                .into_iter()
                .chain(&tls.client_ca_file)
                .map(PathBuf::as_path)
        })
    }

    /// Users and the hashes of their passwords.
    pub(super) fn users(&self) -> BTreeMap<String, String> {
        let users = self.basic_auth_users.iter();
        users
            .map(|(user, hash)| (user.clone(), hash.value.clone()))
            .collect()
    }
}

impl TlsSection {
    fn settle(&mut self, folder: &Path) -> Result<(), String> {
        let named = [&mut self.cert_file, &mut self.key_file];
        for path in named.into_iter().chain(&mut self.client_ca_file) {
            *path = folder.join(&path);
        }
        let verified = self.client_auth_type != ClientAuth::NoClientCert;
        if verified != self.client_ca_file.is_some() {
            return Err(
                "tls_server_config: expected both or neither of client_ca_file and a client_auth_type that verifies"
                    .to_owned(),
            );
        }
        if self.max_version.is_some() && self.min_version > self.max_version {
            return Err("tls_server_config: min_version is above max_version".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

    fn parse(text: &str) -> Result<WebFile, String> {
        WebFile::parse(text, Path::new("/etc/exporter"))
    }

    #[test]
    fn paths_are_relative_to_the_file_that_names_them() {
        let file = parse("tls_server_config: {cert_file: c.pem, key_file: /k.pem}").unwrap();
        let files: Vec<_> = file.files().collect();
        assert_eq!(
            files,
            [Path::new("/etc/exporter/c.pem"), Path::new("/k.pem")]
        );
    }

    #[test]
    fn an_empty_file_means_no_tls_and_no_users() {
        for text in ["", "# nothing\n", "{}", "basic_auth_users: {}"] {
            let file = parse(text).unwrap();
            assert!(file.tls_server_config.is_none() && file.users().is_empty());
        }
    }

    #[test]
    fn a_mistake_is_reported_with_its_key_and_line() {
        let tls = "tls_server_config:\n  cert_file: c\n  key_file: k\n";
        for (text, expected) in [
            (
                "tls_server_confg: {}".to_owned(),
                &["tls_server_confg", "line 1"][..],
            ),
            (
                format!("{tls}  cipher_suites: [A]\n"),
                &["cipher_suites", "line 4"],
            ),
            (
                format!("{tls}  client_auth_type: RequestClientCert\n"),
                &["RequestClientCert", "line 4"],
            ),
            (format!("{tls}  min_version: TLS10\n"), &["TLS10", "line 4"]),
            (
                "http_server_config:\n  http2: true\n".to_owned(),
                &["http_server_config", "line 1"],
            ),
            (
                "tls_server_config:\n  cert_file: c\n".to_owned(),
                &["key_file", "line"],
            ),
            (
                format!("{tls}  client_ca_file: ca\n"),
                &["client_auth_type"],
            ),
            (
                format!("{tls}  client_auth_type: RequireAndVerifyClientCert\n"),
                &["client_ca_file"],
            ),
            (
                format!("{tls}  min_version: TLS13\n  max_version: TLS12\n"),
                &["min_version"],
            ),
            (
                "basic_auth_users:\n  a: b\n".to_owned(),
                &["line 2", "\"a\"", "bcrypt"],
            ),
            (
                format!("basic_auth_users:\n  'a:b': {HASH}\n"),
                &["line 2", "a:b"],
            ),
            (
                format!("basic_auth_users:\n  a: {}\n", HASH.replace("$10$", "$31$")),
                &["line 2", "cost"],
            ),
            (
                format!("basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n"),
                &["duplicate", "a"],
            ),
            ("basic_auth_users: [\n".to_owned(), &["line"]),
        ] {
            let error = parse(&text).err().unwrap();
            for word in expected {
                assert!(error.contains(word), "{word:?} is not in: {error}");
            }
            assert!(!error.contains(&HASH[10..]), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
