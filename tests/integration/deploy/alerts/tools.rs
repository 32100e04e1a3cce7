//! promtool and amtool accept the files.

use anyhow::Context as _;
use lab::temp::TempDir;

use super::files::{alerts, files, text};
use crate::repository::run_tool as run;

fn check_rules(file: &str) -> anyhow::Result<String> {
    run(
        "promtool",
        &["check", "rules", "--lint=all", "--lint-fatal", file],
    )
}

#[test]
fn promtool_finds_the_rules_valid_and_their_tests_pass() -> anyhow::Result<()> {
    check_rules("alerts/ratelimiter.rules.yml")?;
    let tests = files("alerts/tests", ".yml")?;
    let mut args = vec!["test", "rules"];
    args.extend(tests.iter().map(String::as_str));
    run("promtool", &args)?;
    Ok(())
}

#[test]
fn amtool_finds_the_configuration_valid_and_every_alert_has_its_receiver() -> anyhow::Result<()> {
    let file = "alerts/alertmanager.yml";
    run("amtool", &["check-config", file])?;
    for alert in alerts()? {
        let fixed = alert.labels.get("severity").map(String::as_str);
        for (severity, receiver) in [
            ("critical", "pager"),
            ("warning", "chat"),
            ("info", "nowhere"),
            ("none", "deadman"),
        ] {
            // An alert without a severity in its rule has that of the exporter's configuration, which is never none.
            if fixed.map_or(severity == "none", |fixed| fixed != severity) {
                continue;
            }
            let labels = [
                format!("alertname={}", alert.alert()),
                format!("severity={severity}"),
            ];
            let found = run(
                "amtool",
                &[
                    "config",
                    "routes",
                    "test",
                    &format!("--config.file={file}"),
                    &labels[0],
                    &labels[1],
                ],
            )?;
            assert_eq!(found.trim(), receiver, "{labels:?}");
        }
    }
    Ok(())
}

/// The commands of the README's block that begins so.
fn documented(start: &str) -> anyhow::Result<String> {
    let readme = text("alerts/README.md")?;
    let begins = format!("```console\n$ {start}");
    let (_, rest) = readme.split_once(&begins).with_context(|| begins.clone())?;
    let (block, _) = rest.split_once("```").context("the block has no end")?;
    Ok(format!("{start}{}", block.replace("\n$ ", "\n")))
}

#[test]
fn the_documented_commands_that_adapt_the_rules_work() -> anyhow::Result<()> {
    let folder = TempDir::new("adapted")?;
    let adapted = folder.path().join("ratelimiter.rules.yml");
    let target = adapted.display().to_string();
    let alertmanager = folder.path().join("alertmanager.yml").display().to_string();
    for (start, gone, come) in [
        (
            "sed -e 's|alerts/runbooks/",
            "_url: \"alerts/",
            "_url: \"https://",
        ),
        ("sed -e '/dashboard_url/d'", "dashboard_url", "runbook_url"),
        ("sed -e 's/\\[1m\\]", "[1m]", "[2m10s]"),
        (
            "sed -e 's/cluster, namespace",
            "namespace, job)",
            "job, shard",
        ),
    ] {
        let command = documented(start)?
            .replace("/etc/prometheus/rules/ratelimiter.rules.yml", &target)
            .replace("/etc/alertmanager/alertmanager.yml", &alertmanager);
        run("sh", &["-ec", &command])?;
        check_rules(&target)?;
        let rules = std::fs::read_to_string(&adapted)?;
        assert!(!rules.contains(gone) && rules.contains(come), "{command}");
    }
    run("amtool", &["check-config", &alertmanager])?;
    let routes = std::fs::read_to_string(&alertmanager)?;
    let everywhere = routes.matches("namespace, job").count();
    assert_eq!(routes.matches("namespace, job, shard").count(), everywhere);
    Ok(())
}
