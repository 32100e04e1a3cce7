//! What ships the exporter: the Dockerfile and `deploy/`. The files agree with one another, with the binaries and with the
//! rest of the repository, and the tools that are here take them. What needs a registry, a cluster or root is not run here.

mod compose;
mod images;
mod kubernetes;
mod systemd;

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::harness::{run, said};
use crate::repository::run_tool;

/// Where the exporter listens, as everything outside of it must assume.
const PORT: u64 = 9972;

/// The image of a service, with the version that the manifests name.
fn image(name: &str) -> String {
    format!("{name}:{}", env!("CARGO_PKG_VERSION"))
}

/// The texts of a list; an error when it is none, or holds something else.
fn texts(list: &Value) -> anyhow::Result<Vec<String>> {
    let items = list.as_array().with_context(|| format!("no list: {list}"));
    let items = items?.iter().map(|item| item.as_str().map(str::to_owned));
    let items: Option<Vec<String>> = items.collect();
    items.with_context(|| format!("not only texts: {list}"))
}

/// The items of a list; none when it is no list.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// That an exporter with these arguments would start.
async fn accepted(mut args: Vec<String>) -> anyhow::Result<()> {
    args.push("--config.check".to_owned());
    let output = run(args.clone()).await?;
    anyhow::ensure!(output.status.success(), "{args:?}: {}", said(&output));
    Ok(())
}

/// That a subcommand of the lab knows these arguments' flags.
fn known_to_the_lab(args: &[String]) -> anyhow::Result<()> {
    let (subcommand, flags) = args.split_first().context("no subcommand")?;
    let help = run_tool(&lab_binary()?, &[subcommand, "--help"])?;
    for flag in flags {
        let name = flag.split('=').next().unwrap_or(flag);
        anyhow::ensure!(
            help.contains(&format!("{name} <")),
            "lab {subcommand} has no {name}"
        );
    }
    Ok(())
}

fn lab_binary() -> anyhow::Result<String> {
    let path = lab::binary().into_os_string().into_string();
    path.ok().context("the lab's path is not UTF-8")
}

/// Writes a file, with the folders above it.
fn place(path: &Path, content: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("no folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(path, content).with_context(|| path.display().to_string())
}

#[test]
fn the_exporter_listens_where_everything_expects_it() -> anyhow::Result<()> {
    let exporter = lab::exporter_binary();
    let help = run_tool(&exporter.display().to_string(), &["--help"])?;
    assert!(help.contains(&format!("[default: :{PORT}]")));
    Ok(())
}
