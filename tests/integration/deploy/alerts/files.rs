//! The files of `alerts/`, parsed as far as the tests ask. Unknown fields are let pass: promtool and amtool judge those.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::repository::yaml;
pub(super) use crate::repository::{path, text};

/// Labels or annotations.
pub(super) type Pairs = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// A recording rule or an alert.
#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) record: Option<String>,
    pub(super) alert: Option<String>,
    pub(super) expr: String,
    #[serde(rename = "for", default)]
    pub(super) wait: String,
    #[serde(default)]
    pub(super) labels: Pairs,
    #[serde(default)]
    pub(super) annotations: Pairs,
}

impl Rule {
    /// The name of the alert; a recording rule has none.
    pub(super) fn alert(&self) -> &str {
        self.alert.as_deref().unwrap_or_default()
    }
}

/// A file of tests for promtool.
#[derive(Debug, Deserialize)]
pub(super) struct TestFile {
    pub(super) rule_files: Vec<String>,
    pub(super) tests: Vec<TestGroup>,
}

/// Series, and what fires over them.
#[derive(Debug, Deserialize)]
pub(super) struct TestGroup {
    pub(super) input_series: Vec<InputSeries>,
    pub(super) alert_rule_test: Vec<AlertCase>,
}

#[derive(Debug, Deserialize)]
pub(super) struct InputSeries {
    pub(super) series: String,
}

/// What an alert does at a time.
#[derive(Debug, Deserialize)]
pub(super) struct AlertCase {
    pub(super) alertname: String,
    pub(super) exp_alerts: Vec<serde_json::Value>,
}

/// Alertmanager's configuration.
#[derive(Debug, Deserialize)]
pub(super) struct AlertmanagerFile {
    pub(super) route: Route,
    pub(super) inhibit_rules: Vec<Inhibition>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Route {
    #[serde(default)]
    pub(super) matchers: Vec<String>,
    pub(super) group_by: Option<Vec<String>>,
    pub(super) group_wait: Option<String>,
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

/// A rule by which alerts mute others.
#[derive(Debug, Deserialize)]
pub(super) struct Inhibition {
    pub(super) source_matchers: Vec<String>,
    pub(super) target_matchers: Vec<String>,
    pub(super) equal: Vec<String>,
}

/// The rules, in their order.
pub(super) fn rules() -> anyhow::Result<Vec<Rule>> {
    let file: RuleFile = yaml("alerts/ratelimiter.rules.yml")?;
    Ok(file
        .groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect())
}

/// The alerts among the rules.
pub(super) fn alerts() -> anyhow::Result<Vec<Rule>> {
    let mut rules = rules()?;
    rules.retain(|rule| rule.alert.is_some());
    anyhow::ensure!(!rules.is_empty(), "no alerts");
    Ok(rules)
}

pub(super) fn alertmanager() -> anyhow::Result<AlertmanagerFile> {
    yaml("alerts/alertmanager.yml")
}

/// The files in a folder with this ending, below the repository's root and in the order of their names.
pub(super) fn files(folder: &str, ending: &str) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path(folder))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        anyhow::ensure!(
            name.ends_with(ending),
            "{folder}/{name} does not end in {ending}"
        );
        files.push(format!("{folder}/{name}"));
    }
    files.sort();
    Ok(files)
}

/// The tests for promtool, with where they stand.
pub(super) fn tests() -> anyhow::Result<Vec<(String, TestFile)>> {
    let files = files("alerts/tests", ".yml")?.into_iter();
    files
        .map(|file| {
            let parsed = yaml(&file)?;
            Ok((file, parsed))
        })
        .collect()
}

/// The lines of the blocks marked so in a text of Markdown, indented blocks in lists included.
pub(super) fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            inside = line == begin;
        } else if inside {
            lines.push(line.to_owned());
        }
    }
    lines
}
