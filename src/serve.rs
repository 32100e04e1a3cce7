//! Puts the parts together: configuration → limiter, checker, collections, server. What a new configuration changes
//! while they run is `reload`'s business.

mod reload;
mod second_signal;
mod target;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::collect::{Collect, GLANCE_EVERY};
use crate::config::{Config, ConfigError};
use crate::observe::Limiter;
use crate::server::{App, Server};
use reload::Reloader;

/// How long the end may wait for a collection under way, once every answer is out: until its state is written.
const LAST_COLLECTION: Duration = Duration::from_secs(3);

/// Reads the configuration anew, from the same flags and variables and from the file as it is now.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Serves until SIGINT or SIGTERM; a second one aborts. SIGHUP makes it `load` the configuration anew:
/// `hangup` hears of it, from before the configuration was read for the first time.
pub async fn serve(config: Config, load: Load, hangup: Signal) -> anyhow::Result<()> {
    let (listen, guard) = (config.web.listen, config.web.guard.clone());
    let bound = Server::bind(listen, guard, config.web.limits).await;
    let server =
        bound.with_context(|| format!("--web.listen-address: cannot listen on {listen}"))?;
    let targets = target::start_all(&config)?;
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    second_signal::ends_the_process()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %server.local_addr()?,
        path = config.web.telemetry_path,
        "serving"
    );
    let (reloader, app) = Reloader::new(config, load, targets, &shutdown);
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
fn collects(app: &watch::Receiver<Arc<App<Limiter>>>) -> Vec<Arc<Collect<Limiter>>> {
    app.borrow().targets.values().cloned().collect()
}
