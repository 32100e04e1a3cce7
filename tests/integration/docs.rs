//! The metric reference names every metric that there is, with its labels, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use ratelimiter_exporter::export::DEFINITIONS;
use ratelimiter_exporter::observation::{Collector, Reason};

#[test]
fn the_metric_reference_is_complete() -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let text = std::fs::read_to_string(path)?;
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    // The other tables are of collectors and reasons.
    let documented = rows
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("invariant_") || name.starts_with("ratelimiter_"));
    let documented: Vec<String> = documented.collect();
    let declared = DEFINITIONS.iter().map(|definition| {
        if definition.labels.is_empty() {
            definition.name.to_owned()
        } else {
            format!("{}{{{}}}", definition.name, definition.labels.join(","))
        }
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
