//! The Grafana dashboards: every query is one that Prometheus understands and asks for metrics that there are; every panel
//! and every variable brings data from a real exporter, in health and in the fault that it is for. Grafana itself does
//! not run here; what can be said of the JSON alone is checked by grafana/generator/check.py.

mod board;
mod expected;
mod kinds;
mod limiter;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use lab::prometheus::Prometheus;
use lab::temp::TempDir;
use ratelimiter_exporter::export::{DEFINITIONS, Kind};
use tokio::time::Instant;

use crate::harness::PATIENCE;
use board::{Board, Panel, Query, Values, ask, boards, label_values};
use expected::{Answers, CONTEXT, EMPTY_IN_HEALTH, expectations};
use limiter::{Fault, KEY, Limiter};

/// What Prometheus adds to each target, and what others export everywhere.
const NOT_OURS: [&str; 5] = [
    "up",
    "scrape_samples_scraped",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "ALERTS",
];

#[tokio::test]
async fn every_query_is_promql() -> anyhow::Result<()> {
    let mut values = Values::new();
    for name in ["cluster", "namespace", "job", "instance", "node_id", "key"] {
        values.set(name, "x");
    }
    // A recording rule for each: promtool parses them all and names the ones that it cannot.
    let mut rules = Vec::new();
    for board in boards()? {
        let annotation = ("annotation", "", board.annotation.as_str());
        let panels = board.panels.iter().flat_map(|panel| {
            let queries = panel.queries.iter();
            queries.map(|query| {
                (
                    panel.title.as_str(),
                    query.name.as_str(),
                    query.expr.as_str(),
                )
            })
        });
        for (panel, query, expr) in panels.chain([annotation]) {
            rules.push(serde_json::json!({
                "record": "parsed",
                "labels": {"at": format!("{} · {panel} · {query}", board.name)},
                "expr": values.fill(expr)?,
            }));
        }
    }
    assert!(rules.len() > 60, "only {} queries", rules.len());
    let folder = TempDir::new("promql")?;
    let file = folder.path().join("rules.json");
    let rules = serde_json::json!({"groups": [{"name": "dashboards", "rules": rules}]});
    std::fs::write(&file, rules.to_string())?;
    let checked = tokio::process::Command::new("promtool")
        .args(["check", "rules", "--lint=none"])
        .arg(&file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let checked = tokio::time::timeout(PATIENCE, checked).await??;
    anyhow::ensure!(
        checked.status.success(),
        "{}",
        crate::harness::said(&checked)
    );
    Ok(())
}

#[test]
fn every_metric_that_is_asked_for_is_exported() -> anyhow::Result<()> {
    let mut known = BTreeSet::from(NOT_OURS.map(str::to_owned));
    for definition in DEFINITIONS {
        match definition.kind {
            Kind::Histogram => known.insert(format!("{}_bucket", definition.name)),
            Kind::Gauge | Kind::Counter => known.insert(definition.name.to_owned()),
        };
    }
    for board in boards()? {
        let panels = board.panels.iter().flat_map(|panel| &panel.queries);
        let asked = panels.map(|query| query.expr.as_str());
        let variables = board.variables.iter().map(|(_, query)| query.as_str());
        for expr in asked.chain(variables).chain([board.annotation.as_str()]) {
            for name in metrics(expr) {
                assert!(known.contains(&name), "{}: {name} in {expr}", board.name);
            }
        }
    }
    Ok(())
}

/// The words before a `{`, where metrics stand in all our queries; what follows `label_values(` as well.
fn metrics(expr: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found: BTreeSet<String> = expr
        .split('{')
        .map(|before| {
            let start = before.rfind(|c| !word(c)).map_or(0, |at| at + 1);
            before[start..].to_owned()
        })
        .filter(|name| !name.is_empty())
        .collect();
    if let Some(rest) = expr.strip_prefix("label_values(") {
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        found.insert(rest[..end].to_owned());
    }
    // The text behind the last brace names no metric.
    let tail = expr.rsplit('{').next().unwrap_or_default();
    let start = tail.rfind(|c| !word(c)).map_or(0, |at| at + 1);
    found.remove(&tail[start..]);
    found
}

#[test]
fn the_provisioning_names_files_that_exist() -> anyhow::Result<()> {
    let read = |file: &str| -> anyhow::Result<serde_json::Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("grafana")
            .join(file);
        Ok(serde_saphyr::from_str(&std::fs::read_to_string(path)?)?)
    };
    let source = read("provisioning/datasources/prometheus.yml")?;
    assert_eq!(source["apiVersion"], 1);
    assert_eq!(source["datasources"][0]["type"], "prometheus");
    let provider = read("provisioning/dashboards/ratelimiter.yml")?;
    assert_eq!(provider["apiVersion"], 1);
    let path = provider["providers"][0]["options"]["path"].as_str();
    let path = path.context("no path")?;
    let mounted =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/README.md"))?;
    assert!(mounted.contains(&format!("| `grafana/dashboards` | `{path}` |")));
    Ok(())
}

#[test]
fn every_panel_is_expected_to_show_something() -> anyhow::Result<()> {
    let boards = boards()?;
    let panels = boards.iter().flat_map(|board| {
        let panels = board.panels.iter();
        panels.map(|panel| (board.name.as_str(), panel.title.as_str()))
    });
    let all: Vec<_> = panels.collect();
    let there: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(all.len(), there.len(), "two panels with one name");
    let expected: BTreeSet<_> = expectations().map(|e| (e.board, e.panel)).collect();
    let context: BTreeSet<_> = CONTEXT
        .iter()
        .map(|(board, panel, _)| (*board, *panel))
        .collect();
    assert!(expected.is_disjoint(&context));
    assert_eq!(
        expected.union(&context).copied().collect::<BTreeSet<_>>(),
        there
    );
    let faults: Vec<Fault> = expectations().map(|e| e.fault).collect();
    for fault in Fault::ALL {
        assert!(faults.contains(&fault), "no panel is for {fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_panel_has_data_and_shows_what_it_is_for() -> anyhow::Result<()> {
    let boards = boards()?;
    let mut limiter = Limiter::start().await?;
    let mut values = healthy(&limiter, &boards).await?;
    for fault in Fault::ALL {
        values.set("node_id", fault.node());
        limiter
            .bring_about(fault)
            .await
            .with_context(|| format!("{fault:?}"))?;
        shown(&limiter.prometheus, &boards, &values, fault).await?;
        limiter
            .undo(fault)
            .await
            .with_context(|| format!("{fault:?}"))?;
    }
    Ok(())
}

/// Waits until every variable and every panel has data, and sees that no panel shows a fault. Returns what was chosen for
/// the variables.
async fn healthy(limiter: &Limiter, boards: &[Board]) -> anyhow::Result<Values> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let problem = match all_is_well(limiter, boards).await {
            Ok(values) => return Ok(values),
            Err(problem) => problem,
        };
        if Instant::now() > deadline {
            return Err(problem.context("not healthy in time"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

async fn all_is_well(limiter: &Limiter, boards: &[Board]) -> anyhow::Result<Values> {
    let prometheus = &limiter.prometheus;
    let mut chosen = Values::new();
    for board in boards {
        for (name, query) in &board.variables {
            let found = label_values(prometheus, query, &chosen).await?;
            let first = found
                .first()
                .with_context(|| format!("{}: no {name}", board.name))?;
            let value = match name.as_str() {
                "instance" => ".+",
                "key" => found
                    .iter()
                    .find(|key| *key == KEY)
                    .context("the key is not there")?,
                _ => first,
            };
            chosen.set(name, value);
        }
    }
    for board in boards {
        let firing = Query::range(&board.annotation);
        anyhow::ensure!(
            ask(prometheus, &firing, &chosen).await?.is_empty(),
            "an alert fires"
        );
        for panel in &board.panels {
            let at = || format!("{}: {}", board.name, panel.title);
            let answers = answers(prometheus, panel, &chosen).await.with_context(at)?;
            for (query, series) in &answers.0 {
                let mut excepted = EMPTY_IN_HEALTH.iter();
                let excepted =
                    excepted.any(|(b, p, q, _)| (*b, *p, *q) == (&board.name, &panel.title, query));
                anyhow::ensure!(
                    series.is_empty() == excepted,
                    "{}: {query}: {series:?}",
                    at()
                );
            }
            let of_panel =
                expectations().filter(|e| e.board == board.name && e.panel == panel.title);
            for expected in of_panel {
                let shows = (expected.shows)(&answers);
                anyhow::ensure!(!shows, "{} shows {:?}: {answers:?}", at(), expected.fault);
            }
        }
    }
    Ok(chosen)
}

/// Waits until every panel for this fault has shown it, each with all its queries.
async fn shown(
    prometheus: &Prometheus,
    boards: &[Board],
    values: &Values,
    fault: Fault,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut missing: Vec<_> = expectations().filter(|e| e.fault == fault).collect();
    let mut annotated = fault != Fault::KeysOver;
    let mut last = String::new();
    while !(missing.is_empty() && annotated) {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{fault:?}: not shown: {missing:?}; last: {last}"
        );
        let mut still = Vec::new();
        for expected in missing {
            let board = boards.iter().find(|board| board.name == expected.board);
            let board = board.context("no such board")?;
            let panel = board
                .panels
                .iter()
                .find(|panel| panel.title == expected.panel);
            let panel = panel.context("no such panel")?;
            let answers = answers(prometheus, panel, values).await?;
            let complete = answers.0.values().all(|series| !series.is_empty());
            if !(complete && (expected.shows)(&answers)) {
                last = format!("{answers:?}");
                still.push(expected);
            }
        }
        missing = still;
        if !annotated {
            let firing = Query::range(&boards[0].annotation);
            let alerts = ask(prometheus, &firing, values).await?;
            annotated = alerts.iter().any(|alert| alert.labels["subject"] == KEY);
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn answers(
    prometheus: &Prometheus,
    panel: &Panel,
    values: &Values,
) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    for query in &panel.queries {
        let series = ask(prometheus, query, values).await?;
        answers.0.insert(query.name.clone(), series);
    }
    Ok(answers)
}
