//! What `evaluate` takes, against what the bare JSON parse of the same file takes: both read the same recording in turn,
//! within one run, since machines are noisy. Prints a table; asserts nothing but that nothing was left out.
//!
//! `make bench-replay` runs it; `BENCH_ARGS="--observations 20000"` makes it shorter.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use lab::temp::TempDir;

/// Runs of each, of which the middle one counts.
const TIMES: usize = 5;

/// Counters of an observation.
const COUNTERS: u64 = 100;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let many = match arguments.iter().position(|it| it == "--observations") {
        Some(at) => arguments
            .get(at + 1)
            .and_then(|value| value.parse().ok())
            .context("--observations: expected a number")?,
        None => 100_000,
    };
    let folder = TempDir::new("replay")?;
    let (short, long) = (folder.path().join("short"), folder.path().join("long"));
    write_recording(&short, many / 4)?;
    let bytes = write_recording(&long, many)?;
    let (mut bare, mut ignored, mut replayed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        bare.push(seconds(|| parse::<serde_json::Value>(&long, many))?);
        ignored.push(seconds(|| parse::<serde::de::IgnoredAny>(&long, many))?);
        replayed.push(seconds(|| evaluate(&long, many).map(drop))?);
    }
    println!("{many} observations of {COUNTERS} counters, {bytes} bytes each:");
    println!("| what | observations a second | MB a second |");
    println!("|---|---|---|");
    for (what, taken) in [
        ("serde_json into values, one thread", bare),
        ("serde_json into nothing, one thread", ignored),
        ("evaluate", replayed),
    ] {
        let taken = median(taken);
        #[expect(clippy::cast_precision_loss, reason = "a measurement")]
        let pace = many as f64 / taken;
        #[expect(clippy::cast_precision_loss, reason = "a measurement")]
        let volume = pace * bytes as f64 / 1e6;
        println!("| {what} | {pace:.0} | {volume:.0} |");
    }
    println!(
        "peak RSS of evaluate: {:.1} MiB for {} observations, {:.1} MiB for {many}",
        evaluate(&short, many / 4)?,
        many / 4,
        evaluate(&long, many)?,
    );
    Ok(())
}

/// Three healthy nodes and a hundred counters, of which every few lines one is above its limit. Returns the mean length
/// of a line.
fn write_recording(path: &Path, many: u64) -> anyhow::Result<u64> {
    let mut out = BufWriter::new(File::create(path)?);
    for line in 0..many {
        let at = jiff::Timestamp::from_second(1_700_000_000 + i64::try_from(line)? * 15)?;
        let nodes = (1..=3).map(|n| {
            format!("{{\"id\":\"node-{n}\",\"address\":\"10.0.0.{n}:8000\",\"state\":\"Up\"}}")
        });
        let counters = (0..COUNTERS).map(|n| {
            let over = n == line / 10 % 700;
            let count = if over { 12 } else { (line + n) % 11 };
            let remaining = 10_u64.saturating_sub(count);
            format!(
                "{{\"key\":\"user:{n}\",\"count\":{count},\"limit\":10,\"remaining\":{remaining}}}"
            )
        });
        let metrics = (1..=3).map(|n| format!("\"node-{n}\":{{\"latency_p99_ms\":{n}.25}}"));
        writeln!(
            out,
            "{{\"nodes\":[{}],\"counters\":[{}],\"node_metrics\":{{{}}},\"redis_connected\":true,\"observed_at\":\"{at}\"}}",
            nodes.collect::<Vec<_>>().join(","),
            counters.collect::<Vec<_>>().join(","),
            metrics.collect::<Vec<_>>().join(","),
        )?;
    }
    out.flush()?;
    Ok(std::fs::metadata(path)?.len() / many)
}

/// The bare parse, line by line.
fn parse<T: serde::de::DeserializeOwned>(path: &Path, many: u64) -> anyhow::Result<()> {
    let mut lines = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let mut line = Vec::new();
    let mut seen = 0;
    while lines.read_until(b'\n', &mut line)? > 0 {
        std::hint::black_box(serde_json::from_slice::<T>(&line)?);
        line.clear();
        seen += 1;
    }
    ensure!(seen == many, "{seen} lines of {many}");
    Ok(())
}

/// The real program, its output thrown away. Returns its peak RSS in MiB, as last seen before it ended.
fn evaluate(path: &Path, many: u64) -> anyhow::Result<f64> {
    let mut child = Command::new(lab::exporter_binary())
        .arg("evaluate")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("no pipe")?;
    let counting = std::thread::spawn(move || BufReader::new(out).lines().count() as u64);
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        peak = peak.max(kib.unwrap_or(0.0) / 1024.0);
        std::thread::sleep(Duration::from_millis(2));
    };
    ensure!(ended.success(), "evaluate: {ended}");
    let said = counting.join().unwrap_or(0);
    ensure!(said == many, "{said} answers of {many}");
    Ok(peak)
}

fn seconds(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = lab::clock::instant();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// The middle one of some measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
