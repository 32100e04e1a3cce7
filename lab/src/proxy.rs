//! A TCP proxy on loopback that cuts, stalls, dribbles and delays the network on request.
//!
//! It does not know what passes through. It neither loses nor changes bytes: TCP does not do that either.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What the proxy does with what passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Accepts connections and moves nothing, on old ones and new ones. What was held back flows
    /// again on the return to [`Mode::Pass`], as after a network that was down.
    Hang,
    /// Cuts all connections and refuses new ones: nothing listens on the port.
    Refuse,
    /// Passes every chunk on this much later, in each direction.
    Delay(Duration),
    /// Answers every connection with a reset (RST), old ones at once and new ones when they first ask.
    Reset,
    /// Passes this many bytes of the next answer on, then closes the connection in an orderly way.
    Truncate(usize),
    /// Passes this many bytes of the next answer on, then holds back the rest as [`Mode::Hang`] does.
    Stall(usize),
    /// Passes answers on in packets of one byte.
    OneByte,
}

/// A running proxy; dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// Of connections from now on.
    target: std::sync::Mutex<String>,
    mode: watch::Sender<Mode>,
    /// The task that accepts connections, or else the socket that keeps the port.
    acceptor: Mutex<(Option<AbortOnDropHandle<()>>, Option<TcpSocket>)>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes connections on to `target` (`HOST:PORT`).
    pub async fn start(target: impl Into<String>) -> anyhow::Result<Self> {
        let target = target.into();
        // Not an ephemeral port: after it refused, it listens on the same port again.
        let listener = TcpListener::bind(("127.0.0.1", crate::ports::free_port())).await?;
        let address = listener.local_addr()?;
        let mode = watch::Sender::new(Mode::Pass);
        let acceptor = spawn_acceptor(listener, target.clone(), mode.subscribe());
        Ok(Self {
            address,
            target: std::sync::Mutex::new(target),
            mode,
            acceptor: Mutex::new((Some(acceptor), None)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `SCHEME://127.0.0.1:PORT`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Cuts all connections; new ones go to `target`.
    pub async fn lead_to(&self, target: impl Into<String>) -> anyhow::Result<()> {
        let mode = *self.mode.borrow();
        *self.target.lock().expect("nothing panics with the target") = target.into();
        self.set(Mode::Refuse).await?;
        self.set(mode).await
    }

    /// Changes what it does; in force when this returns.
    pub async fn set(&self, mode: Mode) -> anyhow::Result<()> {
        let (acceptor, kept) = &mut *self.acceptor.lock().await;
        self.mode.send_replace(mode);
        if mode == Mode::Refuse {
            if let Some(task) = acceptor.take() {
                task.abort();
                // Only once the task is gone is its listener closed.
                let _ = task.await;
                // A process that is being started holds copies of all open files until it runs its own program.
                let free = || async { keep(self.address).ok() };
                let free = crate::wait_for_some(Duration::from_secs(10), free).await;
                *kept = Some(free.with_context(|| format!("cannot keep {}", self.address))?);
            }
        } else if let Some(socket) = kept.take() {
            let listener = socket
                .set_reuseaddr(true)
                .and_then(|()| socket.listen(1024));
            let listener =
                listener.with_context(|| format!("cannot listen on {} again", self.address))?;
            let target = self.target.lock().expect("nothing panics with the target");
            let mode = self.mode.subscribe();
            *acceptor = Some(spawn_acceptor(listener, target.clone(), mode));
        }
        Ok(())
    }
}

/// Keeps the port while nothing listens there: connections are refused, and no other process takes it.
fn keep(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections that were cut may linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // From here on nobody else can bind it, also not by reuse.
    socket.set_reuseaddr(false)?;
    Ok(socket)
}

/// The task owns its connections: aborting it cuts them.
fn spawn_acceptor(
    listener: TcpListener,
    target: String,
    mode: watch::Receiver<Mode>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    connections.spawn(relay(client, target.clone(), mode.clone()));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }))
}

async fn relay(mut client: TcpStream, target: String, mut mode: watch::Receiver<Mode>) {
    if flowing(&mut mode).await == Mode::Reset {
        let _ = client.readable().await;
        let _ = client.set_zero_linger();
        return;
    }
    // A target that refuses looks to the client like a connection that is closed at once.
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let requests = pump(client_read, server_write, mode.clone(), false);
    let answers = pump(server_read, client_write, mode.clone(), true);
    let reset = tokio::select! {
        ((), ()) = async { tokio::join!(requests, answers) } => false,
        _ = mode.wait_for(|mode| *mode == Mode::Reset) => true,
    };
    if reset {
        let _ = client.set_zero_linger();
    }
}

/// One direction, until its source ends; the end is passed on. What is done to answers is not done to requests.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    answers: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = from.read(&mut buffer).await {
        let chunk = &buffer[..length];
        let now = flowing(&mut mode).await;
        let sent = match now {
            Mode::Delay(delay) => {
                tokio::time::sleep(delay).await;
                // The mode may have changed to Hang while this chunk was under way.
                flowing(&mut mode).await;
                to.write_all(chunk).await
            }
            Mode::Truncate(most) if answers => {
                let _ = to.write_all(&chunk[..most.min(length)]).await;
                break;
            }
            Mode::Stall(most) if answers => {
                let (first, rest) = chunk.split_at(most.min(length));
                let sent = to.write_all(first).await;
                // Until the mode changes.
                let _ = mode.wait_for(|mode| *mode != now).await;
                flowing(&mut mode).await;
                sent.and(to.write_all(rest).await)
            }
            Mode::OneByte if answers => byte_by_byte(&mut to, chunk).await,
            _ => to.write_all(chunk).await,
        };
        if length == 0 || sent.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn byte_by_byte(to: &mut (impl AsyncWrite + Unpin), chunk: &[u8]) -> std::io::Result<()> {
    for byte in chunk {
        to.write_all(std::slice::from_ref(byte)).await?;
        // So that the reader gets it alone.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Waits until bytes may move, and says how.
async fn flowing(mode: &mut watch::Receiver<Mode>) -> Mode {
    let found = mode.wait_for(|mode| *mode != Mode::Hang).await;
    let Some(mode) = found.ok().map(|mode| *mode) else {
        // The proxy is gone, and this task is about to be.
        return std::future::pending().await;
    };
    mode
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(100);

    /// A server that sends everything back.
    async fn echo() -> (String, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (address, AbortOnDropHandle::new(task))
    }

    async fn ping(stream: &mut TcpStream, patience: Duration) -> Option<u8> {
        stream.write_u8(7).await.ok()?;
        let answer = tokio::time::timeout(patience, stream.read_u8());
        answer.await.ok()?.ok()
    }

    #[tokio::test]
    async fn hanging_holds_back_and_lets_go_again() {
        let (target, _echo) = echo().await;
        let proxy = Proxy::start(target).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ping(&mut old, SOON).await, Some(7));

        proxy.set(Mode::Hang).await.unwrap();
        assert_eq!(ping(&mut old, A_WHILE).await, None);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ping(&mut new, A_WHILE).await, None);

        proxy.set(Mode::Pass).await.unwrap();
        let held_back = tokio::time::timeout(SOON, old.read_u8()).await.unwrap();
        assert_eq!(held_back.unwrap(), 7);
        let held_back = tokio::time::timeout(SOON, new.read_u8()).await.unwrap();
        assert_eq!(held_back.unwrap(), 7);
    }

    #[tokio::test]
    async fn refusing_cuts_old_connections_and_listens_again_on_the_same_port() {
        let (target, _echo) = echo().await;
        let proxy = Proxy::start(target).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ping(&mut old, SOON).await, Some(7));

        proxy.set(Mode::Refuse).await.unwrap();
        let cut = tokio::time::timeout(SOON, old.read_u8()).await.unwrap();
        assert!(cut.is_err());
        assert!(TcpStream::connect(proxy.address()).await.is_err());

        proxy.set(Mode::Pass).await.unwrap();
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ping(&mut new, SOON).await, Some(7));
    }

    #[tokio::test]
    async fn a_proxy_that_leads_elsewhere_cuts_what_led_to_the_first_target() {
        let (first, _echo) = echo().await;
        let proxy = Proxy::start(first).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ping(&mut old, SOON).await, Some(7));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = listener.local_addr().unwrap().to_string();
        proxy.lead_to(second).await.unwrap();
        let cut = tokio::time::timeout(SOON, old.read_u8()).await.unwrap();
        assert!(cut.is_err());
        let _new = TcpStream::connect(proxy.address()).await.unwrap();
        let arrived = tokio::time::timeout(SOON, listener.accept()).await;
        assert!(arrived.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_delay_counts_in_each_direction() {
        let (target, _echo) = echo().await;
        let proxy = Proxy::start(target).await.unwrap();
        proxy.set(Mode::Delay(A_WHILE)).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let started = crate::clock::instant();
        assert_eq!(ping(&mut stream, SOON).await, Some(7));
        assert!(started.elapsed() >= 2 * A_WHILE);
    }

    #[tokio::test]
    async fn a_reset_is_one_for_old_connections_and_new_ones() {
        let (target, _echo) = echo().await;
        let proxy = Proxy::start(target).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ping(&mut old, SOON).await, Some(7));

        proxy.set(Mode::Reset).await.unwrap();
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        new.write_u8(7).await.unwrap();
        for stream in [&mut old, &mut new] {
            let read = tokio::time::timeout(SOON, stream.read_u8()).await.unwrap();
            assert_eq!(
                read.unwrap_err().kind(),
                std::io::ErrorKind::ConnectionReset
            );
        }
    }

    #[tokio::test]
    async fn answers_are_truncated_stalled_and_dribbled() {
        let (target, _echo) = echo().await;
        let proxy = Proxy::start(target).await.unwrap();
        let asked = async || {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream
        };
        let mut answer = [0; 5];

        proxy.set(Mode::OneByte).await.unwrap();
        let mut stream = asked().await;
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");

        proxy.set(Mode::Truncate(2)).await.unwrap();
        let mut all = Vec::new();
        asked().await.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"he");

        proxy.set(Mode::Stall(2)).await.unwrap();
        let mut stream = asked().await;
        stream.read_exact(&mut answer[..2]).await.unwrap();
        assert!(
            tokio::time::timeout(A_WHILE, stream.read_u8())
                .await
                .is_err()
        );
        proxy.set(Mode::Pass).await.unwrap();
        stream.read_exact(&mut answer[2..]).await.unwrap();
        assert_eq!(&answer, b"hello");
    }
}
