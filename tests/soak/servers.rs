//! The limiter's Redis: one server, or a primary with a replica and the sentinels that name it.

use std::time::Duration;

use lab::redis_server::RedisServer;
use lab::sentinels::{Sentinels, replication};

/// How long a replica may take to get the data of its primary.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// The servers. After a failover the primary is another one.
#[derive(Debug)]
pub(crate) enum Servers {
    One(RedisServer),
    WithReplica(Box<Sentinels>),
}

impl Servers {
    pub(crate) async fn start(replica: bool) -> anyhow::Result<Self> {
        if !replica {
            return Ok(Self::One(RedisServer::start(&[]).await?));
        }
        let group = Sentinels::start().await?;
        // Only the schedule causes failovers, not the other events.
        group.act_on_request_only().await?;
        Ok(Self::WithReplica(Box::new(group)))
    }

    pub(crate) fn primary(&self) -> &RedisServer {
        match self {
            Self::One(server) => server,
            Self::WithReplica(group) => &group.primary,
        }
    }

    pub(crate) fn primary_mut(&mut self) -> &mut RedisServer {
        match self {
            Self::One(server) => server,
            Self::WithReplica(group) => &mut group.primary,
        }
    }

    /// The URL of the sentinels, if there are any.
    pub(crate) fn sentinels(&self) -> Option<String> {
        self.group().ok().map(Sentinels::url)
    }

    /// The address of the primary.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.primary().port())
    }

    /// Starts the primary again: empty, or with what it saved.
    pub(crate) async fn restart(&mut self, with_data: bool) -> anyhow::Result<()> {
        if with_data {
            self.primary_mut().restart_with_data().await?;
        } else {
            self.primary_mut().restart().await?;
        }
        // It may have been started as a replica.
        ask(self.primary(), &["REPLICAOF", "NO", "ONE"]).await
    }

    /// Whether the replica may lack data.
    pub(crate) async fn replica_is_behind(&self) -> bool {
        let Ok(group) = self.group() else {
            return true;
        };
        !follows(&group.replica).await
    }

    /// Writes from now on do not reach the replica: it fails to log in at the primary.
    pub(crate) async fn cut_replica(&self) -> anyhow::Result<()> {
        let group = self.group()?;
        ask(&group.replica, &["CONFIG", "SET", "masterauth", "wrong"]).await?;
        ask(&group.replica, &["CLIENT", "KILL", "TYPE", "master"]).await
    }

    /// The replica gets its primary's data again.
    pub(crate) async fn mend_replica(&self) -> anyhow::Result<()> {
        ask(&self.group()?.replica, &["CONFIG", "SET", "masterauth", ""]).await
    }

    /// The sentinels promote the replica; all of them name it when this returns.
    pub(crate) async fn fail_over(&mut self) -> anyhow::Result<()> {
        let Self::WithReplica(group) = self else {
            anyhow::bail!("there is no replica");
        };
        group.fail_over().await?;
        ask(&group.primary, &["CONFIG", "SET", "masterauth", ""]).await
    }

    /// The former primary follows the new one, and has its data when this returns.
    pub(crate) async fn rejoin(&mut self) -> anyhow::Result<()> {
        let Self::WithReplica(group) = self else {
            anyhow::bail!("there is no replica");
        };
        if !group.replica.is_running() {
            group.replica.restart().await?;
        }
        let port = group.primary.port().to_string();
        ask(&group.replica, &["REPLICAOF", "127.0.0.1", &port]).await?;
        let replica = &group.replica;
        lab::wait_for(SYNC_PATIENCE, || follows(replica)).await
    }

    fn group(&self) -> anyhow::Result<&Sentinels> {
        match self {
            Self::One(_) => anyhow::bail!("there is no replica"),
            Self::WithReplica(group) => Ok(group.as_ref()),
        }
    }
}

async fn follows(replica: &RedisServer) -> bool {
    let info = replication(replica).await;
    info.is_ok_and(|info| info.contains("master_link_status:up"))
}

async fn ask(server: &RedisServer, words: &[&str]) -> anyhow::Result<()> {
    server.run::<redis::Value>(words).await.map(drop)
}
