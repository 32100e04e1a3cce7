//! The exporter as a process, and a stand-in for the management API that costs nothing.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use lab::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::seeded::WINDOW_MS;

/// Answers `GET /api/limits` and the like without Redis, so that only the sweep uses Redis.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Api {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let limits = format!("{{\"default_limit\":20,\"default_window_ms\":{WINDOW_MS}}}");
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let body = match request.split(' ').nth(1) {
                    Some("/api/limits") => limits.as_str(),
                    Some("/api/nodes") => r#"{"nodes":[]}"#,
                    Some("/health") => r#"{"status":"healthy"}"#,
                    _ => "",
                };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                // The client may have hung up.
                let _ = stream.write_all((head + body).as_bytes()).await;
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running exporter, with the defaults of everything that is not in the arguments.
#[derive(Debug)]
pub(crate) struct Exporter {
    process: Process,
    pub(crate) address: String,
}

impl Exporter {
    /// Starts one that watches this Redis and asks this API.
    pub(crate) async fn start(redis: &str, api: &str, more: &[&str]) -> anyhow::Result<Self> {
        let mut arguments = vec!["--redis.url", redis, "--ratelimiter.url", api];
        arguments.extend(more);
        Self::with(&arguments).await
    }

    /// Starts one with these arguments.
    pub(crate) async fn with(arguments: &[&str]) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", lab::ports::free_port());
        let mut all = vec!["--web.listen-address", &address];
        all.extend(arguments);
        let process = Process::spawn(&lab::exporter_binary(), all, None)?;
        let healthy = || async {
            let answer = lab::http::get(&address, "/-/healthy", Duration::from_secs(1)).await;
            answer.is_ok_and(|answer| answer.status == 200)
        };
        lab::wait_for(Duration::from_secs(10), healthy).await?;
        Ok(Self { process, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it gets only the processor time that nobody else wants, as if it had a machine to itself.
    pub(crate) fn set_idle_priority(&self, idle: bool) -> anyhow::Result<()> {
        let policy = if idle { "--idle" } else { "--other" };
        let pid = self.process.pid().to_string();
        let set = std::process::Command::new("chrt")
            .args(["--all-tasks", policy, "--pid", "0", &pid])
            .status()
            .context("chrt, of util-linux")?;
        ensure!(set.success(), "chrt {policy}: {set}");
        Ok(())
    }

    /// One scrape: its body, and how long it took in seconds.
    pub(crate) async fn scrape(&self) -> anyhow::Result<(String, f64)> {
        scrape(&self.address, "/metrics").await
    }

    /// Scrapes without a pause until all counters were counted once.
    pub(crate) async fn scrape_until_full_pass(&self, keys: u64) -> anyhow::Result<()> {
        let passed = async {
            loop {
                let (metrics, _) = self.scrape().await?;
                if full_pass(&metrics).is_some() {
                    let seen = value(&metrics, "\nratelimiter_keys ")?;
                    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52")]
                    let all = keys as f64;
                    ensure!(seen >= all, "{seen} of {keys} counters were seen");
                    return Ok(());
                }
                // Where a scrape is answered at once, the pass goes on without it.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), passed)
            .await
            .context("no full pass within ten minutes")?
    }

    /// Peak resident memory in MiB.
    pub(crate) fn peak_rss(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kib.context("no VmHWM in /proc/PID/status")? / 1024.0)
    }
}

/// One scrape of `path`: its body, and how long it took in seconds.
pub(crate) async fn scrape(address: &str, path: &str) -> anyhow::Result<(String, f64)> {
    let started = lab::clock::instant();
    let answer = lab::http::get(address, path, Duration::from_secs(120)).await?;
    ensure!(answer.status == 200, "{path}: status {}", answer.status);
    Ok((answer.text(), started.elapsed().as_secs_f64()))
}

/// When the last full pass ended, as Unix time in seconds; nothing before the first.
pub(crate) fn full_pass(metrics: &str) -> Option<f64> {
    let series = "\nratelimiter_scan_last_full_pass_timestamp_seconds ";
    value(metrics, series).ok().filter(|at| *at > 0.0)
}

/// The value of the series that is written like this, from the line break before it to the space behind it.
fn value(metrics: &str, series: &str) -> anyhow::Result<f64> {
    let behind = metrics.split_once(series).map(|(_, behind)| behind);
    let line = behind.and_then(|behind| behind.lines().next());
    let text = line.with_context(|| format!("no {series:?} in the metrics"))?;
    Ok(text.trim().parse()?)
}
