//! Names that leave their type open: the likely type is tried first, and nothing is found under a type that no answer confirms.

use super::*;
use crate::limiters::never_fell;

const OPEN: &str = "
name: own
title: own
counters:
  - {name: flag, key: '^own:(?P<key>.+):flag$', type: string, count: presence, refused: counted, expiry: normal_without}
  - {name: window, key: '^own:(?P<key>.+):(?P<window_index>[0-9]+)$', type: string, count: value, refused: counted, expiry: normal_without, limits: [{fixed: {limit: 9, window: 60s}}]}
  - {name: list, key: '^own:(?P<key>.+)$', type: list, count: {log: {unit: s}}, refused: counted, expiry: normal_without, limits: [{fixed: {limit: 9, window: 60s}}]}
  - {name: hash, key: '^own:(?P<key>.+)$', type: hash, when: {field: n}, count: {hash: {field: n}}, refused: counted, expiry: normal_without}
ignore: ['^own:.+$']
";

/// A minute after the beginning of the window 20,000,000.
const NOW_MS: u64 = 20_000_001 * 60_000;

/// The answer of a Redis in which every key has this type, holds 3 and a field `n`.
fn said(ask: &Ask, kind: &str) -> Answer {
    let of = match ask {
        Ask::Type(_) => return Answer::Type(kind.to_owned()),
        Ask::Pttl(_) => return Answer::Integer(1_000),
        Ask::Exists(_) => return Answer::Integer(1),
        Ask::Get(_) => "string",
        Ask::HasField(..) | Ask::Fields(..) | Ask::AllFields(_) => "hash",
        Ask::List(_) => "list",
        Ask::Count { .. } | Ask::Members { .. } => "zset",
    };
    if of != kind {
        return Answer::WrongType;
    }
    match ask {
        Ask::HasField(..) => Answer::Integer(1),
        Ask::Get(_) => Answer::Text(b"3".to_vec()),
        _ => Answer::Fields(vec![Some(b"3".to_vec())]),
    }
}

/// The counter and the outcome of `name`, whose key has the type `kind`, and how many commands that took.
fn read(name: &str, kind: &str, likely: Option<Type>) -> (String, usize) {
    let description = Description::parse(OPEN).unwrap();
    let none = |_: &Counter, _: &Matched| Limits::default();
    let known = NameContext {
        rules: &none,
        api: &|_, _| Limits::default(),
        former: &never_fell,
        now_ms: NOW_MS,
        tolerance_ms: 2_000,
        sampled: false,
    };
    let mut reader = NameReader::begin(&description, known, name.as_bytes(), likely);
    let mut commands = 0;
    while reader.finding().is_none() {
        let answers: Vec<Answer> = reader.asks().iter().map(|ask| said(ask, kind)).collect();
        commands += answers.len();
        assert!(commands < 20, "{name} as {kind}: no end");
        reader.feed(&answers);
    }
    let finding = reader.finding().unwrap();
    let counter = finding.matched.as_ref().map(|it| description.counter(it));
    let counter = counter.map_or("", |counter| counter.name.value.as_str());
    let outcome = match &finding.outcome {
        Outcome::Counted(reading) => reading.count.to_string(),
        other => format!("{other:?}"),
    };
    (format!("{counter} {outcome}"), commands)
}

#[test]
fn the_likely_type_changes_what_is_sent_and_never_what_is_found() {
    let types = Type::ALL.map(Some);
    for name in [
        "own:a",
        "own:a:flag",
        "own:a:20000001",
        "own:a:1",
        "own:a:30000000",
    ] {
        for kind in ["string", "list", "hash", "zset", "stream"] {
            let (expected, _) = read(name, kind, None);
            for likely in types {
                let (found, _) = read(name, kind, likely);
                assert_eq!(found, expected, "{name} as {kind}, likely {likely:?}");
            }
        }
    }
}

#[test]
fn a_right_guess_saves_type_and_a_wrong_one_is_noticed() {
    let window = "own:a:20000001";
    assert_eq!(read(window, "string", None), ("window 3".to_owned(), 2));
    let likely = Some(Type::String);
    assert_eq!(read(window, "string", likely), ("window 3".to_owned(), 1));
    // The value, the type, and the field with its condition.
    assert_eq!(read(window, "hash", likely), ("hash 3".to_owned(), 4));
    // The name alone shows that the window of a string is over. The key may be a list.
    assert_eq!(read("own:a:1", "list", likely).0, "list 0");
    // Redis does not refuse EXISTS for another type.
    assert_eq!(read("own:a:flag", "hash", likely).0, "hash 3");
}
