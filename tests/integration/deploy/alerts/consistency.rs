//! The rules, their tests and Alertmanager's configuration are complete, and name only what exists.

use std::collections::{BTreeMap, BTreeSet};

use ratelimiter_exporter::report::InvariantName;

use super::files::{alertmanager, alerts, rules, tests};
use super::known::Known;
use super::promql::names;

/// The alert of invariants that have none of their own.
const CATCH_ALL: &str = "RatelimiterInvariantViolated";

/// The alert that always fires.
const WATCHDOG: &str = "RatelimiterWatchdog";

#[test]
fn every_metric_label_and_value_in_a_rule_is_exported() -> anyhow::Result<()> {
    let rules = rules()?;
    let known = Known::new(&rules);
    for rule in &rules {
        let objections = known.objections(&rule.expr);
        assert!(objections.is_empty(), "{}: {objections:?}", rule.expr);
        for text in rule.annotations.values() {
            let labels = text.split("$labels.").skip(1).map(|rest| {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                &rest[..end.unwrap_or(rest.len())]
            });
            for label in labels {
                assert!(known.has_label(label), "{}: $labels.{label}", rule.alert());
            }
        }
    }
    Ok(())
}

#[test]
fn every_rule_aggregates_by_cluster_namespace_and_job() -> anyhow::Result<()> {
    for rule in rules()? {
        // `le` belongs to the histogram, and the expression around it aggregates again.
        let expression = rule.expr.replace("without (le)", "");
        let mut words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        assert!(words.all(|word| word != "without"), "{expression}");
        for (at, _) in expression.match_indices(" by (") {
            let labels = &expression[at..];
            assert!(
                labels.starts_with(" by (cluster, namespace, job"),
                "{labels}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_series_in_a_test_of_the_rules_is_one_that_the_exporter_has() -> anyhow::Result<()> {
    let known = Known::new(&rules()?);
    for (file, tests) in tests()? {
        assert_eq!(tests.rule_files, ["../ratelimiter.rules.yml"], "{file}");
        for input in tests.tests.iter().flat_map(|group| &group.input_series) {
            let objections = known.objections(&input.series);
            assert!(
                objections.is_empty(),
                "{file}: {}: {objections:?}",
                input.series
            );
        }
    }
    Ok(())
}

#[test]
fn every_alert_has_two_tests_at_least_one_that_fires_and_one_that_does_not() -> anyhow::Result<()> {
    let mut counts: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for (_, tests) in tests()? {
        for case in tests.tests.iter().flat_map(|group| &group.alert_rule_test) {
            let (firing, silent) = counts.entry(case.alertname.clone()).or_default();
            *(if case.exp_alerts.is_empty() {
                silent
            } else {
                firing
            }) += 1;
        }
    }
    for alert in alerts()? {
        let (firing, silent) = counts.remove(alert.alert()).unwrap_or_default();
        let enough = match alert.alert() {
            WATCHDOG => firing >= 2,
            _ => firing >= 1 && silent >= 1,
        };
        assert!(enough, "{}: {firing} fire, {silent} do not", alert.alert());
    }
    assert!(
        counts.is_empty(),
        "tests of alerts that do not exist: {counts:?}"
    );
    Ok(())
}

#[test]
fn every_invariant_has_an_alert_of_its_own_and_the_catch_all_has_the_rest() -> anyhow::Result<()> {
    let mut own = BTreeMap::new();
    for alert in alerts()? {
        for selector in names(&alert.expr).selectors {
            let violation = selector.metric == "ratelimiter:invariant_violation:max";
            let by_name = selector
                .matchers
                .into_iter()
                .find(|matcher| matcher.label == "name");
            if let Some(matcher) = by_name.filter(|_| violation) {
                own.insert((matcher.operator, matcher.value), alert.alert().to_owned());
            }
        }
    }
    let all: Vec<&str> = InvariantName::ALL
        .iter()
        .map(|invariant| invariant.name())
        .collect();
    for name in &all {
        assert!(
            own.contains_key(&("=".to_owned(), (*name).to_owned())),
            "{name}: {own:?}"
        );
    }
    let rest = ("!~".to_owned(), all.join("|"));
    assert_eq!(own.get(&rest).map(String::as_str), Some(CATCH_ALL));
    Ok(())
}

#[test]
fn every_alert_has_its_annotations_and_says_what_to_do_first() -> anyhow::Result<()> {
    for alert in alerts()? {
        let name = alert.alert();
        assert!(name.starts_with("Ratelimiter"), "{name}");
        let annotations: Vec<&str> = alert.annotations.keys().map(String::as_str).collect();
        assert_eq!(
            annotations,
            ["dashboard_url", "description", "runbook_url", "summary"],
            "{name}"
        );
        assert_eq!(
            alert.annotations["runbook_url"],
            format!("alerts/runbooks/{name}.md")
        );
        let dashboard = &alert.annotations["dashboard_url"];
        let dashboards = dashboard.matches("/d/ratelimiter-").count();
        assert!(
            dashboards >= 1 && dashboards == dashboard.matches("/d/").count(),
            "{name}: {dashboard}"
        );
        // Alerts of these severities notify nobody on call.
        let quiet = ["info", "none"].map(Some);
        let severity = alert.labels.get("severity").map(String::as_str);
        let description = &alert.annotations["description"];
        assert!(
            quiet.contains(&severity) || description.to_lowercase().contains(" first "),
            "{name}: {description}"
        );
        for (label, text) in &alert.labels {
            assert_eq!(label, "severity", "{name}");
            assert!(
                ["critical", "warning", "info", "none"].contains(&text.as_str()),
                "{name}: {text}"
            );
        }
        // Without one in the rule, it is the exporter's own.
        let violation = alert.expr.contains("invariant_violation:max{")
            || alert.expr.contains("nodes_violated");
        assert_eq!(!alert.labels.contains_key("severity"), violation, "{name}");
    }
    Ok(())
}

#[test]
fn no_page_waits_between_2_and_10_minutes() -> anyhow::Result<()> {
    for alert in alerts()? {
        let seconds = match alert.wait.as_str() {
            "" => 0,
            wait => match wait.split_at(wait.len() - 1) {
                (number, "s") => number.parse()?,
                (number, "m") => number.parse::<u32>()? * 60,
                _ => anyhow::bail!("{}: for: {wait}", alert.alert()),
            },
        };
        // Without a severity in the rule, it may be critical.
        let page = alert
            .labels
            .get("severity")
            .is_none_or(|severity| severity == "critical");
        let lost = seconds > 120 && seconds < 600;
        assert!(!(page && lost), "{}: for: {}", alert.alert(), alert.wait);
    }
    Ok(())
}

#[test]
fn alertmanager_distinguishes_the_limiters_that_the_rules_distinguish() -> anyhow::Result<()> {
    let limiter = ["cluster", "namespace", "job"];
    let config = alertmanager()?;
    let names: BTreeSet<String> = alerts()?
        .iter()
        .map(|alert| alert.alert().to_owned())
        .collect();
    // Not by subject: a hundred keys are one page.
    assert_eq!(
        config.route.group_by.unwrap_or_default(),
        [&["alertname"], limiter.as_slice()].concat()
    );
    let mut routes = config.route.routes;
    let mut waits = Vec::new();
    while let Some(route) = routes.pop() {
        assert_eq!(route.group_by, None, "{:?}", route.matchers);
        if route
            .matchers
            .iter()
            .any(|matcher| matcher.contains("RatelimiterGhostAllowing"))
        {
            waits.push(route.group_wait.unwrap_or_default());
        }
        routes.extend(route.routes);
    }
    assert_eq!(waits, ["0s"]);
    for rule in config.inhibit_rules {
        assert!(
            rule.equal.starts_with(&limiter.map(str::to_owned)),
            "{rule:?}"
        );
        let target: Vec<&String> = rule
            .target_matchers
            .iter()
            .filter(|matcher| matcher.starts_with("alertname"))
            .collect();
        let [target] = target.as_slice() else {
            anyhow::bail!("{rule:?} mutes alerts of any name");
        };
        for matcher in rule.source_matchers.iter().chain(&rule.target_matchers) {
            let words = matcher.split(|c: char| !c.is_ascii_alphanumeric());
            for name in words.filter(|name| name.starts_with("Ratelimiter")) {
                assert!(names.contains(name), "{name} is no alert");
            }
        }
        assert!(
            !target.contains('!') && !target.contains("RatelimiterGhostAllowing"),
            "{rule:?}"
        );
    }
    Ok(())
}
