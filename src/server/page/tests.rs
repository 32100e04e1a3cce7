use std::time::Duration;

use super::*;
use crate::clock::{Moment, later};
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::Observation;
use crate::snapshot::OwnCounters;
use crate::subject::InvariantChecker as _;

/// The time of the first observation.
fn start() -> Timestamp {
    "2026-01-27T02:06:57Z".parse().unwrap()
}

fn after(seconds: u64) -> Timestamp {
    later(start(), Duration::from_secs(seconds))
}

/// The snapshot after these observations, each with its second.
fn watched(observations: &[(u64, &str)]) -> Snapshot {
    let mut checker = Checker::new(CheckerConfig::default());
    let mut snapshots = observations.iter().map(|(seconds, json)| {
        let observation: Observation = serde_json::from_str(json).unwrap();
        let report = checker.check(Moment::from_wall(after(*seconds)), &observation);
        Snapshot {
            observation,
            report,
            seconds: 0.25,
            own: OwnCounters::default(),
        }
    });
    let first = snapshots.next().unwrap();
    snapshots.last().unwrap_or(first)
}

fn page(snapshot: Option<&Snapshot>, seconds: u64) -> String {
    page_of(DEFAULT_TARGET, snapshot, seconds)
}

fn page_of(target: &str, snapshot: Option<&Snapshot>, seconds: u64) -> String {
    render(&Page {
        target,
        snapshot,
        targets: Vec::new(),
        telemetry_path: "/metrics",
        runbook_url: None,
        now: after(seconds),
    })
}

/// The line at the top, without its sign.
fn line(page: &str) -> &str {
    let (_, after) = page.split_once("<h1>").unwrap();
    let (line, _) = after.split_once("</h1>").unwrap();
    line.split_once("</i> ").unwrap().1
}

const WELL: &str = r#"{"nodes":[{"id":"n","state":"Up","redis_connected":true}],"counters":[],
    "node_metrics":{"n":{"latency_p99_ms":10}},"redis_connected":true}"#;
const SLOW: &str = r#"{"nodes":[{"id":"n","state":"Up","redis_connected":true}],"counters":[],
    "node_metrics":{"n":{"latency_p99_ms":80}},"redis_connected":true}"#;
const DOWN: &str = r#"{"nodes":[{"id":"n","state":"Down","redis_connected":true}],"counters":[],
    "node_metrics":{},"redis_connected":true}"#;
const DARK: &str = r#"{"nodes":[{"id":"n","state":null}],"counters":[],"node_metrics":{},"redis_connected":true,
    "counters_read":{"failed":{"reason":"noperm"}}}"#;

#[test]
fn before_the_first_collection_the_state_is_not_known() {
    let page = page(None, 0);
    assert_eq!(line(&page), "Not known yet");
    assert!(page.contains("No collection has finished yet"));
}

#[test]
fn the_headline_shows_the_worst_state() {
    let well = watched(&[(0, WELL)]);
    assert_eq!(line(&page(Some(&well), 5)), "All 5 invariants hold");
    let slow = watched(&[(0, WELL), (10, SLOW)]);
    assert_eq!(line(&page(Some(&slow), 15)), "No violation; 1 pending");
    let down = watched(&[(0, DOWN)]);
    assert_eq!(line(&page(Some(&down), 5)), "1 critical: node_down");
    let dark = watched(&[(0, DARK)]);
    let page = page(Some(&dark), 5);
    assert!(line(&page).starts_with("Not known: "), "{}", line(&page));
    assert!(page.contains("The counters could not be read: <code>noperm</code>"));
    assert!(
        !page.contains("No key has a request"),
        "counters that were not read are not an empty list"
    );
}

#[test]
fn an_old_collection_does_not_pass_for_the_present_state() {
    let well = watched(&[(0, WELL)]);
    let fresh = page(Some(&well), 179);
    assert_eq!(line(&fresh), "All 5 invariants hold");
    let old = page(Some(&well), 185);
    assert_eq!(line(&old), "Not known: nothing was collected for 3 min 5 s");
    assert!(old.contains("Nothing scrapes the exporter"));
    // An old violation is still shown as violated.
    let down = watched(&[(0, DOWN)]);
    let old = page(Some(&down), 500);
    assert_eq!(line(&old), "1 critical: node_down");
    assert!(old.contains("Nothing scrapes the exporter"));
}

#[test]
fn the_grace_left_goes_down_between_collections() {
    let slow = watched(&[(0, SLOW)]);
    assert!(page(Some(&slow), 20).contains("40 s of 1 min grace left."));
    assert!(page(Some(&slow), 70).contains("Its grace period is over"));
}

#[test]
fn a_held_violation_shows_since_when_it_was_not_evaluated() {
    let held = watched(&[(0, DOWN), (30, DARK)]);
    let shown = page(Some(&held), 31);
    assert!(
        line(&shown).starts_with("1 critical: node_down; "),
        "{}",
        line(&shown)
    );
    assert!(shown.contains("<b>Held:</b> it could not be evaluated since"));
    let seen = watched(&[(0, DOWN), (30, DOWN)]);
    assert!(!page(Some(&seen), 31).contains("Held:"));
}

#[test]
fn what_a_page_leaves_out_is_behind_a_link_to_the_same_target() {
    let nodes = (0..60).map(|id| format!(r#"{{"id":"{id}","state":"Down"}}"#));
    let nodes = nodes.collect::<Vec<_>>().join(",");
    let down = format!(
        r#"{{"nodes":[{nodes}],"counters":[],"node_metrics":{{}},"redis_connected":true}}"#
    );
    let down = watched(&[(0, &down)]);
    for (target, query) in [(DEFAULT_TARGET, ""), ("eu", "?target=eu")] {
        let page = page_of(target, Some(&down), 5);
        let link = format!("more: <a href=\"api/v1/violations{query}\">");
        assert!(page.contains(&link), "{page}");
    }
}

#[test]
fn style_and_script_cannot_end_their_elements() {
    assert!(!STYLE.contains("</") && !SCRIPT.contains("</"));
}
