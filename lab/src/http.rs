//! A small HTTP client for loopback: plain HTTP/1.1, bodies in memory, a deadline on everything.
//!
//! It leaves out TLS, redirects and pools: one connection to one address, opened again when the
//! server has closed it.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// The longest answer that is read: far above any honest one, far below the memory of a machine.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text, with whatever is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {:?} (status {})", self.text(), self.status))
    }
}

/// A connection to one address that is kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    address: String,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// The task that moves the bytes; ended with the connection.
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// A connection to `address` (`HOST:PORT`), opened by the first request.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            open: None,
        }
    }

    /// Sends a request and reads the whole answer, all within `timeout`. A connection that the
    /// server had closed in the meantime is opened anew, once.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> anyhow::Result<Answer> {
        let body = body.into();
        let reused = self
            .open
            .as_ref()
            .is_some_and(|open| !open.sender.is_closed());
        let exchange = async {
            match self.exchange(&method, path, body.clone()).await {
                Err(_) if reused => {
                    self.open = None;
                    self.exchange(&method, path, body).await
                }
                outcome => outcome,
            }
        };
        let outcome = tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer within {timeout:?}")));
        if outcome.is_err() {
            self.open = None;
        }
        outcome.with_context(|| format!("{method} http://{}{path}", self.address))
    }

    async fn exchange(
        &mut self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body))?;

        let open = match self.open.take().filter(|open| !open.sender.is_closed()) {
            Some(open) => self.open.insert(open),
            None => self.open.insert(connect(&self.address).await?),
        };
        open.sender.ready().await?;
        let (head, body) = open.sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|error| anyhow!("the answer is cut off or too long: {error}"))?;
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }
}

/// One request on a connection of its own.
pub async fn request(
    address: &str,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
    timeout: Duration,
) -> anyhow::Result<Answer> {
    Connection::new(address)
        .send(method, path, body, timeout)
        .await
}

/// [`request`] for a GET.
pub async fn get(address: &str, path: &str, timeout: Duration) -> anyhow::Result<Answer> {
    request(address, Method::GET, path, Bytes::new(), timeout).await
}

async fn connect(address: &str) -> anyhow::Result<Open> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move {
        // Its errors are the request's errors too, which reports them.
        let _ = connection.await;
    });
    Ok(Open {
        sender,
        _driver: AbortOnDropHandle::new(driver),
    })
}
