//! An application as a process: started on a free port, asked, ended with its handle.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lab::ports::free_port;
use lab::process::Process;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::expected::WINDOW;

/// How long a start may take: Python and Node read thousands of files, and ten others may be starting.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// For one request: far above what a limiter takes on a busy machine.
const REQUEST_PATIENCE: Duration = Duration::from_secs(15);

/// How many ports are tried.
const PORT_ATTEMPTS: u32 = 3;

/// What an application's log shows of itself in an error.
const SHOWN_LINES: usize = 20;

/// How far a clock is ahead: several windows.
const AHEAD: &str = "+5m";

/// The clock that an application sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// That of this machine.
    Right,
    /// One that is ahead, by libfaketime. Redis keeps its own.
    Ahead,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allowed,
    Refused,
    /// Neither 200 nor 429, or no answer.
    Failed,
}

/// A running application.
#[derive(Debug)]
pub(crate) struct App {
    process: Process,
    address: String,
}

impl App {
    /// Starts this file of `apps/`, with its limiter in this Redis and a limit; what it prints goes to `folder`. It answers.
    pub(crate) async fn start(
        file: &str,
        clock: Clock,
        redis_url: &str,
        limit: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut said = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            let log = folder.join(format!("app-{port}.log"));
            let words = command(file, clock, port, redis_url, limit)?;
            let mut process = Process::spawn(Path::new("env"), &words, Some(&log))?;
            let ready = lab::wait_for_some(START_PATIENCE, || {
                let running = process.is_running();
                let address = &address;
                async move {
                    let answer = lab::http::get(address, "/ready", REQUEST_PATIENCE).await;
                    let ready = answer.is_ok_and(|answer| answer.status == 200);
                    // Another program may answer on a port that it took first: then this one has ended.
                    (ready || !running).then_some(running)
                }
            });
            let ready = ready.await;
            let mut app = Self { process, address };
            match ready {
                Ok(true) if app.process.is_running() => return Ok(app),
                Ok(_) => said = app.says(),
                Err(_) => bail!(
                    "{file} does not answer after {START_PATIENCE:?}; it says:\n{}",
                    app.says()
                ),
            }
        }
        bail!("{file} ended at once; it says:\n{said}")
    }

    /// One request of a client.
    pub(crate) async fn ask(&self, path: &str, client: &str) -> Outcome {
        let client = utf8_percent_encode(client, NON_ALPHANUMERIC);
        let path = format!("/{path}?key={client}");
        let answer = lab::http::get(&self.address, &path, REQUEST_PATIENCE).await;
        match answer.map(|answer| answer.status) {
            Ok(200) => Outcome::Allowed,
            Ok(429) => Outcome::Refused,
            _ => Outcome::Failed,
        }
    }

    /// The end of what it has printed.
    pub(crate) fn says(&self) -> String {
        let output = self.process.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

/// What `env` is given: the variables, the interpreter, the file and its arguments.
fn command(
    file: &str,
    clock: Clock,
    port: u16,
    redis_url: &str,
    limit: u32,
) -> anyhow::Result<Vec<String>> {
    let installed = installed();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/limiters/apps")
        .join(file);
    let mut words = Vec::new();
    if clock == Clock::Ahead {
        words.push(format!("LD_PRELOAD={}", faketime()?.display()));
        words.push(format!("FAKETIME={AHEAD}"));
        // Timers and deadlines go by a clock that is the same for all.
        words.push("FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned());
        words.push("DONT_FAKE_MONOTONIC=1".to_owned());
    }
    let (interpreter, libraries) = if path.extension() == Some(OsStr::new("py")) {
        words.push("PYTHONDONTWRITEBYTECODE=1".to_owned());
        let python = installed.join("python/bin/python");
        (python, installed.join("python/made"))
    } else {
        let node = lab::process::on_path(&["node"])
            .context("node is missing: run make limiters, which installs Debian's as root")?;
        let modules = installed.join("node/node_modules");
        words.push(format!("NODE_PATH={}", modules.display()));
        (node, installed.join("node/made"))
    };
    ensure!(
        libraries.is_file(),
        "the libraries of {file} are not installed ({} is missing): run make limiters",
        libraries.display()
    );
    words.extend([
        interpreter.display().to_string(),
        path.display().to_string(),
        port.to_string(),
        redis_url.to_owned(),
        limit.to_string(),
        WINDOW.as_secs().to_string(),
    ]);
    Ok(words)
}

/// The library of Debian's package libfaketime that programs of several threads can take. Debian puts it into the folder of
/// the architecture.
fn faketime() -> anyhow::Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").context("cannot read /usr/lib")?;
    folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .context("libfaketime is missing: run make limiters, which installs Debian's as root")
}

/// Where the Makefile installs: beside what cargo builds.
pub(crate) fn installed() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).join("limiters")
}
