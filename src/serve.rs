//! Puts the parts together: configuration, limiter, checker, collections, server. `reload` changes them while they run.

mod reload;
mod target;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError};
use crate::invariants::Checker;
use crate::observe::Limiter;
use crate::server::{App, Guard, Server};
use crate::stop_signals::StopSignals;
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
    state_files_differ(config)?;
    let Some(path) = &config.state_file else {
        return Ok(());
    };
    for name in config.targets.keys() {
        let file = state::file_of(path, name);
        for file in [state::bulk_of(&file), file] {
            let refused = |why| config.refuse_state_file(format!("{} to be {why}", file.display()));
            files::replaceable(&file).map_err(refused)?;
        }
    }
    Ok(())
}

/// Refuses a target whose file is another one of the default target, such as one called `tmp`. The name of a target has no
/// dot, so no other files can be the same.
fn state_files_differ(config: &Config) -> Result<(), ConfigError> {
    let Some(path) = &config.state_file else {
        return Ok(());
    };
    let beside = state::files_beside(path);
    let mut files = config.targets.keys().map(|name| state::file_of(path, name));
    if let Some(file) = files.find(|file| beside.contains(file)) {
        let expected = "to be the file of one target, not of two";
        return Err(config.refuse_state_file(format!("{} {expected}", file.display())));
    }
    Ok(())
}

/// Which clients may log in, by the file that the configuration names. It is an error if every client could run
/// actions.
pub fn guard(config: &Config) -> Result<Arc<Guard>, ConfigError> {
    let guard = Guard::new(config.web.config_file.as_deref());
    let guard = guard.map_err(|why| config.refuse_web_file(&why))?;
    config.admits_actions(!guard.authenticates())?;
    Ok(Arc::new(guard))
}

/// Serves until SIGINT or SIGTERM; a second one aborts. SIGHUP, which `hangup` receives, makes it `load` the configuration.
pub async fn serve(
    config: Config,
    guard: Arc<Guard>,
    load: Load,
    hangup: Signal,
) -> anyhow::Result<()> {
    let web = &config.web;
    let listen = web.listen;
    let bound = Server::bind(
        listen,
        Arc::clone(&guard),
        web.max_connections,
        web.read_timeout,
    );
    let server = bound
        .await
        .with_context(|| format!("--web.listen-address: cannot listen on {listen}"))?;
    let shutdown = CancellationToken::new();
    let mut signals = StopSignals::new()?;
    let path = web.telemetry_path.clone();
    let reloader = Reloader::start(config, guard, load, shutdown.clone())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %server.local_addr()?,
        path,
        "serving"
    );
    let (swap, app) = watch::channel(Arc::new(reloader.app()));
    let running = server.run(app.clone(), shutdown.clone());
    tokio::pin!(running);
    let asked = async {
        signals.recv().await;
        tracing::info!("stopping: answers under way are finished first");
        shutdown.cancel();
        signals.recv().await;
    };
    let ended = async {
        running.await;
        let app = Arc::clone(&app.borrow());
        let last = join_all(app.targets.values().map(|it| it.finish()));
        if tokio::time::timeout(LAST_COLLECTION, last).await.is_err() {
            tracing::warn!("stopping without the state of the last collection: it has not ended");
        }
    };
    tokio::select! {
        () = ended => {}
        () = asked => tracing::warn!("stopping at once"),
        () = reloader.run(hangup, swap) => {}
    }
    Ok(())
}
