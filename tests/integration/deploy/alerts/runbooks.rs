//! Every alert has a runbook of the same make, and names in runbooks and in the list of alerts are true.

use ratelimiter_exporter::limiters::{BUILT_IN, Counter, Description};

use super::files::{alerts, blocks, files, rules, text};
use super::known::Known;

/// What each runbook has, in this order.
const HEADINGS: [&str; 4] = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"];

/// Metrics of the limiter's nodes, not of the exporter.
const OF_NODES: [&str; 2] = [
    "ratelimiter_check_duration_seconds",
    "ratelimiter_requests_checked_total",
];

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() -> anyhow::Result<()> {
    let alerts = alerts()?;
    let mut expected: Vec<String> = alerts
        .iter()
        .map(|alert| format!("alerts/runbooks/{}.md", alert.alert()))
        .collect();
    expected.sort();
    assert_eq!(files("alerts/runbooks", ".md")?, expected);
    for alert in &alerts {
        let runbook = text(&alert.annotations["runbook_url"])?;
        let lines = || runbook.lines();
        assert_eq!(
            lines().next(),
            Some(format!("# {}", alert.alert()).as_str())
        );
        let headings: Vec<&str> = lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, HEADINGS, "{}", alert.alert());
        let sections = runbook.split("\n## ").skip(1);
        for section in sections {
            assert!(
                section.trim().lines().count() > 2,
                "{}: {section:?} is empty",
                alert.alert()
            );
        }
    }
    Ok(())
}

#[test]
fn runbooks_about_counters_heal_each_kind() -> anyhow::Result<()> {
    let any: fn(&Counter) -> bool = |_| true;
    for (alert, concerns) in [
        ("StuckCounter", Counter::sticks as fn(&Counter) -> bool),
        ("KeysWithoutExpiry", |counter| counter.expiry.required),
        ("InvalidCounter", any),
    ] {
        let runbook = text(&format!("alerts/runbooks/Ratelimiter{alert}.md"))?;
        let rows = runbook.lines().filter(|line| line.starts_with("| `"));
        let rows: Vec<&str> = rows.collect();
        for (name, description) in BUILT_IN {
            // Its expiries are not read.
            if *name == "reference" {
                continue;
            }
            let description = Description::parse(description)
                .map_err(|mistakes| anyhow::anyhow!("{name}: {mistakes:?}"))?;
            let quoted = format!("`{name}`");
            let healed = rows.iter().any(|row| row.contains(&quoted));
            let concerned = description.counters.iter().any(concerns);
            assert_eq!(healed, concerned, "{alert}: {name}");
        }
        for command in ["`EXPIRE key SECONDS`", "`DEL key`", "`PERSIST"] {
            assert!(runbook.contains(command), "{alert}: {command}");
        }
    }
    Ok(())
}

#[test]
fn metrics_and_queries_in_runbooks_are_exported() -> anyhow::Result<()> {
    let known = Known::new(&rules()?);
    let readme = "alerts/README.md".to_owned();
    for file in files("alerts/runbooks", ".md")?.into_iter().chain([readme]) {
        let text = text(&file)?;
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|word| word.starts_with("ratelimiter_")) {
            assert!(
                known.has_metric(word) || OF_NODES.contains(&word),
                "{file}: {word}"
            );
        }
        for query in blocks(&text, "promql") {
            let objections = known.objections(&query);
            assert!(objections.is_empty(), "{file}: {query}: {objections:?}");
        }
    }
    Ok(())
}

#[test]
fn the_list_of_alerts_is_complete_and_true() -> anyhow::Result<()> {
    let readme = text("alerts/README.md")?;
    let listed: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("| [Ratelimiter"))
        .collect();
    let expected: Vec<String> = alerts()?
        .iter()
        .map(|alert| {
            let name = alert.alert();
            let severity = alert
                .labels
                .get("severity")
                .map_or("the exporter's", String::as_str);
            let wait = Some(alert.wait.as_str()).filter(|wait| !wait.is_empty());
            format!(
                "| [{name}](runbooks/{name}.md) | {severity} | {} | ",
                wait.unwrap_or("–")
            )
        })
        .collect();
    assert_eq!(listed.len(), expected.len());
    for (line, start) in listed.iter().zip(&expected) {
        assert!(
            line.starts_with(start.as_str()),
            "{line}\nexpected: {start}"
        );
    }
    Ok(())
}
