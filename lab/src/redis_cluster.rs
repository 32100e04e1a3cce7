//! A real Redis Cluster: primaries, replicas, a failover, slots that move.
//!
//! It serves the other shards when one is gone (`cluster-require-full-coverage no`), and notices a dead server within a second
//! or two. It leaves out growing and shrinking.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{FromRedisValue, Value};

use crate::ports::free_port;
use crate::redis_server::{Maker, RedisServer};
use crate::sentinels::replication;

/// How long the servers may take to agree: seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// All slots of a cluster.
const SLOTS: usize = 16_384;

/// A running cluster, killed on drop.
#[derive(Debug)]
pub struct RedisCluster {
    /// The primaries as started, the slots spread over them in order.
    pub primaries: Vec<RedisServer>,
    /// The replicas as started: that of the first primary first.
    pub replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts `primaries` primaries, each with a replica if `replicas`, and waits until all of
    /// them agree.
    pub async fn start(primaries: usize, replicas: bool) -> anyhow::Result<Self> {
        Self::start_of(Maker::Redis, primaries, replicas).await
    }

    /// [`RedisCluster::start`] with servers of either maker.
    pub async fn start_of(maker: Maker, primaries: usize, replicas: bool) -> anyhow::Result<Self> {
        let mut cluster = Self {
            primaries: Vec::new(),
            replicas: Vec::new(),
        };
        for _ in 0..primaries {
            cluster.primaries.push(start_server(maker).await?);
        }
        for number in 0..primaries {
            let epoch = (number + 1).to_string();
            cluster.ask(number, &["SET-CONFIG-EPOCH", &epoch]).await?;
            let first = (SLOTS * number / primaries).to_string();
            let last = (SLOTS * (number + 1) / primaries - 1).to_string();
            cluster
                .ask(number, &["ADDSLOTSRANGE", &first, &last])
                .await?;
        }
        if replicas {
            for _ in 0..primaries {
                cluster.replicas.push(start_server(maker).await?);
            }
        }
        for other in cluster.servers().skip(1) {
            let (port, bus) = (other.port().to_string(), bus_port(other).await?);
            cluster.ask(0, &["MEET", "127.0.0.1", &port, &bus]).await?;
        }
        let all = cluster.servers().count();
        for server in cluster.servers() {
            crate::wait_for(PATIENCE, || async {
                let known = known(server).await;
                known.is_ok_and(|known| known == all)
            })
            .await
            .context("the servers of the cluster do not meet")?;
        }
        for (number, replica) in cluster.replicas.iter().enumerate() {
            let id = cluster.id(number).await?;
            ask::<Value>(replica, &["REPLICATE", &id]).await?;
        }
        for server in cluster.servers() {
            crate::wait_for(PATIENCE, || is_ready(server, replicas))
                .await
                .context("the cluster does not become ready")?;
        }
        Ok(cluster)
    }

    /// `redis://127.0.0.1:PORT,…` of the primaries as started.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.primaries.iter().map(address).collect();
        format!("redis://{}", addresses.join(","))
    }

    /// `host:port` of a primary as started.
    pub fn address(&self, primary: usize) -> String {
        address(&self.primaries[primary])
    }

    /// A connection that reaches every key.
    pub async fn connection(&self) -> anyhow::Result<ClusterConnection> {
        let nodes = self.primaries.iter().map(RedisServer::url);
        let client = ClusterClient::new(nodes)?;
        Ok(client.get_async_connection().await?)
    }

    /// Sends a command to every server.
    pub async fn tell_all(&self, words: &[&str]) -> anyhow::Result<()> {
        for server in self.servers() {
            server.run::<Value>(words).await?;
        }
        Ok(())
    }

    /// The primary, as started, that `key`'s slot was given to, and the slot.
    pub async fn owner(&self, key: &[u8]) -> anyhow::Result<(usize, usize)> {
        let mut connection = self.primaries[0].connection().await?;
        let slot: usize = redis::cmd("CLUSTER")
            .arg("KEYSLOT")
            .arg(key)
            .query_async(&mut connection)
            .await?;
        let count = self.primaries.len();
        let owner = (0..count).find(|number| slot < SLOTS * (number + 1) / count);
        Ok((owner.context("no such slot")?, slot))
    }

    /// Waits until every server that lives sees the replica in the place of its primary, which was killed.
    pub async fn wait_for_failover(&mut self, primary: usize) -> anyhow::Result<()> {
        let port = self.replicas[primary].port();
        let dead = self.primaries[primary].port();
        for server in self.primaries.iter().chain(&self.replicas) {
            if server.port() == dead {
                continue;
            }
            crate::wait_for(PATIENCE, || async {
                let slots = ask(server, &["SLOTS"]).await;
                slots.is_ok_and(|slots| {
                    let ports = primary_ports(&slots);
                    ports.contains(&port) && !ports.contains(&dead)
                })
            })
            .await
            .context("the replica is not promoted")?;
        }
        Ok(())
    }

    /// Begins to move `slot`: clients look for a key at `from`, and then at `to`.
    pub async fn begin_move(&self, slot: usize, from: usize, to: usize) -> anyhow::Result<()> {
        let (from_id, to_id) = (self.id(from).await?, self.id(to).await?);
        let slot = slot.to_string();
        self.ask(to, &["SETSLOT", &slot, "IMPORTING", &from_id])
            .await?;
        self.ask(from, &["SETSLOT", &slot, "MIGRATING", &to_id])
            .await?;
        Ok(())
    }

    /// Moves one key of a slot that is on its way.
    pub async fn move_key(&self, name: &[u8], from: usize, to: usize) -> anyhow::Result<()> {
        let mut connection = self.primaries[from].connection().await?;
        let answer: String = redis::cmd("MIGRATE")
            .arg("127.0.0.1")
            .arg(self.primaries[to].port())
            .arg(name)
            .arg(0)
            .arg(5_000)
            .query_async(&mut connection)
            .await?;
        ensure!(answer == "OK", "MIGRATE answered {answer}");
        Ok(())
    }

    /// Ends the move of `slot`, once all its keys have moved.
    pub async fn end_move(&self, slot: usize, to: usize) -> anyhow::Result<()> {
        let to_id = self.id(to).await?;
        let slot = slot.to_string();
        self.ask(to, &["SETSLOT", &slot, "NODE", &to_id]).await?;
        for number in 0..self.primaries.len() {
            self.ask(number, &["SETSLOT", &slot, "NODE", &to_id])
                .await?;
        }
        Ok(())
    }

    async fn id(&self, primary: usize) -> anyhow::Result<String> {
        ask(&self.primaries[primary], &["MYID"]).await
    }

    async fn ask(&self, primary: usize, words: &[&str]) -> anyhow::Result<Value> {
        ask(&self.primaries[primary], words).await
    }

    fn servers(&self) -> impl Iterator<Item = &RedisServer> {
        self.primaries.iter().chain(&self.replicas)
    }
}

async fn start_server(maker: Maker) -> anyhow::Result<RedisServer> {
    let bus = free_port().to_string();
    let args = [
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "1000",
        "--cluster-require-full-coverage",
        "no",
        // A replica may take over however long it was out of touch: nothing here is worth keeping.
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
    ];
    RedisServer::start_of(maker, &args).await
}

fn address(server: &RedisServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

async fn ask<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> anyhow::Result<T> {
    server.run(&[&["CLUSTER"], words].concat()).await
}

async fn bus_port(server: &RedisServer) -> anyhow::Result<String> {
    let answer: (String, String) = server.run(&["CONFIG", "GET", "cluster-port"]).await?;
    Ok(answer.1)
}

/// How many servers of the cluster `server` has shaken hands with, itself included.
async fn known(server: &RedisServer) -> anyhow::Result<usize> {
    let nodes: String = ask(server, &["NODES"]).await?;
    let met = nodes.lines().filter(|line| !line.contains("handshake"));
    Ok(met.count())
}

/// Whether `server` sees the cluster serve, and follows its primary or is followed by its replica.
async fn is_ready(server: &RedisServer, replicated: bool) -> bool {
    let info: String = ask(server, &["INFO"]).await.unwrap_or_default();
    let replication = replication(server).await.unwrap_or_default();
    let follows = if replication.contains("role:master") {
        !replicated || replication.contains("state=online")
    } else {
        replication.contains("master_link_status:up")
    };
    info.contains("cluster_state:ok") && follows
}

fn primary_ports(slots: &Value) -> Vec<u16> {
    let Value::Array(ranges) = slots else {
        return Vec::new();
    };
    let port = |range: &Value| {
        let Value::Array(parts) = range else {
            return None;
        };
        let Some(Value::Array(primary)) = parts.get(2) else {
            return None;
        };
        match primary.get(1) {
            Some(Value::Int(port)) => u16::try_from(*port).ok(),
            _ => None,
        }
    };
    ranges.iter().filter_map(port).collect()
}
