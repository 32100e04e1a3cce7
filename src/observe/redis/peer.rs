//! Recognizes which kind of server answers in place of Redis, by the first bytes of its answer, so that the error message
//! can suggest the right URL. Asks over a new connection, after the first one failed.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::credentials::trusting_nobody;

/// A kind of server, by its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::observe) enum Peer {
    /// Redis's protocol, without TLS.
    Redis,
    /// TLS.
    Tls,
    /// HTTP, without TLS.
    Http,
}

impl Peer {
    /// The kind of server whose answer begins with these bytes.
    pub(in crate::observe) fn of(answer: &[u8]) -> Option<Self> {
        match answer {
            [b'+' | b'-', ..] => Some(Self::Redis),
            // A record of the handshake, or an alert.
            [0x15 | 0x16, 0x03, ..] => Some(Self::Tls),
            _ => answer.starts_with(b"HTTP/").then_some(Self::Http),
        }
    }

    /// What is wrong, and which URL was probably meant.
    pub(in crate::observe) fn hint(self) -> &'static str {
        match self {
            Self::Redis => {
                "the server answers without TLS: a URL with redis:// was probably meant, not rediss://"
            }
            Self::Tls => "the server speaks TLS: a URL with rediss:// was probably meant",
            Self::Http => "the server speaks HTTP: it is not Redis",
        }
    }

    /// The kind of server that answers a plain PING at `address`.
    pub(in crate::observe) async fn plainly_at(address: &str, patience: Duration) -> Option<Self> {
        Self::answering(address, b"PING\r\n", patience).await
    }

    /// The kind of server that answers the first message of a TLS handshake at `address`.
    pub(in crate::observe) async fn securely_at(address: &str, patience: Duration) -> Option<Self> {
        Self::answering(address, &client_hello()?, patience).await
    }

    async fn answering(address: &str, question: &[u8], patience: Duration) -> Option<Self> {
        let ask = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(question).await?;
            // No answer of these servers is shorter.
            let mut answer = Vec::new();
            stream.take(5).read_to_end(&mut answer).await?;
            std::io::Result::Ok(Self::of(&answer))
        };
        tokio::time::timeout(patience, ask).await.ok()?.ok()?
    }
}

/// The first message of a TLS handshake. The answer's certificate is never read, so no authority is trusted.
fn client_hello() -> Option<Vec<u8>> {
    let config = Arc::new(trusting_nobody().ok()?);
    let name = ServerName::try_from("redis").ok()?;
    let mut hello = Vec::new();
    let mut connection = ClientConnection::new(config, name).ok()?;
    connection.write_tls(&mut hello).ok()?;
    Some(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_recognized_by_the_first_bytes_of_an_answer() {
        for (answer, peer) in [
            (&b"+PONG\r\n"[..], Some(Peer::Redis)),
            (b"-NOAUTH Authentication required.\r\n", Some(Peer::Redis)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Peer::Http)),
            (b"\x15\x03\x03\x00\x02\x02\x46", Some(Peer::Tls)),
            (b"\x16\x03\x03", Some(Peer::Tls)),
            (b"SSH-2.0-OpenSSH_9.2", None),
            (b"", None),
        ] {
            assert_eq!(Peer::of(answer), peer, "{answer:?}");
        }
        assert_eq!(Peer::of(&client_hello().unwrap()), Some(Peer::Tls));
    }
}
