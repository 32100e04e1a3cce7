//! One connection: TLS if the web configuration has it, then requests. Each request needs a login where there are users.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::answer::{HttpResponse, unauthorized};
use super::basic_auth::Login;
use super::caller::Caller;
use super::guard::Guard;
use super::routes::App;
use crate::subject::{InvariantChecker, Subject};
use crate::text::hex;

/// How long a TLS handshake may take. Prometheus takes milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may read nothing of an answer, which stays in memory meanwhile. By default, Prometheus gives a whole
/// scrape no more.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest request head in bytes. Browsers with cookies and proxies stay far below.
const MOST_HEAD: usize = 32 * 1024;

/// The most header lines of a request.
const MOST_HEADERS: usize = 100;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Serving<S, C> {
    /// What the present configuration serves.
    pub(super) app: watch::Receiver<Arc<App<S, C>>>,
    pub(super) guard: Arc<Guard>,
    pub(super) read_timeout: Duration,
    /// When cancelled, answers under way are finished and no further request is read.
    pub(super) shutdown: CancellationToken,
}

impl<S: Subject + 'static, C: InvariantChecker + 'static> Serving<S, C> {
    /// Serves one client until it disconnects, breaks a limit, or the server shuts down.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let stream = Box::pin(stream);
        let mut caller = Caller::at(peer);
        let Some(tls) = self.guard.terms().await.tls.clone() else {
            return self.speak(stream, caller).await;
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let stream = tokio::select! {
            done = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%peer, "TLS handshake: {error}"),
                Err(_) => return tracing::debug!(%peer, "TLS handshake: not done within {HANDSHAKE_TIMEOUT:?}"),
            },
            () = self.shutdown.cancelled() => return,
        };
        let chain = stream.get_ref().1.peer_certificates();
        caller.certificate = chain
            .and_then(<[_]>::first)
            .map(|certificate| hex(&Sha256::digest(certificate)));
        self.speak(Box::pin(stream), caller).await;
    }

    /// Serves the client at the other end of `stream`.
    pub(super) async fn speak<IO>(self: Arc<Self>, stream: Pin<Box<IO>>, caller: Caller)
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let peer = caller.peer;
        let shutdown = self.shutdown.clone();
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_headers(MOST_HEADERS)
            .max_buf_size(MOST_HEAD);
        let service = service_fn(move |request| {
            let (serving, caller) = (Arc::clone(&self), caller.clone());
            async move { Ok::<_, Infallible>(serving.answer(request, caller).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "a connection ended early: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>, mut caller: Caller) -> HttpResponse {
        // Asked for each request, so that a user who was removed is refused at once, also on an old connection.
        if let Some(users) = &self.guard.terms().await.users {
            let login = users.login(request.headers().get(AUTHORIZATION)).await;
            self.guard.count(&login);
            let Login::Admitted(user) = login else {
                // The name is not logged: it may be a password in the wrong field.
                tracing::debug!(peer = %caller.peer, "login refused");
                return unauthorized();
            };
            caller.user = Some(user);
        }
        let app = Arc::clone(&self.app.borrow());
        app.answer(request, &caller).await
    }
}
