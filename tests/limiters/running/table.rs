//! The printed table: the events of each application, what was expected, and what was seen.

use std::path::Path;

use anyhow::Context as _;
use lab::application::installed;

use crate::expected::Answers;
use crate::runner::Seen;

/// The result of one event.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) event: &'static str,
    pub(crate) expected: String,
    pub(crate) seen: String,
}

impl Row {
    /// The first scrape reported exactly these, as expected.
    pub(crate) fn at_once(event: &'static str, found: &[(&str, String)], seen: &Seen) -> Self {
        Self::of(event, found, "at once", seen)
    }

    /// These were reported after their grace period, as expected.
    pub(crate) fn after_grace(event: &'static str, found: &[(&str, String)], seen: &Seen) -> Self {
        Self::of(event, found, "after 60 s", seen)
    }

    fn of(event: &'static str, found: &[(&str, String)], when: &str, seen: &Seen) -> Self {
        if found.is_empty() {
            let (expected, seen) = ("nothing".to_owned(), "nothing".to_owned());
            return Self {
                event,
                expected,
                seen,
            };
        }
        let invariants: std::collections::BTreeSet<&str> =
            found.iter().map(|(name, _)| *name).collect();
        let invariants: Vec<String> = invariants.iter().map(|name| format!("`{name}`")).collect();
        let found: Vec<String> = found
            .iter()
            .map(|(name, label)| format!("`{name}{{{label}}}`"))
            .collect();
        Self {
            event,
            expected: format!("{} {when}", invariants.join(", ")),
            seen: format!(
                "{} after {:.1} s",
                found.join(", "),
                seen.seconds.unwrap_or_default()
            ),
        }
    }

    /// Nothing was reported, as expected, and the counts were those of these answers.
    pub(crate) fn nothing(event: &'static str, answers: Answers) -> Self {
        Self {
            event,
            expected: "nothing; the counts and limits of the traffic".to_owned(),
            seen: format!("the same; {answers}"),
        }
    }
}

/// Packages of npm or `PyPI` with their installed versions.
pub(crate) fn versions(packages: &[&str], python: bool) -> anyhow::Result<String> {
    let versions = packages.iter().map(|package| {
        let version = if python {
            of_python(package)
        } else {
            of_node(package)
        };
        let version = version.with_context(|| format!("{package} is in no lock"))?;
        Ok(format!("{package} {version}"))
    });
    let versions: anyhow::Result<Vec<String>> = versions.collect();
    Ok(versions?.join(", "))
}

fn of_python(package: &str) -> Option<String> {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/limiters/apps/requirements.txt");
    let lock = std::fs::read_to_string(lock).ok()?;
    lock.lines().find_map(|line| {
        let (name, rest) = line.split_once("==")?;
        let name = name.split('[').next()?;
        let version = rest.split_whitespace().next()?;
        (name == package).then(|| version.to_owned())
    })
}

fn of_node(package: &str) -> Option<String> {
    let folder = installed().ok()?.join("node/node_modules").join(package);
    let text = std::fs::read_to_string(folder.join("package.json")).ok()?;
    let package: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(package["version"].as_str()?.to_owned())
}
