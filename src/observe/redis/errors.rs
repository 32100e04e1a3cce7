//! Maps errors of Redis and of the connection to it to a named reason and a message, and says which of them break the
//! connection.

use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use crate::observation::{Collector, Failure, Reason};

/// A failure of Redis, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(in crate::observe) struct RedisFailure {
    pub(in crate::observe) reason: Reason,
    pub(in crate::observe) message: String,
}

impl RedisFailure {
    pub(in crate::observe) fn new(reason: Reason, message: String) -> Self {
        Self { reason, message }
    }

    /// The failure of `what`: the command and the server.
    pub(in crate::observe) fn of(what: &str, error: &RedisError) -> Self {
        Self::new(reason_of(error), format!("{what}: {}", words_of(error)))
    }

    /// The failure as it is counted for `collector`.
    pub(in crate::observe) fn counted(self, collector: Collector, subject: &str) -> Failure {
        Failure::new(collector, subject, self.reason, self.message)
    }
}

impl From<RedisFailure> for RedisError {
    /// Wraps it as an I/O error, so that callers treat it as an error of the connection.
    fn from(failure: RedisFailure) -> Self {
        std::io::Error::other(failure).into()
    }
}

type StdError = dyn std::error::Error + Send + Sync;

/// The [`RedisFailure`] that `error` was made from, if it was.
fn ours(error: &RedisError) -> Option<&RedisFailure> {
    // The library's `source` is the `Arc` around the error.
    let source = std::error::Error::source(error)?.downcast_ref::<Arc<StdError>>()?;
    let error = source.downcast_ref::<std::io::Error>()?;
    error.get_ref()?.downcast_ref()
}

/// Redis's own message if Redis answered, else the library's.
fn words_of(error: &RedisError) -> String {
    if let Some(ours) = ours(error) {
        return ours.message.clone();
    }
    // Only an answer of Redis has a code.
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// The reason for an error of Redis or of the connection to it.
pub(in crate::observe) fn reason_of(error: &RedisError) -> Reason {
    if let Some(ours) = ours(error) {
        return ours.reason;
    }
    if let Some(code) = error.code() {
        return by_code(code);
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => Reason::Auth,
        // The parser reports an answer that ended early as one that it cannot read.
        ErrorKind::Parse if error.to_string().contains("end of input") => Reason::Truncated,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Reason::RedisError,
        _ if error.is_timeout() => Reason::Timeout,
        ErrorKind::Io if error.to_string().contains("larger than") => Reason::TooLarge,
        // With TLS 1.3 a server refuses the client's certificate after the client has finished the handshake.
        ErrorKind::Io if error.to_string().contains("received fatal alert") => Reason::Tls,
        _ if error.is_connection_refusal() => Reason::Refused,
        ErrorKind::Io if error.to_string().contains("lookup address") => Reason::Dns,
        ErrorKind::Io if error.is_connection_dropped() => Reason::Truncated,
        _ => Reason::Network,
    }
}

/// The reason for an answer of Redis with this code.
fn by_code(code: &str) -> Reason {
    match code {
        "LOADING" => Reason::Loading,
        "READONLY" => Reason::Readonly,
        "MASTERDOWN" => Reason::Masterdown,
        "CLUSTERDOWN" => Reason::Clusterdown,
        "NOPERM" => Reason::Noperm,
        "MOVED" | "ASK" | "TRYAGAIN" => Reason::Resharding,
        "OOM" => Reason::Oom,
        "NOAUTH" | "WRONGPASS" => Reason::Auth,
        "WRONGTYPE" => Reason::WrongType,
        "BUSY" => Reason::Busy,
        _ => Reason::RedisError,
    }
}

/// Whether `error` makes the connection useless: it is an error of the connection, not an answer, or Redis requires a
/// login (the connection never logged in, or lost its login), which only a new connection does.
pub(in crate::observe) fn breaks(error: &RedisError) -> bool {
    matches!(error.code(), None | Some("NOAUTH"))
}

/// Whether `error` is a redirect: another server holds the key, or the key is being moved.
pub(in crate::observe) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN"))
}

/// Whether `error` means that no server could answer about the key. Other errors are answers about the key.
pub(in crate::observe) fn is_unserved(error: &RedisError) -> bool {
    let by_code = |code| matches!(code, "CLUSTERDOWN" | "MASTERDOWN" | "LOADING");
    is_elsewhere(error) || error.code().is_none_or(by_code)
}

/// The first of the failures of all servers that could have answered. There is always such a server.
pub(in crate::observe) fn first_of(failures: Vec<RedisFailure>) -> RedisFailure {
    let none = || RedisFailure::of("no server is known", &not_connected());
    failures.into_iter().next().unwrap_or_else(none)
}

/// The error for a missing connection.
pub(in crate::observe) fn not_connected() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}
