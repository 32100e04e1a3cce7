//! `docs/DEPENDENCIES.md` explains every direct dependency, and no other crate.

use anyhow::Context as _;

use crate::repository::{manifests, text};

const DOCUMENT: &str = "docs/DEPENDENCIES.md";

/// The crates in the table below a heading.
fn explained(heading: &str) -> anyhow::Result<Vec<String>> {
    let text = text(DOCUMENT)?;
    let begins = format!("\n## {heading}\n");
    let (_, section) = text.split_once(&begins).context(begins.clone())?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some(name.to_owned())
    });
    let mut names: Vec<String> = rows.collect();
    names.sort();
    Ok(names)
}

/// What a manifest names under `[dependencies]` (`None`) or `[dev-dependencies]` (`Some("dev")`).
fn named(package: &str, kind: Option<&str>) -> anyhow::Result<Vec<String>> {
    let mut named = Vec::new();
    for manifest in manifests()? {
        if manifest["name"] != package {
            continue;
        }
        let dependencies = manifest["dependencies"].as_array().cloned();
        for dependency in dependencies.unwrap_or_default() {
            if dependency["kind"].as_str() == kind {
                let name = dependency["name"].as_str().context("no name")?;
                named.push(name.to_owned());
            }
        }
    }
    named.sort();
    Ok(named)
}

#[test]
fn every_direct_dependency_is_explained_and_no_other() -> anyhow::Result<()> {
    for (heading, package, kind) in [
        ("The exporter", "ratelimiter-exporter", None),
        ("The lab", "lab", None),
        ("Tests only", "ratelimiter-exporter", Some("dev")),
    ] {
        let named = named(package, kind)?;
        assert_eq!(
            explained(heading)?,
            named,
            "{DOCUMENT}, {heading}: explained, and named"
        );
    }
    Ok(())
}
