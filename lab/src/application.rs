//! A real application with a real limiter, as a process: one of the files in `tests/limiters/apps`, with the libraries that the
//! Makefile installs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::http;
use crate::ports::free_port;
use crate::process::{Process, on_path, until_ready};

/// How long a start may take: Python and Node read thousands of files, and ten others may be starting.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// For one request: far above what a limiter takes on a busy machine.
const REQUEST_PATIENCE: Duration = Duration::from_secs(15);

/// Another program may take a port that was free.
const PORT_ATTEMPTS: u32 = 3;

/// What an application is started with.
#[derive(Debug, Clone, Copy)]
pub struct ApplicationOptions<'a> {
    /// The program, in Python or JavaScript.
    pub file: &'a Path,
    /// More variables of its environment, each `NAME=VALUE`.
    pub variables: &'a [String],
    /// The Redis of its limiter.
    pub redis_url: &'a str,
    /// Requests that a client has in a window.
    pub limit: u32,
    /// The length of a window, in whole seconds.
    pub window: Duration,
    /// The folder for its log.
    pub folder: &'a Path,
}

/// A running application, killed on drop.
#[derive(Debug)]
pub struct Application {
    process: Process,
    address: String,
}

impl Application {
    /// Starts it on a free port, and waits until it answers.
    pub async fn start(options: ApplicationOptions<'_>) -> anyhow::Result<Self> {
        let file = options.file.display();
        let mut output = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            let address = format!("127.0.0.1:{port}");
            let log = options.folder.join(format!("app-{port}.log"));
            let mut process =
                Process::spawn(Path::new("env"), command(&options, port)?, Some(&log))?;
            let answers = || async {
                let answer = http::get(&address, "/ready", REQUEST_PATIENCE).await;
                answer.is_ok_and(|answer| answer.status == 200)
            };
            // It prints nothing. Where another program answers on this port, it has ended.
            let ready = until_ready(&mut process, START_PATIENCE, |_| true, answers);
            if ready
                .await
                .with_context(|| format!("{file} does not answer"))?
                && process.is_running()
            {
                return Ok(Self { process, address });
            }
            output = process.last_output();
        }
        bail!("{file} ended at once; its output ends with:\n{output}")
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The status that a path answers, or nothing where it does not answer.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = http::get(&self.address, path, REQUEST_PATIENCE).await;
        answer.ok().map(|answer| answer.status)
    }

    /// The end of its output.
    pub fn last_output(&self) -> String {
        self.process.last_output()
    }

    /// Ends it: by SIGTERM, and by SIGKILL where that takes too long.
    pub async fn terminate(&mut self) {
        let _ = self.process.terminate().await;
    }
}

/// The arguments of `env`: variables, interpreter, file, and the file's own arguments.
fn command(options: &ApplicationOptions<'_>, port: u16) -> anyhow::Result<Vec<String>> {
    let installed = installed()?;
    let ApplicationOptions { file, .. } = options;
    let (variable, interpreter, libraries) = if file.extension() == Some(OsStr::new("py")) {
        (
            "PYTHONDONTWRITEBYTECODE=1".to_owned(),
            installed.join("python/bin/python"),
            installed.join("python/made"),
        )
    } else {
        let modules = installed.join("node/node_modules");
        (
            format!("NODE_PATH={}", modules.display()),
            on_path(&["node"]).context("node is missing: run make deps-limiters")?,
            installed.join("node/made"),
        )
    };
    ensure!(
        libraries.is_file(),
        "the libraries of {} are not installed ({} is missing): make limiters installs them, as does make demo with its kind",
        file.display(),
        libraries.display()
    );
    ensure!(file.is_file(), "no application {}", file.display());
    let mut words = options.variables.to_vec();
    words.extend([
        variable,
        interpreter.display().to_string(),
        file.display().to_string(),
        port.to_string(),
        options.redis_url.to_owned(),
        options.limit.to_string(),
        options.window.as_secs().to_string(),
    ]);
    Ok(words)
}

/// Where the Makefile installs the libraries: beside the folder of this profile.
pub fn installed() -> anyhow::Result<PathBuf> {
    let lab = crate::beside_current_exe("lab")?;
    let target = lab.parent().and_then(Path::parent);
    Ok(target.context("no target folder")?.join("limiters"))
}
