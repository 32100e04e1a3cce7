//! The connections over which one server's counters are read, and what it tells of writes. Reads from a replica if that
//! is asked for and one follows its primary, else from the primary. What is told and what is read come from the same
//! server: a replica that is late is late in both.

use std::sync::Arc;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::connector::Connector;
use super::control::ShardNow;
use super::first::first_success;
use super::redis::{RedisFailure, follows};
use super::redis_target::Access;
use super::tracker::{Changes, Tracker};

/// The connections to one server.
#[derive(Debug)]
pub(super) struct ShardReader {
    /// `host:port` of the server that is read.
    pub(super) source: String,
    tracker: Tracker,
    scanner: Connector,
    connector: Connector,
}

/// A server that is ready to be read.
pub(super) struct Ready {
    pub(super) scanner: MultiplexedConnection,
    pub(super) connection: MultiplexedConnection,
    pub(super) changes: Changes,
}

impl ShardReader {
    fn new(access: &Arc<Access>, source: &str) -> Self {
        Self {
            source: source.to_owned(),
            tracker: Tracker::new(Arc::clone(access), source),
            scanner: Connector::new(Arc::clone(access), source),
            connector: Connector::readonly(Arc::clone(access), source),
        }
    }

    /// Whatever is on the way is not waited for, and writes until now are not known.
    pub(super) fn replace(&mut self) {
        self.tracker.replace();
        self.scanner.replace();
        self.connector.replace();
    }

    async fn connect(&mut self) -> Result<Ready, RedisFailure> {
        let ((scanner, _), (connection, _)) =
            tokio::try_join!(self.scanner.ping(), self.connector.ping())?;
        Ok(Ready {
            scanner,
            connection,
            changes: self.tracker.changes().await,
        })
    }

    /// This reader, if its server is a replica of `primary` that can be read.
    async fn of_replica(mut self, primary: &str) -> Result<(Self, Ready), ()> {
        let connected = if self.follows().await {
            self.connect().await.map_err(|failure| failure.to_string())
        } else {
            Err("it does not follow".to_owned())
        };
        match connected {
            Ok(ready) => Ok((self, ready)),
            Err(why) => {
                let replica = &self.source;
                tracing::debug!(primary, replica, "the replica is not read: {why}");
                Err(())
            }
        }
    }

    /// Whether the server is a replica that has its primary's data now.
    async fn follows(&mut self) -> bool {
        let Ok((mut connection, _)) = self.connector.ping().await else {
            return false;
        };
        let role: redis::RedisResult<Value> = redis::cmd("ROLE").query_async(&mut connection).await;
        role.is_ok_and(|role| follows(&role))
    }
}

/// Gets ready to read the counters of `now`, with the connections of before as far as they are of use.
pub(super) async fn ready(
    before: Option<ShardReader>,
    access: &Arc<Access>,
    now: &ShardNow,
) -> (ShardReader, Result<Ready, RedisFailure>) {
    let primary = &now.shard.primary;
    let mut before = before;
    let replicas = now.state.iter().flat_map(|state| &state.replicas);
    let mut candidates: Vec<&String> = replicas.collect();
    // The one that was read before first: it has told of writes since.
    candidates.sort_by_key(|address| {
        let is_before = before
            .as_ref()
            .is_some_and(|before| before.source == **address);
        (!is_before, *address)
    });
    let attempts = candidates.into_iter().map(|address| {
        let reader = before
            .take_if(|before| before.source == *address)
            .unwrap_or_else(|| ShardReader::new(access, address));
        reader.of_replica(primary)
    });
    if let Ok((reader, ready)) = first_success(attempts.collect()).await {
        return (reader, Ok(ready));
    }
    let mut reader = before
        .filter(|before| before.source == *primary)
        .unwrap_or_else(|| ShardReader::new(access, primary));
    let ready = reader.connect().await;
    (reader, ready)
}
