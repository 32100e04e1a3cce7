//! The exporter as a guest: what it adds to the CPU time of Redis and of each node, with scrapes every 15 seconds, while
//! nothing is written and while a hundredth of the counters is written between two scrapes; how long its first pass
//! takes and how hard that presses on Redis; and its own memory, with `--state.file`. All with default settings.

use std::time::Duration;

use lab::node::{NodeOptions, NodeProcess};
use lab::temp::TempDir;

use super::exporter::Exporter;
use super::figures::{Figures, Wanted};
use super::median;
use super::meter::{Used, of_redis};
use super::scraping::{EVERY, Scraping};
use super::seeded::{Seeded, WINDOW_MS};

/// How many limiter nodes there are.
const NODES: usize = 2;

/// A node may use this much of a core more than without the exporter: a hundredth, in CPU seconds a minute.
const NODE: Wanted = Wanted::AtMost(0.6);

/// And Redis this much, once the first pass is over.
const REDIS: Wanted = Wanted::AtMost(1.2);

/// The default of `--scan.share`, and a tenth of that for what is asked besides.
const SHARE: Wanted = Wanted::AtMost(0.22);

/// How long `GET /api/nodes` is measured alone.
const ALONE: Duration = Duration::from_secs(10);

struct Stage {
    seeded: Seeded,
    nodes: Vec<NodeProcess>,
}

impl Stage {
    async fn start(keys: u64) -> anyhow::Result<Self> {
        let seeded = Seeded::start(keys).await?;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            nodes.push(
                NodeProcess::start(NodeOptions {
                    default_limit: 20,
                    default_window_ms: WINDOW_MS,
                    ..NodeOptions::new(format!("node-{number}"), seeded.redis.url())
                })
                .await?,
            );
        }
        Ok(Self { seeded, nodes })
    }

    /// CPU time that Redis uses for each second that a node uses for `GET /api/nodes`, without the exporter.
    async fn redis_per_node(&mut self) -> anyhow::Result<f64> {
        let before = Used::now(&self.seeded.redis, &self.nodes, None).await?;
        // With many keys it takes far longer than this.
        let address = self.nodes[0].address();
        drop(lab::http::get(&address, "/api/nodes", ALONE).await);
        let after = Used::now(&self.seeded.redis, &self.nodes, None).await?;
        let used = after.since(&before, ALONE.as_secs_f64());
        // It goes on without its client.
        self.nodes[0].restart().await?;
        Ok(used.redis / used.all_nodes().max(0.01))
    }

    /// What all of them use in this time.
    async fn spend(
        &self,
        exporter: Option<&Exporter>,
        time: Duration,
        writing: bool,
    ) -> anyhow::Result<Used> {
        let redis = &self.seeded.redis;
        let before = Used::now(redis, &self.nodes, exporter).await?;
        let started = lab::clock::instant();
        if writing {
            let writing = self.seeded.check_a_hundredth(EVERY);
            // It ends by itself only with an error.
            if let Ok(ended) = tokio::time::timeout(time, writing).await {
                ended?;
            }
        } else {
            tokio::time::sleep(time).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        let after = Used::now(redis, &self.nodes, exporter).await?;
        Ok(after.since(&before, seconds))
    }
}

/// All lines for this many counters.
pub(crate) async fn measure(
    keys: u64,
    steady: Duration,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut stage = Stage::start(keys).await?;
    let mut without = [Used::default(), Used::default()];
    for (used, writing) in without.iter_mut().zip([false, true]) {
        *used = stage.spend(None, steady / 4, writing).await?;
    }

    let redis_per_node = stage.redis_per_node().await?;
    let folder = TempDir::new("state")?;
    let state_file = folder.path().join("state");
    let api: Vec<String> = stage.nodes.iter().map(NodeProcess::url).collect();
    let more = ["--state.file", &state_file.to_string_lossy()];
    let exporter = Exporter::start(&stage.seeded.redis.url(), &api.join(","), &more).await?;
    let scraping = Scraping::start(&exporter);
    first_pass((keys, redis_per_node), &stage, &scraping, figures).await?;
    let mut with = Vec::new();
    for writing in [false, true] {
        scraping.take_seconds();
        let used = stage.spend(Some(&exporter), steady, writing).await?;
        with.push((used, scraping.take_seconds()));
    }
    let peak = exporter.peak_rss()?;
    drop(scraping);
    drop(exporter);

    // Nodes anew: one that was asked for something works on for long after the exporter is gone.
    for node in &mut stage.nodes {
        node.restart().await?;
    }
    for (used, writing) in without.iter_mut().zip([false, true]) {
        *used = used.and(&stage.spend(None, steady / 4, writing).await?);
    }

    for ((with, without), written) in with.iter().zip(&without).zip(["nothing", "a hundredth"]) {
        let (with, scrapes) = with;
        let (with, without) = (with.a_minute(), without.a_minute());
        let from = |without, with| format!("{without:.2} without, {with:.2} with");
        for (who, without, with, wanted) in [
            ("a node", without.node(), with.node(), NODE),
            ("Redis", without.redis, with.redis, REDIS),
            ("itself", 0.0, with.exporter, Wanted::Nothing),
        ] {
            let what = format!("added to {who}, {written} written: CPU s a minute");
            figures.add(keys, &what, with - without, wanted, &from(without, with));
        }
        if !scrapes.is_empty() {
            let what = format!("scrape, {written} written: ms");
            let from = format!("{} scrapes", scrapes.len());
            let milliseconds = median(scrapes.clone()) * 1e3;
            figures.add(keys, &what, milliseconds, Wanted::Nothing, &from);
        }
    }
    let wanted = match keys {
        1_000_000 => Wanted::AtMost(64.0),
        10_000_000 => Wanted::AtMost(96.0),
        _ => Wanted::Nothing,
    };
    let own = keys / stage.seeded.scale.limits_every;
    let written = std::fs::metadata(&state_file).map_or(0, |file| file.len());
    let from = format!("{own} own limits, a state file of {written} bytes");
    figures.add(keys, "peak RSS with --state.file: MiB", peak, wanted, &from);
    Ok(())
}

/// The first pass: how long it takes, and how much of Redis. What the nodes use meanwhile, they use for `GET /api/nodes`, whose
/// part of Redis's time is not the pass's.
async fn first_pass(
    (keys, redis_per_node): (u64, f64),
    stage: &Stage,
    scraping: &Scraping,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (wanted, patience) = match keys {
        1_000_000 => (Wanted::AtMost(120.0), 300.0),
        10_000_000 => (Wanted::AtMost(600.0), 1200.0),
        _ => (Wanted::Nothing, 120.0),
    };
    let redis = &stage.seeded.redis;
    let before = Used::now(redis, &stage.nodes, None).await?;
    let started = lab::clock::instant();
    let begun = of_redis(redis).await?;
    let (mut then, mut at) = (begun, 0.0);
    let mut busiest = 0.0_f64;
    let took = loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = of_redis(redis).await?;
        let now = started.elapsed().as_secs_f64();
        busiest = busiest.max((used - then) / (now - at));
        (then, at) = (used, now);
        let took = scraping.first_pass();
        if took.is_some() || now > patience {
            break took;
        }
    };
    let from = took.map_or_else(|| format!("given up after {patience} s"), |_| String::new());
    let seconds = took.unwrap_or(f64::INFINITY);
    figures.add(keys, "first pass complete after: s", seconds, wanted, &from);
    let after = Used::now(redis, &stage.nodes, None).await?;
    let api = after.since(&before, at).all_nodes() * redis_per_node;
    let from = format!(
        "{busiest:.2} in the busiest second; {:.1} CPU s in {at:.0} s, {api:.1} of them for GET /api/nodes",
        then - begun
    );
    let what = "Redis's time during the first pass, without GET /api/nodes: share";
    figures.add(keys, what, (then - begun - api) / at, SHARE, &from);
    Ok(())
}
