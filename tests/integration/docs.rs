//! The metric reference names every metric that there is, with its labels and its type, and no other; and every collector
//! and reason.

use std::collections::BTreeSet;
use std::path::Path;

use ratelimiter_exporter::export::{DEFINITIONS, Kind};
use ratelimiter_exporter::observation::{Collector, Reason};

#[test]
fn the_metric_reference_is_complete() -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let text = std::fs::read_to_string(path)?;
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
    assert_eq!(once.len(), documented.len(), "a metric stands twice");
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
