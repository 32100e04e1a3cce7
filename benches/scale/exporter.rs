//! The exporter as a process, and a stand-in for the management API that costs nothing.

use std::time::Duration;

use anyhow::Context as _;
use lab::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers `GET /api/limits` and the like, so that nothing but the sweep asks Redis.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Api {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let body = match request.split(' ').nth(1) {
                    Some("/api/limits") => r#"{"default_limit":20,"default_window_ms":60000}"#,
                    Some("/api/nodes") => r#"{"nodes":[]}"#,
                    Some("/health") => r#"{"status":"healthy"}"#,
                    _ => "",
                };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                // A client that hung up is no matter here.
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

/// A running exporter.
#[derive(Debug)]
pub(crate) struct Exporter {
    process: Process,
    pub(crate) address: String,
}

impl Exporter {
    pub(crate) async fn start(redis: &str, api: &str, more: &[&str]) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", lab::ports::free_port());
        let mut arguments = vec![
            "--web.listen-address",
            &address,
            "--redis.url",
            redis,
            "--ratelimiter.url",
            api,
            "--scan.budget",
            "60s",
        ];
        arguments.extend(more);
        let process = Process::spawn(&lab::exporter_binary(), arguments, None)?;
        let healthy = || async {
            let answer = lab::http::get(&address, "/-/healthy", Duration::from_secs(1)).await;
            answer.is_ok_and(|answer| answer.status == 200)
        };
        lab::wait_for(Duration::from_secs(10), healthy).await?;
        Ok(Self { process, address })
    }

    /// One scrape: its body, and how long it took in seconds.
    pub(crate) async fn scrape(&self) -> anyhow::Result<(String, f64)> {
        let started = lab::clock::instant();
        let answer = lab::http::get(&self.address, "/metrics", Duration::from_secs(120)).await?;
        Ok((answer.text(), started.elapsed().as_secs_f64()))
    }

    /// Peak resident memory in MiB.
    pub(crate) fn peak_rss(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kib.context("no VmHWM in /proc/PID/status")? / 1024.0)
    }
}

/// The value of the sample that starts with `series`.
pub(crate) fn value(metrics: &str, series: &str) -> anyhow::Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    let text = line.with_context(|| format!("no {series} in the metrics"))?;
    Ok(text.trim().parse()?)
}
