//! Serves what was collected over HTTP, with hyper. It binds first, so that errors show before anything runs, and it shuts
//! down gracefully. `connection` serves one client, `guard` decides who may connect, `routes` answers each path.

mod admin;
mod answer;
mod api;
mod basic_auth;
mod caller;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod page;
mod routes;
mod target;
mod tls;
mod web_file;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::subject::{InvariantChecker, Subject};
pub use admin::Admin;
use connection::Serving;
pub use guard::Guard;
pub use routes::{App, ReloadRequest};

/// How long answers under way may take after the shutdown began.
const DRAIN: Duration = Duration::from_secs(10);

/// Connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 1024;

/// A server that is bound but does not run yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    guard: Arc<Guard>,
    connections: usize,
    read_timeout: Duration,
}

impl Server {
    /// Binds `listen`. `[::]` is every address of IPv6 and IPv4; on a machine without IPv6, every address of IPv4.
    ///
    /// It will serve so many `connections` at once; those beyond wait in the kernel's queue. The head of a request may take
    /// the `read_timeout`, with the idle time before it, and so may its body.
    pub async fn bind(
        listen: SocketAddr,
        guard: Arc<Guard>,
        connections: usize,
        read_timeout: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: bind(listen).await?,
            guard,
            connections,
            read_timeout,
        })
    }

    /// The address that it listens on, which port 0 does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then drains. The current `app` answers each request.
    pub async fn run<S: Subject + 'static, C: InvariantChecker + 'static>(
        self,
        app: watch::Receiver<Arc<App<S, C>>>,
        shutdown: CancellationToken,
    ) {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(self.connections));
        let serving = Arc::new(Serving {
            app,
            guard: self.guard,
            read_timeout: self.read_timeout,
            shutdown: shutdown.clone(),
        });
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = async {
                    // The semaphore is never closed.
                    let place = Arc::clone(&places).acquire_owned().await;
                    (self.listener.accept().await, place)
                } => accepted,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                (Ok((stream, peer)), place) => {
                    let serving = Arc::clone(&serving);
                    connections.spawn(async move {
                        let _place = place;
                        // A socket for both gives an IPv4 client an IPv6 address.
                        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                        serving.serve(stream, peer).await;
                    });
                }
                (Err(error), _) => {
                    // Most likely there are no file descriptors left: wait until some are closed.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // A refused connection is better than one that the kernel accepts and nobody answers.
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            connections.shutdown().await;
        }
    }
}

async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    if listen.ip() != Ipv6Addr::UNSPECIFIED {
        return TcpListener::bind(listen).await;
    }
    match bind_both(listen) {
        Err(error) if is_without_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port())).await
        }
        bound => bound,
    }
}

/// A socket for IPv6 and IPv4, whatever the system's default is.
fn bind_both(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

/// Whether the kernel was built without IPv6, or has it switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_serves_ipv4_with_and_without_ipv6() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut hosts = vec!["127.0.0.1"];
        if listener.local_addr().unwrap().is_ipv6() {
            hosts.push("::1");
        }
        for host in hosts {
            let (one, other) = tokio::join!(
                tokio::net::TcpStream::connect((host, port)),
                listener.accept()
            );
            one.and(other).unwrap();
        }
        assert!(is_without_ipv6(&Errno::AFNOSUPPORT.into()));
        assert!(!is_without_ipv6(&Errno::ADDRINUSE.into()));
    }
}
