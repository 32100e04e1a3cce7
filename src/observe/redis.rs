//! What Redis is asked besides the counters: TIME, INFO, ROLE and the node registry, and what its errors mean.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::connector::TLS_FAILED;
use super::control::{is_unserved, join};
use super::nodes::Registration;
use super::router::{Answers, Router};
use crate::clock::Moment;
use crate::observation::{Reason, RedisInfo, encode_key};

/// What every registration's key starts with.
pub(super) const NODE_PREFIX: &[u8] = b"ratelimiter:nodes:";

/// A failure of Redis, named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct RedisFailure {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl RedisFailure {
    pub(super) fn of(what: &str, error: &RedisError) -> Self {
        Self {
            reason: reason_of(error),
            message: format!("{what}: {error}"),
        }
    }
}

/// A server's clock against ours, its INFO and its replicas: each as far as the Redis user may ask for it.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerState {
    /// Redis's wall clock minus the exporter's: windows are counted by Redis's. Zero when it is not known.
    pub(super) clock_offset: SignedDuration,
    pub(super) info: Option<RedisInfo>,
    /// `host:port` of the replicas that are connected, if they were asked for.
    pub(super) replicas: Vec<String>,
    pub(super) errors: Vec<RedisError>,
}

impl ServerState {
    /// Nothing was told.
    pub(super) fn failed(error: RedisError) -> Self {
        Self {
            errors: vec![error],
            ..Self::default()
        }
    }
}

/// `TIME`, `INFO` and, if replicas matter, `ROLE`.
pub(super) async fn server_state(
    connection: &mut MultiplexedConnection,
    clock: &crate::clock::Clock,
    replicas: bool,
) -> RedisResult<ServerState> {
    let before = clock.now();
    let mut pipe = redis::pipe();
    pipe.ignore_errors().cmd("TIME").cmd("INFO");
    if replicas {
        pipe.cmd("ROLE");
    }
    let answers: Vec<RedisResult<Value>> = pipe.query_async(connection).await?;
    let mut answers = answers.into_iter();
    let mut errors = Vec::new();
    let mut next = || match answers.next()? {
        Ok(answer) => Some(answer),
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let time = next().and_then(|time| redis::from_redis_value::<(i64, i64)>(time).ok());
    let info = next().and_then(|info| redis::from_redis_value::<String>(info).ok());
    let role = next();
    let redis_now = time.and_then(|(seconds, micros)| {
        let now = Timestamp::from_second(seconds).ok()?;
        now.checked_add(SignedDuration::from_micros(micros)).ok()
    });
    Ok(ServerState {
        clock_offset: redis_now.map_or(SignedDuration::ZERO, |now| now.duration_since(before.wall)),
        info: info.map(|info| parse_info(&info)),
        replicas: role.map(|role| replicas_of(&role)).unwrap_or_default(),
        errors,
    })
}

/// The replicas in a primary's answer to ROLE: `master`, an offset, and `host`, `port`, offset of each.
fn replicas_of(role: &Value) -> Vec<String> {
    let Value::Array(parts) = role else {
        return Vec::new();
    };
    let [Value::BulkString(role), _, Value::Array(replicas)] = &parts[..] else {
        return Vec::new();
    };
    if role != b"master" {
        return Vec::new();
    }
    let address = |replica: &Value| {
        let Value::Array(fields) = replica else {
            return None;
        };
        let [Value::BulkString(host), Value::BulkString(port), ..] = &fields[..] else {
            return None;
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some(join(&text(host)?, &text(port)?))
    };
    replicas.iter().filter_map(address).collect()
}

/// Whether a server is a replica that has its primary's data: the fourth field of its ROLE.
pub(super) fn follows(role: &Value) -> bool {
    let Value::Array(parts) = role else {
        return false;
    };
    matches!(
        &parts[..],
        [Value::BulkString(role), _, _, Value::BulkString(state), ..]
            if role == b"slave" && state == b"connected"
    )
}

/// `now` in milliseconds by Redis's clock.
pub(super) fn redis_millis(now: Moment, offset: SignedDuration) -> i64 {
    let now = now.wall.checked_add(offset).unwrap_or(now.wall);
    now.as_millisecond()
}

fn parse_info(text: &str) -> RedisInfo {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    let number = |name: &str| field(name).and_then(|value| value.parse().ok());
    RedisInfo {
        version: field("redis_version").unwrap_or_default(),
        role: field("role").unwrap_or_default(),
        mode: field("redis_mode").unwrap_or_default(),
        run_id: field("run_id").unwrap_or_default(),
        evicted_keys: number("evicted_keys"),
        used_memory: number("used_memory"),
        max_memory: number("maxmemory"),
        operations_per_second: number("instantaneous_ops_per_sec"),
    }
}

/// What a look at some registrations brought: those that are there, those that are malformed, and those that could not
/// be read, because whoever holds them did not answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Registrations {
    pub(super) found: BTreeMap<String, Registration>,
    pub(super) malformed: Vec<(String, Reason)>,
    pub(super) unread: BTreeSet<String>,
    /// Why not, for the first of them.
    pub(super) why: Option<RedisError>,
    /// The links that broke on the way.
    pub(super) broken: BTreeMap<usize, RedisError>,
}

/// The registrations of `ids` (escaped as [`encode_key`] does).
pub(super) async fn registrations(router: &Router, ids: &[String]) -> Registrations {
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
                result.why.get_or_insert_with(|| error.clone());
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
pub(super) fn reason_of(error: &RedisError) -> Reason {
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
        ErrorKind::Io if error.to_string().contains(TLS_FAILED) => Reason::Tls,
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
