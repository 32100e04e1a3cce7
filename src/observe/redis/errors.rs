//! What Redis's errors and those of the way to it mean: a named reason, words to show, and what to do about them.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::observation::{Collector, Failure, Reason};

/// A failure of Redis, named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(in crate::observe) struct RedisFailure {
    pub(in crate::observe) reason: Reason,
    pub(in crate::observe) message: String,
}

impl RedisFailure {
    /// What came of `what`: the command and the server.
    pub(in crate::observe) fn of(what: &str, error: &RedisError) -> Self {
        Self {
            reason: reason_of(error),
            message: format!("{what}: {}", words_of(error)),
        }
    }

    /// About `collector`, as it is counted.
    pub(in crate::observe) fn counted(self, collector: Collector, subject: &str) -> Failure {
        Failure::new(collector, subject, self.reason, self.message)
    }
}

impl From<RedisFailure> for RedisError {
    /// As an error of the connection, which it is to all who branch on it.
    fn from(failure: RedisFailure) -> Self {
        std::io::Error::other(failure).into()
    }
}

type StdError = dyn std::error::Error + Send + Sync;

/// What an error is about, if it was one of ours when it began.
fn ours(error: &RedisError) -> Option<&RedisFailure> {
    // The library's source is the pointer that it keeps the error behind.
    let source = std::error::Error::source(error)?.downcast_ref::<Arc<StdError>>()?;
    let error = source.downcast_ref::<std::io::Error>()?;
    error.get_ref()?.downcast_ref()
}

/// What Redis said, in its own words; of what it did not say, the library's.
fn words_of(error: &RedisError) -> String {
    if let Some(ours) = ours(error) {
        return ours.message.clone();
    }
    match (error.kind(), error.code(), error.detail()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), Some(detail)) => {
            format!("{code} {detail}")
        }
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    }
}

/// Whether Redis wants a login on a connection that had none, or has lost it.
pub(in crate::observe) fn wants_login(error: &RedisError) -> bool {
    error.code() == Some("NOAUTH")
}

/// The closed reason for what Redis or the way to it said.
pub(in crate::observe) fn reason_of(error: &RedisError) -> Reason {
    if let Some(ours) = ours(error) {
        return ours.reason;
    }
    match error.kind() {
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading => Reason::Loading,
            ServerErrorKind::ReadOnly => Reason::Readonly,
            ServerErrorKind::MasterDown => Reason::Masterdown,
            ServerErrorKind::ClusterDown => Reason::Clusterdown,
            ServerErrorKind::NoPerm => Reason::Noperm,
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain => {
                Reason::Resharding
            }
            _ => by_code(error),
        },
        ErrorKind::AuthenticationFailed => Reason::Auth,
        // The parser tells an answer that ended early as one that it cannot read.
        ErrorKind::Parse if error.to_string().contains("end of input") => Reason::Truncated,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Reason::RedisError,
        ErrorKind::Extension => by_code(error),
        _ if error.is_timeout() => Reason::Timeout,
        ErrorKind::Io if error.to_string().contains("larger than") => Reason::TooLarge,
        // With TLS 1.3 a server refuses our certificate when the handshake is over for us.
        ErrorKind::Io if error.to_string().contains("received fatal alert") => Reason::Tls,
        _ if error.is_connection_refusal() => Reason::Refused,
        ErrorKind::Io if error.to_string().contains("lookup address") => Reason::Dns,
        ErrorKind::Io if error.is_connection_dropped() => Reason::Truncated,
        _ => Reason::Network,
    }
}

fn by_code(error: &RedisError) -> Reason {
    match error.code() {
        Some("OOM") => Reason::Oom,
        Some("NOAUTH" | "WRONGPASS") => Reason::Auth,
        Some("WRONGTYPE") => Reason::WrongType,
        Some("BUSY") => Reason::Busy,
        _ => Reason::RedisError,
    }
}

/// Whether `error` makes the connection useless: it is one of the connection rather than an answer, or the answer that it
/// has to log in, which connections do when they begin.
pub(in crate::observe) fn breaks(error: &RedisError) -> bool {
    !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) || wants_login(error)
}

/// Whether `error` says that the key is elsewhere, or on its way.
pub(in crate::observe) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain
        )
    )
}

/// Whether `error` means that the key could not be asked for, rather than what it is.
pub(in crate::observe) fn is_unserved(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
        ),
        ErrorKind::Extension => false,
        _ => true,
    }
}

/// There is no connection.
pub(in crate::observe) fn not_connected() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}
