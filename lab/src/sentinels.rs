//! A primary, its replica, and three real sentinels that watch them and promote the replica.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::ports::free_port;
use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::temp::TempDir;

/// By what name the sentinels know the primary.
pub const PRIMARY_NAME: &str = "prime";

/// How long the servers may take to agree: seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A primary, a replica and three sentinels, all killed on drop.
#[derive(Debug)]
pub struct Sentinels {
    /// The primary as started.
    pub primary: RedisServer,
    /// The replica as started.
    pub replica: RedisServer,
    /// The sentinels and their ports.
    pub sentinels: Vec<(Process, u16)>,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts all of them and waits until every sentinel knows the others and the replica.
    pub async fn start() -> anyhow::Result<Self> {
        let (primary, replica) = primary_and_replica().await?;
        let folder = TempDir::new("sentinels")?;
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let port = free_port();
            let own = folder.path().join(number.to_string());
            std::fs::create_dir(&own)?;
            // Sentinels write what they learn into their configuration file.
            let file = own.join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor {PRIMARY_NAME} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {PRIMARY_NAME} 800\n\
                 sentinel failover-timeout {PRIMARY_NAME} 3000\n",
                own.display(),
                primary.port(),
            );
            std::fs::write(&file, text)?;
            let file = file.to_str().context("the folder's name is not UTF-8")?;
            let args = [file, "--sentinel"];
            let log = own.join("sentinel.log");
            let process = Process::spawn(Path::new("redis-server"), args, Some(&log))?;
            sentinels.push((process, port));
        }
        let started = Self {
            primary,
            replica,
            sentinels,
            _folder: folder,
        };
        for (_, port) in &started.sentinels {
            let ready = || async { knows_the_others(*port).await.unwrap_or(false) };
            crate::wait_for(PATIENCE, ready)
                .await
                .context("the sentinels do not find each other")?;
        }
        Ok(started)
    }

    /// `redis+sentinel://127.0.0.1:PORT,…/prime`.
    pub fn url(&self) -> String {
        let ports = self.sentinels.iter().map(|(_, port)| port);
        let addresses: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{PRIMARY_NAME}", addresses.join(","))
    }

    /// From now on the sentinels act on [`Sentinels::fail_over`] alone, whatever becomes of the primary.
    pub async fn act_on_request_only(&self) -> anyhow::Result<()> {
        for (_, port) in &self.sentinels {
            let mut set = redis::cmd("SENTINEL");
            set.arg("SET").arg(PRIMARY_NAME);
            set.arg("down-after-milliseconds").arg(86_400_000);
            set.query_async::<()>(&mut connect(*port).await?).await?;
        }
        Ok(())
    }

    /// Has the sentinels promote the replica, whether the primary is alive or not; then the fields are swapped.
    pub async fn fail_over(&mut self) -> anyhow::Result<()> {
        let (_, port) = &self.sentinels[0];
        // Refused while they do not know yet that the replica is well, or finish the last failover.
        let accepted = || async {
            let asked = async {
                let mut fail_over = redis::cmd("SENTINEL");
                fail_over.arg("FAILOVER").arg(PRIMARY_NAME);
                let mut connection = connect(*port).await?;
                anyhow::Ok(fail_over.query_async::<()>(&mut connection).await?)
            };
            asked.await.is_ok()
        };
        crate::wait_for(PATIENCE, accepted)
            .await
            .context("the sentinels refuse the failover")?;
        self.wait_for_failover().await?;
        std::mem::swap(&mut self.primary, &mut self.replica);
        Ok(())
    }

    /// Waits until every sentinel names the replica as the primary.
    pub async fn wait_for_failover(&self) -> anyhow::Result<()> {
        for (_, port) in &self.sentinels {
            let promoted = || async {
                let named = primary_of(*port).await;
                named.is_ok_and(|(_, named)| named == self.replica.port().to_string())
            };
            crate::wait_for(PATIENCE, promoted)
                .await
                .context("the replica is not promoted")?;
        }
        Ok(())
    }
}

/// Starts a primary and a replica that follows it.
pub async fn primary_and_replica() -> anyhow::Result<(RedisServer, RedisServer)> {
    let primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]).await?;
    let replica_of = format!("127.0.0.1 {}", primary.port());
    let replica = RedisServer::start(&["--replicaof", &replica_of]).await?;
    for (server, sign) in [
        (&replica, "master_link_status:up"),
        (&primary, "state=online"),
    ] {
        crate::wait_for(PATIENCE, || async {
            let info = replication(server).await;
            info.is_ok_and(|info| info.contains(sign))
        })
        .await
        .context("the replica does not follow")?;
    }
    Ok((primary, replica))
}

/// The section of INFO about a server's replication.
pub async fn replication(server: &RedisServer) -> anyhow::Result<String> {
    server.run(&["INFO", "replication"]).await
}

async fn connect(port: u16) -> anyhow::Result<redis::aio::MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    crate::link::connect(&client, Duration::from_secs(5)).await
}

async fn primary_of(port: u16) -> anyhow::Result<(String, String)> {
    let mut connection = connect(port).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(PRIMARY_NAME);
    Ok(command.query_async(&mut connection).await?)
}

async fn knows_the_others(port: u16) -> anyhow::Result<bool> {
    let mut connection = connect(port).await?;
    let info: String = redis::cmd("INFO")
        .arg("sentinel")
        .query_async(&mut connection)
        .await?;
    Ok(info.contains("status=ok") && info.contains("slaves=1,sentinels=3"))
}
