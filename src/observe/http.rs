//! HTTP to nodes and Prometheus: one bounded request at a time, every way to fail mapped to a named reason.
//!
//! Connections are not kept. A limiter closes them after an error without saying so, and idle ones after a few
//! seconds, so that a kept connection would mostly save a handshake only to fail at its next use.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};

use super::http_access::HttpAccess;
use super::redis_target::Tls;
use crate::config::Secret;
use crate::observation::Reason;
use crate::text::one_line;

/// The largest answer that is read. `/metrics` of a node with many handlers is some 100 KB.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct HttpError {
    pub(super) reason: Reason,
    /// The status, where that is what was wrong.
    pub(super) status: Option<StatusCode>,
    pub(super) message: String,
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// What the server was told with the request, and may have put into its answer.
    pub(super) told: Vec<Secret>,
}

impl Answer {
    /// The answer, if its status is 200; otherwise the failure that it is.
    pub(super) fn ok(self, what: &str) -> Result<Self, HttpError> {
        if self.status == StatusCode::OK {
            return Ok(self);
        }
        // Cut after the secrets are out: half of one would not be found.
        let body = self.without_secrets(String::from_utf8_lossy(&self.body).into_owned());
        let start: String = body.chars().take(80).collect();
        Err(HttpError {
            status: Some(self.status),
            reason: Reason::HttpStatus,
            message: format!(
                "{what}: answered {}, expected 200: {start:?}",
                self.status.as_u16()
            ),
        })
    }

    /// The body as JSON of the expected shape; an error names the field.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, HttpError> {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| HttpError {
            status: None,
            reason: Reason::InvalidJson,
            // It names fields as the answer does.
            message: format!(
                "{what}: {}",
                one_line(&self.without_secrets(error.to_string()))
            ),
        })
    }

    /// Servers that are made to find faults repeat what they were sent.
    fn without_secrets(&self, text: String) -> String {
        let told = self.told.iter().map(Secret::expose);
        told.filter(|secret| !secret.is_empty())
            .fold(text, |text, secret| text.replace(secret, "<secret>"))
    }
}

/// The client that all requests share.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client,
    access: HttpAccess,
    timeout: Duration,
}

impl Http {
    /// An error is one line that says what is not usable.
    pub(super) fn new(timeout: Duration, access: HttpAccess) -> Result<Self, String> {
        let mut client = Client::builder();
        if access.authorities.is_some() {
            let tls = Tls {
                authorities: access.authorities.clone(),
                ..Tls::default()
            };
            client = client.tls_backend_preconfigured(tls.client()?);
        }
        let client = client
            .pool_max_idle_per_host(0)
            .connect_timeout(timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("ratelimiter-exporter/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            access,
            timeout,
        })
    }

    /// What one request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) async fn get(&self, url: Url) -> Result<Answer, HttpError> {
        let (request, told) = self.access.authorize(&url, self.client.get(url.clone()));
        self.send(&format!("GET {}", shown(&url)), request, told)
            .await
    }

    pub(super) async fn post_json(&self, url: Url, body: String) -> Result<Answer, HttpError> {
        let what = format!("POST {}", shown(&url));
        let (request, told) = self.access.authorize(&url, self.client.post(url.clone()));
        let request = request.header("content-type", "application/json");
        self.send(&what, request.body(body), told).await
    }

    async fn send(
        &self,
        what: &str,
        request: RequestBuilder,
        told: Vec<Secret>,
    ) -> Result<Answer, HttpError> {
        match tokio::time::timeout(self.timeout, read(what, request)).await {
            Ok(read) => read.map(|(status, body)| Answer { status, body, told }),
            Err(_) => Err(HttpError {
                status: None,
                reason: Reason::Timeout,
                message: format!("{what}: no complete answer within {:?}", self.timeout),
            }),
        }
    }
}

/// Reads the answer whole, up to [`MAX_BODY`].
async fn read(what: &str, request: RequestBuilder) -> Result<(StatusCode, Bytes), HttpError> {
    let mut response = request.send().await.map_err(|error| failed(what, &error))?;
    let status = response.status();
    let too_large = || HttpError {
        status: None,
        reason: Reason::TooLarge,
        message: format!("{what}: the answer is larger than {MAX_BODY} bytes"),
    };
    if response
        .content_length()
        .is_some_and(|length| length > MAX_BODY as u64)
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| HttpError {
        status: None,
        reason: Reason::Truncated,
        message: format!(
            "{what}: the answer broke off after {} bytes: {}",
            body.len(),
            root(&error)
        ),
    })? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body.freeze()))
}

fn failed(what: &str, error: &reqwest::Error) -> HttpError {
    let cause = root(error);
    let mut reason = if error.is_timeout() {
        Reason::Timeout
    } else {
        Reason::Network
    };
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            reason = match io.kind() {
                std::io::ErrorKind::ConnectionRefused => Reason::Refused,
                std::io::ErrorKind::TimedOut => Reason::Timeout,
                std::io::ErrorKind::UnexpectedEof => Reason::Truncated,
                _ => reason,
            };
            if is_tls(io) {
                reason = Reason::Tls;
            }
        }
        if inner.to_string().contains("dns error") {
            reason = Reason::Dns;
        }
        source = inner.source();
    }
    if cause.contains("connection closed before message completed") {
        reason = Reason::Truncated;
    }
    HttpError {
        status: None,
        reason,
        message: format!("{what}: {cause}"),
    }
}

/// Whether TLS is at the bottom of it. Connectors wrap one I/O error into another, which `source` passes over.
fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>() || inner.downcast_ref().is_some_and(is_tls)
    })
}

/// The innermost cause: what the outer layers add is which request it was, and that is said already.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A URL as it may be shown: without user and password.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // These fail only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_whose_fields_have_line_ends_fails_in_one_line() {
        let answer = Answer {
            status: StatusCode::OK,
            body: Bytes::from_static(b"{\"a\\nb\":[{\"c\":2\"."),
            told: Vec::new(),
        };
        let error = answer.json::<serde_json::Value>("GET /").unwrap_err();
        assert!(error.message.contains("a\\nb"), "{}", error.message);
        assert_eq!(error.message.lines().count(), 1, "{}", error.message);
    }
}
