//! Prometheus and Alertmanager as processes, each with a folder and a port of its own.

use std::path::Path;

use anyhow::Context as _;
use lab::ports::free_port;
use lab::process::Process;
use lab::temp::TempDir;

use crate::harness::PATIENCE;

/// A running server, ended with its handle.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: String,
    _process: Process,
    _folder: TempDir,
}

impl Server {
    /// An Alertmanager with this configuration.
    pub(super) async fn alertmanager(config: &Path) -> anyhow::Result<Self> {
        // Debian's name for it, and everyone else's.
        let programs = ["prometheus-alertmanager", "alertmanager"];
        // An empty address: no cluster, and no port for one.
        let further = ["--storage.path=data", "--cluster.listen-address="];
        Self::start(&programs, config, &further).await
    }

    /// A Prometheus with this configuration.
    pub(super) async fn prometheus(config: &Path) -> anyhow::Result<Self> {
        Self::start(&["prometheus"], config, &["--storage.tsdb.path=data"]).await
    }

    /// `data` in the arguments stands for a folder of its own.
    async fn start(programs: &[&str], config: &Path, further: &[&str]) -> anyhow::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path)
            .flat_map(|folder| programs.iter().map(move |program| folder.join(program)));
        let program = places.find(|program| program.is_file());
        let program = program.with_context(|| format!("no {programs:?}: run make deps"))?;
        let folder = TempDir::new("server")?;
        let address = format!("127.0.0.1:{}", free_port());
        let mut args = vec![
            format!("--config.file={}", config.display()),
            format!("--web.listen-address={address}"),
        ];
        let data = format!("={}", folder.path().display());
        args.extend(further.iter().map(|arg| arg.replace("=data", &data)));
        let log = folder.path().join("log");
        let process = Process::spawn(&program, args, Some(&log))?;
        let ready = lab::wait_for(PATIENCE, || async {
            let answer = lab::http::get(&address, "/-/ready", PATIENCE).await;
            answer.is_ok_and(|answer| answer.status == 200)
        });
        ready.await.with_context(|| process.output())?;
        Ok(Self {
            address,
            _process: process,
            _folder: folder,
        })
    }
}
