//! HTTP to nodes and Prometheus: one bounded request at a time, every way to fail mapped to a named reason.
//!
//! Connections are kept for a few seconds, so that the requests of one collection share them.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};
use rustls::ClientConfig;
use tokio::time::Instant;
use url::Origin;

use crate::credentials::{Secret, trusting_nobody};
use crate::observation::Reason;
use crate::observe::http::access::HttpAccess;
use crate::observe::redis::peer::certificate_hint;
use crate::text::one_line;

/// The largest answer that is read. `/metrics` of a node with many handlers is some 100 KB.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// How long a connection is kept without use. Limiters close theirs after five seconds.
const KEPT: Duration = Duration::from_secs(4);

/// How many idle connections are kept to one server: as many as a collection uses at once with one node.
const MOST_KEPT: usize = 4;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(in crate::observe) struct HttpError {
    pub(in crate::observe) reason: Reason,
    /// The status, where that is what was wrong.
    pub(in crate::observe) status: Option<StatusCode>,
    pub(in crate::observe) message: String,
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Answer {
    pub(in crate::observe) status: StatusCode,
    pub(in crate::observe) body: Bytes,
    /// What the server was told with the request, and may have put into its answer.
    pub(in crate::observe) told: Vec<Secret>,
}

impl Answer {
    /// The answer, if its status is 200; otherwise the failure that it is.
    pub(in crate::observe) fn ok(self, what: &str) -> Result<Self, HttpError> {
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
    pub(in crate::observe) fn json<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
    ) -> Result<T, HttpError> {
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

/// What all requests to one kind of server share.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Http {
    access: HttpAccess,
    timeout: Duration,
    clients: Arc<Mutex<Clients>>,
}

/// The clients, and what they were made for.
#[derive(Debug)]
struct Clients {
    tls: Option<Arc<ClientConfig>>,
    keeping: Client,
    /// Makes a connection for every request.
    fresh: Client,
    /// Where connections may be kept: when the last answer came from there.
    answered: HashMap<Origin, Instant>,
}

impl Clients {
    fn new(tls: Option<Arc<ClientConfig>>, timeout: Duration) -> Result<Self, String> {
        let trust = match &tls {
            Some(tls) => ClientConfig::clone(tls),
            None => trusting_nobody().map_err(|error| error.to_string())?,
        };
        let client = |kept: usize| {
            Client::builder()
                .tls_backend_preconfigured(trust.clone())
                .pool_max_idle_per_host(kept)
                .pool_idle_timeout(KEPT)
                .connect_timeout(timeout)
                .redirect(redirect::Policy::none())
                .no_proxy()
                .user_agent(concat!("ratelimiter-exporter/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| error.to_string())
        };
        let (keeping, fresh) = (client(MOST_KEPT)?, client(0)?);
        Ok(Self {
            tls,
            keeping,
            fresh,
            answered: HashMap::new(),
        })
    }
}

impl Http {
    /// An error is one line that says what is not usable.
    pub(in crate::observe) fn new(timeout: Duration, access: HttpAccess) -> Result<Self, String> {
        let clients = Clients::new(access.tls_now(), timeout)?;
        Ok(Self {
            access,
            timeout,
            clients: Arc::new(Mutex::new(clients)),
        })
    }

    /// What one request may take.
    pub(in crate::observe) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks on a connection that was kept, if there is one. Where that turns out to be gone before a byte of the answer
    /// came, the server may have closed it without saying so: then once more, on a new one.
    pub(in crate::observe) async fn get(&self, url: Url) -> Result<Answer, HttpError> {
        let what = format!("GET {}", shown(&url));
        let (keeping, fresh) = self.clients();
        let (request, mut told) = self.access.authorize(&url, keeping.get(url.clone()));
        let asked = async {
            let mut response = request.send().await;
            if response.as_ref().is_err_and(was_closed) && self.answered_lately(&url) {
                let again;
                (again, told) = self.access.authorize(&url, fresh.get(url.clone()));
                response = again.send().await;
            } else if response.is_ok() {
                self.note_answer(&url);
            }
            read(&what, response).await
        };
        let (status, body) = self.bounded(&what, asked).await?;
        Ok(Answer { status, body, told })
    }

    /// Asks on a connection of its own, which tells as well whether the server takes new ones.
    pub(in crate::observe) async fn get_anew(&self, url: Url) -> Result<Answer, HttpError> {
        let what = format!("GET {}", shown(&url));
        let (_, fresh) = self.clients();
        let (request, told) = self.access.authorize(&url, fresh.get(url.clone()));
        self.once(&what, request, told).await
    }

    /// Asks for something to be done, which is not done twice: on a connection of its own.
    pub(in crate::observe) async fn post_json(
        &self,
        url: Url,
        body: String,
    ) -> Result<Answer, HttpError> {
        let what = format!("POST {}", shown(&url));
        let (_, fresh) = self.clients();
        let (request, told) = self.access.authorize(&url, fresh.post(url.clone()));
        let request = request
            .header("content-type", "application/json")
            .body(body);
        self.once(&what, request, told).await
    }

    async fn once(
        &self,
        what: &str,
        request: RequestBuilder,
        told: Vec<Secret>,
    ) -> Result<Answer, HttpError> {
        let asked = async { read(what, request.send().await).await };
        let (status, body) = self.bounded(what, asked).await?;
        Ok(Answer { status, body, told })
    }

    /// The client that keeps connections, and the one that makes new ones. Other certificates to trust since the last
    /// request make other clients.
    fn clients(&self) -> (Client, Client) {
        let mut clients = self.locked();
        let tls = self.access.tls_now();
        if tls.as_ref().map(Arc::as_ptr) != clients.tls.as_ref().map(Arc::as_ptr) {
            match Clients::new(tls, self.timeout) {
                Ok(anew) => *clients = anew,
                Err(error) => tracing::error!("HTTP with other certificates to trust: {error}"),
            }
        }
        (clients.keeping.clone(), clients.fresh.clone())
    }

    /// From now on, and before the whole answer is read, its connection may be taken for the next request.
    fn note_answer(&self, url: &Url) {
        let now = Instant::now();
        let mut clients = self.locked();
        let answered = &mut clients.answered;
        answered.retain(|_, at| now.duration_since(*at) < KEPT + self.timeout);
        answered.insert(url.origin(), now);
    }

    /// Whether a request to the server of `url` that failed now may have gone out on a connection that was kept.
    fn answered_lately(&self, url: &Url) -> bool {
        let clients = self.locked();
        let answered = clients.answered.get(&url.origin());
        answered.is_some_and(|at| at.elapsed() < KEPT + self.timeout)
    }

    fn locked(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bounded<T>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        let outcome = tokio::time::timeout(self.timeout, asked).await;
        outcome.unwrap_or_else(|_| {
            Err(HttpError {
                status: None,
                reason: Reason::Timeout,
                message: format!("{what}: no complete answer within {:?}", self.timeout),
            })
        })
    }
}

/// Reads the answer whole, up to [`MAX_BODY`].
async fn read(
    what: &str,
    response: reqwest::Result<Response>,
) -> Result<(StatusCode, Bytes), HttpError> {
    let mut response = response.map_err(|error| failed(what, &error))?;
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

/// Whether the connection there was ended before the answer began.
fn was_closed(error: &reqwest::Error) -> bool {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        let by_hyper = cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_incomplete_message() || error.is_closed() || error.is_canceled()
        });
        by_hyper
            || cause.downcast_ref::<io::Error>().is_some_and(|error| {
                let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                kinds.contains(&error.kind())
            })
    };
    !error.is_connect() && causes(error).any(closed)
}

/// What lies below `error`, from the outermost cause on.
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
    HttpError {
        status: None,
        reason,
        message: format!("{what}: {cause}{hint}"),
    }
}

/// Whether TLS is at the bottom of it. Connectors wrap one I/O error into another, which `source` passes over.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>() || inner.downcast_ref().is_some_and(is_tls)
    })
}

/// The innermost cause: what the outer layers add is which request it was, and that is said already.
fn root(error: &reqwest::Error) -> String {
    causes(error)
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// A URL as it may be shown: without user and password.
pub(in crate::observe) fn shown(url: &Url) -> String {
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
