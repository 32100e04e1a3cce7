//! The metric reference names every metric that there is, with its labels, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use ratelimiter_exporter::export::DEFINITIONS;

#[test]
fn the_metric_reference_is_complete() -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let text = std::fs::read_to_string(path)?;
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented = rows
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("process_"));
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
    Ok(())
}
