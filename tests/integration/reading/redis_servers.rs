//! What Redis turns out to be: a Valkey, a cluster that does not say so, a replica that lost its primary or cannot be
//! reached, a socket, or something else altogether.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::node::{NodeOptions, NodeProcess};
use lab::redis_cluster::RedisCluster;
use lab::redis_server::{Maker, RedisServer};
use lab::seed::extra_members;
use lab::sentinels::{Sentinels, primary_and_replica};
use lab::temp::TempDir;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::redis_access::{all_but, limiter, reason};
use super::topology::{KEYS, Sharded, WINDOW_MS, ghosts};
use crate::certificates::certificates;
use crate::harness::{Exporter, PATIENCE, base_flags};
use redis::aio::MultiplexedConnection;

/// A counter over its limit on each shard.
async fn put_over(sharded: &Sharded) -> anyhow::Result<Vec<String>> {
    let over = sharded.key_of_each("over").await?;
    let mut redis = sharded.cluster.connection().await?;
    for key in &over {
        extra_members(&mut redis, key.as_bytes(), 11, WINDOW_MS).await?;
    }
    Ok(over)
}

#[tokio::test]
async fn a_valkey_cluster_is_watched_as_a_cluster() -> anyhow::Result<()> {
    let cluster = RedisCluster::start_of(Maker::Valkey, 3, false).await?;
    let mut sharded = Sharded::around(cluster, "", &[]).await?;
    let over = put_over(&sharded).await?;
    let scrape = sharded.exporter.scrape().await?;
    assert_eq!(scrape.reported(), ghosts(&over));
    scrape.assert_is("ratelimiter_keys", &[], KEYS + 3);
    let labels = [("mode", "cluster"), ("version", "9.1.2")];
    scrape.assert_is("ratelimiter_redis_info", &labels, 1);

    let dead = sharded.cluster.address(1);
    sharded.cluster.primaries[1].kill();
    let scrape = sharded.exporter.scrape().await?;
    let expected = "redis_disconnected redis".to_owned();
    assert!(scrape.reported().contains(&expected), "{}", scrape.text);
    let shard = [("shard", &*dead)];
    scrape.assert_is("ratelimiter_redis_shard_up", &shard, 0);
    Ok(())
}

#[tokio::test]
async fn a_valkey_alone_is_watched_over_its_own_schemes() -> anyhow::Result<()> {
    let valkey = RedisServer::start_of(Maker::Valkey, &[]).await?;
    let (valkey, _connection, node) = limiter(valkey).await?;
    let url = valkey.url().replace("redis://", "valkey://");
    let exporter = Exporter::start(&base_flags(&url, std::slice::from_ref(&node))).await?;
    for _ in 0..2 {
        let scrape = exporter.scrape().await?;
        scrape.assert_reported(&["ghost_allowing over"]);
        let labels = [("mode", "standalone"), ("version", "9.1.2")];
        scrape.assert_is("ratelimiter_redis_info", &labels, 1);
        assert_eq!(scrape.succeeded("redis"), Some(true), "{}", scrape.text);
    }
    Ok(())
}

/// A cluster whose exporter may not ask for what `denied` names.
async fn without(denied: &[&str]) -> anyhow::Result<Sharded> {
    let cluster = RedisCluster::start(3, false).await?;
    cluster.tell_all(&all_but(denied)).await?;
    Sharded::around(cluster, "some@", &[]).await
}

#[tokio::test]
async fn a_cluster_is_found_by_a_user_without_info() -> anyhow::Result<()> {
    let sharded = without(&["-info"]).await?;
    let over = put_over(&sharded).await?;
    for _ in 0..2 {
        let scrape = sharded.exporter.scrape().await?;
        assert_eq!(scrape.reported(), ghosts(&over), "{}", scrape.text);
        scrape.assert_is("ratelimiter_keys", &[], KEYS + 3);
        assert_eq!(scrape.evaluable("ghost_allowing"), Some(true));
        assert_eq!(scrape.succeeded("redis"), Some(true), "{}", scrape.text);
        assert!(scrape.errors("redis", "noperm") > 0.0, "{}", scrape.text);
    }
    Ok(())
}

#[tokio::test]
async fn counters_of_a_cluster_that_names_no_servers_are_not_evaluable() -> anyhow::Result<()> {
    let sharded = without(&["-info", "-cluster"]).await?;
    for _ in 0..2 {
        let scrape = sharded.exporter.scrape().await?;
        for name in ["ghost_allowing", "counter_drift"] {
            assert_eq!(scrape.evaluable(name), Some(false), "{}", scrape.text);
        }
        assert_eq!(scrape.succeeded("counters"), Some(false));
        assert_eq!(
            scrape.value("ratelimiter_scan_last_full_pass_timestamp_seconds", &[]),
            None,
            "{}",
            scrape.text
        );
    }
    let observation = sharded.exporter.get("/api/v1/observation").await?.text();
    assert!(observation.contains("MOVED"), "{observation}");
    Ok(())
}

/// Waits until a server says `words` of its replication.
async fn until_replication(connection: &MultiplexedConnection, words: &str) -> anyhow::Result<()> {
    lab::wait_for_some(PATIENCE, || {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let mut connection = connection.clone();
        async move {
            let info: String = info.query_async(&mut connection).await.ok()?;
            info.contains(words).then_some(())
        }
    })
    .await
}

/// Waits until a replica says that its link is down.
async fn until_cut_off(replica: &RedisServer) -> anyhow::Result<()> {
    let mut connection = replica.connection().await?;
    until_replication(&connection, "master_link_status:down").await?;
    // So that the connection has answered everything before it is used again.
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await?;
    Ok(())
}

#[tokio::test]
async fn counters_of_a_replica_whose_link_is_down_are_unknown() -> anyhow::Result<()> {
    let (mut primary, replica) = primary_and_replica().await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", primary.url())).await?;
    let mut redis = primary.connection().await?;
    extra_members(&mut redis, b"over", 11, WINDOW_MS).await?;
    let exporter =
        Exporter::start(&base_flags(&replica.url(), std::slice::from_ref(&node))).await?;
    exporter
        .until("it is found on the replica", |scrape| {
            scrape.reported() == ["ghost_allowing over"]
        })
        .await?;
    primary.kill();
    until_cut_off(&replica).await?;
    for _ in 0..2 {
        let scrape = exporter.scrape().await?;
        for name in ["ghost_allowing", "counter_drift"] {
            assert_eq!(scrape.evaluable(name), Some(false), "{}", scrape.text);
        }
        for stale in ["counters", "registry"] {
            assert_eq!(scrape.succeeded(stale), Some(false), "{}", scrape.text);
            assert!(
                scrape.errors(stale, "replica_stale") > 0.0,
                "{}",
                scrape.text
            );
        }
        // The replica itself answers.
        scrape.assert_is("ratelimiter_redis_up", &[], 1);
        let down = [("name", "node_down"), ("subject", "node-1")];
        scrape.assert_is("invariant_violation", &down, 0);
        // What was found before is held.
        assert!(
            scrape
                .reported()
                .contains(&"ghost_allowing over".to_owned())
        );
    }
    let observation = exporter.get("/api/v1/observation").await?.text();
    let (address, told) = (replica.port().to_string(), "s ago");
    assert!(observation.contains("replica_stale"), "{observation}");
    assert!(
        observation.contains(&address) && observation.contains(told),
        "{observation}"
    );

    primary.restart().await?;
    exporter
        .until("the replica follows again", |scrape| {
            scrape.evaluable("ghost_allowing") == Some(true)
        })
        .await?;
    Ok(())
}

/// Takes connections and answers nothing, as a server behind a firewall; counts them.
struct Silent {
    port: u16,
    taken: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Silent {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                held.push(stream);
            }
        });
        Ok(Self {
            port,
            taken,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_costs_one_timeout_and_is_named() -> anyhow::Result<()> {
    let silent = Silent::start().await?;
    let primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]).await?;
    let (of, port) = (
        format!("127.0.0.1 {}", primary.port()),
        silent.port.to_string(),
    );
    // As behind a port mapping that the exporter cannot pass.
    let _replica =
        RedisServer::start(&["--replicaof", &of, "--replica-announce-port", &port]).await?;
    until_replication(&primary.connection().await?, "state=online").await?;
    let (primary, _connection, node) = limiter(primary).await?;
    let mut flags = base_flags(&primary.url(), std::slice::from_ref(&node));
    flags.extend(["--redis.prefer-replica", "--redis.timeout=300ms"].map(str::to_owned));
    let exporter = Exporter::start(&flags).await?;
    let first = exporter.scrape().await?;
    let taken = silent.taken.load(Ordering::Relaxed);
    assert!(taken > 0, "{}", first.text);
    for scrapes in 2..5 {
        let scrape = exporter.scrape().await?;
        scrape.assert_reported(&["ghost_allowing over"]);
        assert_eq!(silent.taken.load(Ordering::Relaxed), taken);
        assert!(
            (scrape.errors("counters", "timeout") - f64::from(scrapes)).abs() < 0.5,
            "{}",
            scrape.text
        );
        assert_eq!(scrape.succeeded("counters"), Some(true), "{}", scrape.text);
    }
    let observation = exporter.get("/api/v1/observation").await?.text();
    let named = format!("127.0.0.1:{port}");
    assert!(observation.contains(&named), "{observation}");
    Ok(())
}

#[tokio::test]
async fn redis_is_reached_over_a_unix_socket() -> anyhow::Result<()> {
    let folder = TempDir::new("socket")?;
    let socket = folder.path().join("redis.sock");
    let path = socket.display().to_string();
    let (redis, _connection, node) =
        limiter(RedisServer::start(&["--unixsocket", &path]).await?).await?;
    let url = format!("redis+unix://{path}");
    let flags = base_flags(&url, std::slice::from_ref(&node));
    let exporter = Exporter::start(&flags).await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_reported(&["ghost_allowing over"]);
    drop(redis);
    let observation = exporter.get("/api/v1/observation").await?.text();
    assert!(
        observation.contains(&format!("PING {path}: ")),
        "{observation}"
    );
    Ok(())
}

/// A certificate of X.509 version 1 and its key.
const VERSION_1: [&str; 2] = [
    "-----BEGIN CERTIFICATE-----\n\
     MIIBJTCBywIUQERuqdoXn7NVX6I9qC0L5my+jewwCgYIKoZIzj0EAwIwFDESMBAG\n\
     A1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyNjE0MjQ1N1oYDzIxMjYxMTAyMTQyNDU3\n\
     WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
     AAQcjlg5T3a5HJYOXA9mfRNC2jbjQStNvLP88SHtbONe7GhPnC4EDlA2Smju8MNP\n\
     naFGOG8Stz8JZqGkWy6FP0rzMAoGCCqGSM49BAMCA0kAMEYCIQDyI/PkzVkiRr6N\n\
     hHiv+hp1+IFtZwBrCfeehV/420BPpwIhAKf4ocQIoYAexVzHQB5IfWyp14pZQx8E\n\
     jZgES4bqn21T\n\
     -----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n\
     MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMZo0MQIZPTyZJKNR\n\
     0Mv8SCcC1MTtE0QNYNfQTA4lAjqhRANCAAQcjlg5T3a5HJYOXA9mfRNC2jbjQStN\n\
     vLP88SHtbONe7GhPnC4EDlA2Smju8MNPnaFGOG8Stz8JZqGkWy6FP0rz\n\
     -----END PRIVATE KEY-----\n",
];

/// A Redis that speaks TLS beside its plain port, and that port.
async fn with_tls(cert: &str, key: &str, ca: &str) -> anyhow::Result<(RedisServer, u16)> {
    let port = lab::ports::free_port();
    let text = port.to_string();
    let args = [
        ["--tls-port", &text],
        ["--tls-cert-file", cert],
        ["--tls-key-file", key],
        ["--tls-ca-cert-file", ca],
        ["--tls-auth-clients", "no"],
    ];
    Ok((RedisServer::start(&args.concat()).await?, port))
}

#[tokio::test]
async fn a_server_that_is_no_redis_is_named_with_the_right_url() -> anyhow::Result<()> {
    let folder = TempDir::new("mistaken")?;
    let [ca, cert, key] = certificates(folder.path(), "right")?;
    let (redis, tls_port) = with_tls(&cert, &key, &ca).await?;
    let group = Sentinels::start().await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let plain = format!("127.0.0.1:{}", redis.port());
    let tls = format!("127.0.0.1:{tls_port}");
    let sentinel = format!("127.0.0.1:{}", group.sentinels[0].1);
    let trust = format!("--redis.tls-ca-file={ca}");
    for (url, further, expected) in [
        (
            format!("rediss://{plain}"),
            Some(&trust),
            ["without TLS", "redis://", &*plain],
        ),
        (
            format!("rediss://{}", node.address()),
            Some(&trust),
            ["HTTP", "Redis", &*node.address()],
        ),
        (
            format!("redis://{tls}"),
            None,
            ["speaks TLS", "rediss://", &*tls],
        ),
        (
            format!("redis://{}", node.address()),
            None,
            ["HTTP", "Redis", &*node.address()],
        ),
        (
            format!("redis://{sentinel}"),
            None,
            ["sentinel", "redis+sentinel://", &*sentinel],
        ),
        (
            format!("redis+sentinel://{plain}/prime"),
            None,
            ["not a sentinel", "redis://", &*plain],
        ),
    ] {
        let mut flags = vec![format!("--redis.url={url}")];
        flags.extend(further.cloned());
        let reason = reason(&flags).await?;
        for words in expected {
            assert!(reason.contains(words), "{url}: {words:?} in {reason:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_version_1_is_named_in_the_reason() -> anyhow::Result<()> {
    let folder = TempDir::new("version-1")?;
    let put = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let cert = put("cert.pem", VERSION_1[0])?;
    let key = put("key.pem", VERSION_1[1])?;
    let (_redis, port) = with_tls(&cert, &key, &cert).await?;
    let flags = [
        format!("--redis.url=rediss://127.0.0.1:{port}"),
        format!("--redis.tls-ca-file={cert}"),
    ];
    let reason = reason(&flags).await?;
    assert!(reason.contains("X.509 version 1"), "{reason}");
    assert!(reason.contains(&port.to_string()), "{reason}");
    Ok(())
}
