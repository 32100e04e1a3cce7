//! The demo of a limiter that is a library inside an application: the application, its clients, its Redis, the exporter by its
//! kind, and a counter that goes wrong.
//!
//! The applications and their libraries are those that `make limiters` watches.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::screen::Screen;
use super::seen::Seen;
use super::view::View;
use super::{DemoOptions, Watched, check_running};
use crate::http;
use crate::ports::free_port;
use crate::process::{Process, on_path};
use crate::redis_server::RedisServer;
use crate::temp::TempDir;

/// Requests that a client has in [`WINDOW`].
const LIMIT: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// The client that is at its limit after ten seconds, and always asks.
const BUSY: &str = "busy";
const BUSY_EVERY: Duration = Duration::from_millis(500);

/// Those who stay far below.
const OTHERS: [&str; 5] = ["ann", "bob", "eve", "joe", "liz"];
const OTHERS_EVERY: Duration = Duration::from_secs(6);

/// Python and Node read thousands of files before they answer.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// For one request of a client.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Nothing is violated, and the busy client is at its limit.
const READY: Duration = Duration::from_secs(60);

/// Both invariants have a grace period of 60 s.
const GRACE: Duration = Duration::from_secs(90);

/// How long after a repair nothing is violated any more: a collection, and a busy machine.
const HEALED: Duration = Duration::from_secs(30);

/// What somebody sets by hand who means to be strict.
const A_DAY: i64 = 86_400;

/// A kind of limiter that the demo can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Flask with Flask-Limiter
    Limits,
    /// express with express-rate-limit and rate-limit-redis
    #[value(alias = "express")]
    ExpressRateLimit,
}

impl Kind {
    /// As `--limiter.kind` knows it.
    fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::ExpressRateLimit => "express-rate-limit",
        }
    }

    /// What the tour breaks. A counter of express-rate-limit without expiry heals at the next request; one that expires too
    /// late does not.
    pub(super) fn invariants(self) -> &'static [&'static str] {
        match self {
            Self::Limits => &["stuck_counter"],
            Self::ExpressRateLimit => &["invalid_counter"],
        }
    }

    /// Where the application has its limited endpoint.
    fn path(self) -> &'static str {
        match self {
            Self::Limits => "fixed-window",
            Self::ExpressRateLimit => "express",
        }
    }

    /// What its counters of a client begin with in Redis.
    fn counter(self, client: &str) -> String {
        match self {
            Self::Limits => format!("LIMITS:LIMITER/{client}/"),
            Self::ExpressRateLimit => format!("rl:{client}"),
        }
    }

    /// What `env` is given: variables, interpreter and file.
    fn command(self, apps: &Path) -> anyhow::Result<Vec<String>> {
        let installed = installed()?;
        let (variable, interpreter, file) = match self {
            Self::Limits => (
                "PYTHONDONTWRITEBYTECODE=1".to_owned(),
                installed.join("python/bin/python"),
                "flask-limiter.py",
            ),
            Self::ExpressRateLimit => (
                format!(
                    "NODE_PATH={}",
                    installed.join("node/node_modules").display()
                ),
                on_path(&["node"]).context("node is missing: run make deps-limiters")?,
                "express-rate-limit.js",
            ),
        };
        ensure!(
            interpreter.is_file() && installed.is_dir(),
            "the libraries of {self} are not installed in {}: run make demo DEMO_ARGS=\"--kind {}\"",
            installed.display(),
            self.name()
        );
        let file = apps.join(file);
        ensure!(file.is_file(), "no application {}", file.display());
        let words = [interpreter, file].map(|path| path.display().to_string());
        Ok([vec![variable], words.to_vec()].concat())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Limits => "a Flask application with Flask-Limiter",
            Self::ExpressRateLimit => "an express application with express-rate-limit",
        })
    }
}

/// Where the Makefile installs libraries: beside the folder of this profile.
fn installed() -> anyhow::Result<PathBuf> {
    let lab = crate::beside_current_exe("lab")?;
    let target = lab.parent().and_then(Path::parent);
    Ok(target.context("no target folder")?.join("limiters"))
}

/// Everything that runs, in the order in which it is to end.
#[derive(Debug)]
pub(super) struct Library {
    clients: Option<AbortOnDropHandle<()>>,
    exporter: Process,
    app: Process,
    address: String,
    redis: RedisServer,
    _folder: TempDir,
    fault: Option<String>,
}

impl Watched for Library {
    fn faults_in_force(&self) -> String {
        self.fault.clone().unwrap_or_else(|| "no fault".to_owned())
    }

    fn check_exporter(&mut self) -> anyhow::Result<()> {
        check_running("the exporter", &mut self.exporter)
    }
}

impl Library {
    pub(super) async fn start(
        options: &DemoOptions,
        kind: Kind,
        exporter: &Path,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(&options.dir, "demo")?;
        let mut words = kind.command(&options.apps)?;
        let redis = RedisServer::start_in(folder.path(), &[]).await?;
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        words.extend([
            port.to_string(),
            redis.url(),
            LIMIT.to_string(),
            WINDOW.as_secs().to_string(),
        ]);
        let log = folder.path().join("application.log");
        let mut app = Process::spawn(Path::new("env"), &words, Some(&log))?;
        crate::wait_for(START_PATIENCE, || {
            let running = app.is_running();
            let ready = http::get(&address, "/ready", REQUEST_PATIENCE);
            async move { !running || ready.await.is_ok_and(|answer| answer.status == 200) }
        })
        .await
        .with_context(|| format!("{kind} does not answer"))?;
        check_running("the application", &mut app)?;

        // The names of express-rate-limit's counters say no limit.
        let config = folder.path().join("exporter.yml");
        let window = WINDOW.as_secs();
        let rule = format!("limits: [{{match: '*', limit: {LIMIT}, window: {window}s}}]\n");
        std::fs::write(&config, rule)?;
        let args = [
            format!("--web.listen-address={}", options.listen),
            format!("--redis.url={}", redis.url()),
            format!("--limiter.kind={}", kind.name()),
            format!("--config.file={}", config.display()),
        ];
        let log = folder.path().join("exporter.log");
        let exporter = Process::spawn(exporter, args, Some(&log))?;
        let clients = tokio::spawn(clients(address.clone(), kind.path()));
        Ok(Self {
            clients: Some(AbortOnDropHandle::new(clients)),
            exporter,
            app,
            address,
            redis,
            _folder: folder,
            fault: None,
        })
    }

    pub(super) fn announce(&self, screen: &Screen) {
        screen.say(format!("  application   http://{}/", self.address));
        screen.say(format!("  redis         {}\n", self.redis.url()));
    }

    /// Ends everything in order; what does not end in time is killed.
    pub(super) async fn shut_down(&mut self) {
        self.clients = None;
        let _ = self.exporter.terminate().await;
        let _ = self.app.terminate().await;
        let _ = self.redis.stop().await;
    }
}

/// Asks for all clients, each in its own time, for as long as it is not aborted.
async fn clients(address: String, path: &str) {
    let ask = async |client: &str, every: Duration| {
        loop {
            // An application that does not answer shows in the exporter's figures.
            let _ = http::get(&address, &format!("/{path}?key={client}"), REQUEST_PATIENCE).await;
            tokio::time::sleep(every).await;
        }
    };
    let others = OTHERS.map(|client| ask(client, OTHERS_EVERY));
    let [ann, bob, eve, joe, liz] = others;
    tokio::join!(ask(BUSY, BUSY_EVERY), ann, bob, eve, joe, liz);
}

/// The fault, its page, and what the runbook says against it.
pub(super) async fn tour(library: &Mutex<Library>, kind: Kind, seen: &Seen<'_>) {
    seen.until("nothing is violated", READY, View::is_quiet)
        .await;
    if let Err(error) = break_and_heal(library, kind, seen).await {
        seen.screen.say(format!("        failed: {error:#}"));
    }
}

async fn break_and_heal(
    library: &Mutex<Library>,
    kind: Kind,
    seen: &Seen<'_>,
) -> anyhow::Result<()> {
    let mut redis = library.lock().await.redis.connection().await?;
    let say = |what: &str| seen.screen.say(format!("        {what}"));
    let key = changed(&redis, kind, &["PERSIST"]).await?;
    say(&format!("{BUSY} is at its limit of {LIMIT} a minute"));
    say(&format!("PERSIST {key}: it never expires any more"));
    if kind == Kind::ExpressRateLimit {
        crate::wait_for(READY, || {
            let (mut redis, key) = (redis.clone(), key.clone());
            async move { redis.ttl::<_, i64>(key).await.is_ok_and(|left| left > 0) }
        })
        .await
        .context("the next request did not heal it")?;
        say("the next request set its expiry again: this limiter heals such a counter by itself");
        let key = changed(&redis, kind, &["EXPIRE", &A_DAY.to_string()]).await?;
        say(&format!(
            "EXPIRE {key} {A_DAY}: {BUSY} is refused for a day"
        ));
        library.lock().await.fault = Some(format!("{BUSY} expires in a day"));
    } else {
        library.lock().await.fault = Some(format!("{BUSY} never expires"));
    }
    for name in kind.invariants() {
        seen.until_violated(name, GRACE).await;
    }

    let window = WINDOW.as_secs();
    redis
        .expire::<_, ()>(&key, i64::try_from(window).unwrap_or(i64::MAX))
        .await?;
    say(&format!(
        "EXPIRE {key} {window}, as the runbook says: {BUSY} is served again within a window"
    ));
    library.lock().await.fault = None;
    for name in kind.invariants() {
        seen.until_holds(name, HEALED).await;
    }
    Ok(())
}

/// Runs a command on the counter of the busy client while that is at its limit, in one step: otherwise the window may end in
/// between. Returns its key.
async fn changed(
    redis: &MultiplexedConnection,
    kind: Kind,
    command: &[&str],
) -> anyhow::Result<String> {
    let script = "local names = redis.call('KEYS', ARGV[1] .. '*')
        local key = names[1]
        if not key or tonumber(redis.call('GET', key)) < tonumber(ARGV[2]) then return '' end
        if redis.call(ARGV[3], key, unpack(ARGV, 4)) < 1 then return '' end
        return key";
    crate::wait_for_some(READY, || {
        let mut redis = redis.clone();
        async move {
            let mut eval = redis::cmd("EVAL");
            eval.arg(script).arg(0).arg(kind.counter(BUSY)).arg(LIMIT);
            eval.arg(command);
            let key: String = eval.query_async(&mut redis).await.ok()?;
            (!key.is_empty()).then_some(key)
        }
    })
    .await
    .with_context(|| format!("{command:?}: {BUSY} did not come to its limit"))
}
