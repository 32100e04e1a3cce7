//! The demo: a Redis, three nodes, traffic and the exporter, and a tour of the faults it finds.
//!
//! Everything runs on this machine and ends with the demo, however that ends. Where a Prometheus and
//! an Alertmanager are installed, they run beside it and their pages are printed; the tour itself
//! reads the exporter's `/metrics`, as Prometheus does. It leaves out Grafana.

mod cluster;
mod control;
mod library;
mod paging;
mod record;
mod screen;
mod seen;
mod tour;
mod view;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock;
use crate::http;
use crate::process::Process;
use cluster::Cluster;
use library::Library;
use paging::Paging;
use record::{ENDS_SOON, INVARIANTS, Record};
use screen::Screen;
use seen::Seen;
use tour::Tour;
use view::View;

pub use control::{DemoCommand, send_command};
pub use library::Kind;

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
    /// End after the tour, successfully only if every invariant was violated and held again.
    pub exit: bool,
    /// Where the exporter listens.
    pub listen: SocketAddr,
    /// Where the demo keeps its files while it runs, and `lab fault` finds it.
    pub dir: PathBuf,
    /// The exporter to run; the one built beside this program when not given.
    pub exporter: Option<PathBuf>,
    /// The folder with the rules for Prometheus and the configuration for Alertmanager.
    pub alerts: PathBuf,
    /// An application with such a limiter in place of the reference limiter.
    pub kind: Option<Kind>,
    /// The folder with the applications.
    pub apps: PathBuf,
}

/// Everything that runs in a demo beside Prometheus and Alertmanager.
trait Watched {
    /// What is wrong at present, in a few words.
    fn faults_in_force(&self) -> String;

    /// The exporter.
    fn exporter(&mut self) -> &mut Process;

    /// Ends everything in order; what does not end in time is killed.
    async fn shut_down(&mut self);
}

/// Runs the demo until its end or a signal. With [`DemoOptions::exit`], false unless everything was seen.
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
    if let Some(kind) = options.kind {
        return run_library(options, kind, &exporter, screen, stop).await;
    }

    screen.say("starting a Redis, three nodes, traffic and the exporter".to_owned());
    let starting = Cluster::start(&options.dir, &exporter, options.listen);
    let cluster = tokio::select! {
        cluster = starting => Arc::new(Mutex::new(cluster?)),
        () = stop.cancelled() => return Ok(!options.exit),
    };
    let outcome = with_paging(options, screen, stop, &*cluster, async |paging| {
        show(options, screen, stop, &cluster, paging).await
    });
    let outcome = outcome.await;
    control::forget(&options.dir);
    outcome
}

/// The same with an application in place of the reference limiter.
async fn run_library(
    options: &DemoOptions,
    kind: Kind,
    exporter: &Path,
    screen: &Screen,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    screen.say(format!(
        "starting a Redis, {kind}, clients and the exporter"
    ));
    let library = tokio::select! {
        library = Library::start(options, kind, exporter) => Mutex::new(library?),
        () = stop.cancelled() => return Ok(!options.exit),
    };
    with_paging(options, screen, stop, &library, async |paging| {
        announce(screen, options, paging);
        library.lock().await.announce(screen);
        let record = Record::new(kind.invariants(), &[]);
        let tour = async |seen| library::tour(&library, kind, &seen).await;
        walk(options, screen, stop, (&library, paging), record, tour).await
    })
    .await
}

/// Starts Prometheus and Alertmanager where they are installed, shows the demo, and ends everything.
async fn with_paging(
    options: &DemoOptions,
    screen: &Screen,
    stop: &CancellationToken,
    watched: &Mutex<impl Watched>,
    show: impl AsyncFnOnce(Option<&Paging>) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let mut paging = tokio::select! {
        paging = start_paging(options, screen) => paging,
        () = stop.cancelled() => Ok(None),
    };
    let outcome = match &paging {
        Ok(paging) => show(paging.as_ref()).await,
        Err(_) => Ok(false),
    };

    screen.say("stopping everything".to_owned());
    if let Ok(Some(paging)) = &mut paging {
        paging.shut_down().await;
    }
    watched.lock().await.shut_down().await;
    paging.and(outcome)
}

/// None where they are not installed. Where they are installed and do not start, perhaps because they are too old, the demo
/// shows the rest; with `--exit` it fails.
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

/// The demo of the reference limiter, once everything runs.
async fn show(
    options: &DemoOptions,
    screen: &Screen,
    stop: &CancellationToken,
    cluster: &Arc<Mutex<Cluster>>,
    paging: Option<&Paging>,
) -> anyhow::Result<bool> {
    let control = control::serve(Arc::clone(cluster), options.dir.clone()).await?;
    let topping_up = cluster::keep_over_limits(cluster).await;
    announce(screen, options, paging);
    let (nodes, redis) = cluster.lock().await.urls();
    for (id, url) in nodes {
        screen.say(format!("  {id}        {url}"));
    }
    screen.say(format!("  redis         {redis}"));
    let dir = options.dir.display();
    screen.say(format!("  faults        lab fault WHAT --dir {dir}\n"));
    let record = Record::new(&INVARIANTS, &ENDS_SOON);
    let tour = async |seen| Tour::new(cluster, seen, options.dir.clone()).run().await;
    let outcome = walk(options, screen, stop, (cluster, paging), record, tour).await;
    drop((control, topping_up));
    outcome
}

/// Watches everything while the tour lasts, or for longer. With `--exit`, false unless everything was seen.
async fn walk<'a>(
    options: &DemoOptions,
    screen: &'a Screen,
    stop: &CancellationToken,
    (watched, paging): (&Mutex<impl Watched>, Option<&Paging>),
    record: Record,
    tour: impl AsyncFnOnce(Seen<'a>),
) -> anyhow::Result<bool> {
    let metrics_address = reachable(options.listen).to_string();
    let started = clock::instant();
    let (views, view) = watch::channel(View::default());
    let inbox = paging.map(Paging::inbox);
    let record = watch::Sender::new(record.with_pages(inbox.is_some()));
    let pages = inbox.is_some().then(|| record.subscribe());
    let watching = watch_metrics(&metrics_address, watched, screen, &record, views, started);
    let printing = async {
        if let Some(inbox) = inbox {
            paging::print_pages(inbox, screen, &record, started).await;
        }
        std::future::pending::<()>().await;
    };
    let touring = async {
        tour(Seen {
            view,
            pages,
            screen,
        })
        .await;
        screen.say(format!("\n{}", *record.borrow()));
        if !options.exit {
            let faults = match options.kind {
                None => " (try `lab fault --help`)",
                Some(_) => "",
            };
            screen.say(format!(
                "the tour is over; everything keeps running until Ctrl-C{faults}"
            ));
            std::future::pending::<()>().await;
        }
    };
    let outcome = tokio::select! {
        () = touring => Ok(()),
        () = printing => Ok(()),
        () = stop.cancelled() => Ok(()),
        error = watching => Err(error),
    };
    outcome?;
    Ok(!options.exit || record.borrow().is_complete())
}

fn announce(screen: &Screen, options: &DemoOptions, paging: Option<&Paging>) {
    let address = reachable(options.listen);
    screen.say(format!("  exporter      http://{address}/"));
    screen.say(format!("  metrics       http://{address}/metrics"));
    if let Some((prometheus, alertmanager)) = paging.map(Paging::urls) {
        screen.say(format!("  prometheus    {prometheus}"));
        screen.say(format!("  alertmanager  {alertmanager}"));
    }
}

/// Reads `/metrics` again and again, prints what changed, and keeps the record. It ends with an error when the exporter ends.
async fn watch_metrics(
    address: &str,
    watched: &Mutex<impl Watched>,
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
                let mut watched = watched.lock().await;
                let exporter = watched.exporter();
                if !exporter.is_running() {
                    let last = exporter.last_output();
                    return anyhow!("the exporter has ended; its output ends with:\n{last}");
                }
                if views.borrow().is_read() {
                    format!("{error:#}")
                } else {
                    "waiting for the exporter".to_owned()
                }
            }
        };
        let fault = watched.lock().await.faults_in_force();
        let line = format!("{line}  [{fault}]");
        if line != last_line || last_said.elapsed() >= QUIET {
            screen.say(format!("{:>4} s  {line}", started.elapsed().as_secs()));
            last_said = clock::instant();
            last_line = line;
        }
    }
}

/// The address at which a client on this machine reaches a server that listens on `listen`.
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
