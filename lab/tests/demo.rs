//! The demo with a real application, as somebody runs it: a counter goes wrong, exactly one page arrives, and the runbook's command
//! heals it.
//!
//! Not among the tests that `cargo test` runs: `make limiters` does, which installs the applications' libraries. It leaves out the
//! demo of the reference limiter, which proves itself by `--exit`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use lab::ports::free_port;
use lab::temp::TempDir;
use tokio::process::Command;

/// Start, grace period, rule, group and repair take two minutes.
const PATIENCE: Duration = Duration::from_secs(360);

/// What the demo of `kind` prints; an error unless it says itself that it is complete.
async fn demo(kind: &str) -> anyhow::Result<String> {
    let folder = TempDir::new("demo-of-a-kind")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let output = Command::new(lab::binary())
        .current_dir(root.context("no repository")?)
        .args(["demo", "--exit", "--kind", kind, "--listen"])
        .arg(format!("127.0.0.1:{}", free_port()))
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await??;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}

/// The notifications that the demo prints, without the watchdog, times and summaries.
fn pages(printed: &str) -> Vec<String> {
    let lines = printed.lines().filter(|line| line.contains(" <- FIRED "));
    let words = lines.map(|line| line.split_whitespace().skip(2).take(5).collect::<Vec<_>>());
    let pages = words.map(|words| words.join(" "));
    pages.filter(|page| !page.contains("Watchdog")).collect()
}

#[tokio::test]
async fn a_lost_expiry_of_flask_limiter_reaches_the_pager() -> anyhow::Result<()> {
    let printed = demo("limits").await?;
    assert_eq!(
        pages(&printed),
        ["pager <- FIRED RatelimiterStuckCounter \"busy/fixed-window\":"],
        "{printed}"
    );
    assert!(
        printed.contains("PERSIST LIMITS:LIMITER/busy/"),
        "{printed}"
    );
    Ok(())
}

#[tokio::test]
async fn express_heals_a_lost_expiry_and_one_that_is_too_late_reaches_the_chat()
-> anyhow::Result<()> {
    let printed = demo("express").await?;
    assert_eq!(
        pages(&printed),
        ["chat <- FIRED RatelimiterInvalidCounter \"busy\":"],
        "{printed}"
    );
    assert!(
        printed.contains("heals such a counter by itself"),
        "{printed}"
    );
    Ok(())
}
