//! The life of a node: bind, register, serve, deregister.
//!
//! It leaves out restarts and daemons: the process ends with the node.

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::NodeOptions;
use super::api::Api;
use super::limiter::Limiter;
use super::metrics::Metrics;
use super::registry::Registration;
use super::wire::{Hangup, Wire};
use crate::link::Link;

/// How long a request waits for Redis before it is a 500.
const REDIS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a node waits for Redis when it starts.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// When an idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Redis did not take the registration of a node that starts. A real node exits with 3 then.
#[derive(Debug)]
pub struct NoRedis;

impl fmt::Display for NoRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot start without Redis")
    }
}

/// Runs a node until SIGTERM or SIGINT. It prints `listening ADDRESS` once it is registered. Without Redis, the error has the
/// context [`NoRedis`].
pub async fn run(options: NodeOptions) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;

    let wanted = options
        .listen
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = TcpListener::bind(wanted)
        .await
        .with_context(|| format!("cannot listen on {wanted}"))?;
    let address = listener.local_addr().context("no address")?;
    let link = Link::new(&options.redis_url, REDIS_PATIENCE)?;
    let limiter = Limiter::new(link, options.default_limit, options.default_window_ms);
    let limiter = Arc::new(limiter);
    let registration = Registration {
        id: options.id.clone(),
        address: options.advertise.unwrap_or_else(|| address.to_string()),
        heartbeat_seconds: options.heartbeat_seconds,
    };
    tokio::time::timeout(START_PATIENCE, registration.renew(&limiter))
        .await
        .context("no answer in time")
        .flatten()
        .context(NoRedis)?;

    let api = Arc::new(Api {
        node_id: options.id,
        limiter: Arc::clone(&limiter),
        metrics: Metrics::new().context("cannot set up the metrics")?,
        checks: AtomicU64::new(0),
        faults: watch::Sender::new(Arc::new(options.faults)),
        requests: TaskTracker::new(),
    });
    let faults = api.faults.subscribe();
    let beat = registration
        .clone()
        .keep_alive(Arc::clone(&limiter), faults);
    let heartbeat = AbortOnDropHandle::new(tokio::spawn(beat));
    // The program that started the node waits for this line. It may be gone: then the node runs on.
    let _ = writeln!(io::stdout(), "listening {address}");

    tokio::select! {
        () = accept(listener, api) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Ended first, or a beat under way might register the node again.
    heartbeat.abort();
    let _ = heartbeat.await;
    registration.delete(&limiter).await;
    Ok(())
}

/// Owns the connections: they end with it.
async fn accept(listener: TcpListener, api: Arc<Api>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&api)));
                }
                // Out of file descriptors, most likely: some may be free again soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, api: Arc<Api>) {
    let _ = stream.set_nodelay(true);
    let hangup = Hangup::default();
    let wire = Wire::new(stream, hangup.clone());
    let service = service_fn(|request| {
        let api = Arc::clone(&api);
        let hangup = hangup.clone();
        // In a task: a real node continues after its client has hung up.
        let requests = api.requests.clone();
        requests.spawn(async move { api.serve(request, &hangup).await })
    });
    // Errors are clients that leave, and answers cut off on purpose.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(wire), service)
        .await;
}
