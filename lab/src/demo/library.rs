//! The demo of a limiter that is a library: an application of `make limiters`, its clients, its Redis, the exporter with its
//! kind, and a counter that goes wrong.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::screen::Screen;
use super::seen::Seen;
use super::view::View;
use super::{DemoOptions, Watched};
use crate::application::{Application, ApplicationOptions};
use crate::http;
use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::temp::TempDir;

/// Requests that a client has in [`WINDOW`].
const LIMIT: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// The client that reaches its limit after ten seconds and goes on.
const BUSY: &str = "busy";
const BUSY_EVERY: Duration = Duration::from_millis(500);

/// Clients that stay far below their limits.
const OTHERS: [&str; 5] = ["ann", "bob", "eve", "joe", "liz"];
const OTHERS_EVERY: Duration = Duration::from_secs(6);

/// For one request of a client.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Nothing is violated, and the busy client is at its limit.
const READY: Duration = Duration::from_secs(60);

/// The invariants of both kinds have a grace period of 60 s.
const GRACE: Duration = Duration::from_secs(90);

/// From a repair until nothing is violated: a collection on a busy machine.
const HEALED: Duration = Duration::from_secs(30);

/// An expiry that is far too long.
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
    /// Its name for `--limiter.kind`.
    fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::ExpressRateLimit => "express-rate-limit",
        }
    }

    /// The invariants that the tour violates. A counter of express-rate-limit without expiry heals at the next request; one
    /// that expires too late does not.
    pub(super) fn invariants(self) -> &'static [&'static str] {
        match self {
            Self::Limits => &["stuck_counter"],
            Self::ExpressRateLimit => &["invalid_counter"],
        }
    }

    /// The path of the application's limited endpoint.
    fn path(self) -> &'static str {
        match self {
            Self::Limits => "fixed-window",
            Self::ExpressRateLimit => "express",
        }
    }

    /// The beginning of the names of a client's counters in Redis.
    fn counter(self, client: &str) -> String {
        match self {
            Self::Limits => format!("LIMITS:LIMITER/{client}/"),
            Self::ExpressRateLimit => format!("rl:{client}"),
        }
    }

    /// The application's file.
    fn file(self) -> &'static str {
        match self {
            Self::Limits => "flask-limiter.py",
            Self::ExpressRateLimit => "express-rate-limit.js",
        }
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

/// Everything that runs, in the order in which it ends.
#[derive(Debug)]
pub(super) struct Library {
    clients: Option<AbortOnDropHandle<()>>,
    exporter: Process,
    application: Application,
    redis: RedisServer,
    _folder: TempDir,
    fault: Option<String>,
}

impl Watched for Library {
    fn faults_in_force(&self) -> String {
        self.fault.clone().unwrap_or_else(|| "no fault".to_owned())
    }

    fn exporter(&mut self) -> &mut Process {
        &mut self.exporter
    }

    async fn shut_down(&mut self) {
        self.clients = None;
        let _ = self.exporter.terminate().await;
        self.application.terminate().await;
        let _ = self.redis.stop().await;
    }
}

impl Library {
    pub(super) async fn start(
        options: &DemoOptions,
        kind: Kind,
        exporter: &Path,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(&options.dir, "demo")?;
        let redis = RedisServer::start_in(folder.path(), &[]).await?;
        let application = Application::start(ApplicationOptions {
            file: &options.apps.join(kind.file()),
            variables: &[],
            redis_url: &redis.url(),
            limit: LIMIT,
            window: WINDOW,
            folder: folder.path(),
        })
        .await?;

        // The names of express-rate-limit's counters hold no limit.
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
        let clients = tokio::spawn(clients(application.address().to_owned(), kind.path()));
        Ok(Self {
            clients: Some(AbortOnDropHandle::new(clients)),
            exporter,
            application,
            redis,
            _folder: folder,
            fault: None,
        })
    }

    pub(super) fn announce(&self, screen: &Screen) {
        let application = self.application.address();
        screen.say(format!("  application   http://{application}/"));
        screen.say(format!("  redis         {}\n", self.redis.url()));
    }
}

/// Sends the requests of all clients, until it is aborted.
async fn clients(address: String, path: &str) {
    let ask = async |client: &str, every: Duration| {
        loop {
            // The demo watches the exporter, not the answers.
            let _ = http::get(&address, &format!("/{path}?key={client}"), REQUEST_PATIENCE).await;
            tokio::time::sleep(every).await;
        }
    };
    let others = OTHERS.map(|client| ask(client, OTHERS_EVERY));
    let [ann, bob, eve, joe, liz] = others;
    tokio::join!(ask(BUSY, BUSY_EVERY), ann, bob, eve, joe, liz);
}

/// The fault, its page, and the runbook's command against it.
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

/// Runs a command on the busy client's counter while that is at its limit, and returns its key. A script does both, because the
/// window may end in between.
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
