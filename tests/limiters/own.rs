//! Counting methods that no built-in kind uses, in descriptions in the tests.

use ratelimiter_exporter::limiters::{Description, Expires, Invalid, Outcome};

use crate::store::{Rule, Store};

const NOW_MS: u64 = 1_795_691_687_250;
const NOW_S: u64 = NOW_MS / 1000;

#[test]
fn slots_and_json_count_in_descriptions_of_users() {
    let text = "
name: own
title: dramatiq's window and litestar
counters:
  - name: seconds
    key: '^(?P<key>.+)@(?P<window_start>\\d{10})$'
    type: string
    count: {slots: {each: 1s}}
    refused: not_counted
    expiry: required
    without_expiry: leaks
  - name: fields
    key: '^fields:(?P<key>.+)$'
    type: hash
    count: {slots: {each: 1s, unit: s}}
    refused: not_counted
    expiry: normal_without
  - name: history
    key: '^LITESTAR:(?P<key>.+)$'
    type: string
    count: {json: {length: /history, ends: {field: /reset, unit: s}}}
    refused: not_counted
    expiry: required
    without_expiry: heals
  - name: times
    key: '^times:(?P<key>.+)$'
    type: string
    count: {log: {form: json, unit: ms}}
    refused: counted
    expiry: normal_without
  - name: sum
    key: '^sum:(?P<key>.+)$'
    type: hash
    count: {hash: {sum: true}}
    refused: counted
    expiry: normal_without
";
    let description = Description::parse(text).unwrap();
    let mut store = Store::default();
    let newest = format!("mail@{}", NOW_S - 1);
    store.string(&newest, "2", 60_000);
    store.string(&format!("mail@{}", NOW_S - 30), "3", 30_000);
    store.string(&format!("mail@{}", NOW_S - 90), "9", 1);
    let (old, recent) = ((NOW_S - 90).to_string(), (NOW_S - 9).to_string());
    store.hash("fields:a", &[(&old, "9"), (&recent, "4")], -1);
    store.string(
        "LITESTAR:a",
        &format!(r#"{{"history":[1,2,3],"reset":{}}}"#, NOW_S + 5),
        5_000,
    );
    store.string(
        "times:a",
        &format!("[{},{},1]", NOW_MS, NOW_MS - 59_999),
        -1,
    );
    store.hash("sum:a", &[("one", "1"), ("two", "2")], -1);
    let read_name = |name: &str| {
        store
            .read_name(
                &description,
                Rule::new(Some(10), Some(60)),
                NOW_MS,
                true,
                name.as_bytes(),
            )
            .outcome
    };
    let count = |name: &str| match read_name(name) {
        Outcome::Counted(reading) => reading.count,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(
        [&newest, "fields:a", "LITESTAR:a", "times:a", "sum:a"].map(count),
        [5, 4, 3, 2, 3]
    );
    assert_eq!(read_name(&format!("mail@{}", NOW_S - 30)), Outcome::Part);
    assert_eq!(
        read_name(&format!("mail@{}", NOW_S - 90)),
        Outcome::Over(Some(false))
    );
}

/// The states follow its formula, because its packages require those of two databases, which cannot be installed together. It
/// increments a counter that lost its expiry as text, so that 5 becomes 51.
#[test]
fn koa2_ratelimits_counter_without_expiry_is_seen_before_it_jumps() {
    let text = "
name: koa2-ratelimit
title: koa2-ratelimit 1.1.3
counters:
  - name: window
    key: '^(?P<scope>[^|]+)\\|(?P<key>.+)$'
    label: '$scope $key'
    type: string
    count: value
    refused: counted
    expiry: {is: required, max: 1 window}
    without_expiry: heals
";
    let description = Description::parse(text).unwrap();
    let reading = |value: &str, pttl: i64| {
        let mut store = Store::default();
        store.string("global|user:1", value, pttl);
        let rule = Rule::new(Some(5), Some(60));
        let finding = store.read_name(&description, rule, NOW_MS, true, b"global|user:1");
        match finding.outcome {
            Outcome::Counted(reading) => reading,
            other => panic!("{other:?}"),
        }
    };
    // ratelimiter_keys_without_expiry counts the key. The next request would heal it, so it is not stuck.
    let before = reading("5", -1);
    assert!(matches!(before.expiry, Some(Expires::Never(_))));
    assert!(!before.is_stuck());
    // Its client is refused for a window. Refused requests count, so the count proves no violation: it is demand.
    let after = reading("51", 60_000);
    assert_eq!((after.count, after.invalid), (51, None));
    assert_ne!(after.is_over_limit(), Some(true));
}

#[test]
fn a_date_with_hours_in_a_name_is_no_window_in_the_future() {
    let text = r"
name: own
title: windows of an hour
counters:
  - name: window
    key: '^own:(?P<key>[^:]+):(?P<window_start>\d+)$'
    type: string
    count: value
    refused: counted
    expiry: normal_without
    limits: [{fixed: {limit: 5, window: 1h}}]
";
    let description = Description::parse(text).unwrap();
    let mut store = Store::default();
    let mut outcome = |start: &str, now_ms: u64| {
        let name = format!("own:u:{start}");
        store.string(&name, "3", 50_000);
        let rule = Rule::default();
        let finding = store.read_name(&description, rule, now_ms, true, name.as_bytes());
        finding.outcome
    };
    for date in ["20261127", "2026112704", "202611270435", "20261127043500"] {
        assert_eq!(outcome(date, NOW_MS), Outcome::Foreign, "{date}");
    }
    let in_the_future = Outcome::Invalid(Invalid::InTheFuture);
    for time in ["1895739600", "2026992704", "1895739600000"] {
        assert_eq!(outcome(time, NOW_MS), in_the_future, "{time}");
    }
    // In March of 2034, this is the time of a window.
    let then = outcome("2026112704", 2_026_112_704_000);
    assert!(matches!(then, Outcome::Counted(_)), "{then:?}");
}

#[test]
fn a_description_may_say_that_a_missing_time_is_invalid() {
    let text = "
name: own
title: a time beside the counter
counters:
  - name: requests
    key: '^own:(?P<key>.+)$'
    type: string
    count: {value: {started: {key: 'window:$key', unit: s, missing: invalid}}}
    refused: counted
    expiry: normal_without
";
    let description = Description::parse(text).unwrap();
    let mut store = Store::default();
    store.string("own:u", "3", 50_000);
    let rule = Rule::new(Some(5), Some(60));
    let finding = store.read_name(&description, rule, NOW_MS, true, b"own:u");
    assert_eq!(finding.outcome, Outcome::Invalid(Invalid::CompanionMissing));
}
