//! The node registry in Redis, and what Redis's errors mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::clock::Moment;
use crate::observation::{Collector, Failure, Reason, encode_key};
use crate::observe::nodes::state::Registration;
use crate::observe::redis::router::{Answers, Router};
use crate::observe::redis::topology::is_unserved;

/// What every registration's key starts with.
pub(in crate::observe) const NODE_PREFIX: &[u8] = b"ratelimiter:nodes:";

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

/// `now` in milliseconds by Redis's clock.
pub(in crate::observe) fn redis_millis(now: Moment, offset: SignedDuration) -> i64 {
    let now = now.wall.checked_add(offset).unwrap_or(now.wall);
    now.as_millisecond()
}

/// What a look at some registrations brought: those that are there, those that are malformed, and those that could not
/// be read, because whoever holds them did not answer.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Registrations {
    pub(in crate::observe) found: BTreeMap<String, Registration>,
    pub(in crate::observe) malformed: Vec<(String, Reason)>,
    pub(in crate::observe) unread: BTreeSet<String>,
    /// Why not, for the first of them.
    pub(in crate::observe) why: Option<RedisFailure>,
    /// The links that broke on the way.
    pub(in crate::observe) broken: BTreeMap<usize, RedisError>,
}

/// The registrations of `ids` (escaped as [`encode_key`] does).
pub(in crate::observe) async fn registrations(router: &Router, ids: &[String]) -> Registrations {
    let mut result = Registrations::default();
    if ids.is_empty() {
        return result;
    }
    let mut commands = Vec::with_capacity(ids.len() * 2);
    for id in ids {
        let mut key = NODE_PREFIX.to_vec();
        key.extend(crate::observation::decode_key(id));
        let mut fields = redis::cmd("HMGET");
        fields.arg(&key).arg("address").arg("registered_at");
        let mut ttl = redis::cmd("PTTL");
        ttl.arg(&key);
        commands.push((key.clone(), fields));
        commands.push((key, ttl));
    }
    let Answers { each, broken } = router.ask(commands).await;
    result.broken = broken;
    for (id, pair) in ids.iter().zip(each.chunks(2)) {
        match pair {
            [Ok(Value::Array(fields)), Ok(Value::Int(ttl))] => {
                // -2: there is no such key. A hash that exists has at least one field, ours or not.
                if *ttl != -2 {
                    let text = |field: Option<&Value>| match field {
                        Some(Value::BulkString(bytes)) => Some(encode_key(bytes)),
                        _ => None,
                    };
                    let registration = Registration {
                        address: text(fields.first()),
                        registered_at: text(fields.get(1)),
                        ttl: u64::try_from(*ttl).ok().map(Duration::from_millis),
                    };
                    result.found.insert(id.clone(), registration);
                }
            }
            [Err(error), _] | [_, Err(error)] if is_unserved(error) => {
                result.unread.insert(id.clone());
                result.why.get_or_insert_with(|| {
                    let key = [NODE_PREFIX, &crate::observation::decode_key(id)].concat();
                    let link = router.link_of(&key).map(|link| &router.links()[link]);
                    let at = link.map_or("no server", |link| &link.primary);
                    RedisFailure::of(&format!("HMGET of registrations at {at}"), error)
                });
            }
            [Err(error), _] | [_, Err(error)] => {
                result.malformed.push((id.clone(), reason_of(error)));
            }
            _ => result.malformed.push((id.clone(), Reason::RedisError)),
        }
    }
    result
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
