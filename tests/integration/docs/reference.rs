//! `docs/REFERENCE.md` is made from the declarations in the code, and is up to date. `make reference` makes it anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ratelimiter_exporter::cli::command;
use ratelimiter_exporter::config::{SETTINGS, env_name};
use ratelimiter_exporter::export::{DEFINITIONS, Kind};
use ratelimiter_exporter::invariants::CheckerConfig;
use ratelimiter_exporter::observation::{Collector, Reason};
use ratelimiter_exporter::report::{Decision, InvariantConfig, InvariantName};

/// Set, it makes the test write the file instead of complaining about it.
const UPDATE: &str = "UPDATE_REFERENCE";

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name)
}

#[test]
fn the_reference_is_what_the_code_declares() -> anyhow::Result<()> {
    let path = docs("REFERENCE.md");
    let made = reference();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &made)?;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = made
        .lines()
        .zip(found.lines())
        .find(|(made, found)| made != found);
    assert!(
        made == found,
        "docs/REFERENCE.md is not up to date: run make reference. The first difference (made, found): {differs:?}"
    );
    Ok(())
}

/// What is said of the invariants elsewhere is checked against the same declarations.
#[test]
fn the_tables_of_invariants_show_the_defaults() -> anyhow::Result<()> {
    for path in [docs("INVARIANTS.md"), docs("../README.md")] {
        let text = std::fs::read_to_string(&path)?;
        for name in InvariantName::ALL {
            let config = InvariantConfig::default_for(name);
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_default();
            let grace = format!("| {} s |", config.grace_period.as_secs());
            let severity = format!("| {} |", config.severity);
            assert!(
                row.contains(&grace) && row.contains(&severity),
                "{}: {name}: {row}",
                path.display()
            );
        }
    }
    Ok(())
}

fn reference() -> String {
    let mut out = String::from(
        "<!-- Made by `make reference` from the declarations in the code; a test checks that it is up to date. -->\n\n\
         # Reference\n\nEverything that has a public name, as the code declares it. What it means in practice: \
         [METRICS.md](METRICS.md), [INVARIANTS.md](INVARIANTS.md), [CONFIGURATION.md](CONFIGURATION.md), \
         [API.md](API.md), [REPLAY.md](REPLAY.md).\n",
    );
    metrics(&mut out);
    invariants(&mut out);
    let explained = |out: &mut String, title: &str, rows: Vec<(&str, &str)>| {
        section(out, title, "| name | meaning |\n|---|---|");
        for (name, meaning) in rows {
            line(out, format_args!("| `{name}` | {} |", cell(meaning)));
        }
    };
    let decisions = Decision::ALL.iter().map(|it| (it.name(), it.meaning()));
    explained(&mut out, "Decisions", decisions.collect());
    let reasons = Reason::ALL.iter().map(|it| (it.name(), it.meaning()));
    explained(&mut out, "Reasons", reasons.collect());
    let collectors = Collector::ALL.iter().map(|it| (it.name(), it.meaning()));
    explained(&mut out, "Collectors", collectors.collect());
    settings(&mut out);
    subcommands(&mut out);
    out
}

/// Writing into a String cannot fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}

fn section(out: &mut String, title: &str, head: &str) {
    line(out, format_args!("\n## {title}\n\n{head}"));
}

/// Text as it may stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn metrics(out: &mut String) {
    section(out, "Metrics", "| metric | type | meaning |\n|---|---|---|");
    for metric in DEFINITIONS {
        let labels = match metric.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        let help = cell(metric.help);
        line(
            out,
            format_args!("| `{}{labels}` | {kind} | {help} |", metric.name),
        );
    }
}

fn invariants(out: &mut String) {
    section(
        out,
        "Invariants",
        "| name | violated when | threshold | grace period | severity | subject |\n|---|---|---|---|---|---|",
    );
    let defaults = CheckerConfig::default();
    for config in &defaults.invariants {
        let threshold = match config.name {
            InvariantName::HighLatency => format!("{} s", config.threshold),
            InvariantName::CounterDrift => format!("{} of the limit", config.threshold),
            _ => "none".to_owned(),
        };
        line(
            out,
            format_args!(
                "| `{}` | {} | {threshold} | {} s | {} | {} |",
                config.name,
                cell(&config.violated_when()),
                config.grace_period.as_secs(),
                config.severity,
                config.name.subject(),
            ),
        );
    }
    line(
        out,
        format_args!(
            "\n`checker.unknown_hold` is {:?}, `checker.cleared_hold` {:?}, `checker.lowered_limit_grace` {}.",
            defaults.unknown_hold, defaults.cleared_hold, defaults.lowered_limit_grace
        ),
    );
}

fn settings(out: &mut String) {
    section(
        out,
        "Settings",
        "| flag | variable | value | default | what it does |\n|---|---|---|---|---|",
    );
    for setting in SETTINGS {
        let value = match setting.value {
            "" => "BOOL, true without a value".to_owned(),
            value => format!("`{}`", cell(value)),
        };
        let default = setting
            .default
            .map_or("none".to_owned(), |default| format!("`{default}`"));
        line(
            out,
            format_args!(
                "| `--{}` | `{}` | {value} | {default} | {} |",
                setting.flag,
                env_name(setting.flag),
                cell(setting.help)
            ),
        );
    }
}

fn subcommands(out: &mut String) {
    for subcommand in command().get_subcommands() {
        let name = subcommand.get_name();
        let about = subcommand
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        line(out, format_args!("\n## `{name}`\n\n{about}."));
        let own: Vec<_> = subcommand
            .get_arguments()
            .filter(|argument| !argument.is_global_set())
            .collect();
        if own.is_empty() {
            continue;
        }
        line(
            out,
            format_args!("\n| argument | value | default | what it does |\n|---|---|---|---|"),
        );
        for argument in own {
            let shown = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => argument.get_id().to_string(),
            };
            let takes = argument.get_action().takes_values() && argument.get_long().is_some();
            let value = argument
                .get_value_names()
                .filter(|_| takes)
                .and_then(|names| names.first());
            let value = value.map_or(String::new(), |value| format!("`{}`", cell(value)));
            let default = argument.get_default_values().first().filter(|_| takes);
            let default = default.map_or("none".to_owned(), |it| {
                format!("`{}`", it.to_string_lossy())
            });
            let help = argument
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            line(
                out,
                format_args!("| `{shown}` | {value} | {default} | {} |", cell(&help)),
            );
        }
    }
}
