//! A limiter with its exporter, and scrapes that are read back from the text format.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use lab::http::Answer;
use lab::node::{NodeOptions, NodeProcess};
use lab::process::Process;
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use lab::traffic::{Traffic, TrafficOptions};

/// Far more than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running exporter, ended with its handle.
#[derive(Debug)]
pub(crate) struct Exporter {
    pub(crate) process: Process,
    pub(crate) address: String,
    _folder: TempDir,
}

impl Exporter {
    pub(crate) async fn start(flags: &[String]) -> anyhow::Result<Self> {
        let folder = TempDir::new("integration")?;
        let log = folder.path().join("exporter.log");
        let listen = "--web.listen-address=127.0.0.1:0".to_owned();
        let args = std::iter::once(&listen).chain(flags);
        let process = Process::spawn(&lab::exporter_binary(), args, Some(&log))?;
        let address = lab::wait_for_some(PATIENCE, || {
            let output = process.output();
            let found = output
                .split_whitespace()
                .find_map(|word| word.strip_prefix("address="));
            let found = found.filter(|_| output.ends_with('\n')).map(str::to_owned);
            async move { found }
        });
        let address = address.await.with_context(|| process.output())?;
        Ok(Self {
            process,
            address,
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

    /// One scrape.
    pub(crate) async fn scrape(&self) -> anyhow::Result<Scrape> {
        let answer = self.get("/metrics").await?;
        anyhow::ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        Scrape::parse(answer.text())
    }

    /// Scrapes until `holds`; the error tells what the last one reported.
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

/// Runs the exporter's binary to its end, without our environment's settings.
pub(crate) async fn run(args: Vec<String>) -> anyhow::Result<Output> {
    let output = tokio::task::spawn_blocking(move || {
        Command::new(lab::exporter_binary())
            .args(args)
            .stdin(Stdio::null())
            .output()
    });
    Ok(output.await??)
}

/// The samples of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Scrape {
    pub(crate) fn parse(text: String) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples: anyhow::Result<Vec<_>> = lines
            .map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")))
            .collect();
        Ok(Self {
            samples: samples?,
            text,
        })
    }

    /// The value of the series with this name and, among its labels, these.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.samples.iter().filter(|(sample, values, _)| {
            let matches = |(label, value): &(&str, &str)| {
                values.get(*label).is_some_and(|found| found == value)
            };
            sample == name && labels.iter().all(matches)
        });
        found.next().map(|(_, _, value)| *value)
    }

    /// Whether that value is this whole number.
    pub(crate) fn is(&self, name: &str, labels: &[(&str, &str)], value: u32) -> bool {
        let found = self.value(name, labels);
        found.is_some_and(|found| found.to_bits() == f64::from(value).to_bits())
    }

    /// Every value of `label` in the series called `name`.
    pub(crate) fn labels(&self, name: &str, label: &str) -> Vec<String> {
        let named = self.samples.iter().filter(|(sample, ..)| sample == name);
        named
            .filter_map(|(_, labels, _)| labels.get(label).cloned())
            .collect()
    }

    /// `invariant subject` of everything that is reported.
    pub(crate) fn reported(&self) -> Vec<String> {
        let named = self
            .samples
            .iter()
            .filter(|(name, _, value)| name == "invariant_violation" && *value > 0.0);
        let mut all: Vec<String> = named
            .map(|(_, labels, _)| format!("{} {}", labels["name"], labels["subject"]))
            .collect();
        all.sort();
        all
    }

    /// How often a collector failed for a reason.
    pub(crate) fn errors(&self, collector: &str, reason: &str) -> f64 {
        let labels = [("collector", collector), ("reason", reason)];
        self.value("ratelimiter_exporter_errors_total", &labels)
            .unwrap_or(0.0)
    }
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    Some((name.to_owned(), labels, rest.trim().parse().ok()?))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}
