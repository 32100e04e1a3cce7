//! What documents name exists: flags, variables, metrics, alerts, kinds, reasons, and every other name between backticks. For
//! flags, variables, metrics and alerts, this includes the files that ship. `written.rs` and `reference.rs` check that nothing
//! is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use ratelimiter_exporter::cli::command;
use ratelimiter_exporter::config::{SETTINGS, env_name};
use ratelimiter_exporter::export::{DEFINITIONS, Kind};
use ratelimiter_exporter::limiters::BUILT_IN;
use ratelimiter_exporter::observation::Reason;
use ratelimiter_exporter::report::InvariantName;

use super::markdown::{Document, documents};
use crate::repository::{path, text};

/// Metrics of the limiter's nodes, not of the exporter.
const OF_NODES: [&str; 2] = [
    "ratelimiter_check_duration_seconds",
    "ratelimiter_requests_checked_total",
];

/// Flags of other people's programs that documents name.
const FLAGS_OF_OTHERS: &[(&str, &[&str])] = &[
    (
        "cargo",
        &[
            "lib",
            "list",
            "locked",
            "nocapture",
            "sanitizer",
            "test",
            "test-threads",
            "workspace",
        ],
    ),
    ("curl", &["data-urlencode"]),
    ("docker", &["build", "build-arg", "network"]),
    ("kubectl", &["from-file", "kustomize", "namespace"]),
    (
        "amtool",
        &["alertmanager.url", "comment", "duration", "inhibited"],
    ),
    ("promtool", &["lint", "lint-fatal", "strict"]),
    ("redis-cli", &["bigkeys", "latency"]),
    ("pip", &["require-hashes"]),
    ("systemctl", &["now"]),
    ("check-jsonschema", &["builtin-schema"]),
];

/// Names of others that are in no file of ours.
const WORDS_OF_OTHERS: &[(&str, &[&str])] = &[
    (
        "Prometheus and Alertmanager",
        &[
            "alertmanager_notifications_failed_total",
            "client_allowed_sans",
            "connected_clients",
            "curve_preferences",
            "label_value_length_limit",
            "prometheus_notifications_dropped_total",
        ],
    ),
    (
        "the client library for processes",
        &[
            "process_max_fds",
            "process_open_fds",
            "process_threads",
            "process_virtual_memory_bytes",
        ],
    ),
    (
        "crates that were not taken, and their functions",
        &[
            "askama",
            "axum",
            "chrono",
            "crypt",
            "eyre",
            "fred",
            "jsonschema",
            "lexopt",
            "nix",
            "protobuf",
            "quickcheck",
            "serde_yaml",
            "serde_yml",
            "terminal_size",
            "tiny_http",
            "ureq",
            "warp",
        ],
    ),
    ("settings of limiters", &["bantime"]),
];

/// The documents, and the files that ship with texts for people: annotations, descriptions of panels, comments.
fn texts() -> anyhow::Result<Vec<Document>> {
    let mut texts = documents()?;
    for folder in [
        "alerts",
        "grafana/dashboards",
        "deploy/kubernetes",
        "deploy/systemd",
    ] {
        for entry in fs::read_dir(path(folder))? {
            let below = format!("{folder}/{}", entry?.file_name().to_string_lossy());
            if path(&below).is_file() {
                let text = text(&below)?;
                texts.push(Document { path: below, text });
            }
        }
    }
    Ok(texts)
}

fn among(names: &[(&str, &[&str])], word: &str) -> bool {
    names.iter().any(|(_, names)| names.contains(&word))
}

/// What `wrong` finds in the documents, each with the document that has it.
fn findings(documents: &[Document], wrong: impl Fn(&Document) -> BTreeSet<String>) -> Vec<String> {
    let found = documents.iter().flat_map(|document| {
        let words = wrong(document).into_iter();
        words.map(|word| format!("{}: {word}", document.path))
    });
    found.collect()
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "not there: {found:#?}");
}

/// The text of every source and every file that ships, documents left out.
fn sources(folders: &[&str]) -> anyhow::Result<String> {
    let mut all = String::new();
    let mut paths: Vec<PathBuf> = folders.iter().map(|folder| path(folder)).collect();
    while let Some(path) = paths.pop() {
        // Documents name files, too.
        let name = path.file_name().unwrap_or_default();
        all.push_str(&name.to_string_lossy());
        all.push('\n');
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                paths.push(entry?.path());
            }
        } else if path.extension().is_none_or(|it| it != "md" && it != "png") {
            // A file of the captures is no UTF-8; it names nothing.
            all.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
    anyhow::ensure!(!all.is_empty(), "{folders:?} have no text");
    Ok(all)
}

#[test]
fn flags_in_documents_exist() -> anyhow::Result<()> {
    let mut known: BTreeSet<String> = SETTINGS.iter().map(|it| it.flag.to_owned()).collect();
    for subcommand in command().get_subcommands() {
        let own = subcommand.get_arguments();
        known.extend(own.filter_map(|it| it.get_long().map(str::to_owned)));
    }
    known.extend(["help", "version"].map(str::to_owned));
    // Programs of ours that take their arguments apart themselves.
    let own = sources(&[
        "benches",
        "lab/src",
        "tests/soak",
        "tests/limiters/running",
        "scripts",
    ])?;
    let groups: BTreeSet<String> = known
        .iter()
        .filter_map(|flag| Some(flag.split_once('.')?.0.to_owned()))
        .collect();
    let of_us = |flag: &str| {
        let field = format!(" {}: ", flag.replace('-', "_"));
        let written = [format!("\"{flag}\""), format!("--{flag}"), field];
        written.iter().any(|it| own.contains(it))
    };
    let found = findings(&texts()?, |document| {
        let words =
            document.words(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c));
        let flags = words.filter_map(|word| word.strip_prefix("--"));
        // `--prometheus.` and others' like `--probe.*` name a group of flags.
        let flags = flags.map(|flag| flag.trim_end_matches('.'));
        let flags = flags.filter(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase()));
        let wrong = flags.filter(|flag| {
            let group = groups.contains(*flag);
            let other = !flag.contains('.') && of_us(flag) || among(FLAGS_OF_OTHERS, flag);
            !(known.contains(*flag) || group || other)
        });
        wrong.map(|flag| format!("--{flag}")).collect()
    });
    assert_none(&found);
    Ok(())
}

#[test]
fn environment_variables_in_documents_exist() -> anyhow::Result<()> {
    const PREFIX: &str = "RATELIMITER_EXPORTER_";
    let known: BTreeSet<String> = SETTINGS.iter().map(|it| env_name(it.flag)).collect();
    let found = findings(&texts()?, |document| {
        let words = document.words(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let variables = words.filter(|word| word.starts_with(PREFIX) && *word != PREFIX);
        let wrong = variables.filter(|word| !known.contains(*word));
        wrong.map(str::to_owned).collect()
    });
    assert_none(&found);
    Ok(())
}

#[test]
fn metrics_in_documents_are_exported() -> anyhow::Result<()> {
    let mut known: BTreeSet<String> = OF_NODES.map(str::to_owned).into();
    for definition in DEFINITIONS {
        known.insert(definition.name.to_owned());
        if definition.kind == Kind::Histogram {
            let parts = ["bucket", "count", "sum"];
            known.extend(parts.map(|part| format!("{}_{part}", definition.name)));
        }
    }
    let found = findings(&texts()?, |document| {
        let words = document.words(|c| c.is_ascii_alphanumeric() || c == '_');
        let metrics = words.filter(|word| word.starts_with("ratelimiter_"));
        let wrong = metrics.filter(|word| {
            // `ratelimiter_exporter_config_*` names several.
            let several = word.ends_with('_') && known.iter().any(|it| it.starts_with(word));
            // The crate.
            !(known.contains(*word) || several || *word == "ratelimiter_exporter")
        });
        wrong.map(str::to_owned).collect()
    });
    assert_none(&found);
    Ok(())
}

#[test]
fn alerts_in_documents_exist() -> anyhow::Result<()> {
    let rules = text("alerts/ratelimiter.rules.yml")?;
    let known: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    anyhow::ensure!(known.len() > 20, "{known:?}");
    let found = findings(&texts()?, |document| {
        let words = document.words(|c| c.is_ascii_alphanumeric());
        let alerts = words.filter(|word| word.starts_with("Ratelimiter"));
        // The first word of a dashboard's title.
        let alerts = alerts.filter(|word| *word != "Ratelimiter");
        let wrong = alerts.filter(|word| !known.contains(word));
        wrong.map(str::to_owned).collect()
    });
    assert_none(&found);
    Ok(())
}

/// What `prefix` in a document is followed by, as far as these characters go.
fn behind<'a>(document: &'a Document, prefix: &str) -> Vec<&'a str> {
    let found = document.text.match_indices(prefix).map(|(at, _)| {
        let rest = &document.text[at + prefix.len()..];
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        &rest[..end.unwrap_or(rest.len())]
    });
    found.filter(|word| !word.is_empty()).collect()
}

#[test]
fn kinds_of_limiters_in_documents_are_built_in() -> anyhow::Result<()> {
    let known: BTreeSet<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    let prefixes = [
        "--limiter.kind ",
        "--limiter.kind=",
        "limiter.kind: ",
        "\n  kind: ",
    ];
    let found = findings(&documents()?, |document| {
        let named = prefixes.iter().flat_map(|prefix| behind(document, prefix));
        let wrong = named.filter(|word| !known.contains(word));
        wrong.map(str::to_owned).collect()
    });
    assert_none(&found);
    let limiters = text("docs/LIMITERS.md")?;
    let table = limiters.split("\n| kind | ").nth(1).unwrap_or_default();
    let rows = table.lines().take_while(|line| !line.is_empty());
    let rows: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(rows, known, "the table of kinds in docs/LIMITERS.md");
    let readme = text("README.md")?;
    let table = readme.split("\n### All kinds\n").nth(1);
    let table = table.and_then(|text| text.split("\n## ").next());
    let rows = table.unwrap_or_default().split('`').skip(1).step_by(2);
    let mut listed: BTreeSet<&str> = rows.collect();
    listed.insert("reference");
    assert_eq!(listed, known, "the table of kinds in README.md");
    Ok(())
}

#[test]
fn reasons_in_tables_are_reasons() -> anyhow::Result<()> {
    // Those of failures are declared, those of what is unknown are strings of the checks.
    let declared: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    let code = sources(&["src"])?;
    let known = |name: &str| declared.contains(name) || code.contains(&format!("\"{name}\""));
    let mut seen = 0;
    let documents = documents()?;
    let mut wrong = Vec::new();
    for document in &documents {
        let mut inside = false;
        for line in document.prose() {
            let first = line.split('|').nth(1).map(str::trim);
            inside = match first {
                Some("reason" | "unknown because") => true,
                Some(cell) if inside => {
                    let names = cell.split('`').skip(1).step_by(2);
                    // In `prometheus_REASON` the end is any reason.
                    for name in names.map(|name| name.trim_end_matches("REASON")) {
                        seen += 1;
                        if !known(name) && !code.contains(&format!("\"{name}{{")) {
                            wrong.push(format!("{}: {name}", document.path));
                        }
                    }
                    true
                }
                _ => false,
            };
        }
    }
    assert!(seen > 20, "{seen}");
    assert_none(&wrong);
    Ok(())
}

#[test]
fn every_invariant_has_a_section() -> anyhow::Result<()> {
    let text = text("docs/INVARIANTS.md")?;
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let named: BTreeSet<&str> = headings.flat_map(|it| it.split(' ')).collect();
    let mut missing = InvariantName::ALL.iter().map(|invariant| invariant.name());
    assert_eq!(missing.find(|name| !named.contains(name)), None);
    Ok(())
}

/// Names of invariants, reasons, labels, fields of JSON, settings: a file of this repository has the word.
#[test]
fn names_between_backticks_are_in_the_code() -> anyhow::Result<()> {
    let folders = [
        "src",
        "lab",
        "alerts",
        "limiters",
        "deploy",
        "grafana",
        "docs",
        "benches",
        "fuzz",
        "scripts",
        "tests/limiters",
        "tests/captures",
        "tests/truth",
        "tests/soak",
        "Cargo.toml",
        "deny.toml",
        "Makefile",
    ];
    let sources = sources(&folders)?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let known: BTreeSet<&str> = sources.split(|c| !is_word(c)).collect();
    let found = findings(&documents()?, |document| {
        let spans = document.spans().into_iter();
        let names = spans.filter(|span| span.chars().all(is_word));
        let names = names.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
        // In `prometheus_REASON`, what is in capitals is any word.
        let names = names.filter(|name| !name.contains(|c: char| c.is_ascii_uppercase()));
        let wrong = names.filter(|name| {
            let part = name.ends_with('_') && known.iter().any(|it| it.starts_with(name.as_str()));
            !(known.contains(name.as_str()) || part || among(WORDS_OF_OTHERS, name))
        });
        wrong.collect()
    });
    assert_none(&found);
    Ok(())
}

/// The lists above name nothing that no document names any more.
#[test]
fn the_lists_of_foreign_names_are_current() -> anyhow::Result<()> {
    let documents = documents()?;
    let all: String = documents.iter().map(|it| it.text.as_str()).collect();
    let flags = FLAGS_OF_OTHERS.iter().flat_map(|(_, flags)| *flags);
    let flags = flags.map(|flag| format!("--{flag}"));
    let words = WORDS_OF_OTHERS.iter().flat_map(|(_, words)| *words);
    let mut idle = flags.chain(words.map(|word| (*word).to_owned()));
    assert_eq!(idle.find(|name| !all.contains(name.as_str())), None);
    Ok(())
}
