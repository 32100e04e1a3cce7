//! A limiter with its exporter, and scrapes that are read back.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use lab::exposition::Exposition;
use lab::http::Answer;
use lab::node::{NodeOptions, NodeProcess};
use lab::process::Process;
use lab::redis_server::RedisServer;
pub(crate) use lab::redis_server::redis_do;
use lab::temp::TempDir;
use lab::traffic::{Traffic, TrafficOptions};

/// Far more than anything takes here: a test that waits as long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// For malloc: large blocks go back to the system as soon as they are freed. Otherwise the exporter's memory depends on the order
/// in which its threads free them, and on how busy the machine is.
pub(crate) const GIVES_MEMORY_BACK: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// A running exporter, ended with its handle.
#[derive(Debug)]
pub(crate) struct Exporter {
    pub(crate) process: Process,
    pub(crate) address: String,
    _folder: TempDir,
}

impl Exporter {
    pub(crate) async fn start(flags: &[String]) -> anyhow::Result<Self> {
        let mut exporter = Self::spawn("127.0.0.1:0", flags)?;
        let process = &mut exporter.process;
        exporter.address = process
            .until_printed(PATIENCE, lab::exporter_address)
            .await?;
        Ok(exporter)
    }

    /// The same for an exporter with any log level and format: its address is fixed, not read from its log.
    pub(crate) async fn start_quietly(flags: &[String]) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", lab::ports::free_port());
        let exporter = Self::spawn(&address, flags)?;
        let listens = lab::wait_for(PATIENCE, || async {
            tokio::net::TcpStream::connect(&address).await.is_ok()
        });
        listens.await.with_context(|| exporter.log())?;
        Ok(exporter)
    }

    fn spawn(address: &str, flags: &[String]) -> anyhow::Result<Self> {
        let folder = TempDir::new("integration")?;
        let log = folder.path().join("exporter.log");
        let listen = format!("--web.listen-address={address}");
        let args = std::iter::once(&listen).chain(flags);
        Ok(Self {
            process: Process::spawn_with(
                &lab::exporter_binary(),
                args,
                Some(&log),
                &[GIVES_MEMORY_BACK],
            )?,
            address: address.to_owned(),
            _folder: folder,
        })
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        lab::http::get(&self.address, path, PATIENCE).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> anyhow::Result<Answer> {
        lab::http::request(&self.address, method, path, body.to_owned(), PATIENCE).await
    }

    /// One scrape by a Prometheus whose timeout is this many seconds, with head and all.
    pub(crate) async fn scrape_within(&self, seconds: f64) -> anyhow::Result<Scrape> {
        let head = format!("x-prometheus-scrape-timeout-seconds: {seconds}\r\n");
        let answer = self.raw("/metrics", &head).await?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Scrape::parse(body.to_owned())
    }

    /// The answer to a GET with further header lines, as it came over the wire.
    pub(crate) async fn raw(&self, path: &str, headers: &str) -> anyhow::Result<Vec<u8>> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&self.address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        Ok(answer)
    }

    /// One scrape.
    pub(crate) async fn scrape(&self) -> anyhow::Result<Scrape> {
        let answer = self.get("/metrics").await?;
        anyhow::ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        Scrape::parse(answer.text())
    }

    /// Scrapes until `holds`; the error has what the last scrape reported.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&Scrape) -> bool,
    ) -> anyhow::Result<Scrape> {
        let mut last = None;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let scrape = self.scrape().await?;
            if holds(&scrape) {
                return Ok(scrape);
            }
            last = Some(scrape);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let reported = last.map(|scrape| scrape.reported());
        anyhow::bail!(
            "never: {what}; reported: {reported:?}; log:\n{}",
            self.log()
        )
    }
}

/// A Redis, nodes, and an exporter that knows them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) exporter: Exporter,
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) redis: RedisServer,
}

impl Cluster {
    /// `nodes` nodes named `node-1` and so on; further flags for the exporter.
    pub(crate) async fn start(nodes: usize, flags: &[&str]) -> anyhow::Result<Self> {
        let redis = RedisServer::start(&[]).await?;
        let mut running = Vec::new();
        for number in 1..=nodes {
            let options = NodeOptions::new(format!("node-{number}"), redis.url());
            running.push(NodeProcess::start(options).await?);
        }
        let mut all = base_flags(&redis.url(), &running);
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        let exporter = Exporter::start(&all).await?;
        Ok(Self {
            exporter,
            nodes: running,
            redis,
        })
    }

    /// Steady traffic over all nodes, on few keys.
    pub(crate) fn traffic(&self, rate: f64) -> anyhow::Result<Traffic> {
        Traffic::start(TrafficOptions {
            nodes: self.nodes.iter().map(NodeProcess::address).collect(),
            keys: 5,
            rate_per_second: rate,
            key_prefix: "user:".to_owned(),
        })
    }
}

/// The flags that point an exporter at these.
pub(crate) fn base_flags(redis: &str, nodes: &[NodeProcess]) -> Vec<String> {
    let urls: Vec<String> = nodes.iter().map(NodeProcess::url).collect();
    vec![
        format!("--redis.url={redis}"),
        format!("--ratelimiter.url={}", urls.join(",")),
    ]
}

/// A client with users and headers, which the lab's client does not have. Each request has a connection of its own.
pub(crate) fn client() -> anyhow::Result<reqwest::Client> {
    Ok(client_builder().build()?)
}

/// The same, before TLS is set up.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .no_proxy()
        .timeout(PATIENCE)
}

/// Runs the exporter's binary to its end, without our environment's settings; killed when that takes too long.
pub(crate) async fn run(args: Vec<String>) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(lab::exporter_binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RATELIMITER_EXPORTER_") {
            command.env_remove(name);
        }
    }
    let output = command
        .args(&args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    Ok(output.with_context(|| format!("{args:?} does not end"))??)
}

/// Runs `script` in a shell that finds the exporter, in `folder`. The first command that fails ends it, also one in a pipe.
pub(crate) async fn shell(script: &str, folder: &Path) -> anyhow::Result<Output> {
    let exporter = lab::exporter_binary();
    let binaries = exporter.parent().context("no folder")?.display();
    let output = tokio::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c"])
        .arg(format!("PATH=\"{binaries}:$PATH\"\n{script}"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    Ok(tokio::time::timeout(PATIENCE, output).await??)
}

/// What a program printed on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The samples of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    samples: Exposition,
}

impl Scrape {
    pub(crate) fn parse(text: String) -> anyhow::Result<Self> {
        Ok(Self {
            samples: Exposition::parse(&text)?,
            text,
        })
    }

    /// The value of the series with this name and, among its labels, these.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples.value(name, labels)
    }

    /// Whether that value is this whole number.
    pub(crate) fn is(&self, name: &str, labels: &[(&str, &str)], value: u32) -> bool {
        self.samples.is(name, labels, value)
    }

    #[track_caller]
    pub(crate) fn assert_is(&self, name: &str, labels: &[(&str, &str)], value: u32) {
        let found = self.value(name, labels);
        let is = self.is(name, labels, value);
        assert!(
            is,
            "{name} {labels:?}: {found:?}, not {value}\n{}",
            self.text
        );
    }

    #[track_caller]
    pub(crate) fn assert_reported(&self, expected: &[&str]) {
        assert_eq!(self.reported(), expected, "{}", self.text);
    }

    /// Every value of `label` in the series called `name`.
    pub(crate) fn labels(&self, name: &str, label: &str) -> Vec<String> {
        self.samples.labels(name, label)
    }

    /// `invariant subject` of everything that is reported.
    pub(crate) fn reported(&self) -> Vec<String> {
        let subjects = self.samples.subjects("invariant_violation").into_iter();
        subjects
            .map(|(name, subject)| format!("{name} {subject}"))
            .collect()
    }

    /// Whether an invariant could be evaluated for all its subjects; none where it is not evaluated.
    pub(crate) fn evaluable(&self, name: &str) -> Option<bool> {
        let value = self.value("ratelimiter_invariant_evaluable", &[("name", name)]);
        value.map(|value| value > 0.5)
    }

    /// Whether a collector read everything; none where the limiter has no such collector.
    pub(crate) fn succeeded(&self, collector: &str) -> Option<bool> {
        let labels = [("collector", collector)];
        let value = self.value("ratelimiter_scrape_collector_success", &labels);
        value.map(|value| value > 0.5)
    }

    /// How often a collector failed for a reason.
    pub(crate) fn errors(&self, collector: &str, reason: &str) -> f64 {
        let labels = [("collector", collector), ("reason", reason)];
        self.value("ratelimiter_exporter_errors_total", &labels)
            .unwrap_or(0.0)
    }
}

/// Waits until the server at `address`, which is paused, has a request that it has not read.
pub(crate) async fn until_asked(address: &str) -> anyhow::Result<()> {
    let port: u16 = address.rsplit_once(':').unwrap_or_default().1.parse()?;
    // As the kernel writes it: local address, remote address, state, and what waits to be sent and to be read.
    let local = format!("0100007F:{port:04X}");
    let asked = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let unread = fields.get(4).and_then(|queues| queues.split_once(':'));
        let established = fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"01");
        established && unread.is_some_and(|(_, unread)| unread != "00000000")
    };
    lab::wait_for(PATIENCE, || async {
        let connections = std::fs::read_to_string("/proc/net/tcp");
        connections.is_ok_and(|connections| connections.lines().any(asked))
    })
    .await
}

/// An error where promtool finds fault with these metrics.
pub(crate) async fn promtool(metrics: String) -> anyhow::Result<()> {
    use std::process::Stdio;
    use tokio::io::AsyncWriteExt as _;
    let mut child = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(metrics.as_bytes()).await?;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
    let said = said(&output) + &String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    Ok(())
}

/// A figure of a command in `INFO commandstats`, such as its `calls`.
pub(crate) async fn command_stat(
    server: &RedisServer,
    command: &str,
    figure: &str,
) -> anyhow::Result<u64> {
    let stats: String = server.run(&["INFO", "commandstats"]).await?;
    let begin = format!("cmdstat_{command}:");
    let line = stats.lines().find_map(|line| line.strip_prefix(&*begin));
    let mut figures = line.into_iter().flat_map(|line| line.split(','));
    let found = figures.find_map(|it| it.strip_prefix(figure)?.strip_prefix('='));
    Ok(found.map_or(Ok(0), str::parse)?)
}
