//! The admin API: who may use it from where, and what it leaves in the log. That callers are known at all is `guard`'s
//! doing; here is refused what a browser was talked into by another site, since a browser sends its user's password with
//! whatever it is made to send.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use serde::Deserialize;

use super::connection::Caller;
use super::routes::{Answer, error, json};
use super::target::find;
use crate::config::DEFAULT_TARGET;
use crate::observation::KeyLabel;
use crate::subject::ActionError;

/// The largest request body: an action with a long key.
const MOST_BODY: usize = 64 * 1024;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

type ResetFuture = Pin<Box<dyn Future<Output = Result<(), ActionError>> + Send>>;

/// How a counter is reset.
pub type ResetCounter = Box<dyn Fn(String) -> ResetFuture + Send + Sync>;

/// A limiter whose counters can be reset.
pub struct Resettable {
    /// What does it.
    pub reset: ResetCounter,
    /// How its keys are shown in the log.
    pub key_label: KeyLabel,
}

/// The actions over HTTP.
pub struct Admin {
    /// The limiters by name, the default one among them.
    pub limiters: BTreeMap<String, Resettable>,
    /// How long a body may take to arrive.
    pub read_timeout: Duration,
    /// Whether callers who are not known may use it.
    pub anybody: bool,
}

impl fmt::Debug for Resettable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resettable").finish_non_exhaustive()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetRequest {
    key: String,
    #[serde(default = "default_target")]
    target: String,
}

fn default_target() -> String {
    DEFAULT_TARGET.to_owned()
}

impl Admin {
    /// `POST /api/v1/actions/reset_counter`.
    pub(super) async fn reset_counter(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        caller: &Caller,
    ) -> Answer {
        if let Err((status, message)) = self.admits(caller.is_known(), headers) {
            tracing::warn!(action = "reset_counter", %caller, outcome = "refused", "{message}");
            return error(status, message);
        }
        let request = match self.read(body).await {
            Ok(request) => request,
            Err((status, message)) => {
                tracing::info!(action = "reset_counter", %caller, outcome = "refused", "unusable request");
                return error(status, &message);
            }
        };
        let (target, limiter) = match find(&self.limiters, &request.target) {
            Ok(found) => found,
            Err((status, message)) => {
                tracing::info!(action = "reset_counter", %caller, outcome = "refused", "no such target");
                return error(status, &message);
            }
        };
        let shown = limiter.key_label.of(request.key.as_bytes());
        match (limiter.reset)(request.key.clone()).await {
            Ok(()) => {
                tracing::info!(action = "reset_counter", key = shown, limiter = target, %caller, outcome = "accepted");
                let accepted = serde_json::json!({
                    "action": "reset_counter", "key": request.key, "target": target, "accepted": true
                });
                json(StatusCode::ACCEPTED, &accepted)
            }
            Err(failure) => {
                // The message may name the key as it is.
                let reason = failure.reason.name();
                tracing::warn!(
                    action = "reset_counter", key = shown, limiter = target, %caller, outcome = "failed", reason
                );
                error(StatusCode::BAD_GATEWAY, &failure.message)
            }
        }
    }

    /// That callers are known was seen to at the start, too. It is asked again here, because what was true of one
    /// configuration need not be of the next.
    fn admits(&self, known: bool, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if !known && !self.anybody {
            let message = "actions need a login, or --web.admin-api-insecure";
            return Err((StatusCode::FORBIDDEN, message));
        }
        own_site(headers, known)?;
        json_type(headers)
    }

    async fn read(&self, body: Incoming) -> Result<ResetRequest, (StatusCode, String)> {
        let body = Limited::new(body, MOST_BODY).collect();
        let body: Bytes = match tokio::time::timeout(self.read_timeout, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(cause)) if cause.is::<http_body_util::LengthLimitError>() => {
                let message = format!("body: expected at most {MOST_BODY} bytes");
                return Err((StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            Ok(Err(cause)) => return Err((StatusCode::BAD_REQUEST, format!("body: {cause}"))),
            Err(_) => {
                let message = format!("body: not there within {:?}", self.read_timeout);
                return Err((StatusCode::REQUEST_TIMEOUT, message));
            }
        };
        serde_json::from_slice(&body).map_err(|cause| {
            let message = format!("body: {cause}; expected {{\"key\":\"…\"}}, and \"target\" where another limiter is meant");
            (StatusCode::BAD_REQUEST, message)
        })
    }
}

/// Refuses what another site made a browser send. What is no browser sends neither header and is let through.
///
/// Of callers who are not `known`, browsers' requests are taken under an address only: a name of another site's can point
/// here, and then the browser takes it for the same site. Nobody is known there, for the browser has no password for it.
pub(super) fn own_site(headers: &HeaderMap, known: bool) -> Result<(), (StatusCode, &'static str)> {
    let browser = headers.contains_key(SEC_FETCH_SITE) || headers.contains_key(ORIGIN);
    if browser && !known && !headers.get(HOST).is_some_and(is_address) {
        return Err((
            StatusCode::FORBIDDEN,
            "without a login, a browser's requests are taken only under the exporter's IP address or localhost",
        ));
    }
    let foreign = (
        StatusCode::FORBIDDEN,
        "the request comes from another site, which actions are not taken from",
    );
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // `none` is the person at the browser. `same-site` is another host or port, and not ours.
        if site != "same-origin" && site != "none" {
            return Err(foreign);
        }
    } else if let Some(origin) = headers.get(ORIGIN) {
        // Browsers older than Sec-Fetch-Site, or over plain HTTP, which leaves it out.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let from = origin.to_str().ok().and_then(|text| text.split_once("://"));
        if from.is_none_or(|(_, from)| Some(from) != host) {
            return Err(foreign);
        }
    }
    Ok(())
}

/// Whether the host is one that no name server can make another of.
fn is_address(host: &HeaderValue) -> bool {
    Authority::try_from(host.as_bytes()).is_ok_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

/// Refuses what a form could send.
fn json_type(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    // A form cannot send this type, and a script of another site not without asking, which is not answered.
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if essence.is_none_or(|essence| !essence.eq_ignore_ascii_case("application/json")) {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "expected the content type application/json",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_other_sites_are_refused() {
        let json = ("content-type", "application/json");
        let host = ("host", "exporter:9972");
        for (headers, expected) in [
            (vec![host, json], 0),
            (
                vec![host, ("content-type", "Application/JSON; charset=utf-8")],
                0,
            ),
            (vec![host, json, ("sec-fetch-site", "same-origin")], 0),
            (vec![host, json, ("sec-fetch-site", "none")], 0),
            (vec![host, json, ("sec-fetch-site", "same-site")], 403),
            (vec![host, json, ("sec-fetch-site", "cross-site")], 403),
            (vec![host, json, ("origin", "http://exporter:9972")], 0),
            (vec![host, json, ("origin", "https://exporter:9972")], 0),
            (vec![host, json, ("origin", "http://exporter:9973")], 403),
            (vec![host, json, ("origin", "http://evil")], 403),
            (vec![host, json, ("origin", "null")], 403),
            (vec![json, ("origin", "null")], 403),
            (vec![host], 415),
            (vec![host, ("content-type", "text/plain")], 415),
            (
                vec![host, ("content-type", "application/x-www-form-urlencoded")],
                415,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.append(*name, value.parse().unwrap());
            }
            let status = own_site(&map, true)
                .and_then(|()| json_type(&map))
                .err()
                .map_or(0, |(status, _)| status.as_u16());
            assert_eq!(status, expected, "{headers:?}");
        }
    }

    #[test]
    fn a_browser_that_logs_in_nowhere_is_heard_under_an_address_only() {
        for (host, heard) in [
            ("127.0.0.1:9972", true),
            ("10.1.2.3", true),
            ("[::1]:9972", true),
            ("localhost:9972", true),
            ("LocalHost", true),
            // Anybody's name server can say that these are here.
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
                assert_eq!(own_site(&map, false).is_ok(), heard, "{host}");
                assert!(own_site(&map, true).is_ok(), "{host}: known");
            }
        }
    }

    #[test]
    fn strangers_are_refused_unless_everybody_is_admitted() {
        let mut headers = HeaderMap::new();
        headers.append("content-type", "application/json".parse().unwrap());
        for (known, anybody, admitted) in [
            (true, false, true),
            (true, true, true),
            (false, true, true),
            (false, false, false),
        ] {
            let admin = Admin {
                limiters: BTreeMap::new(),
                read_timeout: Duration::from_secs(1),
                anybody,
            };
            assert_eq!(admin.admits(known, &headers).is_ok(), admitted);
        }
    }
}
