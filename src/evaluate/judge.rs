//! Feeds a recording to the checker that serves. Time comes from the lines, and lists are not capped.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Moment;
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{Counter, CounterView, CountersRead, KeyLabel, Observation, decode_key};
use crate::report::Report;
use crate::subject::InvariantChecker as _;

/// Writes the keys of `observation` as `label` asks, unless the recording has hashes. Keys that are gone or could not be
/// judged get the names that the checker gives to counters: for the checker, a key that the recording shows cut is a key
/// like any other.
pub(super) fn label_keys(observation: &mut Observation, label: KeyLabel) {
    let hashed = label == KeyLabel::Hash && !observation.keys_hashed;
    let label = if hashed { label } else { KeyLabel::Plain };
    let label = |key: &str| label.of(&decode_key(key));
    if hashed {
        for counter in &mut observation.counters {
            counter.key = label(&counter.key);
        }
    }
    if let CountersRead::Partial { gone, .. } = &mut observation.counters_read {
        for key in gone {
            *key = label(key);
        }
    }
    let unjudged = std::mem::take(&mut observation.unjudged).into_iter();
    observation.unjudged = unjudged
        .map(|(key, reason)| (label(&key), reason))
        .collect();
}

/// Judges the observations of a recording one after the other.
#[derive(Debug)]
pub(super) struct Judge(Checker);

impl Judge {
    pub(super) fn new(config: &CheckerConfig) -> Self {
        Self(Checker::new(CheckerConfig {
            // The cap protects Prometheus. A replay lists every violation.
            max_listed: usize::MAX,
            // A cleared key stays listed for its series. A replay has no series.
            cleared_hold: Duration::ZERO,
            // `label_keys` has labelled the keys.
            key_label: KeyLabel::Plain,
            ..config.clone()
        }))
    }

    pub(super) fn judge(&mut self, at: Moment, observation: &Observation) -> Report {
        let counters = &observation.counters;
        let keys: Vec<Vec<u8>> = counters.iter().map(|it| decode_key(&it.key)).collect();
        let views: Vec<CounterView<'_>> = counters
            .iter()
            .zip(&keys)
            .map(|(counter, key)| counter.view(key))
            .collect();
        for (steady, place) in times(counters, at) {
            self.0.counters(back_to(at, steady), &views[place..=place]);
        }
        self.0.check(at, observation)
    }
}

/// When each of `counters` was counted, with its index, in the order of time. A counter that was counted twice is there
/// twice; one without a time was counted at the moment of the line.
fn times(counters: &[Counter], at: Moment) -> Vec<(Timestamp, usize)> {
    let mut times = Vec::with_capacity(counters.len());
    for (place, counter) in counters.iter().enumerate() {
        // A collection counts nothing after its own time, whatever a file claims.
        let last = counter.counted_at.unwrap_or(at.steady).min(at.steady);
        times.extend(counter.counted_from.map(|first| (first.min(last), place)));
        times.push((last, place));
    }
    times.sort_unstable();
    times
}

/// `steady` as a moment of the same clocks as `at`.
fn back_to(at: Moment, steady: Timestamp) -> Moment {
    let offset = at.wall.duration_since(at.steady);
    Moment {
        wall: steady.checked_add(offset).unwrap_or(at.wall),
        steady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(counters: &str) -> Observation {
        Observation {
            counters: serde_json::from_str(counters).unwrap(),
            ..Observation::default()
        }
    }

    #[test]
    fn keys_are_hashed_once() {
        let counters = r#"[{"key":"user:1","count":1,"limit":2,"remaining":1}]"#;
        let mut plain = observation(counters);
        label_keys(&mut plain, KeyLabel::Hash);
        assert_eq!(plain.counters[0].key, "abc3a47b8ad18b85");
        let mut hashed = Observation {
            keys_hashed: true,
            ..observation(counters)
        };
        label_keys(&mut hashed, KeyLabel::Hash);
        assert_eq!(hashed.counters[0].key, "user:1");
    }

    #[test]
    fn what_was_counted_twice_is_judged_twice_in_the_order_of_time() {
        let observation = observation(
            r#"[
            {"key":"b","count":9,"limit":2,"remaining":0,
             "counted_from":"2026-01-01T00:00:01Z","counted_at":"2026-01-01T00:00:03Z"},
            {"key":"a","count":9,"limit":2,"remaining":0,"counted_at":"2026-01-01T00:00:02Z"}]"#,
        );
        let at = Moment::from_wall("2026-01-01T00:00:05Z".parse().unwrap());
        let times = times(&observation.counters, at);
        let places: Vec<usize> = times.iter().map(|(_, place)| *place).collect();
        assert_eq!(places, [0, 1, 0]);
    }

    #[test]
    fn a_key_that_a_recording_shows_cut_is_known_to_be_gone() {
        let long = "k".repeat(600);
        let cut = KeyLabel::Plain.of(long.as_bytes());
        let mut judge = Judge::new(&CheckerConfig::default());
        let mut reported = |second, observation: &str| {
            let mut observation: Observation = serde_json::from_str(observation).unwrap();
            label_keys(&mut observation, KeyLabel::Plain);
            let at = Moment::from_wall(Timestamp::from_second(second).unwrap());
            judge.judge(at, &observation).violations.len()
        };
        let above = format!(
            r#"{{"nodes":[],"node_metrics":{{}},"redis_connected":true,
            "counters":[{{"key":"{cut}","count":9,"limit":2,"remaining":0}}]}}"#
        );
        let then = |read: &str| {
            format!(
                r#"{{"nodes":[],"node_metrics":{{}},"redis_connected":true,"counters":[],{read}}}"#
            )
        };
        assert_eq!(reported(0, &above), 1);
        let unjudged = format!(r#""unjudged":{{"{cut}":"resharding"}}"#);
        assert_eq!(reported(1, &then(&unjudged)), 1);
        let partial = r#""counters_read":{"partial":{"gone":[],"reason":"budget"}}"#;
        assert_eq!(reported(2, &then(partial)), 1);
        let gone =
            format!(r#""counters_read":{{"partial":{{"gone":["{cut}"],"reason":"budget"}}}}"#);
        assert_eq!(reported(3, &then(&gone)), 0);
    }
}
