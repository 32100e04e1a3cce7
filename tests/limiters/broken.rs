//! Faults are found in the same captures: without expiry, above the limit, with garbage.

use std::rc::Rc;

use ratelimiter_exporter::limiters::{
    CounterReading, Description, Expires, Finding, Invalid, Outcome, Refused, WithoutExpiry,
};

use crate::rows::{ROWS, Row};
use crate::store::{Store, Value};

/// The moment at which `user:1`, or the one counter of all clients, is at its limit.
pub(crate) const AT_LIMIT: usize = 1;

/// The captures whose full counter blocks its client for ever once it has no expiry.
pub(crate) const STUCK: [&str; 14] = [
    "bull-groupkey",
    "bull",
    "bullmq",
    "fastapi-limiter-0.1.6",
    "fastify-rate-limit-backoff",
    "fastify-rate-limit-continue",
    "fastify-rate-limit-namespace",
    "fastify-rate-limit-route",
    "fastify-rate-limit",
    "flask-limiter-fixed-window",
    "flask-limiter-sliding-window-counter",
    "limits-fixed-window-ns",
    "limits-fixed-window",
    "limits-sliding-window-counter",
];

#[derive(Clone)]
struct Moment {
    description: Rc<Description>,
    store: Store,
    now_ms: u64,
}

fn moment(row: &Row, index: usize) -> Moment {
    let moment = &row.moments()[index];
    Moment {
        description: Rc::new(row.description()),
        store: Store::of_moment(moment),
        now_ms: moment["at_ms"].as_u64().unwrap(),
    }
}

/// The name of the full counter, and whether refused requests are in its count.
pub(crate) fn full_counter(row: &Row) -> (Vec<u8>, Refused) {
    let (name, reading) = full(row, &moment(row, AT_LIMIT));
    (name, reading.refused)
}

/// The label and reading of the full counter.
fn full(row: &Row, moment: &Moment) -> (Vec<u8>, CounterReading) {
    let readings = readings(row, moment);
    readings
        .into_iter()
        .find(|(_, reading)| reading.count >= 7)
        .unwrap()
}

fn readings(row: &Row, moment: &Moment) -> Vec<(Vec<u8>, CounterReading)> {
    let mut readings = Vec::new();
    for name in moment.store.keys.keys() {
        if let Outcome::Counted(reading) = read_name(row, moment, name).outcome {
            readings.push((name.clone(), reading));
        }
    }
    readings
}

fn read_name(row: &Row, moment: &Moment, name: &[u8]) -> Finding {
    moment
        .store
        .read_name(&moment.description, row.rule(), moment.now_ms, false, name)
}

#[test]
fn a_counter_that_lost_its_expiry_is_stuck_where_that_blocks_its_client() {
    let mut stuck = Vec::new();
    for row in ROWS {
        let mut moment = moment(row, AT_LIMIT);
        moment
            .store
            .keys
            .values_mut()
            .for_each(|(_, pttl)| *pttl = -1);
        let (name, reading) = full(row, &moment);
        if reading.is_stuck() {
            stuck.push(row.capture);
        }
        let sampled =
            moment
                .store
                .read_name(&moment.description, row.rule(), moment.now_ms, true, &name);
        let Outcome::Counted(sampled) = sampled.outcome else {
            panic!("{}: {sampled:?}", row.capture);
        };
        let Some(Expires::Never(without)) = sampled.expiry else {
            panic!("{}: {sampled:?}", row.capture);
        };
        assert_eq!(
            without == Some(WithoutExpiry::Blocks),
            reading.is_stuck(),
            "{}",
            row.capture
        );
        // Counters below their limits are not read closely.
        assert!(
            readings(row, &moment)
                .iter()
                .all(|(_, reading)| reading.count >= 7 || reading.expiry.is_none())
        );
    }
    assert_eq!(stuck, STUCK);
}

/// Adds two requests to a full counter, as the limiter would write them.
pub(crate) fn overfill(value: &mut Value) {
    let raised = |text: &[u8]| {
        let text = std::str::from_utf8(text).unwrap();
        match text.parse::<i128>() {
            Ok(value) if value <= 10 => "12".to_owned(),
            // The time at which a bucket is empty: two more intervals of 6 s.
            Ok(value) if value > 100_000_000_000_000_000 => (value + 12_000_000_000).to_string(),
            Ok(value) => (value + 12_000_000).to_string(),
            Err(_) => (text.parse::<f64>().unwrap() + 12.0).to_string(),
        }
    };
    match value {
        Value::String(text) if text.starts_with(b"\x80") => {
            let at = text.iter().position(|byte| *byte == b'(').unwrap() + 1;
            let float = text[at..at + 9].to_vec();
            text.splice(at..at, [float.clone(), float].concat());
        }
        Value::String(text) => *text = raised(text).into_bytes(),
        Value::List(entries) => entries.extend_from_within(..2),
        Value::Zset(members) => {
            let score = members[0].1;
            members.extend([(b"one".to_vec(), score), (b"two".to_vec(), score)]);
        }
        Value::Hash(fields) => {
            for (field, value) in fields {
                match &**field {
                    b"reservoir" => *value = b"-2".to_vec(),
                    b"tokens" if value == b"0" => *value = b"-2".to_vec(),
                    b"tokens" | b"tat1" => *value = raised(value).into_bytes(),
                    _ => {}
                }
            }
        }
        Value::Other(_) => {}
    }
}

#[test]
fn a_count_above_the_limit_is_found_unless_refused_requests_count() {
    for row in ROWS {
        let mut moment = moment(row, AT_LIMIT);
        let (name, before) = full(row, &moment);
        overfill(&mut moment.store.keys.get_mut(&name).unwrap().0);
        let finding = read_name(row, &moment, &name);
        let Outcome::Counted(reading) = finding.outcome else {
            panic!("{}: {finding:?}", row.capture);
        };
        match before.refused {
            Refused::Counted => {
                assert_eq!(reading.is_over_limit(), Some(false), "{}", row.capture);
                let of_nest = reading.invalid == Some(Invalid::CompanionMissing);
                assert!(
                    of_nest == row.capture.starts_with("nest"),
                    "{}: {reading:?}",
                    row.capture
                );
            }
            Refused::NotCounted | Refused::Capped => {
                let found = reading.is_over_limit() == Some(true) || reading.invalid.is_some();
                assert!(found, "{}: {reading:?}", row.capture);
            }
        }
    }
}

/// Replaces the part of the value that counts by `garbage`.
pub(crate) fn spoil(value: &mut Value, garbage: &[u8]) {
    match value {
        Value::String(text) => *text = garbage.to_vec(),
        Value::List(entries) => entries[0] = garbage.to_vec(),
        // A score must be a number: one that is far in the future shows a wrong clock.
        Value::Zset(members) => members[0].1 *= 1.02,
        Value::Hash(fields) => {
            for (_, value) in fields {
                *value = garbage.to_vec();
            }
        }
        Value::Other(_) => {}
    }
}

#[test]
fn garbage_is_invalid() {
    for row in ROWS {
        let whole = moment(row, AT_LIMIT);
        for garbage in [
            &b"garbage"[..],
            b"",
            b"1e999",
            b"nan",
            b"{\"a\":",
            &b"9".repeat(70_000),
        ] {
            let mut moment = whole.clone();
            let (name, _) = full(row, &moment);
            // An empty field means a limiter without a reservoir.
            if row.capture == "bottleneck-limiter" && garbage.is_empty() {
                continue;
            }
            spoil(&mut moment.store.keys.get_mut(&name).unwrap().0, garbage);
            let finding = read_name(row, &moment, &name);
            let too_long = row.capture == "drf-django-redis" && garbage.len() > 65_536;
            let found = match &finding.outcome {
                Outcome::Counted(reading) => reading.invalid.is_some(),
                Outcome::Invalid(_) => true,
                Outcome::Unknown(unknown) => too_long && unknown.name() == "too_large",
                _ => false,
            };
            // Without its fields, a reservoir has no known limit, and a bucket belongs to something else.
            let unreadable = matches!(
                finding.outcome,
                Outcome::Counted(_) | Outcome::Invalid(_) | Outcome::Unknown(_)
            );
            assert!(
                found || (row.capture == "bottleneck-limiter" && unreadable),
                "{}: {finding:?}",
                row.capture
            );
        }
    }
}

#[test]
fn an_expiry_that_is_longer_than_it_can_be_is_invalid() {
    let mut found = 0;
    for row in ROWS {
        let mut moment = moment(row, 0);
        for (_, pttl) in moment.store.keys.values_mut() {
            *pttl = if *pttl > 0 { *pttl * 1000 } else { *pttl };
        }
        for name in moment.store.keys.keys() {
            let finding =
                moment
                    .store
                    .read_name(&moment.description, row.rule(), moment.now_ms, true, name);
            let (Outcome::Counted(reading), Some(matched)) = (finding.outcome, finding.matched)
            else {
                continue;
            };
            let counter = moment.description.counter(&matched);
            let bounded = counter.expiry.max.is_some()
                && matches!(reading.expiry, Some(Expires::TooLate { .. }));
            assert_eq!(
                bounded,
                reading.invalid == Some(Invalid::ExpiresTooLate),
                "{}",
                row.capture
            );
            found += usize::from(bounded);
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn a_companion_that_is_missing_is_found() {
    let (capture, companion) = ("nest-throttler-storage", "{user:1:default}:blocked");
    let row = ROWS.iter().find(|row| row.capture == capture).unwrap();
    let mut moment = moment(row, 2);
    let (name, reading) = full(row, &moment);
    assert_eq!(reading.invalid, None);
    assert!(moment.store.keys.remove(companion.as_bytes()).is_some());
    let Outcome::Counted(reading) = read_name(row, &moment, &name).outcome else {
        panic!("not counted");
    };
    assert_eq!(reading.invalid, Some(Invalid::CompanionMissing));
}
