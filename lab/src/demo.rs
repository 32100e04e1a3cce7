//! The demo: a Redis, three nodes, traffic and the exporter, and a tour of the faults it finds.
//!
//! Everything runs on this machine and ends with the demo, however that ends. Where a Prometheus and
//! an Alertmanager are installed, they run beside it and their pages are printed; the tour itself
//! reads the exporter's `/metrics`, as Prometheus does. It leaves out Grafana.

mod cluster;
mod control;
mod paging;
mod record;
mod screen;
mod tour;
mod view;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock;
use crate::http;
use cluster::Cluster;
use paging::Paging;
use record::Record;
use screen::Screen;
use tour::Tour;
use view::View;

pub use control::{Fault, send_fault};

/// How often `/metrics` is read: every reading is a collection of the exporter.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(2);

/// A scrape may wait for everything that hangs; Prometheus gives it ten seconds as well.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// A line is printed at least this often, so that a quiet demo does not look hung.
const QUIET: Duration = Duration::from_secs(15);

/// Exit status after a second signal: as a shell reports a process ended by SIGINT.
const ABORTED: i32 = 130;

/// What the demo is started with.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// End after the tour, successfully only if every invariant was seen to fail and recover.
    pub exit: bool,
    /// Where the exporter listens.
    pub listen: SocketAddr,
    /// Where the demo keeps its files while it runs, and `lab fault` finds it.
    pub dir: PathBuf,
    /// The exporter to run; the one built beside this program when not given.
    pub exporter: Option<PathBuf>,
    /// The folder with the rules for Prometheus and the configuration for Alertmanager.
    pub alerts: PathBuf,
}

/// Runs the demo until it is over or told to stop. False when it was to prove itself and did not.
///
/// Call it on a thread that lives as long as the process: its children die with that thread.
pub async fn run(options: DemoOptions) -> anyhow::Result<bool> {
    let stop = CancellationToken::new();
    let signals = stop_on_signals(stop.clone())?;
    let screen = Screen::new(stop.clone());
    let outcome = run_until(&options, &screen, &stop).await;
    screen.close();
    drop(signals);
    outcome
}

async fn run_until(
    options: &DemoOptions,
    screen: &Screen,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    if let Err(error) = TcpListener::bind(options.listen) {
        bail!("cannot listen on {}: {error}", options.listen);
    }
    control::prepare_dir(&options.dir).await?;
    let exporter = match &options.exporter {
        Some(path) => path.clone(),
        None => crate::beside_current_exe("ratelimiter-exporter")?,
    };

    screen.say("starting a Redis, three nodes, traffic and the exporter".to_owned());
    let starting = Cluster::start(&options.dir, &exporter, options.listen);
    let cluster = tokio::select! {
        cluster = starting => Arc::new(Mutex::new(cluster?)),
        () = stop.cancelled() => return Ok(!options.exit),
    };
    let mut paging = tokio::select! {
        paging = start_paging(options, screen) => paging,
        () = stop.cancelled() => Ok(None),
    };
    let outcome = match &paging {
        Ok(paging) => show(options, screen, stop, &cluster, paging.as_ref()).await,
        Err(_) => Ok(false),
    };

    screen.say("stopping everything".to_owned());
    if let Ok(Some(paging)) = &mut paging {
        paging.shut_down().await;
    }
    cluster.lock().await.shut_down().await;
    control::forget(&options.dir);
    paging.and(outcome)
}

/// None where they are not installed. Where they are and do not start, for want of a newer version
/// perhaps, the demo can show the rest, but not prove everything.
async fn start_paging(options: &DemoOptions, screen: &Screen) -> anyhow::Result<Option<Paging>> {
    let missing = Paging::missing();
    if !missing.is_empty() {
        let missing = missing.join(" and ");
        screen.say(format!("going on without pages: {missing} not installed"));
        return Ok(None);
    }
    screen.say("starting a Prometheus and an Alertmanager".to_owned());
    let exporter = reachable(options.listen);
    match Paging::start(&options.dir, &options.alerts, exporter).await {
        Ok(paging) => Ok(Some(paging)),
        Err(error) if options.exit => Err(error),
        Err(error) => {
            screen.say(format!("going on without pages: {error:#}"));
            Ok(None)
        }
    }
}

/// The part of the demo in which everything runs.
async fn show(
    options: &DemoOptions,
    screen: &Screen,
    stop: &CancellationToken,
    cluster: &Arc<Mutex<Cluster>>,
    paging: Option<&Paging>,
) -> anyhow::Result<bool> {
    let control = control::serve(Arc::clone(cluster), options.dir.clone()).await?;
    let topping_up = cluster::keep_over_limits(cluster).await;
    let metrics_address = reachable(options.listen).to_string();
    announce(screen, options, &metrics_address, cluster, paging).await;

    let started = clock::instant();
    let (views, view) = watch::channel(View::default());
    let inbox = paging.map(Paging::inbox);
    let record = watch::Sender::new(Record::new(inbox.is_some()));
    let pages = inbox.is_some().then(|| record.subscribe());
    let watching = watch_metrics(&metrics_address, cluster, screen, &record, views, started);
    let printing = async {
        if let Some(inbox) = inbox {
            paging::print_pages(inbox, screen, &record, started).await;
        }
        std::future::pending::<()>().await;
    };
    let touring = async {
        Tour::new(cluster, view, pages, screen, options.dir.clone())
            .run()
            .await;
        screen.say(format!("\n{}", *record.borrow()));
        if !options.exit {
            screen.say(
                "the tour is over; everything keeps running until Ctrl-C (try `lab fault --help`)"
                    .to_owned(),
            );
            std::future::pending::<()>().await;
        }
    };
    let outcome = tokio::select! {
        () = touring => Ok(()),
        () = printing => Ok(()),
        () = stop.cancelled() => Ok(()),
        error = watching => Err(error),
    };
    drop((control, topping_up));
    outcome?;
    Ok(!options.exit || record.borrow().is_complete())
}

async fn announce(
    screen: &Screen,
    options: &DemoOptions,
    metrics_address: &str,
    cluster: &Mutex<Cluster>,
    paging: Option<&Paging>,
) {
    screen.say(format!("  exporter      http://{metrics_address}/"));
    screen.say(format!("  metrics       http://{metrics_address}/metrics"));
    if let Some((prometheus, alertmanager)) = paging.map(Paging::urls) {
        screen.say(format!("  prometheus    {prometheus}"));
        screen.say(format!("  alertmanager  {alertmanager}"));
    }
    let (nodes, redis) = cluster.lock().await.urls();
    for (id, url) in nodes {
        screen.say(format!("  {id}        {url}"));
    }
    screen.say(format!("  redis         {redis}"));
    let dir = options.dir.display();
    screen.say(format!("  faults        lab fault WHAT --dir {dir}\n"));
}

/// Reads `/metrics` again and again, tells what changed, and keeps the record. It ends with an
/// error when the exporter does.
async fn watch_metrics(
    address: &str,
    cluster: &Mutex<Cluster>,
    screen: &Screen,
    record: &watch::Sender<Record>,
    views: watch::Sender<View>,
    started: Instant,
) -> anyhow::Error {
    let mut scrapes = tokio::time::interval(SCRAPE_INTERVAL);
    scrapes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_line = String::new();
    let mut last_said = started;
    loop {
        scrapes.tick().await;
        let answer = http::get(address, "/metrics", SCRAPE_TIMEOUT).await;
        let view = answer.and_then(|answer| {
            ensure!(answer.status == 200, "/metrics answered {}", answer.status);
            View::parse(&answer.text())
        });
        let line = match view {
            Ok(view) => {
                let elapsed = started.elapsed();
                record.send_modify(|record| record.note(&view, elapsed));
                let line = view.to_string();
                views.send_replace(view);
                line
            }
            Err(error) => {
                if let Err(error) = cluster.lock().await.check_exporter() {
                    return error;
                }
                if views.borrow().is_read() {
                    format!("{error:#}")
                } else {
                    "waiting for the exporter".to_owned()
                }
            }
        };
        let fault = cluster.lock().await.faults_in_force();
        let line = format!("{line}  [{fault}]");
        if line != last_line || last_said.elapsed() >= QUIET {
            screen.say(format!("{:>4} s  {line}", started.elapsed().as_secs()));
            last_said = clock::instant();
            last_line = line;
        }
    }
}

/// Where a client on this machine finds what listens on `listen`.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port()))
    } else {
        listen
    }
}

/// The first signal asks for an orderly end; the second aborts, and the kernel ends the children.
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<AbortOnDropHandle<()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(ABORTED);
            }
            stop.cancel();
        }
    })))
}
