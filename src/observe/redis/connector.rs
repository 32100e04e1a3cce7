//! A connection to Redis that is replaced after a failure, and whose answers are bounded: in time by timeouts, in
//! size by the stream itself, so that whatever answers at the other end cannot fill our memory.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError,
    RedisResult, Value,
};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader, ReadBuf,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::observation::Reason;
use crate::observe::certificate_hint::certificate_hint;
use crate::observe::redis::address::is_socket;
use crate::observe::redis::deployment::{Access, TlsAccess};
use crate::observe::redis::errors::{RedisFailure, breaks};
use crate::observe::redis::greeting::{LONGEST_LINE, greet};
use crate::observe::redis::peer::Peer;

/// The most that may come in after a request went out. The largest answers are those of pipelines of SCAN, some
/// thousand keys of a few kilobytes each at worst.
const MOST_ANSWER: usize = 64 * 1024 * 1024;

/// How long a server that hung up is given to say why, and one that is perhaps no Redis to show what it is.
const DIAGNOSIS: Duration = Duration::from_millis(200);

/// A connection that is replaced after a failure.
#[derive(Debug)]
pub(in crate::observe) struct Connector {
    access: Arc<Access>,
    address: String,
    open: Option<Open>,
    on_push: Option<OnPush>,
    /// Reads from a replica of a cluster.
    readonly: bool,
}

/// What is done with what Redis pushes.
#[derive(Clone)]
struct OnPush(Arc<dyn Fn(PushInfo) + Send + Sync>);

impl fmt::Debug for OnPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnPush")
    }
}

/// A connection and the task that drives it, which ends with it.
#[derive(Debug)]
struct Open {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connector {
    /// A connector to `address`, a `host:port` or the path of a socket.
    pub(in crate::observe) fn new(access: Arc<Access>, address: &str) -> Self {
        Self {
            access,
            address: address.to_owned(),
            open: None,
            on_push: None,
            readonly: false,
        }
    }

    /// A connector whose connections may read what a replica of a cluster holds.
    pub(in crate::observe) fn readonly(access: Arc<Access>, address: &str) -> Self {
        Self {
            readonly: true,
            ..Self::new(access, address)
        }
    }

    /// A connector whose connections speak RESP3 and hand what Redis pushes to `on_push`.
    pub(in crate::observe) fn listening(
        access: Arc<Access>,
        address: &str,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Self {
        Self {
            on_push: Some(OnPush(Arc::new(on_push))),
            ..Self::new(access, address)
        }
    }

    /// PING on the connection there is, or on a new one if there is none. A broken one is dropped, not replaced.
    pub(in crate::observe) async fn ping_once(&mut self) -> RedisResult<MultiplexedConnection> {
        let (mut connection, _) = self.get().await?;
        let answer: RedisResult<Value> = redis::cmd("PING").query_async(&mut connection).await;
        if let Err(error) = answer {
            self.open = None;
            return Err(error);
        }
        Ok(connection)
    }

    /// The connection, made now if there is none. The flag says whether it was used before.
    pub(in crate::observe) async fn get(&mut self) -> RedisResult<(MultiplexedConnection, bool)> {
        if let Some(open) = &self.open {
            return Ok((open.connection.clone(), true));
        }
        // On the heap: TLS makes it large, and many of these futures are held by others.
        let connect = Box::pin(self.connect());
        let open = tokio::time::timeout(self.access.timeout, connect).await;
        let open = match open {
            Ok(Err(error)) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                return Err(Box::pin(self.why_dropped()).await.unwrap_or(error));
            }
            Ok(open) => open?,
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let connection = open.connection.clone();
        self.open = Some(open);
        Ok((connection, false))
    }

    /// Why the server hangs up, if that can be seen.
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

    /// Why Redis hangs up on everybody new, if it says so: it has too many clients, or is in protected mode. It says that
    /// before it is asked anything, so whoever asks at once mostly gets to know only that the connection is gone.
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
        let open = if is_socket(&self.address) {
            self.begin(UnixStream::connect(&self.address).await?)
                .await?
        } else {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            match &self.access.tls {
                None => self.begin(stream).await?,
                Some(tls) => self.begin(self.shake_hands(tls, stream).await?).await?,
            }
        };
        if self.readonly {
            let mut connection = open.connection.clone();
            let answer: RedisResult<Value> =
                redis::cmd("READONLY").query_async(&mut connection).await;
            // A server that is no node of a cluster says so, and its replicas are read as they are. Whether it matters that
            // it may not be asked for, the reader of a replica finds out.
            if let Err(error) = answer
                && !matches!(error.kind(), ErrorKind::Server(_))
            {
                return Err(error);
            }
        }
        Ok(open)
    }

    /// How long another connection may take that only shows what went wrong with the one before.
    fn patience(&self) -> Duration {
        DIAGNOSIS.min(self.access.timeout / 4)
    }

    async fn shake_hands(
        &self,
        tls: &TlsAccess,
        stream: TcpStream,
    ) -> RedisResult<TlsStream<TcpStream>> {
        let name = tls.name_at(&self.address).map_err(|why| tls_failed(&why))?;
        let shaken = tls.connector().connect(name, stream);
        let speaks_plainly = async || {
            let peer = Peer::plainly_at(&self.address, self.patience()).await;
            peer.filter(|peer| *peer != Peer::Tls)
        };
        // A Redis without TLS takes the handshake for the beginning of a long line, and waits for its end.
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
        // What is refused in the language of TLS is refused by somebody who speaks it.
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
        if let Some(OnPush(on_push)) = self.on_push.clone() {
            settings = settings.set_protocol(ProtocolVersion::RESP3);
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), SendError>(())
            });
        }
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        let driver = tokio::spawn(driver);
        Ok(Open { connection, driver })
    }

    /// The connection, if there is one: while it lasts, Redis was not restarted.
    pub(in crate::observe) fn current(&self) -> Option<MultiplexedConnection> {
        self.open.as_ref().map(|open| open.connection.clone())
    }

    /// Drops the connection; the next use makes a new one.
    pub(in crate::observe) fn replace(&mut self) {
        self.open = None;
    }

    /// Drops the connection if `error` says that it is of no use any more.
    pub(in crate::observe) fn note(&mut self, error: &RedisError) {
        if breaks(error) {
            self.open = None;
        }
    }

    /// A connection on which PING was answered well, and how long that took.
    ///
    /// A connection that broke since it was last used is replaced at once: that Redis restarted in between is no
    /// reason to call it disconnected now.
    pub(in crate::observe) async fn ping(
        &mut self,
    ) -> Result<(MultiplexedConnection, Duration), RedisFailure> {
        loop {
            let mut reused = false;
            let timeout = self.access.timeout;
            let attempt = tokio::time::timeout(timeout, async {
                let (mut connection, was_used) = self.get().await?;
                reused = was_used;
                let started = Instant::now();
                let answer: Value = redis::cmd("PING").query_async(&mut connection).await?;
                RedisResult::Ok((connection, started.elapsed(), answer))
            });
            match attempt.await {
                Ok(Ok((connection, took, Value::SimpleString(pong)))) if pong == "PONG" => {
                    return Ok((connection, took));
                }
                Ok(Ok((_, _, answer))) => {
                    self.open = None;
                    return Err(RedisFailure {
                        reason: Reason::RedisError,
                        message: format!(
                            "PING {}: answered {answer:?}, expected PONG",
                            self.address
                        ),
                    });
                }
                Ok(Err(error)) => {
                    self.note(&error);
                    let broke = self.open.is_none() && !error.is_timeout();
                    if !(reused && broke) {
                        let what = format!("PING {}", self.address);
                        return Err(RedisFailure::of(&what, &error));
                    }
                }
                Err(_) => {
                    self.open = None;
                    return Err(RedisFailure {
                        reason: Reason::Timeout,
                        message: format!("PING {}: no answer within {timeout:?}", self.address),
                    });
                }
            }
        }
    }
}

fn tls_failed(why: &str) -> RedisError {
    let failure = RedisFailure {
        reason: Reason::Tls,
        message: format!("TLS handshake: {why}"),
    };
    failure.into()
}

/// A stream that ends with an error when too much comes in after the last write.
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
