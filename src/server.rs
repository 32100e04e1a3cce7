//! Serves what was collected, with hyper. Binds first, so that errors show before anything runs; ends gracefully.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod page;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::subject::Subject;
pub use routes::{App, ResetCounter};

/// Connections served at once. Prometheus keeps one; the rest is people, and people who hold on.
const MOST_CONNECTIONS: usize = 512;

/// How long a client may take to send a request head, idling between requests included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a client may take none of an answer: a slow reader holds it in memory, but not for ever. Prometheus gives a
/// whole scrape no more by default.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long answers under way may take once the end was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// A server that is bound, not yet running.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds `listen`.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        Ok(Self { listener })
    }

    /// Where it listens: of use when it was bound to port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `app` until `shutdown`, then drains.
    pub async fn run<S: Subject + 'static>(self, app: Arc<App<S>>, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let abort = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = async {
                    // The semaphore is never closed.
                    let place = Arc::clone(&places).acquire_owned().await;
                    (self.listener.accept().await, place)
                } => accepted,
            };
            let (stream, place) = match accepted {
                (Ok((stream, _)), place) => (stream, place),
                (Err(error), _) => {
                    // Out of file descriptors, most likely: wait for some to come back.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let app = Arc::clone(&app);
            let (shutdown, abort) = (shutdown.clone(), abort.clone());
            connections.spawn(async move {
                let _place = place;
                let service = service_fn(move |request| {
                    let app = Arc::clone(&app);
                    async move { app.answer(request).await }
                });
                let mut stream = TimeoutStream::new(stream);
                stream.set_write_timeout(Some(WRITE_TIMEOUT));
                let stream = Box::pin(stream);
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
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
                    tracing::debug!("a connection ended early: {error}");
                }
            });
        }
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait())
            .await
            .is_err()
        {
            abort.cancel();
            connections.wait().await;
        }
    }
}
