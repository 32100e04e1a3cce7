//! Connections to nodes: one for each request, few at once, and none of them tried again.

use std::sync::{Arc, Mutex};

use lab::redis_server::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Exporter, Scrape};

/// When a server closes a connection; it never says so before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closes {
    /// Only after the client did.
    Never,
    /// When it has read a request.
    Unanswered,
}

/// A server that answers everything with `{}` and counts.
struct Counting {
    address: String,
    counts: Arc<Mutex<Counts>>,
    stopped: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    connections: usize,
    open: usize,
    most_open: usize,
    requests: Vec<String>,
}

impl Counts {
    fn probes(&self) -> usize {
        let health = "GET /health HTTP/1.1";
        self.requests.iter().filter(|line| *line == health).count()
    }
}

impl Counting {
    async fn start(closes: Closes) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let counts = Arc::new(Mutex::new(Counts::default()));
        let into = Arc::clone(&counts);
        let stopped = CancellationToken::new();
        let until = stopped.clone();
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Some(Ok((stream, _))) = until.run_until_cancelled(listener.accept()).await {
                let into = Arc::clone(&into);
                clients.spawn(async move {
                    with(&into, |counts| {
                        counts.connections += 1;
                        counts.open += 1;
                        counts.most_open = counts.most_open.max(counts.open);
                    });
                    // How the client ends it makes no difference.
                    let _ = answer(stream, closes, &into).await;
                    with(&into, |counts| counts.open -= 1);
                });
            }
            drop(listener);
            clients.join_all().await;
        });
        Ok(Self {
            address,
            counts,
            stopped,
            _task: AbortOnDropHandle::new(task),
        })
    }

    fn counts(&self) -> Counts {
        with(&self.counts, |counts| counts.clone())
    }

    /// An exporter whose one node this is.
    async fn scraped_twice(&self) -> anyhow::Result<(Exporter, Scrape)> {
        let redis = RedisServer::start(&[]).await?;
        let flags = [
            format!("--redis.url={}", redis.url()),
            format!("--ratelimiter.url=http://{}", self.address),
        ];
        let exporter = Exporter::start(&flags).await?;
        exporter.scrape().await?;
        let scrape = exporter.scrape().await?;
        Ok((exporter, scrape))
    }
}

fn with<T>(counts: &Mutex<Counts>, act: impl FnOnce(&mut Counts) -> T) -> T {
    act(&mut counts.lock().expect("nobody panics with it"))
}

async fn answer(
    mut stream: TcpStream,
    closes: Closes,
    counts: &Mutex<Counts>,
) -> std::io::Result<()> {
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return Ok(()),
            }
        }
        let line = String::from_utf8_lossy(&request);
        let line = line.lines().next().unwrap_or_default().to_owned();
        with(counts, |counts| counts.requests.push(line));
        if closes == Closes::Unanswered {
            return Ok(());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .await?;
    }
}

/// How often a connection failed, by what the exporter says.
fn lost(scrape: &Scrape) -> f64 {
    let collectors = ["management_api", "node_metrics", "probes"];
    let reasons = ["network", "truncated", "refused", "timeout"];
    let pairs = collectors
        .iter()
        .flat_map(|collector| reasons.iter().map(move |reason| (collector, reason)));
    pairs
        .map(|(collector, reason)| scrape.errors(collector, reason))
        .sum()
}

#[tokio::test]
async fn each_request_has_a_connection_of_its_own_and_none_stays_open() -> anyhow::Result<()> {
    let node = Counting::start(Closes::Never).await?;
    let (exporter, scrape) = node.scraped_twice().await?;
    assert!(lost(&scrape) == 0.0, "{}", scrape.text);
    // However often it is scraped.
    for _ in 0..20 {
        exporter.scrape().await?;
    }
    let counts = node.counts();
    assert!(counts.probes() >= 22, "{counts:?}");
    assert_eq!(counts.connections, counts.requests.len(), "{counts:?}");
    // The server sees the end of the last ones a moment later.
    assert!(counts.most_open <= 6, "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_takes_no_new_connections_is_down() -> anyhow::Result<()> {
    let node = Counting::start(Closes::Never).await?;
    let (exporter, scrape) = node.scraped_twice().await?;
    assert!(
        !scrape.reported().join(" ").contains("node_down"),
        "{}",
        scrape.text
    );
    node.stopped.cancel();
    let down = format!("node_down {}", node.address);
    let scrape = exporter
        .until("it is down", |scrape| scrape.reported().contains(&down))
        .await?;
    assert!(scrape.errors("probes", "refused") > 0.0, "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn a_request_that_fails_is_sent_again_for_the_second_reading_only() -> anyhow::Result<()> {
    let node = Counting::start(Closes::Unanswered).await?;
    let (_, scrape) = node.scraped_twice().await?;
    let counts = node.counts();
    assert!(
        scrape.errors("probes", "truncated") > 1.0,
        "{}",
        scrape.text
    );
    // Two scrapes, each with the second reading that comes before an alarm.
    assert_eq!(counts.probes(), 4, "{counts:?}");
    assert_eq!(counts.connections, counts.requests.len(), "{counts:?}");
    Ok(())
}
