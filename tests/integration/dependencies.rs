//! `docs/DEPENDENCIES.md` lists every direct dependency, none too many, and its numbers are those of the tree.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

use crate::repository::{cargo, manifests, text};

const DOCUMENT: &str = "docs/DEPENDENCIES.md";

/// The first two columns of the table below a heading.
fn table(heading: &str) -> anyhow::Result<Vec<(String, String)>> {
    let text = text(DOCUMENT)?;
    let begins = format!("\n## {heading}\n");
    let (_, section) = text.split_once(&begins).context(begins.clone())?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (second, _) = rest.split_once(" |")?;
        Some((name.to_owned(), second.to_owned()))
    });
    Ok(rows.collect())
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
        let mut explained: Vec<String> = table(heading)?.into_iter().map(|row| row.0).collect();
        explained.sort();
        let named = named(package, kind)?;
        assert_eq!(
            explained, named,
            "{DOCUMENT}, {heading}: explained, and named"
        );
    }
    Ok(())
}

/// What the exporter is made from. Not from `cargo metadata`, which adds up the features that the lab and the tests want.
struct Tree {
    root: String,
    /// What each crate needs, by `NAME VERSION`.
    edges: BTreeMap<String, Vec<String>>,
    macros: BTreeSet<String>,
}

impl Tree {
    fn read() -> anyhow::Result<Self> {
        let printed = cargo(&[
            "tree",
            "--offline",
            "--locked",
            "--package=ratelimiter-exporter",
            "--edges=normal",
            "--target=x86_64-unknown-linux-gnu",
            "--prefix=depth",
            "--format= {p}",
        ])?;
        let (mut edges, mut macros) = (BTreeMap::<_, Vec<String>>::new(), BTreeSet::new());
        // The crates from the root down to the line before.
        let mut above: Vec<String> = Vec::new();
        for line in printed.lines() {
            // `DEPTH NAME VERSION`, then what kind of crate it is or that its dependencies stand elsewhere.
            let mut words = line.split(' ');
            let depth: usize = words.next().unwrap_or_default().parse()?;
            let name = words.by_ref().take(2).collect::<Vec<_>>().join(" ");
            if words.any(|word| word == "(proc-macro)") {
                macros.insert(name.clone());
            }
            above.truncate(depth);
            if let Some(parent) = above.last() {
                edges.entry(parent.clone()).or_default().push(name.clone());
            }
            above.push(name);
        }
        let root = above.into_iter().next().context("no tree")?;
        Ok(Self {
            root,
            edges,
            macros,
        })
    }

    /// All that is left when the exporter does not name `dropped`, and without what `without` is true of.
    fn reached(&self, dropped: Option<&str>, without: impl Fn(&str) -> bool) -> BTreeSet<&str> {
        let mut reached = BTreeSet::from([self.root.as_str()]);
        let mut open = vec![self.root.as_str()];
        while let Some(package) = open.pop() {
            for next in self.edges.get(package).into_iter().flatten() {
                let gone = package == self.root && Some(next.as_str()) == dropped;
                if !gone && !without(next) && reached.insert(next) {
                    open.push(next);
                }
            }
        }
        reached
    }
}

#[test]
fn the_numbers_are_those_of_the_tree() -> anyhow::Result<()> {
    let tree = Tree::read()?;
    let all = tree.reached(None, |_| false).len();
    let compiled_in = tree.reached(None, |id| tree.macros.contains(id)).len();
    let sentence = format!(
        "consists of **{all}** crates, itself included, of which **{}**",
        all - compiled_in
    );
    let text = text(DOCUMENT)?.replace('\n', " ");
    let mut wrong = Vec::new();
    if !text.contains(&sentence) {
        wrong.push(format!("at the beginning: not there: {sentence}"));
    }
    let documented: BTreeMap<String, String> = table("The exporter")?.into_iter().collect();
    for dependency in &tree.edges[&tree.root] {
        let (name, _) = dependency.split_once(' ').context("no version")?;
        let alone = (all - tree.reached(Some(dependency), |_| false).len()).to_string();
        if documented.get(name) != Some(&alone) {
            wrong.push(format!("{name}: alone is {alone}"));
        }
    }
    assert!(wrong.is_empty(), "{DOCUMENT}:\n{}", wrong.join("\n"));
    Ok(())
}
