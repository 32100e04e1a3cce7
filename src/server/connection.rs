//! One connection: TLS if the terms ask for it, then requests, each of somebody who may make it.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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

use super::basic_auth::Login;
use super::guard::Guard;
use super::routes::{Answer, App, too_many_logins, unauthorized};
use super::tls::Demands;
use crate::subject::Subject;

/// How long a client may take for the TLS handshake, which Prometheus does in milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take none of an answer: a slow reader holds it in memory, but not for ever. Prometheus gives a
/// whole scrape no more by default.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest request head. Browsers with their cookies and proxies with their additions stay far below.
const MOST_HEAD: usize = 32 * 1024;

/// The most header lines.
const MOST_HEADERS: usize = 100;

/// Who makes a request, as far as that is known.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    peer: SocketAddr,
    certificate: Option<String>,
    user: Option<String>,
}

impl Caller {
    /// Of whom nothing is known but where it is.
    pub(super) fn at(peer: SocketAddr) -> Self {
        Self {
            peer,
            certificate: None,
            user: None,
        }
    }

    /// Whether it showed who it is: by a password, or by a certificate, which was verified then.
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

/// What a connection needs to be served.
#[derive(Debug)]
pub(super) struct Serving<S> {
    pub(super) app: watch::Receiver<Arc<App<S>>>,
    pub(super) guard: Guard,
    pub(super) read_timeout: Duration,
    /// Answers under way are finished, and no more.
    pub(super) shutdown: CancellationToken,
    /// Nothing is finished any more.
    pub(super) abort: CancellationToken,
}

impl<S> Clone for Serving<S> {
    fn clone(&self) -> Self {
        Self {
            app: self.app.clone(),
            guard: self.guard.clone(),
            read_timeout: self.read_timeout,
            shutdown: self.shutdown.clone(),
            abort: self.abort.clone(),
        }
    }
}

impl<S: Subject + 'static> Serving<S> {
    /// Serves one client until it, or the server, has had enough.
    pub(super) async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let stream = Box::pin(stream);
        let mut caller = Caller::at(peer);
        let Some(tls) = self.guard.terms().await.tls.clone() else {
            return self.speak(stream, caller, None).await;
        };
        let handshake = TlsAcceptor::from(tls.config).accept(stream);
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
            .map(|certificate| format!("{:x}", Bytes::from_owner(Sha256::digest(certificate))));
        let stream = Box::pin(stream);
        self.speak(stream, caller, Some(tls.demands)).await;
    }

    /// Serves who is at the other end of `stream`, over a connection that met these demands, or none if it is without TLS.
    pub(super) async fn speak<IO>(
        self,
        stream: Pin<Box<IO>>,
        caller: Caller,
        met: Option<Arc<Demands>>,
    ) where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let peer = caller.peer;
        let (shutdown, abort) = (self.shutdown.clone(), self.abort.clone());
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_headers(MOST_HEADERS)
            .max_buf_size(MOST_HEAD);
        let service = service_fn(move |request| {
            let (serving, caller, met) = (self.clone(), caller.clone(), met.clone());
            async move { serving.answer(request, caller, met.as_deref()).await }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = abort.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, "a connection ended early: {error}");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        mut caller: Caller,
        met: Option<&Demands>,
    ) -> Result<Answer, Outdated> {
        // Asked anew for each request: a user who was removed is out at once, also on an old connection.
        let terms = self.guard.terms().await;
        if !terms.admit(met) {
            return Err(Outdated);
        }
        if let Some(users) = &terms.users {
            let authorization = request.headers().get(AUTHORIZATION);
            let login = users.login(caller.peer, authorization).await;
            self.guard.count(&login);
            match login {
                Login::Admitted(user) => caller.user = Some(user),
                refused => {
                    // Not the name: it may be a password, typed into the wrong field.
                    tracing::debug!(peer = %caller.peer, "login refused");
                    return Ok(if refused == Login::Busy {
                        too_many_logins()
                    } else {
                        unauthorized()
                    });
                }
            }
        }
        let app = Arc::clone(&self.app.borrow());
        Ok(app.answer(request, &caller).await)
    }
}

/// The connection was accepted under terms that asked for less. It is closed without an answer, which clients take for one
/// that was idle for too long: they connect anew, if they may.
#[derive(Debug, thiserror::Error)]
#[error("it was accepted under terms that asked for less than today's")]
struct Outdated;
