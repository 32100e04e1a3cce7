//! The peer: `prometheus-redis-exporter -check-keys` over the same Redis.

use std::path::Path;
use std::time::Duration;

use lab::process::Process;

use super::exporter::{Api, Exporter, scrape};
use super::figures::{Figures, Wanted};
use super::median;
use super::seeded::Seeded;

/// Scrapes of the exporter, once its first pass is over.
const TIMES: usize = 5;

/// The lines for this many counters.
pub(crate) async fn measure(keys: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let seeded = Seeded::start(keys).await?;
    let redis = seeded.redis.url();
    let api = Api::start().await?;
    let ours = Exporter::start(&redis, &api.url, &[]).await?;
    let (_, first) = ours.scrape().await?;
    ours.scrape_until_full_pass(keys).await?;
    let mut next = Vec::new();
    for _ in 0..TIMES {
        next.push(ours.scrape().await?.1);
    }
    let address = format!("127.0.0.1:{}", lab::ports::free_port());
    let program = Path::new("prometheus-redis-exporter");
    let arguments = [
        "-web.listen-address",
        &address,
        "-redis.addr",
        &redis,
        "-check-keys",
        "ratelimit:*",
    ];
    let _peer = Process::spawn(program, arguments, None)?;
    let listening = || async { tokio::net::TcpStream::connect(&address).await.is_ok() };
    lab::wait_for(Duration::from_secs(10), listening).await?;
    let (_, theirs) = scrape(&address, "/metrics").await?;
    let next = median(next);
    for (what, ours, wanted) in [
        ("the first", first, Wanted::Nothing),
        ("a steady one", next, Wanted::AtLeast(100.0)),
    ] {
        let from = format!("theirs {theirs:.2} s, ours {:.1} ms", ours * 1e3);
        let what = format!("scrape of prometheus-redis-exporter ÷ ours, {what}");
        figures.add(keys, &what, theirs / ours, wanted, &from);
    }
    Ok(())
}
