//! A limiter node as a process: a node that is killed or hangs must do so for real. The modules below are the node itself.

mod answer;
mod api;
mod limiter;
mod metrics;
mod registry;
mod serve;
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper::Method;

use crate::faults::Faults;
use crate::http;
use crate::process::Process;
use crate::temp::TempDir;

pub use serve::{NoRedis, run};

/// How long a node may take to register and listen.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How long the node may take to answer what the lab asks it.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Its id in the registry.
    pub id: String,
    /// Where its state lives.
    pub redis_url: String,
    /// Where it listens; a free port of 127.0.0.1 when not given.
    pub listen: Option<SocketAddr>,
    /// The address it registers; where it listens when not given.
    pub advertise: Option<String>,
    /// The limit of keys without one of their own.
    pub default_limit: i64,
    /// The window of keys without one of their own, in milliseconds.
    pub default_window_ms: i64,
    /// How often it renews its registration, which lives three times as long.
    pub heartbeat_seconds: u64,
    /// What it does wrong from the start.
    pub faults: Faults,
}

impl NodeOptions {
    /// A healthy node with the defaults of a real one: 10 requests in 60 seconds.
    pub fn new(id: impl Into<String>, redis_url: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            redis_url: redis_url.into(),
            listen: None,
            advertise: None,
            default_limit: 10,
            default_window_ms: 60_000,
            heartbeat_seconds: 10,
            faults: Faults::default(),
        }
    }

    fn to_args(&self) -> anyhow::Result<Vec<String>> {
        let mut args = vec![
            "node".to_owned(),
            format!("--id={}", self.id),
            format!("--redis={}", self.redis_url),
            format!("--default-limit={}", self.default_limit),
            format!("--default-window-ms={}", self.default_window_ms),
            format!("--heartbeat-seconds={}", self.heartbeat_seconds),
            format!("--faults={}", serde_json::to_string(&self.faults)?),
        ];
        args.extend(self.listen.map(|address| format!("--listen={address}")));
        let advertise = self.advertise.as_ref();
        args.extend(advertise.map(|address| format!("--advertise={address}")));
        Ok(args)
    }
}

/// A node running as a process; killed on drop, which leaves its registration to run out.
#[derive(Debug)]
pub struct NodeProcess {
    options: NodeOptions,
    address: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl NodeProcess {
    /// Starts a node and waits until it has registered and listens.
    pub async fn start(options: NodeOptions) -> anyhow::Result<Self> {
        Self::start_in(&std::env::temp_dir(), options).await
    }

    /// Starts a node that has its folder in `base`.
    pub async fn start_in(base: &Path, options: NodeOptions) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(base, "node")?;
        let mut launched = launch(&on_free_port(&options), folder.path()).await;
        if launched.is_err() && options.listen.is_none() {
            // Somebody else took the port first.
            launched = launch(&on_free_port(&options), folder.path()).await;
        }
        let (process, address) = launched?;
        Ok(Self {
            options,
            address,
            process,
            folder,
        })
    }

    /// Its id in the registry.
    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// Where it listens, `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to do something to.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as a crash would: its registration stays until it runs out.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it cleanly: it takes its registration away first.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.terminate().await
    }

    /// Hangs it: it accepts connections and answers nothing.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.pause()
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process.resume()
    }

    /// Ends it if need be, by SIGKILL, and starts it again with the same id, port and options.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        let mut options = self.options.clone();
        options.listen = Some(self.address);
        (self.process, self.address) = launch(&options, self.folder.path()).await?;
        Ok(())
    }

    /// Makes it do these things wrong, and no others, until the next call or its restart.
    pub async fn set_faults(&self, faults: &Faults) -> anyhow::Result<()> {
        let body = serde_json::to_string(faults)?;
        let answer = http::request(
            &self.address(),
            Method::PUT,
            "/lab/faults",
            body,
            CONTROL_TIMEOUT,
        )
        .await?;
        ensure!(
            answer.status == 200,
            "node {} refused the faults: {} {}",
            self.options.id,
            answer.status,
            answer.text()
        );
        Ok(())
    }

    /// What it does wrong at present.
    pub async fn faults(&self) -> anyhow::Result<Faults> {
        let answer = http::get(&self.address(), "/lab/faults", CONTROL_TIMEOUT).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

async fn launch(options: &NodeOptions, folder: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let log = folder.join("node.log");
    // So that the line of an earlier run is not there.
    let _ = std::fs::remove_file(&log);
    let program = crate::beside_current_exe("lab")?;
    let mut process = Process::spawn(&program, options.to_args()?, Some(&log))?;
    let address = process.until_printed(START_PATIENCE, listening_address);
    let address = address
        .await
        .with_context(|| format!("node {} does not listen", options.id))?;
    Ok((process, address))
}

/// The options with a port of their own, if they name none: one that is still free when the node comes back.
fn on_free_port(options: &NodeOptions) -> NodeOptions {
    let free = || SocketAddr::from(([127, 0, 0, 1], crate::ports::free_port()));
    NodeOptions {
        listen: Some(options.listen.unwrap_or_else(free)),
        ..options.clone()
    }
}

/// The address in the line by which a node says that it has registered and listens.
fn listening_address(output: &str) -> Option<SocketAddr> {
    // Only whole lines: the last one may still be on its way.
    let lines = output.split_inclusive('\n');
    lines
        .filter_map(|line| line.strip_suffix('\n'))
        .find_map(|line| line.strip_prefix("listening ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_from_a_whole_line_only() {
        assert_eq!(listening_address("listening 127.0.0.1:80"), None);
        assert_eq!(
            listening_address("hello\nlistening 127.0.0.1:8000\nmore"),
            Some(SocketAddr::from(([127, 0, 0, 1], 8000)))
        );
    }
}
