//! The client of the limiter's management API. It never asks for `/api/blocks`, which costs a node seconds.

use std::net::Ipv6Addr;

use reqwest::Url;
use serde::Deserialize;

use crate::observation::{Limit, Reason, is_cut_key};
use crate::observe::http::client::{Http, HttpError, shown};
use crate::text::{percent_encoded, without_login};

/// A node as `GET /api/nodes` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::observe) struct ApiNode {
    pub(in crate::observe) id: String,
    pub(in crate::observe) address: String,
    pub(in crate::observe) state: String,
    #[serde(default)]
    pub(in crate::observe) registered_at: Option<String>,
}

/// A counter as `GET /api/counters` lists it. The list ends at 100.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::observe) struct ApiCounter {
    pub(in crate::observe) key: String,
    pub(in crate::observe) count: u64,
    pub(in crate::observe) limit: i64,
    pub(in crate::observe) remaining: i64,
}

/// `GET /api/nodes`.
#[derive(Deserialize)]
pub(in crate::observe) struct Nodes {
    pub(in crate::observe) nodes: Vec<ApiNode>,
}

/// `GET /api/counters`.
#[derive(Deserialize)]
pub(in crate::observe) struct Counters {
    counters: Vec<ApiCounter>,
}

/// `GET /api/limits`.
#[derive(Deserialize)]
pub(in crate::observe) struct Limits {
    default_limit: i64,
    default_window_ms: i64,
}

impl Limits {
    /// The limit, if it is valid. An error names the field.
    pub(in crate::observe) fn checked(&self) -> Result<Limit, String> {
        let wrong = |field, value, expected| format!("{field} is {value}, expected {expected}");
        let limit = u64::try_from(self.default_limit)
            .map_err(|_| wrong("default_limit", self.default_limit, "0 or more"))?;
        let window_ms = u64::try_from(self.default_window_ms)
            .ok()
            .filter(|window| *window > 0)
            .ok_or_else(|| wrong("default_window_ms", self.default_window_ms, "1 or more"))?;
        Ok(Limit { limit, window_ms })
    }
}

/// `POST /api/counters/KEY/reset`.
#[derive(Deserialize)]
pub(in crate::observe) struct Reset {
    reset: bool,
}

/// The management API at one base URL.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ManagementApi<'a> {
    http: &'a Http,
    base: Url,
}

impl<'a> ManagementApi<'a> {
    pub(in crate::observe) fn new(http: &'a Http, base: Url) -> Self {
        Self { http, base }
    }

    /// `GET /api/nodes`. An optional request, because the node scans its whole key space for it.
    pub(in crate::observe) async fn nodes(&self) -> Result<Vec<ApiNode>, HttpError> {
        Ok(self.get::<Nodes>("api/nodes").await?.nodes)
    }

    /// `GET /api/counters`. An optional request, because it costs the node some 50 ms. Sent only while Redis cannot be
    /// read.
    pub(in crate::observe) async fn counters(&self) -> Result<Vec<ApiCounter>, HttpError> {
        Ok(self.get::<Counters>("api/counters").await?.counters)
    }

    /// `GET /api/limits`: the limit and window of keys without their own.
    pub(in crate::observe) async fn default_limit(&self) -> Result<Limit, HttpError> {
        let limits: Limits = self.get("api/limits").await?;
        limits.checked().map_err(|wrong| {
            let what = shown(&join(&self.base, "api/limits"));
            HttpError::new(Reason::InvalidJson, format!("GET {what}: {wrong}"))
        })
    }

    /// `POST /api/counters/KEY/reset`. Fire and forget: it does not verify that the counter is gone.
    pub(in crate::observe) async fn reset_counter(&self, key: &str) -> Result<(), HttpError> {
        let unusable = match key {
            "" | "." | ".." => Some("cannot be named in a URL path"),
            _ => is_cut_key(key).then_some("was shortened; expected the whole key"),
        };
        if let Some(why) = unusable {
            let message = format!("reset_counter: key {key:?} {why}");
            return Err(HttpError::new(Reason::InvalidJson, message));
        }
        let path = format!("api/counters/{}/reset", percent_encoded(key.as_bytes()));
        let answer = self.http.post(join(&self.base, &path)).await?.ok()?;
        if answer.json::<Reset>()?.reset {
            Ok(())
        } else {
            let message = format!("{}: answered \"reset\": false", answer.what);
            Err(HttpError::new(Reason::HttpStatus, message))
        }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        self.http.get(join(&self.base, path)).await?.ok()?.json()
    }
}

/// `path` below `base`, whether or not `base` ends in a slash.
pub(in crate::observe) fn join(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// The URL of `place`, a path with or without a query, on the server at `base`: below its path, or at `port` if one is
/// given.
pub(in crate::observe) fn place_on(base: &Url, port: Option<u16>, place: &str) -> Option<Url> {
    let mut url = base.clone();
    let (path, query) = match place.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (place, None),
    };
    let path = path.trim_start_matches('/');
    match port {
        Some(port) => {
            url.set_port(Some(port)).ok()?;
            url.set_path(path);
        }
        None => url = join(&url, path),
    }
    url.set_query(query);
    Some(url)
}

/// `host:port` of a configured URL.
pub(crate) fn address_of(url: &Url) -> Option<String> {
    Some(format!(
        "{}:{}",
        url.host_str()?,
        url.port_or_known_default()?
    ))
}

/// The address of a node that registered as `text`, in one form: `host:port`, or a URL if that says more. No login is kept.
pub(in crate::observe) fn registered_address(text: &str) -> String {
    let url = Url::parse(text).ok();
    let Some(url) = url.filter(|url| ["http", "https"].contains(&url.scheme())) else {
        // An IPv6 address without brackets, as host and port that were joined by a colon.
        let v6 = text.rsplit_once(':');
        let v6 = v6.filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok());
        let v6 = v6.map(|(host, port)| format!("[{host}]:{port}"));
        let base = base_of(v6.as_deref().unwrap_or(text));
        let address = base.as_ref().and_then(address_of);
        return address.unwrap_or_else(|| without_login(text));
    };
    let plain = url.scheme() == "http" && url.path() == "/" && url.query().is_none();
    let address = address_of(&url).filter(|_| plain);
    address.unwrap_or_else(|| shown(&url).trim_end_matches('/').to_owned())
}

/// The address by which a node at `address` is known, if one of the `configured` URLs is its place. A registered host and port
/// may leave out the path. Several URLs at one host and port have the same address, so that it is the place of none.
pub(in crate::observe) fn configured_address(address: &str, configured: &[Url]) -> Option<String> {
    let base = base_of(address)?;
    let known = address_of(&base)?;
    let is_there = |url: &&Url| address_of(url).as_ref() == Some(&known);
    let mut there = configured.iter().filter(is_there);
    let first = there.next()?;
    let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
    let is_at = base.path() == "/" || path(&base) == path(first);
    (is_at && there.all(|url| path(url) == path(first))).then_some(known)
}

/// The base URL of a node that registered as `host:port` or as a URL.
pub(in crate::observe) fn base_of(address: &str) -> Option<Url> {
    let is_url = address.starts_with("http://") || address.starts_with("https://");
    let url = if is_url {
        Url::parse(address).ok()?
    } else {
        Url::parse(&format!("http://{address}/")).ok()?
    };
    // Such an address is host and port, nothing else. `unknown`, which a registration without an address contains, has no port.
    let is_host_and_port = url.host_str().is_some_and(|host| !host.is_empty())
        && (url.port().is_some() || address.ends_with(":80"))
        && url.path() == "/";
    ((is_url || is_host_and_port)
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none())
    .then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_joins_with_and_without_a_final_slash() {
        for base in ["http://h:1", "http://h:1/"] {
            let base = Url::parse(base).unwrap();
            assert_eq!(join(&base, "api/nodes").as_str(), "http://h:1/api/nodes");
        }
        let prefixed = Url::parse("https://h/limiter").unwrap();
        assert_eq!(
            join(&prefixed, "health").as_str(),
            "https://h/limiter/health"
        );
    }

    #[test]
    fn a_place_is_below_the_path_of_the_url_or_at_another_port() {
        let base = Url::parse("http://h:80/limiter/").unwrap();
        let place = |port, place| place_on(&base, port, place).unwrap().to_string();
        assert_eq!(place(None, "/health"), "http://h/limiter/health");
        assert_eq!(place(Some(81), "/a?b=c"), "http://h:81/a?b=c");
        assert_eq!(place(Some(81), "/a%2Fb"), "http://h:81/a%2Fb");
    }

    #[test]
    fn keys_of_any_text_survive_the_path() {
        let path = |key: &str| {
            join(
                &Url::parse("http://h:1").unwrap(),
                &format!("api/counters/{}/reset", percent_encoded(key.as_bytes())),
            )
            .to_string()
        };
        assert_eq!(path("a b"), "http://h:1/api/counters/a%20b/reset");
        assert_eq!(path("🔥"), "http://h:1/api/counters/%F0%9F%94%A5/reset");
        assert_eq!(
            path("a/b?c#d%"),
            "http://h:1/api/counters/a%2Fb%3Fc%23d%25/reset"
        );
    }

    #[test]
    fn a_registered_address_may_be_a_url_and_shows_no_login() {
        for (text, address, base) in [
            ("http://h:1", "h:1", Some("http://h:1/")),
            ("http://h", "h:80", Some("http://h/")),
            ("http://me:secret@h:1/", "h:1", Some("http://h:1/")),
            (
                "http://h:1/limiter",
                "http://h:1/limiter",
                Some("http://h:1/limiter"),
            ),
            ("https://h", "https://h", Some("https://h/")),
            ("HTTPS://H:443/", "https://h", Some("https://h/")),
            ("https://h:8443/", "https://h:8443", Some("https://h:8443/")),
            ("https://me:secret@h", "https://h", Some("https://h/")),
            ("https://h/a/", "https://h/a", Some("https://h/a")),
            ("localhost:1", "localhost:1", Some("http://localhost:1/")),
            (
                "Node-1.Local:80",
                "node-1.local:80",
                Some("http://node-1.local/"),
            ),
            ("[0:0:0:0:0:0:0:1]:8", "[::1]:8", Some("http://[::1]:8/")),
            (
                "2001:DB8::5:8000",
                "[2001:db8::5]:8000",
                Some("http://[2001:db8::5]:8000/"),
            ),
            ("me:secret@h:1", "me:secret@h:1", None),
            ("grpc://h:1", "grpc://h:1", None),
            ("https://h?a=b", "https://h/?a=b", None),
            ("unknown", "unknown", None),
        ] {
            assert_eq!(registered_address(text), address);
            let found = base_of(address);
            assert_eq!(found.as_ref().map(Url::as_str), base, "{text}");
        }
    }

    #[test]
    fn a_registered_url_is_at_the_configured_one_whatever_its_scheme_and_its_final_slash() {
        for (registered, configured, known) in [
            ("https://H:443/", "https://h", Some("h:443")),
            ("https://h", "https://h:443/limiter", Some("h:443")),
            ("https://h:8443/l/", "https://h:8443/l", Some("h:8443")),
            ("h:8443", "https://h:8443/limiter", Some("h:8443")),
            ("https://h/a", "https://h/b", None),
            ("https://h/a", "https://h", None),
            ("https://h", "http://h", None),
            ("https://h", "https://g", None),
            ("unknown", "https://g", None),
        ] {
            let address = registered_address(registered);
            let configured = [Url::parse(configured).unwrap()];
            let found = configured_address(&address, &configured);
            assert_eq!(found.as_deref(), known, "{registered}");
        }
    }

    #[test]
    fn nodes_at_two_paths_of_one_host_keep_their_addresses() {
        let urls =
            |paths: [&str; 2]| paths.map(|it| Url::parse("http://lb").unwrap().join(it).unwrap());
        for address in ["http://lb/a", "http://lb/b", "https://lb"] {
            assert_eq!(configured_address(address, &urls(["a", "b"])), None);
        }
        let twice = configured_address("http://lb/a", &urls(["a", "a/"]));
        assert_eq!(twice.as_deref(), Some("lb:80"));
    }

    #[test]
    fn an_address_is_host_and_port() {
        assert!(base_of("127.0.0.1:8000").is_some());
        assert!(base_of("[::1]:8000").is_some());
        assert!(base_of("limiter:80").is_some());
        for address in [
            "unknown", "", ":8000", "a b:1", "h:1/x", "u@h:1", ":p@h:1", "h:1?x", "h:1#x",
            "h:99999",
        ] {
            assert!(base_of(address).is_none(), "{address:?}");
        }
    }
}
