//! How `lab fault` reaches a running demo: a file with its address, and HTTP on loopback.
//!
//! The demo injects the faults, because it has the handles. There is no authentication: a client on loopback can break a demo,
//! and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{Cluster, ClusterState};
use crate::{http, http_server};

const STATE_FILE: &str = "demo.json";

/// To start a node or a Redis again takes the longest.
const FAULT_TIMEOUT: Duration = Duration::from_secs(30);

const MAX_BODY: usize = 64 * 1024;

/// What can be done to a running demo: a fault to inject or to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Subcommand)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DemoCommand {
    /// End a node as a crash would: its registration stays until it runs out
    KillNode {
        /// The node's id: node-1, node-2 or node-3
        id: String,
    },
    /// Start a node again that was killed or stopped
    StartNode {
        /// The node's id
        id: String,
    },
    /// Make a node accept connections and answer nothing
    HangNode {
        /// The node's id
        id: String,
    },
    /// Let a hung node go on
    ResumeNode {
        /// The node's id
        id: String,
    },
    /// Stop a node cleanly: it deregisters
    StopNode {
        /// The node's id
        id: String,
    },
    /// Shut Redis down
    StopRedis,
    /// Start Redis again, empty
    StartRedis,
    /// Make Redis accept connections and answer nothing
    PauseRedis,
    /// Let a paused Redis go on
    ResumeRedis,
    /// Make every check of a node slower; 0 ends it
    SlowChecks {
        /// The node's id
        id: String,
        /// By how many milliseconds
        ms: u64,
    },
    /// Keep a counter over its limit, behind the limiter's back
    OverLimit {
        /// The key, without Redis's prefix: user:0 to user:29 have traffic
        key: String,
        /// By how many percent: 5 is a ghost, 15 drifts as well
        percent: u32,
    },
    /// End that, and take the extra requests out of the counter
    ClearOverLimit {
        /// The key
        key: String,
    },
}

/// The address in the file. The rest of the file is for people.
#[derive(Debug, Deserialize)]
struct Whereabouts {
    control: String,
}

#[derive(Debug, Serialize)]
struct State {
    pid: u32,
    control: String,
    #[serde(flatten)]
    cluster: ClusterState,
}

/// Injects or ends a fault in the demo that runs in `dir`, and returns what the demo did.
pub async fn send_command(dir: &Path, command: &DemoCommand) -> anyhow::Result<String> {
    let Some(control) = control_address(dir) else {
        bail!(
            "no demo is running in {}: start one with `lab demo`",
            dir.display()
        );
    };
    let body = serde_json::to_string(command)?;
    let answer = http::request(&control, Method::POST, "/fault", body, FAULT_TIMEOUT)
        .await
        .with_context(|| format!("the demo in {} does not answer", dir.display()))?;
    if answer.status != 200 {
        bail!("{}", answer.text());
    }
    Ok(answer.text())
}

/// Makes the folder, and clears what a demo that was killed left there.
pub(super) async fn prepare_dir(dir: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot prepare the folder {}", dir.display());
    std::fs::create_dir_all(dir).with_context(context)?;
    if let Some(control) = control_address(dir) {
        let alive = http::get(&control, "/state", Duration::from_secs(1)).await;
        if alive.is_ok_and(|answer| answer.status == 200) {
            bail!("another demo is running in {}: give --dir", dir.display());
        }
    }
    forget(dir);
    for entry in std::fs::read_dir(dir).with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("ratelimiter-lab-demo-") {
            std::fs::remove_dir_all(entry.path()).with_context(context)?;
        }
    }
    Ok(())
}

/// Removes the file: there is no demo to find any more.
pub(super) fn forget(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(STATE_FILE));
}

/// Carries out a command and brings the file up to date.
pub(super) async fn act(
    cluster: &Mutex<Cluster>,
    dir: &Path,
    command: DemoCommand,
) -> anyhow::Result<String> {
    let mut cluster = cluster.lock().await;
    let done = cluster.apply(command).await?;
    if let Some(control) = control_address(dir) {
        write_state(dir, &control, &cluster)?;
    }
    Ok(done)
}

/// Listens on a free port of loopback and writes the file that says which.
pub(super) async fn serve(
    cluster: Arc<Mutex<Cluster>>,
    dir: PathBuf,
) -> anyhow::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    write_state(&dir, &address, &*cluster.lock().await)?;
    Ok(http_server::serve(listener, move |request| {
        let (cluster, dir) = (Arc::clone(&cluster), dir.clone());
        async move { answer(request, &cluster, &dir).await }
    }))
}

async fn answer(
    request: Request<Incoming>,
    cluster: &Mutex<Cluster>,
    dir: &Path,
) -> (StatusCode, String) {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/state") => match std::fs::read_to_string(dir.join(STATE_FILE)) {
            Ok(state) => (StatusCode::OK, state),
            Err(error) => (StatusCode::NOT_FOUND, error.to_string()),
        },
        (&Method::POST, "/fault") => {
            let body = http_server::body(request, MAX_BODY).await;
            match body.and_then(|body| Ok(serde_json::from_slice(&body)?)) {
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
                Ok(command) => match act(cluster, dir, command).await {
                    Ok(done) => (StatusCode::OK, done),
                    Err(error) => (StatusCode::CONFLICT, format!("{error:#}")),
                },
            }
        }
        _ => (
            StatusCode::NOT_FOUND,
            "POST /fault or GET /state".to_owned(),
        ),
    }
}

fn control_address(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(STATE_FILE)).ok()?;
    let found: Whereabouts = serde_json::from_str(&text).ok()?;
    Some(found.control)
}

fn write_state(dir: &Path, control: &str, cluster: &Cluster) -> anyhow::Result<()> {
    let state = State {
        pid: std::process::id(),
        control: control.to_owned(),
        cluster: cluster.state(),
    };
    let text = serde_json::to_string_pretty(&state)?;
    // In one step, so that nobody reads half of it.
    let (path, half) = (dir.join(STATE_FILE), dir.join("demo.json.new"));
    std::fs::write(&half, text)
        .and_then(|()| std::fs::rename(&half, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_travel_as_json() {
        let command = DemoCommand::OverLimit {
            key: "user:7".to_owned(),
            percent: 15,
        };
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(text, r#"{"what":"over-limit","key":"user:7","percent":15}"#);
        assert_eq!(serde_json::from_str::<DemoCommand>(&text).unwrap(), command);
        let plain = serde_json::from_str::<DemoCommand>(r#"{"what":"pause-redis"}"#).unwrap();
        assert_eq!(plain, DemoCommand::PauseRedis);
    }

    #[tokio::test]
    async fn without_a_demo_the_error_says_how_to_start_one() {
        let folder = crate::temp::TempDir::new("unit").unwrap();
        let error = send_command(folder.path(), &DemoCommand::StopRedis)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("lab demo"), "{error}");
    }
}
