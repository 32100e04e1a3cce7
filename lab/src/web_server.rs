//! Prometheus or Alertmanager as a process: a configuration file, a folder for its data, a free port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::Value;

use crate::http;
use crate::ports::free_port;
use crate::process::{Process, until_ready};
use crate::temp::TempDir;

/// How long one may take to start: it reads nothing, but a busy machine takes its time.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// For a question to its API.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Another program may take a port that was free; five of them are another fault.
const PORT_ATTEMPTS: u32 = 5;

/// How such a server is started.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: PathBuf,
    pub(crate) config: Config<'a>,
    /// The flag that says where its data go.
    pub(crate) data_flag: &'a str,
    pub(crate) further_args: &'a [&'a str],
    /// What it logs once its port is its own.
    pub(crate) says_ready: &'a str,
}

/// The configuration file of such a server.
#[derive(Debug)]
pub(crate) enum Config<'a> {
    /// One that is there, with whatever it refers to beside it.
    File(&'a Path),
    /// A name and a content.
    Text(&'a str, String),
}

/// A running server, killed on drop.
#[derive(Debug)]
pub struct WebServer {
    address: String,
    process: Process,
    // After the process, so that it is dropped after it.
    _folder: TempDir,
}

impl WebServer {
    /// Starts it in a folder of its own in `base`, and waits until it is ready.
    pub(crate) async fn start_in(base: &Path, program: &Program<'_>) -> anyhow::Result<Self> {
        let mut last_output = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let folder = TempDir::new_in(base, "server")?;
            let file = match &program.config {
                Config::File(file) => file.to_path_buf(),
                Config::Text(name, text) => {
                    let file = folder.path().join(name);
                    std::fs::write(&file, text)?;
                    file
                }
            };
            let address = format!("127.0.0.1:{}", free_port());
            let data = folder.path().join("data");
            let own = [
                format!("--config.file={}", file.display()),
                format!("{}={}", program.data_flag, data.display()),
                format!("--web.listen-address={address}"),
            ];
            let further = program.further_args.iter().copied();
            let args = own.iter().map(String::as_str).chain(further);
            let log = folder.path().join("log");
            let mut process = Process::spawn(&program.path, args, Some(&log))?;
            let says_ready = |output: &str| output.contains(program.says_ready);
            let answers = || async {
                let answer = http::get(&address, "/-/ready", Duration::from_secs(1)).await;
                answer.is_ok_and(|answer| answer.status == 200)
            };
            if until_ready(&mut process, START_PATIENCE, says_ready, answers).await? {
                return Ok(Self {
                    address,
                    process,
                    _folder: folder,
                });
            }
            last_output = process.output();
        }
        let path = program.path.display();
        bail!("{path} does not start; it says:\n{last_output}")
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The JSON that it answers to a GET.
    pub async fn ask(&self, path: &str) -> anyhow::Result<Value> {
        let answer = http::get(&self.address, path, QUESTION_TIMEOUT).await?;
        let (status, text) = (answer.status, answer.text());
        ensure!(status == 200, "GET {path} answers {status}: {text}");
        answer.json()
    }

    /// Ends it in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.terminate().await.map(drop)
    }
}
