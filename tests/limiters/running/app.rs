//! An application as a process: started on a free port, asked, ended with its handle.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lab::ports::free_port;
use lab::process::Process;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::applications::Application;
use crate::expected::WINDOW;

/// How long a start may take: Python and Node read thousands of files, and ten others may be starting.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// For one request: far above what a limiter takes on a busy machine.
const REQUEST_PATIENCE: Duration = Duration::from_secs(15);

/// How many ports are tried.
const PORT_ATTEMPTS: u32 = 3;

/// What an application's log shows of itself in an error.
const SHOWN_LINES: usize = 20;

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
    /// Starts it, with its limiter in this Redis and a limit; what it prints goes to `folder`. It answers.
    pub(crate) async fn start(
        application: &Application,
        redis_url: &str,
        limit: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut said = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            let log = folder.join(format!("app-{port}.log"));
            let words = command(application, port, redis_url, limit)?;
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
                    "{} does not answer after {START_PATIENCE:?}; it says:\n{}",
                    application.file,
                    app.says()
                ),
            }
        }
        bail!("{} ended at once; it says:\n{said}", application.file)
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
    application: &Application,
    port: u16,
    redis_url: &str,
    limit: u32,
) -> anyhow::Result<Vec<String>> {
    let installed = installed();
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/limiters/apps")
        .join(application.file);
    let (variable, interpreter, libraries) = if file.extension() == Some(OsStr::new("py")) {
        let python = installed.join("python/bin/python");
        let variable = "PYTHONDONTWRITEBYTECODE=1".to_owned();
        (variable, python, installed.join("python/made"))
    } else {
        let node = lab::process::on_path(&["node"])
            .context("node is missing: run make limiters, which installs Debian's as root")?;
        let modules = installed.join("node/node_modules");
        (
            format!("NODE_PATH={}", modules.display()),
            node,
            installed.join("node/made"),
        )
    };
    ensure!(
        libraries.is_file(),
        "the libraries of {} are not installed ({} is missing): run make limiters",
        application.file,
        libraries.display()
    );
    Ok(vec![
        variable,
        interpreter.display().to_string(),
        file.display().to_string(),
        port.to_string(),
        redis_url.to_owned(),
        limit.to_string(),
        WINDOW.as_secs().to_string(),
    ])
}

/// Where the Makefile installs: beside what cargo builds.
fn installed() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).join("limiters")
}
