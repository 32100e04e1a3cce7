//! The names of keys are the same in the checker and in an observation.

use std::collections::BTreeMap;

use super::*;
use crate::observation::{Condition, KeyLabel};

#[test]
fn keys_are_known_to_be_gone_by_the_names_that_are_shown() {
    let seen_at: Timestamp = "2026-01-27T02:06:57Z".parse().unwrap();
    let long = "k".repeat(600);
    for label in [KeyLabel::Plain, KeyLabel::Hash] {
        let mut checker = Checker::new(CheckerConfig {
            key_label: label,
            ..CheckerConfig::default()
        });
        let view = |key| CounterView {
            key,
            count: 9,
            limit: 2,
            remaining: 0,
            window_ms: None,
            fell_from: None,
            condition: Condition::default(),
        };
        checker.counters(
            Moment::from_wall(seen_at),
            &[view(long.as_bytes()), view(b"other")],
        );
        let seen = Observation {
            redis_connected: Some(true),
            ..Observation::default()
        };
        assert_eq!(
            checker
                .check(Moment::from_wall(seen_at), &seen)
                .violations
                .len(),
            2
        );
        let gone = Observation {
            counters_read: CountersRead::Partial {
                gone: vec![label.of(long.as_bytes())],
                reason: Reason::Budget,
            },
            unjudged: BTreeMap::from([(label.of(b"other"), Reason::Resharding)]),
            ..seen
        };
        let report = checker.check(Moment::from_wall(seen_at), &gone);
        let subjects = report.violations.iter().map(|it| it.subject.clone());
        assert_eq!(subjects.collect::<Vec<_>>(), [label.of(b"other")]);
        let unknown: Vec<&String> = report.invariants[4]
            .unknown
            .iter()
            .map(|it| &it.subject)
            .collect();
        assert_eq!(unknown, [&label.of(b"other")]);
    }
}
