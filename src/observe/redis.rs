//! The connection to Redis: PING, TIME, INFO and the node registry. The counters are `counters`' business.
//!
//! A connection is replaced after any failure of its own; an error that Redis answers leaves it in place.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use redis::aio::MultiplexedConnection;
use redis::{Client, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::nodes::Registration;
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

/// Redis's clock against ours, and its INFO: each as far as the Redis user may ask for it.
#[derive(Clone, Debug)]
pub(super) struct ServerState {
    /// Redis's wall clock minus the exporter's: windows are counted by Redis's. Zero when it is not known.
    pub(super) clock_offset: SignedDuration,
    pub(super) info: Option<RedisInfo>,
    pub(super) errors: Vec<RedisError>,
}

/// `TIME` and `INFO`.
pub(super) async fn server_state(
    connection: &mut MultiplexedConnection,
    clock: &crate::clock::Clock,
) -> RedisResult<ServerState> {
    let before = clock.now();
    let (time, info): (RedisResult<(i64, i64)>, RedisResult<String>) = redis::pipe()
        .ignore_errors()
        .cmd("TIME")
        .cmd("INFO")
        .query_async(connection)
        .await?;
    let mut errors = Vec::new();
    let time = time.map_err(|error| errors.push(error)).ok();
    let info = info.map_err(|error| errors.push(error)).ok();
    let redis_now = time.and_then(|(seconds, micros)| {
        let now = Timestamp::from_second(seconds).ok()?;
        now.checked_add(SignedDuration::from_micros(micros)).ok()
    });
    Ok(ServerState {
        clock_offset: redis_now.map_or(SignedDuration::ZERO, |now| now.duration_since(before.wall)),
        info: info.map(|info| parse_info(&info)),
        errors,
    })
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
    }
}

/// What a look at some registrations brought: those that are there, and those that are malformed.
#[derive(Clone, Debug, Default)]
pub(super) struct Registrations {
    pub(super) found: BTreeMap<String, Registration>,
    pub(super) malformed: Vec<(String, Reason)>,
}

/// The registrations of `ids` (escaped as [`encode_key`] does).
pub(super) async fn registrations(
    connection: &mut MultiplexedConnection,
    ids: &[String],
) -> RedisResult<Registrations> {
    let mut result = Registrations::default();
    if ids.is_empty() {
        return Ok(result);
    }
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    for id in ids {
        let mut key = NODE_PREFIX.to_vec();
        key.extend(crate::observation::decode_key(id));
        pipe.cmd("HMGET")
            .arg(&key)
            .arg("address")
            .arg("registered_at");
        pipe.cmd("PTTL").arg(&key);
    }
    let answers: Vec<RedisResult<Value>> = pipe.query_async(connection).await?;
    for (id, pair) in ids.iter().zip(answers.chunks(2)) {
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
            [Err(error), _] | [_, Err(error)] => {
                result.malformed.push((id.clone(), reason_of(error)));
            }
            _ => result.malformed.push((id.clone(), Reason::RedisError)),
        }
    }
    Ok(result)
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
            _ => by_code(error),
        },
        ErrorKind::AuthenticationFailed => Reason::Auth,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Reason::RedisError,
        ErrorKind::Extension => by_code(error),
        _ if error.is_timeout() => Reason::Timeout,
        ErrorKind::Io if error.to_string().contains("larger than") => Reason::TooLarge,
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

/// Makes the client for `url`; the error says what is wrong without repeating a password.
pub(super) fn client(
    url: &url::Url,
    username: Option<&str>,
    password: Option<&str>,
) -> Result<Client, String> {
    use redis::IntoConnectionInfo as _;
    let info = url
        .clone()
        .into_connection_info()
        .map_err(|error| error.category().to_owned())?;
    let mut settings = info.redis_settings().clone();
    if let Some(username) = username {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    Client::open(info.set_redis_settings(settings)).map_err(|error| error.category().to_owned())
}
