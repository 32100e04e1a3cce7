//! The limiter's own `/check` beside the exporter: its p99 under a load that is far from what the machine can do, and how
//! many checks a second are answered when clients ask for as many as they can get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use hyper::Method;
use lab::http::Connection;
use lab::node::{NodeOptions, NodeProcess};
use tokio::task::JoinSet;

use super::exporter::{Api, Exporter, full_pass};
use super::figures::{Figures, Wanted};
use super::scraping::EVERY;
use super::seeded::{Seeded, WINDOW_MS};
use super::{largest, median};

/// Pairs of runs, without and with the exporter, of each kind.
const SWEEPS: usize = 3;
const STEADY: usize = 2;

/// A run without a sweep, and the longest with one.
const RUN: Duration = Duration::from_secs(10);

/// Keys that the checks go to, in turn.
const KEYS: u64 = 50;

/// Clients that ask for as many checks as they can get.
const CLIENTS: usize = 8;

/// How long a check may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lines for this many counters.
pub(crate) async fn measure(keys: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let seeded = Seeded::start(keys).await?;
    let options = NodeOptions {
        default_limit: 20,
        default_window_ms: WINDOW_MS,
        ..NodeOptions::new("node-1", seeded.redis.url())
    };
    let mut bench = Bench {
        node: NodeProcess::start(options).await?,
        seeded,
    };
    bench.store_limits().await?;
    let api = Api::start().await?;
    let mut sweeps = Pairs::default();
    for _ in 0..SWEEPS {
        for load in [Load::Paced, Load::Flood] {
            let without = bench.run(load, RUN).await?;
            // With an API that costs nothing: what the limiter's own costs the node is measured by itself, below.
            let exporter = bench.exporter(&api.url).await?;
            exporter.set_idle_priority(load.leaves_time())?;
            let pass = async {
                let (metrics, _) = exporter.scrape().await?;
                if full_pass(&metrics).is_none() {
                    // It goes on at the next scrape, or by itself.
                    std::future::pending::<()>().await;
                }
                Ok(())
            };
            let run = bench.run_while(load, RUN, pass).await?;
            sweeps.add(load, without, run);
        }
    }
    sweeps.print(keys, "a first pass", Wanted::AtMost(1.3), figures);

    let mut asked = Pairs::default();
    for load in [Load::Paced, Load::Flood] {
        let without = bench.run(load, RUN).await?;
        let address = bench.node.address();
        let nodes = async { lab::http::get(&address, "/api/nodes", PATIENCE).await };
        let run = bench.run_while(load, RUN, nodes).await?;
        asked.add(load, without, run);
    }
    asked.print(keys, "GET /api/nodes", Wanted::Nothing, figures);

    let exporter = bench.exporter(&bench.node.url()).await?;
    exporter.scrape_until_full_pass(keys).await?;
    let mut steady = Pairs::default();
    let mut round = 0;
    for _ in 0..STEADY {
        for load in [Load::Paced, Load::Flood] {
            let without = bench.run(load, EVERY).await?;
            exporter.set_idle_priority(load.leaves_time())?;
            bench.seeded.check_some(100, round).await?;
            round += 1;
            let scrape = async {
                let scrape = exporter.scrape().await?;
                // The rest of the time until the next one belongs to it: what it started may go on.
                tokio::time::sleep(EVERY).await;
                Ok(scrape)
            };
            let run = bench.run_while(load, EVERY, scrape).await?;
            steady.add(load, without, run);
        }
    }
    steady.print(
        keys,
        "a steady scrape every 15 s",
        Wanted::AtMost(1.3),
        figures,
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Load {
    /// A check every two milliseconds or so: a load, not a race. Gives the p99, in ms.
    Paced,
    /// Gives checks a second.
    Flood,
}

impl Load {
    /// Whether the machine has time for the exporter beside this load. Then the exporter gets only that time: what checks wait
    /// for is Redis and the node, not the scheduler of a machine that runs them all.
    fn leaves_time(self) -> bool {
        matches!(self, Self::Paced)
    }
}

struct Bench {
    node: NodeProcess,
    seeded: Seeded,
}

impl Bench {
    async fn exporter(&self, api: &str) -> anyhow::Result<Exporter> {
        Exporter::start(&self.seeded.redis.url(), api, &[]).await
    }

    /// Limits that no run reaches, with a window so short that the counters stay small.
    async fn store_limits(&self) -> anyhow::Result<()> {
        for number in 0..KEYS {
            let path = format!("/api/limits/bench-{number}");
            let body = r#"{"limit":1000000,"window_ms":1000}"#;
            let address = self.node.address();
            let answer = lab::http::request(&address, Method::PUT, &path, body, PATIENCE).await?;
            ensure!(answer.status == 200, "{path}: status {}", answer.status);
        }
        Ok(())
    }

    /// A load on a node without other clients: the node starts anew, since what an exporter asked of it before
    /// may keep it busy for long.
    async fn run(&mut self, load: Load, time: Duration) -> anyhow::Result<f64> {
        let nothing = std::future::pending::<anyhow::Result<()>>();
        self.run_while(load, time, nothing).await
    }

    /// A load until the work is done, or for this time.
    async fn run_while<T>(
        &mut self,
        load: Load,
        time: Duration,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<f64> {
        self.node.restart().await?;
        let address = self.node.address();
        match load {
            Load::Paced => {
                let mut took = Vec::new();
                tokio::select! {
                    ended = paced(&address, &mut took) => ended?,
                    ended = work => drop(ended?),
                    () = tokio::time::sleep(time) => {}
                }
                ensure!(!took.is_empty(), "no check was answered");
                took.sort_by(f64::total_cmp);
                Ok(took[took.len() * 99 / 100] * 1e3)
            }
            Load::Flood => {
                let answered = Arc::<AtomicU64>::default();
                let mut clients = JoinSet::new();
                let started = lab::clock::instant();
                for client in 0..CLIENTS {
                    clients.spawn(flood(address.clone(), client, Arc::clone(&answered)));
                }
                tokio::select! {
                    Some(ended) = clients.join_next() => ended??,
                    ended = work => drop(ended?),
                    () = tokio::time::sleep(time) => {}
                }
                let seconds = started.elapsed().as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52")]
                let answered = answered.load(Ordering::Relaxed) as f64;
                Ok(answered / seconds)
            }
        }
    }
}

/// Checks until it is dropped, one after the other; what each took, in seconds. One that is under way when it is dropped
/// is not counted: a run is long beside the slowest that matter to the p99.
async fn paced(address: &str, took: &mut Vec<f64>) -> anyhow::Result<()> {
    let mut connection = Connection::new(address);
    for number in 0_u64.. {
        let started = lab::clock::instant();
        check(&mut connection, number).await?;
        took.push(started.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn flood(address: String, client: usize, answered: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut connection = Connection::new(address);
    for number in client as u64.. {
        check(&mut connection, number).await?;
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn check(connection: &mut Connection, number: u64) -> anyhow::Result<()> {
    let body = format!("{{\"key\":\"bench-{}\"}}", number % KEYS);
    let answer = connection
        .send(Method::POST, "/check", body, PATIENCE)
        .await?;
    ensure!(answer.status == 200, "/check: status {}", answer.status);
    Ok(())
}

/// What each pair of runs brought.
#[derive(Default)]
struct Pairs {
    paced: Vec<(f64, f64)>,
    flood: Vec<(f64, f64)>,
}

impl Pairs {
    fn add(&mut self, load: Load, without: f64, with: f64) {
        match load {
            Load::Paced => self.paced.push((without, with)),
            Load::Flood => self.flood.push((without, with)),
        }
    }

    fn print(self, keys: u64, during: &str, wanted: Wanted, figures: &mut Figures) {
        let ratios: Vec<f64> = self
            .paced
            .iter()
            .map(|(without, with)| with / without)
            .collect();
        let (without, with): (Vec<f64>, Vec<f64>) = self.paced.into_iter().unzip();
        let from = format!("ms without {without:.2?}, with {with:.2?}");
        // In each run: the worst one counts.
        let what = format!("p99 of /check during {during} ÷ without, the worst run");
        figures.add(keys, &what, largest(&ratios), wanted, &from);
        let ratios: Vec<f64> = self
            .flood
            .iter()
            .map(|(without, with)| with / without)
            .collect();
        let (without, with): (Vec<f64>, Vec<f64>) = self.flood.into_iter().unzip();
        let from = format!("a second without {without:.0?}, with {with:.0?}");
        let what = format!("throughput of /check during {during} ÷ without");
        figures.add(keys, &what, median(ratios), Wanted::Nothing, &from);
    }
}
