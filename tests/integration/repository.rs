//! The repository's own files as the tests read them, and tools that are run on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde::de::DeserializeOwned;

/// A path below the repository's root.
pub(crate) fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

pub(crate) fn text(below: &str) -> anyhow::Result<String> {
    let path = path(below);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The example in YAML that holds these words, of a text in Markdown.
pub(crate) fn example(below: &str, words: &str) -> anyhow::Result<String> {
    let text = text(below)?;
    let blocks = text.split("```yaml\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let found = blocks.find(|block| block.contains(words));
    let found = found.with_context(|| format!("{below} has no example with {words}"))?;
    Ok(found.to_owned())
}

pub(crate) fn yaml<T: DeserializeOwned>(below: &str) -> anyhow::Result<T> {
    serde_saphyr::from_str(&text(below)?).with_context(|| below.to_owned())
}

/// Runs a program at the repository's root; its output, or an error with all it printed when it did not succeed.
pub(crate) fn run_tool(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let command = Command::new(program)
        .args(args)
        .current_dir(path(""))
        .output();
    let output = command.with_context(|| format!("{program} is not installed: run make deps"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    anyhow::ensure!(
        output.status.success(),
        "{program} {args:?}:\n{printed}{errors}"
    );
    Ok(printed)
}

/// Runs the cargo that runs this test.
pub(crate) fn cargo(args: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    run_tool(&cargo, args)
}

/// What the manifests of the workspace say: `packages`, each with its `targets` and `dependencies`.
pub(crate) fn manifests() -> anyhow::Result<Vec<serde_json::Value>> {
    let printed = cargo(&["metadata", "--no-deps", "--offline", "--format-version=1"])?;
    let metadata: serde_json::Value = serde_json::from_str(&printed)?;
    let packages = metadata["packages"].as_array().cloned();
    packages.context("cargo metadata names no packages")
}
