//! A first pass and a steady collection, against the floor. In turn, so that what else the machine does hits all of them.

use super::exporter::{Api, Exporter};
use super::figures::{Figures, Wanted};
use super::meter::of_redis;
use super::seeded::Seeded;
use super::{floor, median};

/// Each measurement is taken this often, and the median counts.
const TIMES: u64 = 5;

/// And this often where it takes long.
const FEW_TIMES: u64 = 3;

/// From here on the floor is large beside connecting, PING and a dozen round trips.
const LARGE: u64 = 100_000;

/// The lines for this many counters.
pub(crate) async fn measure(keys: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let seeded = Seeded::start(keys).await?;
    let redis = &seeded.redis;
    let api = Api::start().await?;
    let times = if keys > LARGE { FEW_TIMES } else { TIMES };
    let (mut floors, mut passes) = (Vec::new(), Vec::new());
    let (mut floor_load, mut pass_load) = (Vec::new(), Vec::new());
    let mut exporter = None;
    for _ in 0..times {
        let port = redis.port();
        let before = of_redis(redis).await?;
        floors.push(tokio::task::spawn_blocking(move || floor::measure(port)).await??);
        floor_load.push(of_redis(redis).await? - before);
        let new = Exporter::start(&redis.url(), &api.url, &[]).await?;
        let before = of_redis(redis).await?;
        let started = lab::clock::instant();
        new.scrape_until_full_pass(keys).await?;
        passes.push(started.elapsed().as_secs_f64());
        pass_load.push(of_redis(redis).await? - before);
        exporter = Some(new);
    }
    let mut steady = Vec::new();
    if let Some(exporter) = exporter {
        for round in 0..TIMES {
            seeded.check_some(10, round).await?;
            steady.push(exporter.scrape().await?.1);
        }
    }
    let (floor, pass, steady) = (median(floors), median(passes), median(steady));
    let (floor_load, pass_load) = (median(floor_load), median(pass_load));
    let from = format!("{:.1} ms, floor {:.1} ms", pass * 1e3, floor * 1e3);
    figures.add(
        keys,
        "first pass ÷ floor",
        pass / floor,
        Wanted::Nothing,
        &from,
    );
    let from = format!("{pass_load:.3} s, floor {floor_load:.3} s");
    let what = "Redis's CPU time in a first pass ÷ in the floor";
    figures.add(keys, what, pass_load / floor_load, Wanted::Nothing, &from);
    let wanted = if keys < LARGE {
        Wanted::Nothing
    } else {
        Wanted::AtMost(0.3)
    };
    let from = format!("{:.1} ms, floor {:.1} ms", steady * 1e3, floor * 1e3);
    let what = "steady collection, a tenth written, ÷ floor";
    figures.add(keys, what, steady / floor, wanted, &from);
    Ok(())
}
