//! What the exporter costs, against what Redis itself costs: everything is compared within one run, since machines are
//! noisy. Prints tables; asserts nothing. Talks to servers of its own on loopback and ends them.
//!
//! `make bench` runs it all; `make bench BENCH_ARGS="--most 100000"` leaves the larger key spaces out.

mod exporter;
mod floor;
mod parts;
mod sweep;

use anyhow::Context as _;

/// Key spaces that are measured, up to `--most`.
const SIZES: [u64; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let most = match arguments.iter().position(|argument| argument == "--most") {
        Some(at) => arguments
            .get(at + 1)
            .and_then(|value| value.parse().ok())
            .context("--most: expected a number of keys")?,
        None => 1_000_000,
    };
    parts::print();
    println!(
        "| keys | floor: SCAN + ZCOUNT, ms | first sweep, ms | ÷ floor | Redis's CPU time ÷ floor's | steady collection, ms | ÷ floor | peak RSS, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for keys in SIZES.into_iter().filter(|keys| *keys <= most) {
        println!("{}", sweep::row(keys).await?);
    }
    println!();
    sweep::against_redis_exporter(50_000).await?;
    sweep::limiter_p99(most).await?;
    sweep::concurrent_scrapes(50).await
}

/// The middle one of some measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
