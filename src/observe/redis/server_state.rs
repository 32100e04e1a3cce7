//! Reads the state of one server: its clock, INFO, its replicas, whether it is a replica that lost its primary, and whether
//! it is a node of a cluster. A command that the Redis user may not send is listed, and does not fail the collection.

use jiff::{SignedDuration, Timestamp};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};

use crate::clock::{Clock, Moment};
use crate::observation::{Reason, RedisInfo};
use crate::observe::redis::address::join;
use crate::observe::redis::errors::{RedisFailure, is_elsewhere};

/// How many keys are asked for to find out whether there is a cluster, if INFO does not say so. Each is in a different
/// slot: with two primaries, the asked one holds all 16 in one of 60,000 clusters.
const NAMES_ASKED: u32 = 16;

/// The state of a server, as it reports it.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct ServerState {
    /// Redis's wall clock minus the exporter's: windows are counted by Redis's clock. Zero if unknown.
    pub(in crate::observe) clock_offset: SignedDuration,
    pub(in crate::observe) info: Option<RedisInfo>,
    /// Whether the Redis user may run TIME.
    pub(in crate::observe) time_allowed: bool,
    /// `host:port` of the connected replicas, if they were asked for.
    pub(in crate::observe) replicas: Vec<String>,
    /// The server is a replica that lost its primary, so its data is old.
    pub(in crate::observe) stale: Option<RedisFailure>,
    /// The redirect that the server answered: there is a cluster, whatever INFO says.
    pub(in crate::observe) elsewhere: Option<String>,
    /// Commands that Redis refused. They are optional.
    pub(in crate::observe) denied: Vec<RedisFailure>,
    /// The connection broke while the state was read.
    pub(in crate::observe) broke: Option<RedisFailure>,
}

impl ServerState {
    /// The state of a server that did not answer.
    pub(in crate::observe) fn failed(address: &str, error: &RedisError) -> Self {
        let what = format!("TIME and INFO {address}");
        Self {
            broke: Some(RedisFailure::of(&what, error)),
            ..Self::default()
        }
    }

    /// The mode by INFO; empty if unknown.
    pub(in crate::observe) fn mode(&self) -> &str {
        self.info.as_ref().map_or("", |info| &info.mode)
    }

    /// The evidence that the server is a node of a cluster, if it is one.
    pub(in crate::observe) fn proof_of_cluster(&self) -> Option<String> {
        let says_so = self.mode() == "cluster";
        let said = says_so.then(|| "INFO says so".to_owned());
        self.elsewhere.clone().or(said)
    }

    /// The answer to `what`. An error is noted in `denied`.
    fn note_denied(&mut self, what: &str, answer: RedisResult<Value>) -> Option<Value> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.denied.push(RedisFailure::of(what, &error));
                None
            }
        }
    }
}

/// `now` in milliseconds by Redis's clock.
pub(in crate::observe) fn redis_millis(now: Moment, offset: SignedDuration) -> i64 {
    let now = now.wall.checked_add(offset).unwrap_or(now.wall);
    now.as_millisecond()
}

/// What to ask besides TIME and INFO.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Wanted<'a> {
    /// The connected replicas.
    pub(in crate::observe) replicas: bool,
    /// Whether the server is a node of a cluster, if INFO does not say so. Keys with this prefix are asked for, which the
    /// Redis user may read.
    pub(in crate::observe) cluster: Option<&'a [u8]>,
}

/// Asks the server at `address` for TIME, INFO and what else is wanted.
pub(in crate::observe) async fn server_state(
    connection: &mut MultiplexedConnection,
    address: &str,
    clock: &Clock,
    wanted: Wanted<'_>,
) -> RedisResult<ServerState> {
    let before = clock.now();
    let mut pipe = redis::pipe();
    pipe.ignore_errors().cmd("TIME").cmd("INFO");
    if wanted.replicas {
        pipe.cmd("ROLE");
    }
    let answers: Vec<RedisResult<Value>> = pipe.query_async(connection).await?;
    let mut answers = answers.into_iter();
    let mut state = ServerState::default();
    let (time, info) = (answers.next(), answers.next());
    let text = info.and_then(|info| state.note_denied(&format!("INFO {address}"), info));
    let text = text.and_then(|info| redis::from_redis_value::<String>(info).ok());
    let of_info = text.as_deref().and_then(time_of_info);
    let without = match of_info {
        Some(_) => "its clock is read from INFO",
        None => "the offset of its clock is unknown, windows are counted by the exporter's clock",
    };
    let time =
        time.and_then(|time| state.note_denied(&format!("TIME {address} ({without})"), time));
    let time = time.and_then(|time| redis::from_redis_value::<(i64, i64)>(time).ok());
    state.time_allowed = time.is_some();
    let redis_now = time.and_then(|(seconds, micros)| {
        let now = Timestamp::from_second(seconds).ok()?;
        now.checked_add(SignedDuration::from_micros(micros)).ok()
    });
    if let Some(now) = redis_now.or(of_info) {
        state.clock_offset = now.duration_since(before.wall);
    }
    if let Some(role) = answers.next() {
        let what = format!("ROLE {address} (its replicas are not known)");
        let role = state.note_denied(&what, role);
        state.replicas = role.map(replicas_of).unwrap_or_default();
    }
    state.info = text.as_deref().map(parse_info);
    state.stale = text.as_deref().and_then(|info| stale(address, info));
    if state.mode().is_empty() {
        ask_otherwise(connection, address, wanted.cluster, &mut state).await?;
    }
    Ok(state)
}

/// Finds out without INFO whether there is a cluster, and whether a replica has lost its primary. A node of a cluster
/// answers with a redirect when it is asked for a key of another node.
async fn ask_otherwise(
    connection: &mut MultiplexedConnection,
    address: &str,
    keys: Option<&[u8]>,
    state: &mut ServerState,
) -> RedisResult<()> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors().cmd("ROLE");
    if let Some(prefix) = keys {
        for number in 0..NAMES_ASKED {
            let key = [prefix, format!("{{{number}}}").as_bytes()].concat();
            pipe.cmd("PTTL").arg(key);
        }
    }
    let answers: Vec<RedisResult<Value>> = pipe.query_async(connection).await?;
    let mut answers = answers.into_iter();
    if let Some(Ok(role)) = answers.next()
        && follows(role) == Some(false)
    {
        state.stale = Some(lost(address, None, None));
    }
    let mut errors = answers.filter_map(Result::err);
    let elsewhere = errors.find(is_elsewhere);
    state.elsewhere = elsewhere.map(|error| {
        let detail = error.detail().unwrap_or_default();
        format!("{} {detail}", error.code().unwrap_or_default())
    });
    Ok(())
}

/// The failure of a replica whose link to its primary is down, by `INFO replication`. `None` for every other server.
pub(in crate::observe) fn stale(address: &str, info: &str) -> Option<RedisFailure> {
    let replica = field(info, "role").is_some_and(|role| role == "slave" || role == "replica");
    if !replica || field(info, "master_link_status") != Some("down") {
        return None;
    }
    let host = field(info, "master_host").zip(field(info, "master_port"));
    let primary = host.map(|(host, port)| join(host, port));
    // Each is -1 if it does not apply.
    let ages = [
        "master_link_down_since_seconds",
        "master_last_io_seconds_ago",
    ];
    let ages = ages
        .iter()
        .filter_map(|name| field(info, name)?.parse().ok());
    Some(lost(address, primary.as_deref(), ages.max()))
}

fn lost(address: &str, primary: Option<&str>, seconds: Option<u64>) -> RedisFailure {
    let primary = primary.map_or(String::new(), |primary| format!(" {primary}"));
    let (lost, old) = match seconds {
        Some(seconds) => (format!(" {seconds} s ago"), "its data is that old"),
        None => (String::new(), "the age of its data is unknown"),
    };
    let message = format!("replica {address}: lost its primary{primary}{lost}: {old}");
    RedisFailure::new(Reason::ReplicaStale, message)
}

/// The replicas in a primary's answer to ROLE: `master`, an offset, then host, port and offset of each replica.
fn replicas_of(role: Value) -> Vec<String> {
    let role = redis::from_redis_value::<(String, Value, Vec<(String, String, Value)>)>(role);
    let replicas = role.map(|(.., replicas)| replicas).unwrap_or_default();
    let addresses = replicas.iter().map(|(host, port, _)| join(host, port));
    addresses.collect()
}

/// Whether a replica is connected to its primary: the fourth of the five fields of its ROLE. `None` for every other server.
pub(in crate::observe) fn follows(role: Value) -> Option<bool> {
    let role = redis::from_redis_value::<(String, Value, Value, String, Value)>(role);
    let (role, _, _, link, _) = role.ok()?;
    (role == "slave").then(|| link == "connected")
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// The server's clock, if INFO contains it.
fn time_of_info(info: &str) -> Option<Timestamp> {
    let micros = field(info, "server_time_usec")?.parse().ok()?;
    Timestamp::from_microsecond(micros).ok()
}

/// Valkey has its own names for its version and its mode. Its `redis_version` is the version of Redis that it is compatible
/// with.
fn parse_info(text: &str) -> RedisInfo {
    let words = |names: &[&str]| {
        let found = names.iter().find_map(|name| field(text, name));
        found.unwrap_or_default().to_owned()
    };
    let number = |name: &str| field(text, name).and_then(|value| value.parse().ok());
    RedisInfo {
        version: words(&["valkey_version", "redis_version"]),
        role: words(&["role"]),
        mode: words(&["redis_mode", "server_mode"]),
        run_id: words(&["run_id"]),
        evicted_keys: number("evicted_keys"),
        used_memory: number("used_memory"),
        max_memory: number("maxmemory"),
        operations_per_second: number("instantaneous_ops_per_sec"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_lost_its_primary_is_stale_with_its_age() {
        let info = |status: &str, ages: &str| {
            format!(
                "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:{status}\r\n{ages}"
            )
        };
        let down = "master_last_io_seconds_ago:-1\r\nmaster_link_down_since_seconds:12\r\n";
        for (info, expected) in [
            (
                info("down", down),
                Some("replica a:1: lost its primary 10.0.0.1:6379 12 s ago: its data is that old"),
            ),
            (
                info("down", "master_link_down_since_seconds:-1\r\n"),
                Some("replica a:1: lost its primary 10.0.0.1:6379: the age of its data is unknown"),
            ),
            (info("up", "master_last_io_seconds_ago:3\r\n"), None),
            ("role:master\r\n".to_owned(), None),
        ] {
            let failure = stale("a:1", &info);
            assert_eq!(
                failure.map(|failure| failure.message).as_deref(),
                expected,
                "{info}"
            );
        }
    }

    #[test]
    fn info_of_valkey_is_read_by_its_own_names() {
        let valkey = parse_info(
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nserver_mode:cluster\r\n",
        );
        assert_eq!((&*valkey.version, &*valkey.mode), ("9.1.2", "cluster"));
        let redis = parse_info("redis_version:7.0.15\r\nredis_mode:standalone\r\n");
        assert_eq!((&*redis.version, &*redis.mode), ("7.0.15", "standalone"));
        let time = time_of_info("server_time_usec:1795702686858337\r\n");
        assert_eq!(
            time.map(Timestamp::as_microsecond),
            Some(1_795_702_686_858_337)
        );
    }
}
