//! What the exporter costs others and itself, compared with Redis in the same run, since machines are noisy. It prints a line
//! for each figure, with the bound for it, and asserts nothing. It starts its servers on loopback and ends them.
//!
//! `make bench` runs it all. `BENCH_ARGS` may hold:
//!
//! - `--most N`: no key space larger than this; 1,000,000 without it, and 10,000,000 only with it
//! - `--least N`: none smaller than this
//! - `--only PART`: one of [`PARTS`]; repeat for more
//! - `--seconds N`: how long the steady state is measured, with and without writes; 60 without it

mod checks;
mod exporter;
mod figures;
mod floor;
mod guest;
mod meter;
mod parts;
mod peer;
mod scraping;
mod seeded;
mod sweep;
mod targets;
mod together;

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use figures::Figures;

/// What can be measured alone, in the order in which it is measured.
const PARTS: [&str; 7] = [
    "parts", "sweep", "peer", "guest", "checks", "targets", "together",
];

/// Key spaces over which a sweep is measured against the floor.
const SWEPT: [u64; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];

/// Key spaces over which the exporter is measured as a guest.
const GUEST: [u64; 4] = [100_000, 300_000, 1_000_000, 10_000_000];

/// The largest key space beside which the limiter's own checks are measured.
const CHECKED: u64 = 1_000_000;

struct Options {
    least: u64,
    most: u64,
    only: Vec<String>,
    steady: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|it| it == part);
    let sizes = options.least..=options.most;
    let mut figures = Figures::start();
    if wanted("parts") {
        parts::measure(&mut figures);
    }
    if wanted("sweep") {
        for keys in SWEPT.into_iter().filter(|keys| sizes.contains(keys)) {
            sweep::measure(keys, &mut figures).await?;
        }
    }
    if wanted("peer") {
        peer::measure(50_000, &mut figures).await?;
    }
    if wanted("guest") {
        for keys in GUEST.into_iter().filter(|keys| sizes.contains(keys)) {
            guest::measure(keys, options.steady, &mut figures).await?;
        }
    }
    if wanted("checks") {
        checks::measure(options.most.min(CHECKED), &mut figures).await?;
    }
    if wanted("targets") {
        targets::measure(options.steady, &mut figures).await?;
    }
    if wanted("together") {
        together::measure(50, &mut figures).await?;
    }
    figures.end();
    Ok(())
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        least: 0,
        most: 1_000_000,
        only: Vec::new(),
        steady: Duration::from_secs(60),
    };
    while let Some(argument) = arguments.next() {
        // What cargo itself adds.
        if argument == "--bench" {
            continue;
        }
        let value = arguments.next();
        let value = value.with_context(|| format!("{argument}: expected a value"))?;
        let number = || {
            let number = value.parse::<u64>();
            number.with_context(|| format!("{argument}: expected a number, not {value:?}"))
        };
        match argument.as_str() {
            "--least" => options.least = number()?,
            "--most" => options.most = number()?,
            "--seconds" => options.steady = Duration::from_secs(number()?),
            "--only" => {
                ensure!(
                    PARTS.contains(&value.as_str()),
                    "--only: expected one of {PARTS:?}, not {value:?}"
                );
                options.only.push(value);
            }
            _ => bail!("{argument}: expected --least, --most, --only or --seconds"),
        }
    }
    Ok(options)
}

/// The middle one of some measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The largest of some measurements.
fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}
