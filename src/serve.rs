//! Puts the parts together: configuration → limiter, checker, collections, server. What a new configuration changes
//! while they run is `reload`'s business.

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

/// How long the end may wait for a collection under way, once every answer is out: until its state is written.
const LAST_COLLECTION: Duration = Duration::from_secs(3);

/// Reads the configuration anew, from the same flags and variables and from the file as it is now.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Whether state can be kept where it is wanted. Only who serves needs that, not who looks at the limiter once.
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

/// Who is let in, by the file that the configuration names. An error also where actions would be taken of anybody.
pub fn guard(config: &Config) -> Result<Guard, ConfigError> {
    let guard = Guard::new(config.web.config_file.as_deref());
    let guard = guard.map_err(|why| config.refuse_web_file(&why))?;
    config.admits_actions(!guard.authenticates())?;
    Ok(guard)
}

/// Serves until SIGINT or SIGTERM; a second one aborts. SIGHUP makes it `load` the configuration anew:
/// `hangup` hears of it, from before the configuration was read for the first time.
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
    let (reloader, app) = Reloader::new(config, guard, load, targets, &shutdown);
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
            tracing::warn!("stopping without the state of the last collection, which does not end");
        }
    };
    tokio::select! {
        () = ended => {}
        () = asked => tracing::warn!("stopping at once"),
        () = reloader.run(hangup) => {}
        () = glances => {}
    }
    Ok(())
}

/// The collections of every target that is served now.
fn collects(
    app: &watch::Receiver<Arc<App<Limiter, Checker>>>,
) -> Vec<Arc<Collect<Limiter, Checker>>> {
    app.borrow().targets.values().cloned().collect()
}
