//! Many scrapes at once against one.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::exporter::{Api, Exporter};
use super::figures::{Figures, Wanted};
use super::median;
use super::seeded::Seeded;

const TIMES: usize = 5;

const KEYS: u64 = 10_000;

/// The line for this many scrapes.
pub(crate) async fn measure(many: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let seeded = Seeded::start(KEYS).await?;
    let redis = seeded.redis.url();
    let api = Api::start().await?;
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        // A new exporter each time, so that each collection counts everything.
        let exporter = Exporter::start(&redis, &api.url, &[]).await?;
        alone.push(exporter.scrape().await?.1);
        let exporter = Arc::new(Exporter::start(&redis, &api.url, &[]).await?);
        let started = lab::clock::instant();
        let mut scrapes = JoinSet::new();
        for _ in 0..many {
            let exporter = Arc::clone(&exporter);
            scrapes.spawn(async move { exporter.scrape().await.map(drop) });
        }
        while let Some(scrape) = scrapes.join_next().await {
            scrape??;
        }
        together.push(started.elapsed().as_secs_f64());
    }
    let (alone, together) = (median(alone), median(together));
    let from = format!("{:.1} ms, one {:.1} ms", together * 1e3, alone * 1e3);
    let what = format!("{many} scrapes at once ÷ one");
    figures.add(KEYS, &what, together / alone, Wanted::AtMost(1.5), &from);
    Ok(())
}
