//! Fuzz targets: descriptions of any text, and values of any bytes for each counting method.

use super::{
    Answer, BUILT_IN, Counter, Description, Expires, Fit, Http, Inventory, Limits, MOST_SCANS,
    Matched, NameContext, NameReader, Outcome, Type, never_fell,
};

/// Separates the inputs.
const PARTS: u8 = 0x0c;

/// Separates the values of one answer.
const VALUES: u8 = 0x1f;

/// The most steps for a name: more than any description takes.
const MOST_STEPS: usize = 16;

/// A description with the methods that no built-in kind has.
const OWN: &str = r"
name: own
title: own
counters:
  - {name: seconds, key: '^(?P<key>.+)@(?P<window_start>\d{10})$', type: string, count: {slots: {each: 1s}}, refused: not_counted, expiry: required, without_expiry: leaks}
  - {name: fields, key: '^fields:(?P<key>.+)$', type: hash, count: {slots: {each: 1s, unit: s}}, refused: not_counted, expiry: normal_without}
  - {name: history, key: '^history:(?P<key>.+)$', type: string, count: {json: {length: /history, ends: {field: /reset, unit: s}}}, refused: not_counted, expiry: required, without_expiry: heals}
  - {name: number, key: '^number:(?P<key>.+)$', type: string, count: {json: {number: /n, started: {field: /at, unit: ms}}}, refused: capped, expiry: required, without_expiry: blocks}
  - {name: times, key: '^times:(?P<key>.+)$', type: string, count: {log: {form: json, unit: ms}}, refused: counted, expiry: normal_without}
  - {name: sum, key: '^sum:(?P<key>.+)$', type: hash, count: {hash: {sum: true}}, refused: counted, expiry: normal_without}
  - {name: left, key: '^left:(?P<key>.+)$', type: string, count: {value: {down: true, fraction: true}}, refused: not_counted, expiry: normal_without}
";

/// The input is a description and, after a form feed, a name. Each mistake is one line and refers to an existing line. A name
/// that fits a counter is found by a scan, has a label, and gets a finding.
pub fn limiter_description(data: &[u8]) {
    let (text, name) = match data.iter().position(|byte| *byte == PARTS) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"a:b:1"[..]),
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let description = match Description::parse(text) {
        Ok(description) => description,
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "an error without a mistake");
            let lines = text.replace("\r\n", "\n").split(['\r', '\n']).count() as u64;
            for mistake in mistakes {
                let said = mistake.to_string();
                assert_eq!(said.lines().count(), 1, "{said:?}");
                assert!(!said.contains(char::is_control), "{said:?}");
                assert!(said.len() < 32 * 1024, "{} bytes", said.len());
                let line = mistake.line;
                assert!(
                    line.is_none_or(|line| (1..=lines).contains(&line)),
                    "{said}"
                );
            }
            return;
        }
    };
    let scans = description.scans(MOST_SCANS);
    assert!(
        !scans.is_empty() && scans.len() <= 8,
        "{} scans",
        scans.len()
    );
    if let Some(registry) = description.registry()
        && let Some(id) = registry.id_of(name)
    {
        assert_eq!(registry.name_of(id), name, "a registration with two names");
    }
    for kind in [Type::String, Type::List, Type::Zset, Type::Hash] {
        let Fit::Counter(matched) = description.match_name(name, Some(kind)) else {
            continue;
        };
        let counter = description.counter(&matched);
        assert!(counter.key.value.fits(name) && counter.kind == kind);
        let begins = |scan: &Vec<u8>| {
            let special = |byte: &u8| matches!(byte, b'*' | b'\\');
            let literal = scan.iter().position(special).unwrap_or(scan.len());
            name.starts_with(&scan[..literal])
        };
        assert!(scans.iter().any(begins), "no scan finds {name:?}");
        counter.label(&matched);
        read(&description, name, kind, &[Answer::Text(b"1".to_vec())]);
    }
}

/// The input is a kind, a name, a type and answers of Redis, separated by form feeds. The reading ends with a finding that claims
/// no more than is known.
pub fn limiter_values(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == PARTS);
    let mut part = || parts.next().unwrap_or_default();
    let (kind, name, of_type) = (part(), part(), part());
    let text = match BUILT_IN.iter().find(|(name, _)| name.as_bytes() == kind) {
        Some((_, text)) => text,
        None => OWN,
    };
    let description = Description::parse(text).expect("a built-in kind is valid");
    let of_type = match of_type {
        b"list" => Type::List,
        b"zset" => Type::Zset,
        b"hash" => Type::Hash,
        _ => Type::String,
    };
    let mut answers: Vec<Answer> = parts.take(64).map(answer).collect();
    if answers.is_empty() {
        answers.push(Answer::Missing);
    }
    read(&description, name, of_type, &answers);
}

/// Parses an answer, which is written as its kind and its value.
fn answer(written: &[u8]) -> Answer {
    let Some((kind, value)) = written.split_first() else {
        return Answer::Missing;
    };
    let values = || value.split(|byte| *byte == VALUES).map(<[u8]>::to_vec);
    let number = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok());
    match kind {
        b'w' => Answer::WrongType,
        b'l' => Answer::TooLarge,
        b't' => Answer::Text(value.to_vec()),
        b'i' => Answer::Integer(number.unwrap_or(i64::MIN)),
        b'f' => Answer::Fields(
            values()
                .map(|value| (value != b"-").then_some(value))
                .collect(),
        ),
        b'p' => Answer::Pairs(values().zip(values().skip(1)).step_by(2).collect()),
        b'k' => Answer::Type(String::from_utf8_lossy(value).into_owned()),
        _ => Answer::Missing,
    }
}

/// Reads `name` with these answers in turn, over and over.
fn read(description: &Description, name: &[u8], kind: Type, answers: &[Answer]) {
    let limits = |limit| Limits {
        limit,
        window_ms: Some(60_000),
        burst: None,
    };
    for (limit, sampled) in [(None, false), (Some(0), true), (Some(10), true)] {
        let rules = |_: &Counter, _: &Matched| limits(limit);
        let api = |_: &Http, _: &Matched| Limits::default();
        let known = NameContext {
            rules: &rules,
            api: &api,
            former: &never_fell,
            now_ms: 1_795_691_687_250,
            tolerance_ms: 2_000,
            sampled,
        };
        let mut reader = NameReader::begin(description, known, name, Some(kind));
        let mut answers = answers.iter().cycle();
        let mut steps = 0;
        while reader.finding().is_none() {
            let said: Vec<Answer> = answers
                .by_ref()
                .take(reader.asks().len())
                .cloned()
                .collect();
            reader.feed(&said);
            steps += 1;
            assert!(steps < MOST_STEPS, "reading {name:?} does not end");
        }
        let finding = reader.finding().expect("the loop ends with a finding");
        let mut inventory = Inventory::new(description);
        inventory.add(description, name, finding);
        assert!(inventory.names <= 1);
        let Outcome::Counted(reading) = &finding.outcome else {
            continue;
        };
        let capacity = reading.limits.capacity();
        assert_eq!(reading.is_over_limit().is_some(), capacity.is_some());
        if reading.is_stuck() {
            assert!(capacity.is_some_and(|capacity| reading.count >= capacity));
            assert!(matches!(reading.expiry, Some(Expires::Never(Some(_)))));
        }
        let matched = finding
            .matched
            .as_ref()
            .expect("a count belongs to a counter");
        assert!(matched.counter < description.counters.len());
    }
}
