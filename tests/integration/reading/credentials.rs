//! Logging in at the nodes, at Prometheus and at Redis: which server gets which secret, and that a secret changes with its file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lab::redis_server::{RedisServer, cut_other_clients};
use lab::temp::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::certificates;
use crate::harness::{Exporter, Scrape, redis_do, run, said};

/// A server that answers everything with `{}` and remembers how clients logged in. Not the lab's own node: that has no
/// use for logins.
struct Listening {
    address: String,
    heard: Arc<Mutex<BTreeSet<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Listening {
    async fn start(tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let heard = Arc::new(Mutex::new(BTreeSet::new()));
        let into = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, into) = (tls.clone(), Arc::clone(&into));
                clients.spawn(async move {
                    match tls {
                        None => answer(stream, &into).await,
                        Some(tls) => answer(tls.accept(stream).await?, &into).await,
                    }
                });
            }
        });
        Ok(Self {
            address,
            heard,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The logins since the last time.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().expect("nobody panics with it"))
            .into_iter()
            .collect()
    }

    /// As a node registers itself.
    async fn register(&self, redis: &RedisServer) -> anyhow::Result<()> {
        let mut connection = redis.connection().await?;
        let registered_at = "2026-01-01T00:00:00Z";
        redis::cmd("HSET")
            .arg("ratelimiter:nodes:stranger")
            .arg(&["address", &self.address, "registered_at", registered_at])
            .query_async::<()>(&mut connection)
            .await?;
        redis::cmd("EXPIRE")
            .arg("ratelimiter:nodes:stranger")
            .arg(30)
            .query_async::<()>(&mut connection)
            .await?;
        Ok(())
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    logins: &Mutex<BTreeSet<String>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut some = [0; 1024];
        match stream.read(&mut some).await? {
            0 => return Ok(()),
            read => request.extend_from_slice(&some[..read]),
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let login = request
        .lines()
        .find_map(|line| line.strip_prefix("authorization: "));
    logins
        .lock()
        .expect("nobody panics with it")
        .insert(login.unwrap_or("none").to_owned());
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        .await?;
    stream.shutdown().await
}

fn acceptor(cert: &str, key: &str) -> anyhow::Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert)?.collect();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn file(folder: &TempDir, name: &str, text: &str) -> anyhow::Result<String> {
    let path = folder.path().join(name);
    std::fs::write(&path, text)?;
    Ok(Path::new(&path).display().to_string())
}

#[tokio::test]
async fn nodes_from_redis_get_no_token_unless_a_flag_allows_it() -> anyhow::Result<()> {
    let folder = TempDir::new("credentials")?;
    let token = file(&folder, "token", "first\n")?;
    let redis = RedisServer::start(&[]).await?;
    let (configured, stranger) = (Listening::start(None).await?, Listening::start(None).await?);
    stranger.register(&redis).await?;
    let flags = vec![
        format!("--redis.url={}", redis.url()),
        format!("--ratelimiter.url=http://{}", configured.address),
        format!("--ratelimiter.bearer-token-file={token}"),
        "--probe.canary=true".to_owned(),
    ];
    let exporter = Exporter::start(&flags).await?;
    exporter.scrape().await?;
    exporter.scrape().await?;
    assert_eq!(configured.heard(), ["Bearer first"]);
    assert_eq!(stranger.heard(), ["none"]);
    // The token is replaced while the exporter runs.
    file(&folder, "token", "second\n")?;
    exporter.scrape().await?;
    assert_eq!(configured.heard(), ["Bearer second"]);
    assert_eq!(stranger.heard(), ["none"]);
    drop(exporter);

    stranger.register(&redis).await?;
    let mut open = flags.clone();
    open.push("--ratelimiter.send-credentials-to-nodes".to_owned());
    let exporter = Exporter::start(&open).await?;
    exporter.scrape().await?;
    assert_eq!(configured.heard(), ["Bearer second"]);
    assert_eq!(stranger.heard(), ["Bearer second"]);

    // A password in a URL is for every request to that URL.
    let mut inside = open.clone();
    inside.remove(2);
    inside[1] = format!("--ratelimiter.url=http://me:p%40ss@{}", configured.address);
    let exporter = Exporter::start(&inside).await?;
    exporter.scrape().await?;
    assert_eq!(configured.heard(), ["Basic bWU6cEBzcw=="]);
    assert_eq!(stranger.heard(), ["none"]);

    let mut reset = flags[..3].to_vec();
    reset.extend(["reset-counter".to_owned(), "k".to_owned()]);
    run(reset).await?;
    assert_eq!(configured.heard(), ["Bearer second"]);
    Ok(())
}

#[tokio::test]
async fn users_and_authorities_are_each_for_their_own_server() -> anyhow::Result<()> {
    let folder = TempDir::new("authorities")?;
    let [ca, cert, key] = certificates(folder.path(), "node")?;
    let [other_ca, ..] = certificates(folder.path(), "other")?;
    let password = file(&folder, "password", "p")?;
    let token = file(&folder, "token", "t")?;
    let redis = RedisServer::start(&[]).await?;
    let node = Listening::start(Some(acceptor(&cert, &key)?)).await?;
    let prometheus = Listening::start(Some(acceptor(&cert, &key)?)).await?;
    let flags = |ca: &str| {
        [
            format!("--redis.url={}", redis.url()),
            format!("--ratelimiter.url=https://{}", node.address),
            format!("--ratelimiter.tls-ca-file={ca}"),
            "--ratelimiter.username=me".to_owned(),
            format!("--ratelimiter.password-file={password}"),
            format!("--prometheus.url=https://{}", prometheus.address),
            format!("--prometheus.tls-ca-file={ca}"),
            format!("--prometheus.bearer-token-file={token}"),
        ]
    };
    let tls_errors = |scrape: &Scrape| scrape.errors("management_api", "tls");
    let exporter = Exporter::start(&flags(&ca)).await?;
    let scrape = exporter.scrape().await?;
    assert_eq!(node.heard(), ["Basic bWU6cA=="], "{}", scrape.text);
    assert!(tls_errors(&scrape) == 0.0, "{}", scrape.text);
    // It asks Prometheus once it knows a node that is up.
    assert_eq!(prometheus.heard(), ["Bearer t"], "{}", scrape.text);
    let exporter = Exporter::start(&flags(&other_ca)).await?;
    let scrape = exporter.scrape().await?;
    assert!(tls_errors(&scrape) > 0.0, "{}", scrape.text);
    assert!(node.heard().is_empty() && prometheus.heard().is_empty());

    for wrong in [
        vec![format!("--ratelimiter.tls-ca-file={ca}")],
        vec![format!("--ratelimiter.tls-ca-file={password}")],
        vec!["--ratelimiter.username=me".to_owned()],
        vec![format!("--ratelimiter.password-file={password}")],
        vec![
            "--prometheus.username=me".to_owned(),
            format!("--prometheus.password-file={password}"),
            format!("--prometheus.bearer-token-file={token}"),
        ],
        vec!["--ratelimiter.bearer-token-file=/nonexistent".to_owned()],
    ] {
        let output = run([wrong.clone(), vec!["--config.check".to_owned()]].concat()).await?;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_password_of_redis_changes_with_its_file() -> anyhow::Result<()> {
    let folder = TempDir::new("rotation")?;
    let path = file(&folder, "password", "first\n")?;
    let redis = RedisServer::start(&["--requirepass", "first"]).await?;
    let mut connection = redis.connection().await?;
    redis_do(&mut connection, &["AUTH", "first"]).await?;
    let exporter = Exporter::start(&[
        format!("--redis.url={}", redis.url()),
        format!("--redis.password-file={path}"),
    ])
    .await?;
    let scrape = exporter.scrape().await?;
    scrape.assert_is("ratelimiter_redis_up", &[], 1);
    redis_do(&mut connection, &["CONFIG", "SET", "requirepass", "second"]).await?;
    file(&folder, "password", "second\n")?;
    cut_other_clients(&mut connection).await?;
    exporter
        .until("it logs in anew", |scrape| {
            scrape.is("ratelimiter_redis_up", &[], 1)
        })
        .await?;
    assert!(exporter.log().contains("read again"), "{}", exporter.log());
    Ok(())
}

#[tokio::test]
async fn certificates_change_with_their_files() -> anyhow::Result<()> {
    let folder = TempDir::new("certificates")?;
    let [ca, cert, key] = certificates(folder.path(), "right")?;
    let [other_ca, other_cert, other_key] = certificates(folder.path(), "other")?;
    let named = |name: &str| folder.path().join(name).display().to_string();
    let [our_ca, our_cert, our_key] = ["ca", "cert", "key"].map(named);
    let put = |from: &str, to: &str| std::fs::copy(from, to).map(|_| ());
    for (from, to) in [(&ca, &our_ca), (&cert, &our_cert), (&key, &our_key)] {
        put(from, to)?;
    }
    let node = Listening::start(Some(acceptor(&cert, &key)?)).await?;
    let tls_port = lab::ports::free_port().to_string();
    let server = [
        ["--tls-port", &tls_port],
        ["--tls-cert-file", &cert],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &ca],
    ];
    let redis = RedisServer::start(&server.concat()).await?;
    let mut connection = redis.connection().await?;
    let exporter = Exporter::start(&[
        format!("--redis.url=rediss://127.0.0.1:{tls_port}"),
        format!("--redis.tls-ca-file={our_ca}"),
        format!("--redis.tls-cert-file={our_cert}"),
        format!("--redis.tls-key-file={our_key}"),
        format!("--ratelimiter.url=https://{}", node.address),
        format!("--ratelimiter.tls-ca-file={our_ca}"),
    ])
    .await?;
    let mut anew = async || {
        cut_other_clients(&mut connection).await?;
        exporter.scrape().await
    };
    let redis_is = |scrape: &Scrape, up| scrape.is("ratelimiter_redis_up", &[], up);
    let node_errors = |scrape: &Scrape| scrape.errors("management_api", "tls");
    let scrape = anew().await?;
    assert!(redis_is(&scrape, 1), "{}", exporter.log());
    assert!(node_errors(&scrape) == 0.0, "{}", exporter.log());

    // Half of a new pair is not taken, nor is a file that is being written; whole, it is, and here it is the wrong one.
    put(&other_cert, &our_cert)?;
    std::fs::write(&our_ca, "-----BEGIN")?;
    let scrape = anew().await?;
    assert!(redis_is(&scrape, 1), "{}", exporter.log());
    assert!(node_errors(&scrape) == 0.0, "{}", exporter.log());
    assert!(
        exporter.log().contains("the previous one stays in use"),
        "{}",
        exporter.log()
    );
    put(&other_key, &our_key)?;
    put(&ca, &our_ca)?;
    let scrape = anew().await?;
    assert!(redis_is(&scrape, 0), "{}", exporter.log());
    assert!(node_errors(&scrape) == 0.0, "{}", exporter.log());

    put(&cert, &our_cert)?;
    put(&key, &our_key)?;
    put(&other_ca, &our_ca)?;
    let scrape = anew().await?;
    assert!(redis_is(&scrape, 0), "{}", exporter.log());
    let failed = node_errors(&scrape);
    assert!(failed > 0.0, "{}", exporter.log());

    put(&ca, &our_ca)?;
    let scrape = anew().await?;
    assert!(redis_is(&scrape, 1), "{}", exporter.log());
    assert!(node_errors(&scrape) <= failed, "{}", exporter.log());
    Ok(())
}

#[tokio::test]
async fn a_machine_without_certificates_is_no_obstacle_unless_they_are_needed() -> anyhow::Result<()>
{
    let port = lab::ports::free_port();
    for (nodes, redis, expected) in [
        ("http", "redis", None),
        ("https", "redis", Some("--ratelimiter.tls-ca-file: ")),
        ("http", "rediss", Some("--redis.tls-ca-file: ")),
    ] {
        for task in [&["--config.check"][..], &["check", "--latency-sample=0s"]] {
            let output = tokio::process::Command::new(lab::exporter_binary())
                .env("SSL_CERT_FILE", "/nonexistent")
                .env("SSL_CERT_DIR", "/nonexistent")
                .arg(format!("--ratelimiter.url={nodes}://127.0.0.1:{port}"))
                .arg(format!("--redis.url={redis}://127.0.0.1:{port}"))
                .args(task)
                .output()
                .await?;
            let said = said(&output);
            match expected {
                // Nothing is there, which is what `check` says.
                None => assert!(
                    output.status.code() < Some(2) && !said.contains("certificates"),
                    "{said}"
                ),
                Some(flag) => {
                    assert_eq!(output.status.code(), Some(2), "{said}");
                    assert!(
                        said.contains(flag) && said.contains("certificates to trust"),
                        "{said}"
                    );
                }
            }
        }
    }
    Ok(())
}
