//! The connections to one server: one for counters, one for its reports of writes. With `--redis.prefer-replica`, the server is a
//! replica that follows its primary, if there is one; otherwise it is the primary. Counters and reports come from the same
//! server, so a replica that lags behind does so in both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::time::Instant;

use crate::lock::lock;
use crate::observation::Reason;
use crate::observe::counters::invalidations::{Changes, Invalidations, Tracked};
use crate::observe::fallback::first_success;
use crate::observe::redis::connector::Connector;
use crate::observe::redis::deployment::Access;
use crate::observe::redis::errors::RedisFailure;
use crate::observe::redis::server_state::{follows, stale};
use crate::observe::redis::topology::ShardNow;

/// The connections to one server. Clones share them.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ShardReader {
    /// `host:port` of the server that is read.
    pub(in crate::observe) source: String,
    invalidations: Invalidations,
    scanner: Connector,
    connector: Connector,
}

/// A server that is ready to be read.
pub(in crate::observe) struct Ready {
    pub(in crate::observe) scanner: MultiplexedConnection,
    pub(in crate::observe) connection: MultiplexedConnection,
    pub(in crate::observe) changes: Changes,
    /// How long PING took.
    pub(in crate::observe) ping: Duration,
    /// Whether the server measures how long commands take: the Redis user may run TIME there.
    pub(in crate::observe) timed: bool,
}

impl ShardReader {
    pub(in crate::observe) fn new(
        (access, tracked): (&Arc<Access>, &Tracked),
        source: &str,
    ) -> Self {
        // Needed to read from a replica of a cluster. A server outside of a cluster refuses it, and can be read without it.
        let readonly = Some(redis::cmd("READONLY"));
        Self {
            source: source.to_owned(),
            invalidations: Invalidations::new(Arc::clone(access), source, tracked),
            scanner: Connector::new(Arc::clone(access), source),
            connector: Connector::with(Arc::clone(access), source, readonly, None),
        }
    }

    /// Drops the connections with the answers in flight. The writes until now become unknown.
    pub(in crate::observe) fn replace(&self) {
        self.invalidations.replace();
        self.scanner.replace();
        self.connector.replace();
    }

    /// For a caller that stopped waiting for an answer: checks the connections in the background.
    pub(in crate::observe) fn verify(&self) {
        self.invalidations.verify();
        self.scanner.verify();
        self.connector.verify();
    }

    async fn connect(&self, timed: bool) -> Result<Ready, RedisFailure> {
        let changes = async { Ok(self.invalidations.changes().await) };
        let ((scanner, first), (connection, second), changes) =
            tokio::try_join!(self.scanner.ping(), self.connector.ping(), changes)?;
        Ok(Ready {
            scanner,
            connection,
            changes,
            ping: first.min(second),
            timed,
        })
    }

    /// Returns this reader if its server is a replica that can be read. In a `cluster`, it must accept READONLY.
    async fn of_replica(self, cluster: bool) -> Result<(Self, Ready), ReplicaFault> {
        let timed = self.follows(cluster).await?;
        let unreachable = |failure| ReplicaFault {
            failure,
            unreachable: true,
        };
        let ready = self.connect(timed).await.map_err(unreachable)?;
        Ok((self, ready))
    }

    /// Checks that the server is a replica that has its primary's current data. Returns whether the Redis user may run TIME
    /// there: a replica has users of its own.
    async fn follows(&self, cluster: bool) -> Result<bool, ReplicaFault> {
        let connected = self.connector.ping().await;
        let (mut connection, _) = connected.map_err(|failure| ReplicaFault {
            failure,
            unreachable: true,
        })?;
        let address = &self.source;
        let of = |what: &str, error| ReplicaFault {
            failure: RedisFailure::of(&format!("{what} {address}"), &error),
            unreachable: false,
        };
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        pipe.cmd("ROLE")
            .cmd("READONLY")
            .cmd("INFO")
            .arg("replication")
            .cmd("TIME");
        let answers: RedisResult<Vec<RedisResult<Value>>> = pipe.query_async(&mut connection).await;
        let answers = answers.map_err(|error| of("ROLE", error))?;
        let [role, readonly, info, time] =
            <[_; 4]>::try_from(answers).map_err(|_| ReplicaFault {
                failure: RedisFailure {
                    reason: Reason::RedisError,
                    message: format!("ROLE {address}: expected an answer"),
                },
                unreachable: false,
            })?;
        if let Err(error) = readonly
            && cluster
        {
            return Err(of("READONLY", error));
        }
        if follows(role.map_err(|error| of("ROLE", error))?) == Some(true) {
            return Ok(time.is_ok());
        }
        let info = info.and_then(|info| Ok(redis::from_redis_value::<String>(info)?));
        let lost = info.ok().and_then(|info| stale(address, &info));
        let failure = lost.unwrap_or_else(|| RedisFailure {
            reason: Reason::ReplicaStale,
            message: format!("replica {address}: by its ROLE it does not follow its primary"),
        });
        Err(ReplicaFault {
            failure,
            unreachable: false,
        })
    }
}

/// Why a replica is not read.
#[derive(Debug)]
struct ReplicaFault {
    failure: RedisFailure,
    /// Whether trying it again would cost a timeout.
    unreachable: bool,
}

/// Replicas that could not be reached: until when they are not tried again, and why.
pub(in crate::observe) type Unreachable = BTreeMap<String, (Instant, RedisFailure)>;

/// How long a replica that could not be reached is not tried again.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// The result of [`ready`].
pub(in crate::observe) struct Readied {
    pub(in crate::observe) reader: ShardReader,
    pub(in crate::observe) ready: Result<Ready, RedisFailure>,
    /// The replicas that are not read, and why.
    pub(in crate::observe) passed_over: Vec<(String, RedisFailure)>,
}

/// Connects for the counters of `now` and for reports of the tracked writes. Keeps the previous connections where they still
/// fit. Replicas in `unreachable` are not tried. Replicas that cannot be reached now are added to it, even if this future is
/// dropped.
pub(in crate::observe) async fn ready(
    before: Option<ShardReader>,
    context: (&Arc<Access>, &Tracked),
    now: &ShardNow,
    unreachable: &Mutex<Unreachable>,
) -> Readied {
    let primary = &now.shard.primary;
    let mut before = before;
    lock(unreachable).retain(|_, (until, _)| *until > Instant::now());
    let mut passed_over = Vec::new();
    let mut candidates: Vec<&String> = Vec::new();
    for replica in now.state.iter().flat_map(|state| &state.replicas) {
        match lock(unreachable).get(replica) {
            None => candidates.push(replica),
            Some((until, failure)) => {
                let left = until.saturating_duration_since(Instant::now()).as_secs() + 1;
                let failure = RedisFailure {
                    reason: failure.reason,
                    message: format!("{}; the next attempt is in {left} s", failure.message),
                };
                passed_over.push((replica.clone(), failure));
            }
        }
    }
    // The replica that was read before comes first: it has reported the writes since.
    candidates.sort_by_key(|address| {
        let is_before = before
            .as_ref()
            .is_some_and(|before| before.source == **address);
        (!is_before, *address)
    });
    let cluster = !now.shard.slots.is_empty();
    let faults = Mutex::new(Vec::new());
    let attempts = candidates.into_iter().map(|address| {
        let reader = before
            .take_if(|before| before.source == *address)
            .unwrap_or_else(|| ShardReader::new(context, address));
        let faults = &faults;
        async move {
            // Noted before the outcome is known, in case this future is dropped.
            let until = Instant::now() + LEFT_ALONE;
            let cut_off = RedisFailure {
                reason: Reason::Deadline,
                message: format!("PING {address}: no answer before the collection's deadline"),
            };
            lock(unreachable).insert(address.clone(), (until, cut_off));
            let outcome = reader.of_replica(cluster).await;
            lock(unreachable).remove(address);
            outcome.map_err(|fault| {
                let mut failure = fault.failure;
                failure.message = format!("replica of {primary} not read: {}", failure.message);
                if fault.unreachable {
                    lock(unreachable).insert(address.clone(), (until, failure.clone()));
                }
                lock(faults).push((address.clone(), failure));
            })
        }
    });
    let (found, _) = first_success(attempts.collect()).await;
    passed_over.append(&mut lock(&faults));
    let (reader, ready) = if let Some((reader, ready)) = found {
        (reader, Ok(ready))
    } else {
        let reader = before
            .filter(|before| before.source == *primary)
            .unwrap_or_else(|| ShardReader::new(context, primary));
        let timed = now.state.as_ref().is_some_and(|state| state.time_allowed);
        let ready = reader.connect(timed).await;
        (reader, ready)
    };
    Readied {
        reader,
        ready,
        passed_over,
    }
}
