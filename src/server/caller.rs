//! Who sends a request, and whether another site made a browser send it: a browser adds the password of its user to such
//! requests, too.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;

use super::answer::Refusal;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who sends a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: SocketAddr,
    /// The SHA-256 of the client's certificate, which was verified.
    pub(super) certificate: Option<String>,
    pub(super) user: Option<String>,
}

impl Caller {
    /// A caller that has only an address.
    pub(super) fn at(peer: SocketAddr) -> Self {
        Self {
            peer,
            certificate: None,
            user: None,
        }
    }

    /// Whether a password or a certificate identifies the caller.
    pub(super) fn is_known(&self) -> bool {
        self.user.is_some() || self.certificate.is_some()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.certificate) {
            (Some(user), _) => write!(f, "user {user:?}")?,
            (None, Some(certificate)) => write!(f, "certificate sha256:{certificate}")?,
            (None, None) => f.write_str("anonymous")?,
        }
        write!(f, " at {}", self.peer)
    }
}

/// Refuses requests that another site made a browser send. A client that is no browser sends neither header and is accepted.
///
/// Browsers of callers who are not `known` are accepted only under an IP address or `localhost`. Another site can let a name
/// of its own resolve to the exporter's address; to the browser that is the same site. A known caller is safe from that: the
/// browser has no password for the other name.
pub(super) fn own_site(headers: &HeaderMap, known: bool) -> Result<(), Refusal> {
    let refused = |message: &str| Err((StatusCode::FORBIDDEN, message.to_owned()));
    let site = headers.get(SEC_FETCH_SITE);
    let origin = headers.get(ORIGIN);
    let browser = site.is_some() || origin.is_some();
    let host = headers.get(HOST);
    if browser && !known && !host.is_some_and(is_address) {
        return refused(
            "without a login, a browser's requests are accepted only under the exporter's IP address or localhost",
        );
    }
    let own = if let Some(site) = site {
        // `none` is the person at the browser. `same-site` is another host or port, so not the exporter.
        site == "same-origin" || site == "none"
    } else if let Some(origin) = origin {
        // Browsers that are older than Sec-Fetch-Site, or use plain HTTP, which omits it.
        let from = origin.to_str().ok().and_then(|text| text.split_once("://"));
        from.is_some_and(|(_, from)| host.is_some_and(|host| host == from))
    } else {
        true
    };
    if own {
        Ok(())
    } else {
        refused("the request comes from another site, from which actions are not accepted")
    }
}

/// Whether the host is one that no name server resolves.
fn is_address(host: &HeaderValue) -> bool {
    Authority::try_from(host.as_bytes()).is_ok_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_other_sites_are_refused() {
        let host = ("host", "exporter:9972");
        for (headers, own) in [
            (vec![host], true),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("sec-fetch-site", "none")], true),
            (vec![host, ("sec-fetch-site", "same-site")], false),
            (vec![host, ("sec-fetch-site", "cross-site")], false),
            (vec![host, ("origin", "http://exporter:9972")], true),
            (vec![host, ("origin", "https://exporter:9972")], true),
            (vec![host, ("origin", "http://exporter:9973")], false),
            (vec![host, ("origin", "http://evil")], false),
            (vec![host, ("origin", "null")], false),
            (vec![("origin", "null")], false),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.append(*name, value.parse().unwrap());
            }
            assert_eq!(own_site(&map, true).is_ok(), own, "{headers:?}");
        }
    }

    #[test]
    fn without_a_login_a_browser_is_accepted_only_under_an_address() {
        for (host, accepted) in [
            ("127.0.0.1:9972", true),
            ("10.1.2.3", true),
            ("[::1]:9972", true),
            ("localhost:9972", true),
            ("LocalHost", true),
            // A name server of others can resolve these to the exporter.
            ("rebound.example:9972", false),
            ("exporter:9972", false),
            ("127.0.0.1.rebound.example", false),
            ("localhost.rebound.example", false),
            ("user@127.0.0.1@rebound.example", false),
            ("", false),
        ] {
            let origin = format!("http://{host}");
            for browser in [("sec-fetch-site", "same-origin"), ("origin", &*origin)] {
                let mut map = HeaderMap::new();
                map.append("host", host.parse().unwrap());
                assert!(own_site(&map, false).is_ok(), "{host}: no browser");
                map.append(browser.0, browser.1.parse().unwrap());
                assert_eq!(own_site(&map, false).is_ok(), accepted, "{host}");
                assert!(own_site(&map, true).is_ok(), "{host}: known");
            }
        }
    }
}
