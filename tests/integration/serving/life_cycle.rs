//! How the exporter starts, how it ends, and how it reports that it is stuck.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use lab::temp::TempDir;

use crate::harness::{Cluster, Exporter, PATIENCE, Scrape, run, said, until_asked};

#[tokio::test]
async fn answers_under_way_are_finished_and_nobody_else_is_let_in() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &["--ratelimiter.timeout=60s"]).await?;
    cluster.exporter.scrape().await?;
    // A hung node makes the scrape last until its deadline.
    cluster.nodes[0].pause()?;
    let address = cluster.exporter.address.clone();
    let scrape = tokio::spawn({
        let address = address.clone();
        async move { lab::http::get(&address, "/metrics", PATIENCE).await }
    });
    until_asked(&cluster.nodes[0].address()).await?;
    cluster.exporter.process.ask_to_end()?;
    lab::wait_for(PATIENCE, || async {
        let ready = lab::http::get(&address, "/-/ready", PATIENCE).await;
        !ready.is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    assert!(
        !scrape.is_finished(),
        "the scrape was to be under way still"
    );
    assert_eq!(scrape.await??.status, 200);
    lab::wait_for(PATIENCE, || {
        let ended = !cluster.exporter.process.is_running();
        async move { ended }
    })
    .await?;
    let status = cluster.exporter.process.exit_status();
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &["--ratelimiter.timeout=60s"]).await?;
    cluster.exporter.scrape().await?;
    cluster.nodes[0].pause()?;
    let address = cluster.exporter.address.clone();
    let scrape = tokio::spawn(async move { lab::http::get(&address, "/metrics", PATIENCE).await });
    until_asked(&cluster.nodes[0].address()).await?;
    cluster.exporter.process.ask_to_end()?;
    lab::wait_for(PATIENCE, || {
        let heard = cluster.exporter.log().contains("stopping");
        async move { heard }
    })
    .await?;
    cluster.exporter.process.ask_to_end()?;
    lab::wait_for(PATIENCE, || {
        let ended = !cluster.exporter.process.is_running();
        async move { ended }
    })
    .await?;
    // An orderly end would have waited for the answer, nine seconds.
    assert!(scrape.await?.is_err());
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_no_collection_and_shows_until_it_comes_back()
-> anyhow::Result<()> {
    let folder = TempDir::new("life-cycle")?;
    let state = folder.path().join("state.json");
    // What is written first. Nobody reads from it, so opening it to write waits for ever, as on a dead network disk.
    let pipe = folder.path().join("state.json.tmp");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status()?;
    assert!(made.success());
    let flag = format!("--state.file={}", state.display());
    let mut cluster = Cluster::start(1, &[&flag]).await?;
    let exporter = &cluster.exporter;
    let written = "ratelimiter_exporter_state_last_write_successful";
    let not_written = |scrape: &Scrape| scrape.is(written, &[], 0);
    exporter
        .until("it shows that state is not written", not_written)
        .await?;
    assert_eq!(exporter.get("/-/healthy").await?.status, 200);

    // Whoever waits gets on, and the next one finds a file that can be written.
    let aside = folder.path().join("aside");
    std::fs::rename(&pipe, &aside)?;
    let reader = std::thread::spawn(move || {
        let mut read = Vec::new();
        std::fs::File::open(aside)?.read_to_end(&mut read)
    });
    let is_written = |scrape: &Scrape| scrape.is(written, &[], 1);
    exporter.until("state is written again", is_written).await?;
    assert!(reader.join().is_ok_and(|read| read.is_ok()));
    assert!(cluster.exporter.process.terminate().await?.success());
    Ok(())
}

#[tokio::test]
async fn sources_that_hang_for_ever_cost_the_same_after_a_thousand_scrapes() -> anyhow::Result<()> {
    let flags = ["--redis.timeout=60s", "--ratelimiter.timeout=60s"];
    let mut cluster = Cluster::start(2, &flags).await?;
    cluster.exporter.scrape().await?;
    cluster.redis.pause()?;
    for node in &mut cluster.nodes {
        node.pause()?;
    }
    let mut costs = Vec::new();
    // Each collection is cut off by the scrapes' own timeout; those that arrive together share one.
    for _ in 0..20 {
        let scrapes = (0..50).map(|_| cluster.exporter.scrape_within(0.4));
        let scrapes = futures_util::future::try_join_all(scrapes).await?;
        let last = scrapes.last();
        let value = |name| last.and_then(|scrape| scrape.value(name, &[]));
        costs.push([
            value("process_open_fds"),
            value("process_threads"),
            value("process_resident_memory_bytes").map(|bytes| bytes / f64::from(1 << 20)),
        ]);
    }
    // Compared with the first rounds, which fill the pools.
    let (early, late) = (costs[4], costs[costs.len() - 1]);
    for (what, (early, late), room) in [
        ("open files", (early[0], late[0]), 60.0),
        ("threads", (early[1], late[1]), 2.0),
        ("MiB of memory", (early[2], late[2]), 8.0),
    ] {
        let grown = late.zip(early).map(|(late, early)| late - early);
        assert!(
            grown.is_some_and(|grown| grown <= room),
            "{what}: {costs:?}"
        );
    }
    cluster.redis.resume()?;
    for node in &mut cluster.nodes {
        node.resume()?;
    }
    // The first one that has time enough sees everything.
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_is("ratelimiter_redis_up", &[], 1);
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_scan_coverage_ratio", &[], 1);
    Ok(())
}

#[tokio::test]
async fn a_reload_during_the_start_does_not_end_the_exporter() -> anyhow::Result<()> {
    let folder = TempDir::new("start")?;
    let file = folder.path().join("config.yml");
    let made = std::process::Command::new("mkfifo").arg(&file).status()?;
    assert!(made.success());
    let flag = format!("--config.file={}", file.display());
    let starting = tokio::spawn(async move { Exporter::start(&[flag]).await });
    // Both ends wait for each other: it is then in the midst of starting, and reads on until this is closed.
    let mut end =
        tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(file))
            .await??;
    let comm = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
    let path = folder.path().display().to_string();
    let pid = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|pid| comm(pid).is_ok_and(|line| line.contains(&path)))
        .context("no such process")?;
    let sent = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status()?;
    assert!(sent.success());
    std::io::Write::write_all(&mut end, b"log.level: info\n")?;
    drop(end);
    let exporter = starting.await??;
    assert_eq!(exporter.get("/-/healthy").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_state_file_that_is_no_file_is_refused_and_left_where_it_is() -> anyhow::Result<()> {
    let folder = TempDir::new("no-state")?;
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/dev/null", &link)?;
    let named = |path: &Path| format!("--state.file={}", path.display());
    for (flag, expected) in [
        ("--state.file=/dev/null".to_owned(), "not a device"),
        (named(&link), "not a device"),
        (named(folder.path()), "not a folder"),
        (
            "--state.file=/nonexistent/state".to_owned(),
            "a folder that can be written",
        ),
    ] {
        for more in [&["--config.check"][..], &[]] {
            let flags = std::iter::once(&*flag).chain(more.iter().copied());
            let output = run(flags.map(str::to_owned).collect()).await?;
            assert_eq!(output.status.code(), Some(2), "{flag}");
            let said = said(&output);
            assert!(
                said.contains("--state.file: ") && said.contains(expected),
                "{said}"
            );
        }
    }
    assert!(!std::fs::metadata("/dev/null")?.is_file());
    Ok(())
}

#[tokio::test]
async fn state_that_cannot_be_written_is_logged_once_at_its_beginning_and_end() -> anyhow::Result<()>
{
    let folder = TempDir::new("unwritable")?;
    let state = folder.path().join("state.json");
    let flag = format!("--state.file={}", state.display());
    let cluster = Cluster::start(1, &[&flag]).await?;
    let written = |value| {
        move |scrape: &Scrape| {
            scrape.is(
                "ratelimiter_exporter_state_last_write_successful",
                &[],
                value,
            )
        }
    };
    cluster.exporter.until("it is written", written(1)).await?;
    let blocked = folder.path().join("state.json.tmp");
    // It is there for a moment after each collection.
    lab::wait_for(PATIENCE, || async { std::fs::create_dir(&blocked).is_ok() }).await?;
    cluster.exporter.until("it fails", written(0)).await?;
    cluster.exporter.scrape().await?;
    cluster.exporter.scrape().await?;
    std::fs::remove_dir(&blocked)?;
    cluster
        .exporter
        .until("it is written again", written(1))
        .await?;
    let log = cluster.exporter.log();
    assert_eq!(
        log.matches("--state.file: cannot write").count(),
        1,
        "{log}"
    );
    assert_eq!(
        log.matches("--state.file: written again").count(),
        1,
        "{log}"
    );
    Ok(())
}
