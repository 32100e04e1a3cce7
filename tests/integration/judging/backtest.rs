//! A recording under two configurations: the table, the JSON and the page.

use std::path::Path;

use lab::temp::TempDir;
use serde_json::{Value, json};

use crate::harness::{run, said};

/// Ten minutes, an observation every 15 s: a node that goes down twice for a minute, one key far above its limit for five, and
/// one a little above it for as long.
fn recording() -> String {
    let mut text = String::new();
    for look in 0..40 {
        let down = (4..8).contains(&look) || (12..16).contains(&look);
        let over = (10..30).contains(&look);
        let line = json!({
            "observed_at": jiff::Timestamp::from_second(1_700_000_000 + look * 15).unwrap_or_default(),
            "nodes": [{"id": "node-1", "state": if down { "Down" } else { "Up" }}],
            "counters": [
                {"key": "<script>alert(1)</script>", "count": if over { 30 } else { 1 }, "limit": 10, "remaining": 0},
                {"key": "a little", "count": if over { 11 } else { 1 }, "limit": 10, "remaining": 0},
            ],
            "node_metrics": {"node-1": {"latency_p99_ms": 10.0}},
            "redis_connected": true,
        });
        text += &line.to_string();
        text.push('\n');
    }
    text
}

struct Backtest {
    folder: TempDir,
}

impl Backtest {
    fn new() -> anyhow::Result<Self> {
        let folder = TempDir::new("backtest")?;
        std::fs::write(folder.path().join("recording.jsonl"), recording())?;
        std::fs::write(folder.path().join("current.yml"), "")?;
        let candidate = "redis.password-file: /nonexistent\ninvariants:\n  node_down: {grace_period: 90s}\n  \
                         counter_drift: {threshold: 0.05}\n  high_latency: {enabled: false}\n";
        std::fs::write(folder.path().join("candidate.yml"), candidate)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn run(&self, more: &[&str]) -> anyhow::Result<String> {
        let mut args = vec![
            "evaluate".to_owned(),
            self.path("recording.jsonl"),
            format!("--config.file={}", self.path("candidate.yml")),
            format!("--compare={}", self.path("current.yml")),
        ];
        args.extend(more.iter().map(|&flag| flag.to_owned()));
        let output = run(args).await?;
        anyhow::ensure!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output), "");
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn of<'a>(json: &'a Value, outcome: usize, name: &str) -> &'a Value {
    let mut invariants = json["outcomes"][outcome]["invariants"]
        .as_array()
        .into_iter()
        .flatten();
    invariants
        .find(|it| it["name"] == name)
        .unwrap_or(&Value::Null)
}

#[tokio::test]
async fn what_each_would_have_reported_is_counted() -> anyhow::Result<()> {
    let backtest = Backtest::new()?;
    let json: Value = serde_json::from_str(&backtest.run(&["--output=json"]).await?)?;
    assert_eq!(json["recording"]["observations"], 40);
    assert_eq!(json["outcomes"][0]["name"], "candidate");
    assert_eq!(json["outcomes"][1]["name"], "current");

    let candidate = of(&json, 0, "node_down");
    assert_eq!(candidate["violations"], 0);
    assert_eq!(candidate["pending_only"], 2);
    assert_eq!(candidate["first"], Value::Null);
    let current = of(&json, 1, "node_down");
    assert_eq!(current["violations"], 2);
    assert_eq!(current["subjects"], 1);
    assert_eq!(current["flaps"], 1);
    assert_eq!(current["seconds_in_violation"], 120.0);
    assert_eq!(current["first"], "2023-11-14T22:14:20Z");
    assert_eq!(current["last"], "2023-11-14T22:17:05Z");

    assert_eq!(of(&json, 0, "counter_drift")["subjects"], 2);
    assert_eq!(of(&json, 1, "counter_drift")["subjects"], 1);
    assert_eq!(of(&json, 0, "high_latency")["enabled"], false);
    assert_eq!(of(&json, 1, "ghost_allowing")["most_at_once"], 2);
    let listed = &of(&json, 1, "ghost_allowing")["listed"];
    assert_eq!(listed[0]["seconds_in_violation"], 300.0);
    Ok(())
}

#[tokio::test]
async fn the_table_shows_both_and_what_only_one_reports() -> anyhow::Result<()> {
    let table = Backtest::new()?.run(&[]).await?;
    let (figures, differences) = table
        .split_once("REPORTED BY THE CANDIDATE ONLY")
        .unwrap_or_default();
    for words in [
        "40 observations",
        "node_down           candidate  0",
        "current    2",
        "switched off",
    ] {
        assert!(figures.contains(words), "{words:?} is not in:\n{table}");
    }
    let (candidate, current) = differences
        .split_once("REPORTED BY THE CURRENT ONLY")
        .unwrap_or_default();
    assert!(candidate.contains("a little"), "{table}");
    assert!(
        current.contains("node_down") && !current.contains("a little"),
        "{table}"
    );
    Ok(())
}

#[tokio::test]
async fn the_page_loads_nothing_and_escapes_text() -> anyhow::Result<()> {
    let backtest = Backtest::new()?;
    let path = backtest.path("report.html");
    backtest.run(&[&format!("--report={path}")]).await?;
    let page = std::fs::read_to_string(Path::new(&path))?;
    for absent in [
        "<script", "http:", "https:", "src=", "url(", "@import", "<link",
    ] {
        assert!(!page.contains(absent), "{absent}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("prefers-color-scheme: dark"));
    // A line for the node with its two times down, in the lane of the configurations that would have reported them.
    let reported = "<title>reported from 2023-11-14T22:14:20Z to 2023-11-14T22:15:20Z</title>";
    assert_eq!(page.matches(reported).count(), 1, "{page}");
    let pending = "<title>pending from 2023-11-14T22:14:20Z to 2023-11-14T22:15:20Z</title>";
    assert_eq!(page.matches(pending).count(), 1, "{page}");
    for name in ["node_down", "high_latency", "redis_disconnected"] {
        assert!(page.contains(&format!("<h3>{name}</h3>")), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn mistakes_are_named() -> anyhow::Result<()> {
    let backtest = Backtest::new()?;
    let recording = backtest.path("recording.jsonl");
    for (flags, expected) in [
        (
            &["--compare=/nonexistent.yml"][..],
            "--compare: invalid value \"/nonexistent.yml\"",
        ),
        (
            &["--compare=/dev/null", "--output=jsonl"],
            "need --output table or json",
        ),
        (
            &["--report=/nonexistent/report.html"],
            "--report: cannot write /nonexistent/report.html",
        ),
    ] {
        let mut args = vec!["evaluate".to_owned(), recording.clone()];
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        let output = run(args).await?;
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    Ok(())
}
