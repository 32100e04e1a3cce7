//! The Dockerfile knows the workspace: what it makes up, copies and names is what there is.

use std::path::Path;

use anyhow::Context as _;

use super::PORT;
use crate::harness::GIVES_MEMORY_BACK;
use crate::repository::{manifests, path, text};

/// The instructions of the Dockerfile, each on one line.
fn instructions() -> anyhow::Result<Vec<String>> {
    let text = text("Dockerfile")?.replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

#[test]
fn the_empty_sources_are_those_that_the_manifests_name() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let made_up = instructions
        .iter()
        .find(|line| line.starts_with("RUN mkdir -p src "));
    let mut made_up: Vec<&str> = made_up
        .context("no empty sources")?
        .split([' ', '>'])
        .filter(|word| {
            Path::new(word)
                .extension()
                .is_some_and(|ending| ending == "rs")
        })
        .collect();
    made_up.sort_unstable();
    let mut named = Vec::new();
    for package in manifests()? {
        let targets = package["targets"].as_array().cloned().unwrap_or_default();
        for target in targets {
            let source = target["src_path"].as_str().context("no source")?;
            let source = Path::new(source).strip_prefix(path(""))?;
            named.push(source.display().to_string());
        }
    }
    // Tests of the lab are found by cargo, not named in its manifest: without their files there are none.
    named.retain(|source| !source.starts_with("lab/tests/"));
    named.sort();
    assert_eq!(made_up, named, "the Dockerfile's empty sources");
    Ok(())
}

#[test]
fn what_is_copied_is_there_and_in_the_build_context() -> anyhow::Result<()> {
    let ignored = text(".dockerignore")?;
    let mut copied = 0;
    for line in instructions()? {
        let Some(rest) = line.strip_prefix("COPY ") else {
            continue;
        };
        let mut words: Vec<&str> = rest.split(' ').collect();
        words.pop();
        if words.iter().any(|word| word.starts_with("--from")) {
            continue;
        }
        for source in words {
            assert!(path(source).exists(), "{source}");
            let kept = ignored.lines().any(|line| line == format!("!{source}"));
            assert!(kept, "{source} is not in the build context");
            copied += 1;
        }
    }
    assert_eq!(copied, 6);
    Ok(())
}

#[test]
fn what_is_shipped_gives_large_blocks_of_memory_back() -> anyhow::Result<()> {
    let (name, value) = GIVES_MEMORY_BACK;
    let exporter = instructions()?;
    let mut exporter = exporter.iter();
    anyhow::ensure!(exporter.any(|line| line == "FROM ${RUN_BASE} AS exporter"));
    assert!(exporter.any(|line| *line == format!("ENV {name}={value}")));
    let unit = text("deploy/systemd/ratelimiter-exporter.service")?;
    let mut lines = unit.lines();
    assert!(lines.any(|line| line == format!("Environment={name}={value}")));
    Ok(())
}

#[test]
fn the_images_run_as_nobody_and_are_built_with_the_oldest_supported_rust() -> anyhow::Result<()> {
    let instructions = instructions()?;
    let count = |wanted: &str| instructions.iter().filter(|line| *line == wanted).count();
    let rust = env!("CARGO_PKG_RUST_VERSION");
    let build = format!("ARG BUILD_BASE=docker.io/library/rust:{rust}-slim-bookworm");
    assert_eq!(count(&build), 1, "not there: {build}");
    assert_eq!(count("USER 65532:65532"), 2);
    assert_eq!(count(&format!("EXPOSE {PORT}")), 1);
    let bases = instructions
        .iter()
        .filter_map(|line| line.strip_prefix("FROM "))
        .filter_map(|from| from.split(' ').next());
    for base in bases {
        assert!(
            ["${BUILD_BASE}", "${RUN_BASE}", "manifests"].contains(&base),
            "{base} cannot be replaced by an argument"
        );
    }
    let unlocked = instructions
        .iter()
        .filter(|line| line.contains("cargo build") && !line.contains("--locked"));
    assert_eq!(unlocked.count(), 0);
    Ok(())
}
