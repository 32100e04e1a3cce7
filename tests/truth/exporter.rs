//! The exporter as a process: started with flags, scraped, ended and started again.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use lab::process::Process;
use tokio::time::Instant;

use crate::scrape::Scrape;

/// Far more than a collection takes, with every timeout that it may run into.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(15);

/// How long it may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A running exporter.
#[derive(Debug)]
pub(crate) struct Exporter {
    process: Process,
    address: String,
    folder: PathBuf,
    args: Vec<String>,
    runs: u32,
    scrapes: Cell<u32>,
}

impl Exporter {
    /// Starts one on a free port with these flags; what it logs goes to `folder`.
    pub(crate) async fn start(folder: &Path, args: Vec<String>) -> anyhow::Result<Self> {
        let (process, address) = launch(folder, &args, 0).await?;
        Ok(Self {
            process,
            address,
            folder: folder.to_path_buf(),
            args,
            runs: 0,
            scrapes: Cell::new(0),
        })
    }

    /// Ends it by SIGTERM and starts it again with the same flags, on another port.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.end().await?;
        self.start_again().await
    }

    /// Ends it by SIGTERM.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.process.terminate().await.map(drop)
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it after it was ended.
    pub(crate) async fn start_again(&mut self) -> anyhow::Result<()> {
        self.runs += 1;
        (self.process, self.address) = launch(&self.folder, &self.args, self.runs).await?;
        Ok(())
    }

    /// Where it listens, `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What the present run has logged.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    /// How many scrapes there were.
    pub(crate) fn scrapes(&self) -> u32 {
        self.scrapes.get()
    }

    /// Scrapes it, and so makes it collect.
    pub(crate) async fn scrape(&self) -> anyhow::Result<Scrape> {
        let began = Instant::now();
        let answer = lab::http::get(&self.address, "/metrics", SCRAPE_PATIENCE).await?;
        let ended = Instant::now();
        anyhow::ensure!(answer.status == 200, "/metrics answers {}", answer.status);
        self.scrapes.set(self.scrapes.get() + 1);
        Scrape::parse(began, ended, &answer.text())
    }
}

async fn launch(folder: &Path, args: &[String], run: u32) -> anyhow::Result<(Process, String)> {
    // A log for each run, so that the line of an earlier run is not there.
    let log = folder.join(format!("exporter-{run}.log"));
    let listen = "--web.listen-address=127.0.0.1:0".to_owned();
    let args = std::iter::once(&listen).chain(args);
    let mut process = Process::spawn(&lab::exporter_binary(), args, Some(&log))?;
    let address = process.until_printed(START_PATIENCE, lab::exporter_address);
    let address = address.await.context("the exporter does not listen")?;
    Ok((process, address))
}
