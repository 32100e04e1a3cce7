//! The counts of real limiters' dumps are those of their traffic, and nothing is reported.

use std::collections::BTreeSet;

use ratelimiter_exporter::limiters::{Description, Outcome};

use crate::rows::{ROWS, Row};
use crate::store::Store;

/// The label and count of each counter in a store. Fails on any invalid state.
fn counts(
    row: &Row,
    description: &Description,
    store: &Store,
    now_ms: u64,
    sampled: bool,
) -> Vec<(String, u64)> {
    let mut counts = Vec::new();
    for name in store.keys.keys() {
        let finding = store.read_name(description, row.rule(), now_ms, sampled, name);
        let name = String::from_utf8_lossy(name);
        match finding.outcome {
            Outcome::Counted(reading) => {
                let matched = finding.matched.unwrap();
                let label = description.counter(&matched).label(&matched);
                assert_eq!(reading.invalid, None, "{}: {name}", row.capture);
                assert!(!reading.is_stuck(), "{}: {name}", row.capture);
                assert_ne!(reading.is_over_limit(), None, "{}: {name}", row.capture);
                assert_eq!(
                    reading.is_over_limit(),
                    Some(false),
                    "{}: {name}",
                    row.capture
                );
                counts.push((String::from_utf8(label).unwrap(), reading.count));
            }
            Outcome::Over(_) | Outcome::Part | Outcome::Ignored => {}
            other => panic!("{}: {name}: {other:?}", row.capture),
        }
    }
    counts
}

#[test]
fn captures_count_their_traffic_at_each_moment_and_nothing_is_reported() {
    for row in ROWS {
        let description = row.description();
        for (index, moment) in row.moments().iter().enumerate() {
            let store = Store::of_moment(moment);
            let now_ms = moment["at_ms"].as_u64().unwrap();
            for sampled in [false, true] {
                let counts = counts(row, &description, &store, now_ms, sampled);
                for expected in row.expected(index) {
                    assert!(
                        counts.contains(&expected),
                        "{} {index}: {expected:?} is not in {counts:?}",
                        row.capture
                    );
                }
                let names: BTreeSet<_> = counts.iter().map(|(name, _)| name).collect();
                assert_eq!(
                    names.len(),
                    counts.len(),
                    "{} {index}: {counts:?}",
                    row.capture
                );
                if row.counts[index].is_none() {
                    let live = counts
                        .iter()
                        .filter(|(name, count)| *count > 0 && !name.ends_with(" blocked"));
                    let most = usize::from(index == 4);
                    assert!(live.count() <= most, "{} {index}: {counts:?}", row.capture);
                }
            }
        }
    }
}

#[test]
fn every_capture_has_a_row() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limiters/captures");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let files: BTreeSet<_> = files.map(|name| name.into_string().unwrap()).collect();
    let rows: BTreeSet<_> = ROWS
        .iter()
        .map(|row| format!("{}.json", row.capture))
        .collect();
    assert_eq!(files, rows);
}

#[test]
fn no_key_of_a_real_limiter_could_be_claimed_by_two_counters() {
    let mut claimed = BTreeSet::new();
    for row in ROWS {
        let description = row.description();
        for moment in row.moments() {
            let now_ms = moment["at_ms"].as_u64().unwrap();
            let store = Store::of_moment(&moment);
            for name in store.keys.keys() {
                let finding = store.read_name(&description, row.rule(), now_ms, true, name);
                let Some(matched) = finding.matched else {
                    continue;
                };
                let named = |place: usize| description.counters[place].name.value.clone();
                claimed.extend(description.rivals(&matched).map(|other| {
                    let name = String::from_utf8_lossy(name).into_owned();
                    (row.capture, named(matched.counter), named(other), name)
                }));
            }
        }
    }
    assert!(claimed.is_empty(), "{claimed:#?}");
}
