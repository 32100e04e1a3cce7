//! What an exporter takes along across its own death.

use std::path::Path;

use lab::seed::fill_to;
use lab::temp::TempDir;
use tokio::time::Instant;

use crate::bench::{Bench, put_limit, secs};
use crate::expect::Expect;
use crate::runner::{Scenario, Seen};
use crate::scrape::{findings, shown};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "exporter killed (kill -9) inside a grace period, with --state.file",
            "`counter_drift{key}` 30 s after the first sighting, neither later nor earlier",
            45,
            || Box::pin(grace_goes_on()),
        ),
        Scenario::new(
            "node killed, then the exporter restarted, with --state.file",
            "`node_down{node-2}` at the first collection of the new run, and after its registration ran out",
            45,
            || Box::pin(down_stays_down()),
        ),
        Scenario::new(
            "exporter restarted while a lowered limit drains, with --state.file",
            "pending, never reported",
            15,
            || Box::pin(draining_goes_on()),
        ),
        Scenario::new(
            "damaged --state.file",
            "one clear log line, then an empty start",
            8,
            || Box::pin(damaged()),
        ),
    ]
}

fn state_flag(folder: &Path) -> String {
    format!("--state.file={}", folder.join("state.json").display())
}

async fn grace_goes_on() -> anyhow::Result<Seen> {
    let folder = TempDir::new("truth-state")?;
    let mut bench = Bench::start(1, &[&state_flag(folder.path())]).await?;
    let fault = Instant::now();
    fill_to(&mut bench.redis().await?, b"tenant", 12).await?;
    let first = bench.exporter.scrape().await?;
    let ghost = || Expect::at_once([("ghost_allowing", "tenant")]);
    bench.exporter.keeps(secs(12), ghost()).await?;
    bench.exporter.kill();
    tokio::time::sleep(secs(3)).await;
    bench.exporter.start_again().await?;
    let drift = findings([("counter_drift", "tenant")]);
    loop {
        let scrape = bench.exporter.scrape().await?;
        let at_most = scrape.ended - first.began;
        let at_least = scrape.began - first.ended;
        if scrape.reported().is_superset(&drift) {
            anyhow::ensure!(at_most >= secs(30), "reported after {at_most:?}");
            return Ok(Seen {
                what: shown(&scrape.reported()),
                seconds: Some(scrape.ended.duration_since(fault).as_secs_f64()),
                ..Seen::default()
            });
        }
        anyhow::ensure!(
            scrape.reported() == findings([("ghost_allowing", "tenant")]),
            "after the restart: {}",
            shown(&scrape.reported())
        );
        // The wall clock carries the time without an exporter: it is read to the microsecond, not to the second.
        anyhow::ensure!(at_least < secs(30), "not reported after {at_least:?}");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

async fn down_stays_down() -> anyhow::Result<Seen> {
    let folder = TempDir::new("truth-state")?;
    let mut bench = Bench::start(3, &[&state_flag(folder.path())]).await?;
    let down = || Expect::at_once([("node_down", "node-2")]);
    bench.nodes[1].kill();
    bench.exporter.finds(Instant::now(), down()).await?;
    bench.exporter.restart().await?;
    let restarted = Instant::now();
    let seen = bench.exporter.finds(restarted, down()).await?;
    bench.exporter.keeps(secs(28), down()).await?;
    bench.exporter.kill();
    bench.exporter.start_again().await?;
    bench.exporter.keeps(secs(3), down()).await?;
    bench.nodes[1].restart().await?;
    bench.exporter.recovers().await?;
    Ok(seen)
}

async fn draining_goes_on() -> anyhow::Result<Seen> {
    let folder = TempDir::new("truth-state")?;
    let mut bench = Bench::start(1, &[&state_flag(folder.path())]).await?;
    put_limit(&bench.nodes[0], "tenant", 20, 60_000).await?;
    fill_to(&mut bench.redis().await?, b"tenant", 10).await?;
    bench.exporter.silent_for(secs(2)).await?;
    put_limit(&bench.nodes[0], "tenant", 5, 60_000).await?;
    bench.exporter.silent_for(secs(2)).await?;
    bench.exporter.kill();
    bench.exporter.start_again().await?;
    bench.exporter.silent_for(secs(5)).await?;
    let pending = bench.exporter.scrape().await?.pending();
    let expected = findings([("ghost_allowing", "tenant"), ("counter_drift", "tenant")]);
    anyhow::ensure!(pending == expected, "pending: {}", shown(&pending));
    Ok(bench.exporter.nothing())
}

async fn damaged() -> anyhow::Result<Seen> {
    let folder = TempDir::new("truth-state")?;
    let mut bench = Bench::start(2, &[&state_flag(folder.path())]).await?;
    bench.exporter.silent_for(secs(1)).await?;
    bench.exporter.kill();
    let file = folder.path().join("state.json");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, &text[..text.len() / 2])?;
    bench.exporter.start_again().await?;
    bench.settle().await?;
    let log = bench.exporter.log();
    let errors: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("level=error"))
        .collect();
    anyhow::ensure!(
        errors.len() == 1 && errors[0].contains("--state.file") && errors[0].contains("damaged"),
        "the log says:\n{log}"
    );
    // It goes on: a new state is written.
    bench.exporter.restart().await?;
    bench.settle().await?;
    let log = bench.exporter.log();
    anyhow::ensure!(!log.contains("level=error"), "the log says:\n{log}");
    Ok(Seen {
        what: "one error line that names the flag, the file and where it was moved".to_owned(),
        seconds: None,
        ..Seen::default()
    })
}
