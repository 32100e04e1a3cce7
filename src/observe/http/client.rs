//! The HTTP client for nodes and Prometheus. Requests are bounded, and each failure has a named reason. Each request opens
//! a new connection. So a server that accepts no new connections is noticed, and no request is repeated.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use rustls::ClientConfig;

use crate::credentials::{Secret, trusting_nobody};
use crate::lock::lock;
use crate::observation::{Collector, Failure, Reason};
use crate::observe::certificate_hint::certificate_hint;
use crate::observe::http::access::HttpAccess;
use crate::text::{cut, one_line};

/// The largest answer that is read. `/metrics` of a node with many handlers is some 100 KB.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(in crate::observe) struct HttpError {
    pub(in crate::observe) reason: Reason,
    /// The status, if the status was the failure.
    pub(in crate::observe) status: Option<StatusCode>,
    pub(in crate::observe) message: String,
}

impl HttpError {
    /// A failure that is not a status.
    pub(in crate::observe) fn new(reason: Reason, message: String) -> Self {
        Self {
            reason,
            status: None,
            message,
        }
    }

    /// The failure of a request `what` that was not answered in time.
    pub(in crate::observe) fn late(what: &str, within: Duration) -> Self {
        let message = format!("{what}: no complete answer within {within:?}");
        Self::new(Reason::Timeout, message)
    }

    /// The failure as it is counted for `collector`.
    pub(in crate::observe) fn counted(self, collector: Collector, subject: &str) -> Failure {
        Failure::new(collector, subject, self.reason, self.message)
    }
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ClientResponse {
    /// The request, for messages.
    pub(in crate::observe) what: String,
    pub(in crate::observe) status: StatusCode,
    pub(in crate::observe) body: Bytes,
    /// The secrets in the request, which the answer may repeat.
    pub(in crate::observe) secrets: Vec<Secret>,
}

impl ClientResponse {
    /// The answer, if its status is a success. Otherwise the failure.
    pub(in crate::observe) fn ok(self) -> Result<Self, HttpError> {
        if self.status.is_success() {
            return Ok(self);
        }
        // Cut after the secrets are removed: half a secret would not be found.
        let body = self.without_secrets(String::from_utf8_lossy(&self.body).into_owned());
        let start: String = body.chars().take(80).collect();
        Err(HttpError {
            status: Some(self.status),
            reason: Reason::HttpStatus,
            message: format!(
                "{}: answered {}, expected a status from 200 to 299: {start:?}",
                self.what,
                self.status.as_u16()
            ),
        })
    }

    /// The body as JSON of the expected shape. An error names the field.
    pub(in crate::observe) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, HttpError> {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            // The error contains field names from the answer.
            let error = one_line(&self.without_secrets(error.to_string()));
            let message = format!("{}: {error}", self.what);
            HttpError::new(Reason::InvalidJson, message)
        })
    }

    /// Removes the secrets: debugging servers repeat the request in their answer.
    fn without_secrets(&self, text: String) -> String {
        let secrets = self.secrets.iter().map(Secret::expose);
        secrets
            .filter(|secret| !secret.is_empty())
            .fold(text, |text, secret| text.replace(secret, "<secret>"))
    }
}

/// The settings and the client for requests to one kind of server.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Http {
    access: HttpAccess,
    timeout: Duration,
    current: Arc<Mutex<Current>>,
}

/// The client, and the certificates that it was made for.
#[derive(Debug)]
struct Current {
    tls: Option<Arc<ClientConfig>>,
    client: Client,
}

impl Current {
    fn new(tls: Option<Arc<ClientConfig>>, timeout: Duration) -> Result<Self, String> {
        let trust = match &tls {
            Some(tls) => ClientConfig::clone(tls),
            None => trusting_nobody().map_err(|error| error.to_string())?,
        };
        let client = Client::builder()
            .tls_backend_preconfigured(trust)
            // Limiters close idle connections sooner than the next scrape comes.
            .pool_max_idle_per_host(0)
            .connect_timeout(timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("ratelimiter-exporter/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { tls, client })
    }
}

impl Http {
    /// Fails if the certificates are not usable. The error is one line.
    pub(in crate::observe) fn new(timeout: Duration, access: HttpAccess) -> Result<Self, String> {
        let current = Current::new(access.tls_now(), timeout)?;
        Ok(Self {
            access,
            timeout,
            current: Arc::new(Mutex::new(current)),
        })
    }

    /// The same client with another timeout.
    pub(in crate::observe) fn within(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// The timeout of one request.
    pub(in crate::observe) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// `GET`.
    pub(in crate::observe) async fn get(&self, url: Url) -> Result<ClientResponse, HttpError> {
        self.get_beside(&url.clone(), url, None).await
    }

    /// `GET` of another URL on the server at `configured`, with the login for that server.
    pub(in crate::observe) async fn get_beside(
        &self,
        configured: &Url,
        url: Url,
        token_header: Option<&str>,
    ) -> Result<ClientResponse, HttpError> {
        let what = format!("GET {}", cut(&shown(&url)));
        let request = self.client().get(url);
        let (request, secrets) = self.access.authorize(configured, token_header, request);
        self.send(what, request, secrets).await
    }

    /// A request of any method to the server at `configured`, with the login for that server.
    pub(in crate::observe) async fn request(
        &self,
        configured: &Url,
        (method, url): (Method, Url),
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    ) -> Result<ClientResponse, HttpError> {
        let what = format!("{method} {}", cut(&shown(&url)));
        let request = self.client().request(method, url);
        let (request, secrets) = self.access.authorize(configured, None, request);
        let request = headers
            .into_iter()
            .fold(request.body(body), |request, (name, value)| {
                request.header(name, value)
            });
        self.send(what, request, secrets).await
    }

    /// `POST` without parameters.
    pub(in crate::observe) async fn post(&self, url: Url) -> Result<ClientResponse, HttpError> {
        let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
        self.request(&url, (Method::POST, url.clone()), headers, Vec::new())
            .await
    }

    /// The client. It is rebuilt if the trusted certificates changed since the last request.
    fn client(&self) -> Client {
        let mut current = lock(&self.current);
        let tls = self.access.tls_now();
        if tls.as_ref().map(Arc::as_ptr) != current.tls.as_ref().map(Arc::as_ptr) {
            match Current::new(tls, self.timeout) {
                Ok(new) => *current = new,
                Err(error) => {
                    tracing::error!("cannot use the changed certificates for HTTP: {error}");
                }
            }
        }
        current.client.clone()
    }

    async fn send(
        &self,
        what: String,
        request: RequestBuilder,
        secrets: Vec<Secret>,
    ) -> Result<ClientResponse, HttpError> {
        let asked = async { read(&what, request.send().await).await };
        let outcome = tokio::time::timeout(self.timeout, asked).await;
        let (status, body) =
            outcome.unwrap_or_else(|_| Err(HttpError::late(&what, self.timeout)))?;
        Ok(ClientResponse {
            what,
            status,
            body,
            secrets,
        })
    }
}

/// Reads the whole answer, up to [`MAX_BODY`].
async fn read(
    what: &str,
    response: reqwest::Result<Response>,
) -> Result<(StatusCode, Bytes), HttpError> {
    let mut response = response.map_err(|error| failed(what, &error))?;
    let status = response.status();
    let too_large = || {
        let message = format!("{what}: the answer is larger than {MAX_BODY} bytes");
        HttpError::new(Reason::TooLarge, message)
    };
    if response
        .content_length()
        .is_some_and(|length| length > MAX_BODY as u64)
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| {
        let (read, root) = (body.len(), root(&error));
        let message = format!("{what}: the answer broke off after {read} bytes: {root}");
        HttpError::new(Reason::Truncated, message)
    })? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body.freeze()))
}

/// The causes of `error`, from the outermost on.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

fn failed(what: &str, error: &reqwest::Error) -> HttpError {
    let cause = root(error);
    let mut reason = if error.is_timeout() {
        Reason::Timeout
    } else {
        Reason::Network
    };
    for inner in causes(error) {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            reason = match io.kind() {
                io::ErrorKind::ConnectionRefused => Reason::Refused,
                io::ErrorKind::TimedOut => Reason::Timeout,
                io::ErrorKind::UnexpectedEof => Reason::Truncated,
                _ => reason,
            };
            if is_tls(io) {
                reason = Reason::Tls;
            }
        }
        if inner.to_string().contains("dns error") {
            reason = Reason::Dns;
        }
    }
    if cause.contains("connection closed before message completed") {
        reason = Reason::Truncated;
    }
    let hint = certificate_hint(&cause).map_or(String::new(), |hint| format!(": {hint}"));
    HttpError::new(reason, format!("{what}: {cause}{hint}"))
}

/// Whether TLS caused the error. Connectors wrap one I/O error into another, and `source` skips the inner one.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>() || inner.downcast_ref().is_some_and(is_tls)
    })
}

/// The innermost cause. The outer layers only name the request, which the message does already.
fn root(error: &reqwest::Error) -> String {
    causes(error)
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// The URL without user and password, for messages.
pub(in crate::observe) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both calls fail only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_fields_with_line_breaks_is_one_line() {
        let answer = ClientResponse {
            what: "GET /".to_owned(),
            status: StatusCode::OK,
            body: Bytes::from_static(b"{\"a\\nb\":[{\"c\":2\"."),
            secrets: Vec::new(),
        };
        let error = answer.json::<serde_json::Value>().unwrap_err();
        assert!(error.message.contains("a\\nb"), "{}", error.message);
        assert_eq!(error.message.lines().count(), 1, "{}", error.message);
    }
}
