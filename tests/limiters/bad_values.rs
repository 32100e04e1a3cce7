//! Values that no limiter writes, for each method: they are reported as invalid and never counted.

use ratelimiter_exporter::limiters::{Description, Invalid, Outcome, Unknown};

use crate::store::{Rule, Store, Value};

const NOW_MS: u64 = 1_795_691_687_250;

const METHODS: &str = "
name: own
title: own
counters:
  - {name: value, key: '^value:(?P<key>.+)$', type: string, count: value, refused: counted, expiry: normal_without}
  - {name: left, key: '^left:(?P<key>.+)$', type: string, count: {value: {down: true}}, refused: counted, expiry: normal_without}
  - {name: windows, key: '^windows:(?P<key>.+):(?P<window_index>\\d+)$', type: string, count: {two_windows: {weight: clock}}, refused: counted, expiry: normal_without}
  - {name: list, key: '^list:(?P<key>.+)$', type: list, count: {log: {unit: ms}}, refused: counted, expiry: normal_without}
  - {name: json-log, key: '^json-log:(?P<key>.+)$', type: string, count: {log: {form: json, unit: ms}}, refused: counted, expiry: normal_without}
  - {name: pickle, key: '^pickle:(?P<key>.+)$', type: string, count: {log: {form: pickle, unit: s}}, refused: counted, expiry: normal_without}
  - {name: hash, key: '^hash:(?P<key>.+)$', type: hash, count: {hash: {field: n}}, refused: counted, expiry: normal_without}
  - {name: sum, key: '^sum:(?P<key>.+)$', type: hash, count: {hash: {sum: true}}, refused: counted, expiry: normal_without}
  - {name: json, key: '^json:(?P<key>.+)$', type: string, count: {json: {number: /n}}, refused: counted, expiry: normal_without}
  - {name: tokens, key: '^tokens:(?P<key>.+)$', type: hash, count: {token_bucket: {level: n, at: at, unit: ms}}, refused: counted, expiry: normal_without}
  - {name: leaky, key: '^leaky:(?P<key>.+)$', type: hash, count: {leaky_bucket: {level: n, at: at, unit: ms}}, refused: counted, expiry: normal_without}
  - {name: slots, key: '^slots:(?P<key>.+)@(?P<window_start>\\d{10})$', type: string, count: {slots: {each: 1s}}, refused: counted, expiry: normal_without}
  - {name: gcra, key: '^gcra:(?P<key>.+)$', type: string, count: {gcra: {unit: ms}}, refused: counted, expiry: normal_without}
";

/// The outcome of `value`, written in the place where `method` has a number.
fn outcome(description: &Description, method: &str, value: &[u8]) -> Outcome {
    let name = match method {
        "windows" => format!("windows:a:{}", NOW_MS / 60_000),
        "slots" => format!("slots:a@{}", NOW_MS / 1000),
        method => format!("{method}:a"),
    };
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let at = NOW_MS.to_string();
    let written = match method {
        "list" => Value::List(vec![value.to_vec()]),
        "hash" | "sum" => Value::Hash(vec![field("n", value)]),
        "tokens" | "leaky" => Value::Hash(vec![field("n", value), field("at", at.as_bytes())]),
        "json" => Value::String([b"{\"n\":", value, b"}"].concat()),
        "json-log" => Value::String([b"[", value, b"]"].concat()),
        _ => Value::String(value.to_vec()),
    };
    let mut store = Store::default();
    store.set(&name, written, -1);
    let rule = Rule::new(Some(10), Some(60));
    store
        .read_name(description, rule, NOW_MS, true, name.as_bytes())
        .outcome
}

fn methods(description: &Description) -> Vec<&str> {
    let counters = description.counters.iter();
    counters
        .map(|counter| counter.name.value.as_str())
        .collect()
}

#[test]
fn text_that_is_no_number_is_invalid_for_every_method() {
    let description = Description::parse(METHODS).unwrap();
    let deep = vec![b'['; 1_000];
    let values: [&[u8]; 10] = [
        b"nan",
        b"NaN",
        b"inf",
        b"-inf",
        b"1e999",
        b"ten",
        b" 1",
        b"0x10",
        b"\xff\xfe\0",
        &deep,
    ];
    for method in methods(&description) {
        for value in values {
            let outcome = outcome(&description, method, value);
            // JSON may have blanks around a number.
            if method.starts_with("json") && value == b" 1" {
                assert!(matches!(outcome, Outcome::Counted(_)), "{outcome:?}");
                continue;
            }
            let expected = [Invalid::NotANumber, Invalid::Malformed];
            let named = matches!(outcome, Outcome::Invalid(state) if expected.contains(&state));
            let value = String::from_utf8_lossy(value);
            assert!(named, "{method}: {value:?}: {outcome:?}");
        }
    }
}

#[test]
fn an_empty_value_is_invalid_and_an_empty_list_of_times_is_empty() {
    let description = Description::parse(METHODS).unwrap();
    for method in methods(&description) {
        match outcome(&description, method, b"") {
            Outcome::Invalid(Invalid::NotANumber | Invalid::Malformed) => {}
            Outcome::Counted(reading) => {
                assert_eq!((method, reading.count), ("json-log", 0));
            }
            other => panic!("{method}: {other:?}"),
        }
    }
}

#[test]
fn a_negative_number_is_never_a_count() {
    let description = Description::parse(METHODS).unwrap();
    for method in methods(&description) {
        // A time before 1970 is in the past, and a pickle begins with another byte.
        let expected = match method {
            "list" | "json-log" => None,
            "pickle" => Some(Invalid::Malformed),
            _ => Some(Invalid::Negative),
        };
        let (count, invalid) = match outcome(&description, method, b"-3") {
            Outcome::Counted(reading) => (reading.count, reading.invalid),
            Outcome::Invalid(state) => (0, Some(state)),
            other => panic!("{method}: {other:?}"),
        };
        assert_eq!(invalid, expected, "{method}");
        // A remainder below 0 means that all 10 requests are used.
        let down = ["left", "tokens"].contains(&method);
        assert!(
            if down { count >= 10 } else { count == 0 },
            "{method}: {count}"
        );
    }
}

#[test]
fn numbers_beyond_2_to_the_53_and_beyond_64_bits_are_counted_or_named_and_never_wrap() {
    let description = Description::parse(METHODS).unwrap();
    let beyond = [
        "9007199254740993",
        "18446744073709551616",
        "170141183460469231731687303715884105727",
    ];
    for method in methods(&description) {
        for value in beyond {
            let (count, invalid) = match outcome(&description, method, value.as_bytes()) {
                Outcome::Counted(reading) => (reading.count, reading.invalid),
                Outcome::Invalid(state) => (0, Some(state)),
                other => panic!("{method}: {other:?}"),
            };
            let large = count >= 9_007_199_254_740_992;
            assert!(large || invalid.is_some(), "{method}: {value}: {count}");
        }
    }
    let exact = outcome(&description, "value", b"9007199254740993");
    assert!(matches!(exact, Outcome::Counted(reading) if reading.count == 9_007_199_254_740_993));
}

#[test]
fn a_value_of_more_than_64_kib_is_too_large() {
    let description = Description::parse(METHODS).unwrap();
    let long = vec![b'9'; 70_000];
    for method in methods(&description) {
        let outcome = outcome(&description, method, &long);
        let named = match method {
            // These are read entry by entry, after their size.
            "list" | "sum" => matches!(outcome, Outcome::Invalid(Invalid::NotANumber)),
            "json" | "json-log" | "pickle" => outcome == Outcome::Unknown(Unknown::TooLarge),
            _ => outcome == Outcome::Invalid(Invalid::TooLarge),
        };
        assert!(named, "{method}: {outcome:?}");
    }
}

/// A pickle that would run a program, and malformed lists.
#[test]
fn pickles_are_read_and_never_executed() {
    let description = Description::parse(METHODS).unwrap();
    let folder = lab::temp::TempDir::new("pickle").unwrap();
    let made = folder.path().join("made");
    let program = format!("cposix\nsystem\n(S'touch {}'\ntR.", made.display());
    for pickle in [
        program.as_bytes(),
        b"\x80\x04]\x94(",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let outcome = outcome(&description, "pickle", pickle);
        assert_eq!(outcome, Outcome::Invalid(Invalid::Malformed));
    }
    assert!(!made.exists());
}
