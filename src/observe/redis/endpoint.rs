//! Makes one connection to a Redis server: TCP or a Unix socket, TLS, login, and the first command. Bounds the size of
//! answers. If the connection fails, finds out why. `connector` keeps connections.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, Cmd, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError,
    RedisResult, Value,
};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, ReadBuf,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::observation::Reason;
use crate::observe::certificate_hint::certificate_hint;
use crate::observe::redis::address::is_socket;
use crate::observe::redis::deployment::{Access, Tls};
use crate::observe::redis::errors::{RedisFailure, breaks};
use crate::observe::redis::greeting::{LONGEST_LINE, greet};
use crate::observe::redis::peer::Peer;

/// How many bytes may arrive after a request was sent. Pipelines of SCAN have the largest answers: some thousand keys of a
/// few kilobytes each at worst.
const MOST_ANSWER: usize = 64 * 1024 * 1024;

/// How long to wait for a server's reason after it closed the connection, and for the first bytes of a server that may not
/// be Redis.
const DIAGNOSIS: Duration = Duration::from_millis(200);

/// Where a connection leads, and how it is made.
pub(in crate::observe) struct Endpoint {
    pub(in crate::observe) access: Arc<Access>,
    /// A `host:port`, or the path of a socket.
    pub(in crate::observe) address: String,
    /// The first command on each connection.
    pub(in crate::observe) first: Option<Cmd>,
    /// Receives what Redis pushes. If set, the connection speaks RESP3.
    pub(in crate::observe) on_push: Option<OnPush>,
}

/// A function that receives what Redis pushes.
pub(in crate::observe) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.address)
    }
}

/// An open connection, and the task that drives it. The task ends with the last clone.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Open {
    pub(in crate::observe) connection: MultiplexedConnection,
    /// The error, if Redis refused the first command.
    pub(in crate::observe) refused: Option<RedisError>,
    used: Arc<AtomicBool>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Open {
    /// Whether this is the first call for this connection.
    pub(in crate::observe) fn is_first_use(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }
}

impl Endpoint {
    /// Makes a connection within the timeout, or says why there is none.
    pub(in crate::observe) async fn open(&self) -> RedisResult<Open> {
        // On the heap: TLS makes the future large.
        let connect = Box::pin(self.connect());
        match tokio::time::timeout(self.access.timeout, connect).await {
            Ok(Err(error)) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                Err(Box::pin(self.why_dropped()).await.unwrap_or(error))
            }
            Ok(open) => open,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Why the server hangs up, if that can be found out.
    async fn why_dropped(&self) -> Option<RedisError> {
        if self.access.tls.is_some() || is_socket(&self.address) {
            return None;
        }
        if let Some(said) = self.refusal().await {
            return Some(said);
        }
        let peer = Peer::securely_at(&self.address, self.patience()).await?;
        (peer == Peer::Tls).then(|| tls_failed(peer.hint()))
    }

    /// Why Redis hangs up on every new client, if it says so: it has too many clients, or is in protected mode. Redis sends
    /// that before the client asks anything. A client that writes at once mostly sees only a closed connection.
    async fn refusal(&self) -> Option<RedisError> {
        let mut line = Vec::new();
        let listen = async {
            let stream = TcpStream::connect(&self.address).await?;
            let mut stream = BufReader::new(stream).take(LONGEST_LINE);
            stream.read_until(b'\n', &mut line).await
        };
        tokio::time::timeout(self.patience(), listen)
            .await
            .ok()?
            .ok()?;
        match redis::parse_redis_value(&line) {
            Ok(Value::ServerError(error)) => Some(error.into()),
            _ => None,
        }
    }

    async fn connect(&self) -> RedisResult<Open> {
        let mut open = if is_socket(&self.address) {
            let stream = UnixStream::connect(&self.address).await?;
            self.begin(stream).await?
        } else {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            match &self.access.tls {
                None => self.begin(stream).await?,
                Some(tls) => self.begin(self.shake_hands(tls, stream).await?).await?,
            }
        };
        if let Some(first) = &self.first {
            let answer: RedisResult<Value> = first.query_async(&mut open.connection).await;
            match answer {
                Err(error) if breaks(&error) => return Err(error),
                answer => open.refused = answer.err(),
            }
        }
        Ok(open)
    }

    /// How long a second connection may take, which only finds out why the first one failed.
    fn patience(&self) -> Duration {
        DIAGNOSIS.min(self.access.timeout / 4)
    }

    async fn shake_hands(&self, tls: &Tls, stream: TcpStream) -> RedisResult<TlsStream<TcpStream>> {
        let name = tls.name_at(&self.address).map_err(|why| tls_failed(&why))?;
        let shaken = tls.connector().connect(name, stream);
        let speaks_plainly = async || {
            let peer = Peer::plainly_at(&self.address, self.patience()).await;
            peer.filter(|peer| *peer != Peer::Tls)
        };
        // A Redis without TLS reads the handshake as the beginning of a long line, and waits for the end of it.
        let no_handshake = async {
            tokio::time::sleep(self.access.timeout / 2).await;
            match speaks_plainly().await {
                Some(peer) => peer,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            shaken = shaken => match shaken {
                Ok(stream) => return Ok(stream),
                Err(error) => error.to_string(),
            },
            peer = no_handshake => return Err(tls_failed(peer.hint())),
        };
        if let Some(hint) = certificate_hint(&error) {
            return Err(tls_failed(&format!("{error}: {hint}")));
        }
        // A server that refuses with a TLS alert, or whose certificate was read, speaks TLS.
        let about_tls = ["certificate", "alert"]
            .iter()
            .any(|word| error.contains(word));
        let peer = if about_tls {
            None
        } else {
            speaks_plainly().await
        };
        let why = peer.map_or(error, |peer| peer.hint().to_owned());
        Err(tls_failed(&why))
    }

    async fn begin<S>(&self, stream: S) -> RedisResult<Open>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut stream = Bounded {
            inner: stream,
            left: MOST_ANSWER,
        };
        let mut config =
            AsyncConnectionConfig::new().set_response_timeout(Some(self.access.timeout));
        greet(&mut stream, &self.access, &self.address).await?;
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(on_push) = self.on_push.clone() {
            settings = settings.set_protocol(ProtocolVersion::RESP3);
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), SendError>(())
            });
        }
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        Ok(Open {
            connection,
            refused: None,
            used: Arc::default(),
            _driver: Arc::new(AbortOnDropHandle::new(tokio::spawn(driver))),
        })
    }
}

fn tls_failed(why: &str) -> RedisError {
    RedisFailure::new(Reason::Tls, format!("TLS handshake: {why}")).into()
}

/// A stream that fails when too many bytes arrive after the last write.
#[derive(Debug)]
struct Bounded<S> {
    inner: S,
    left: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the answer is larger than {MOST_ANSWER} bytes"),
            ))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.left = MOST_ANSWER;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
