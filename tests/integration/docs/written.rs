//! The metric reference names every metric with its labels and its type, and no other; and every collector and reason. The
//! files that the maps for contributors name exist.

use std::collections::BTreeSet;
use std::path::Path;

use ratelimiter_exporter::export::{DEFINITIONS, Kind};
use ratelimiter_exporter::observation::{Collector, Reason};

use crate::repository::{path, text};

#[test]
fn the_metric_reference_is_complete() -> anyhow::Result<()> {
    let text = text("docs/METRICS.md")?;
    // `| NAME | TYPE | MEANING |`; tables of other things (collectors, reasons) have no type.
    let rows = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (kind, _) = rest.split_once(" |")?;
        let known = ["gauge", "counter", "histogram"].contains(&kind);
        (known && !name.starts_with("process_")).then(|| format!("{name} {kind}"))
    });
    let documented: Vec<String> = rows.collect();
    let declared = DEFINITIONS.iter().map(|definition| {
        let labels = match definition.labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let kind = match definition.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        format!("{}{labels} {kind}", definition.name)
    });
    let once: BTreeSet<String> = documented.iter().cloned().collect();
    assert_eq!(once.len(), documented.len(), "a metric is listed twice");
    assert_eq!(once, declared.collect());
    let reasons = Reason::ALL.iter().map(|reason| reason.name());
    let collectors = Collector::ALL.iter().map(|collector| collector.name());
    for name in reasons.chain(collectors) {
        assert!(
            text.contains(&format!("`{name}`")),
            "{name} is not documented"
        );
    }
    Ok(())
}

#[test]
fn the_maps_name_only_files_that_exist() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for (map, folders) in [
        ("CONTRIBUTING.md", &[""][..]),
        (
            "tests/README.md",
            &[
                "",
                "tests/integration/",
                "tests/integration/reading/",
                "tests/integration/judging/",
                "tests/integration/serving/",
                "tests/integration/web/",
                "tests/integration/deploy/",
                "tests/integration/docs/",
                "tests/truth/",
                "tests/soak/",
                "tests/limiters/",
            ],
        ),
    ] {
        let text = text(map)?;
        // Between backticks: paths, and commands and names that are none.
        let named = text.split('`').skip(1).step_by(2);
        let paths = named.filter(|word| {
            let file = Path::new(word).extension();
            let file = file.is_some_and(|it| {
                ["rs", "md", "yml", "json", "toml"]
                    .iter()
                    .any(|known| it == *known)
            });
            !word.contains([' ', '\n']) && (file || word.ends_with('/'))
        });
        let there = |word: &str| {
            folders
                .iter()
                .any(|folder| path(&format!("{folder}{word}")).exists())
        };
        missing.extend(
            paths
                .filter(|word| !there(word))
                .map(|word| format!("{map}: {word}")),
        );
    }
    assert!(missing.is_empty(), "{missing:#?}");
    Ok(())
}
