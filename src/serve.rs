//! Puts the parts together: configuration, limiter, checker, collections, server. `reload` changes them while they run.

mod reload;
mod target;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::collect::{Collect, GLANCE_EVERY};
use crate::config::{Config, ConfigError};
use crate::invariants::Checker;
use crate::observe::Limiter;
use crate::server::{App, Guard, Limits, Server};
use crate::{files, state};
use reload::Reloader;

/// How long the exporter waits before it exits, after the last answer, for a collection under way to write its state.
const LAST_COLLECTION: Duration = Duration::from_secs(3);

/// Loads the configuration from the flags and variables of the start, and from the file as it is now.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// What the server serves.
type ServedApp = App<Limiter, Checker>;

/// Refuses a state file that cannot be written. The subcommands do not need it.
pub fn can_keep_state(config: &Config) -> Result<(), ConfigError> {
    let Some(path) = &config.state_file else {
        return Ok(());
    };
    let mut files = BTreeSet::new();
    for name in config.targets.keys() {
        let file = state::file_of(path, name);
        for file in [state::bulk_of(&file), file] {
            let refused =
                |why: &str| config.refuse_state_file(format!("{} to be {why}", file.display()));
            files::replaceable(&file).map_err(|why| refused(&why))?;
            if !files.insert(file.clone()) {
                return Err(refused("the file of one target, not of two"));
            }
        }
    }
    Ok(())
}

/// Which clients may log in, by the file that the configuration names. It is an error if every client could run
/// actions.
pub fn guard(config: &Config) -> Result<Guard, ConfigError> {
    let guard = Guard::new(config.web.config_file.as_deref());
    let guard = guard.map_err(|why| config.refuse_web_file(&why))?;
    config.admits_actions(!guard.authenticates())?;
    Ok(guard)
}

/// Serves until SIGINT or SIGTERM; a second one aborts. SIGHUP, which `hangup` receives, makes it `load` the configuration.
pub async fn serve(config: Config, guard: Guard, load: Load, hangup: Signal) -> anyhow::Result<()> {
    let listen = config.web.listen;
    let limits = Limits {
        connections: config.web.max_connections,
        read_timeout: config.web.read_timeout,
    };
    let bound = Server::bind(listen, guard.clone(), limits).await;
    let server =
        bound.with_context(|| format!("--web.listen-address: cannot listen on {listen}"))?;
    let targets = target::start_all(&config)?;
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %server.local_addr()?,
        path = config.web.telemetry_path,
        "serving"
    );
    let reloader = Reloader::new(config, guard, load, targets, &shutdown);
    let (swap, app) = watch::channel(Arc::new(reloader.app()));
    let running = server.run(app.clone(), shutdown.clone());
    tokio::pin!(running);
    let asked = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: answers under way are finished first");
        shutdown.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let glances = async {
        loop {
            tokio::time::sleep(GLANCE_EVERY).await;
            join_all(collects(&app).iter().map(|it| it.glance())).await;
        }
    };
    let ended = async {
        running.await;
        let targets = collects(&app);
        let last = join_all(targets.iter().map(|it| it.finish()));
        if tokio::time::timeout(LAST_COLLECTION, last).await.is_err() {
            tracing::warn!("stopping without the state of the last collection: it has not ended");
        }
    };
    tokio::select! {
        () = ended => {}
        () = asked => tracing::warn!("stopping at once"),
        () = reloader.run(hangup, swap) => {}
        () = glances => {}
    }
    Ok(())
}

/// The collections of every target that is served now.
fn collects(app: &watch::Receiver<Arc<ServedApp>>) -> Vec<Arc<Collect<Limiter, Checker>>> {
    app.borrow().targets.values().cloned().collect()
}
