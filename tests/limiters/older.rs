//! Names that older versions of libraries write.

use ratelimiter_exporter::limiters::{Description, Outcome, built_in};

use crate::store::{Rule, Store, Value};

const NOW_MS: u64 = 1_795_728_349_000;

/// Checks the count and limit of each name.
#[track_caller]
fn counts(kind: &str, store: &Store, rule: Rule, expected: &[(&str, u64, u64)]) {
    let description = Description::parse(built_in(kind).unwrap()).unwrap();
    for (name, count, limit) in expected {
        let seen = store.read_name(&description, rule, NOW_MS, true, name.as_bytes());
        let Outcome::Counted(reading) = seen.outcome else {
            panic!("{name}: {:?}", seen.outcome);
        };
        let found = (reading.count, reading.limits.limit, reading.invalid);
        assert_eq!(found, (*count, Some(*limit), None), "{name}");
    }
}

#[test]
fn names_of_limits_before_3_8_have_no_prefix() {
    let mut store = Store::default();
    store.string("LIMITER/2001:db8::1/route/5/1/minute", "7", 59_000);
    let times = ["1795728348.56", "1795728348.55", "1795728348.54"];
    let times = times.map(|time| time.as_bytes().to_vec()).to_vec();
    store.set("LIMITER/u1/route/5/1/hour", Value::List(times), 3_599_000);
    let expected = [
        ("LIMITER/2001:db8::1/route/5/1/minute", 7, 5),
        ("LIMITER/u1/route/5/1/hour", 3, 5),
    ];
    counts("limits", &store, Rule::default(), &expected);
}

#[test]
fn names_of_django_ratelimit_before_4_1_are_md5() {
    let mut store = Store::default();
    let name = ":1:rl:0eec078501f8ca11cc5898f02c3db322";
    store.string(name, "7", 64_000);
    let rule = Rule::new(Some(5), Some(60));
    counts("django-ratelimit", &store, rule, &[(name, 7, 5)]);
}

#[test]
fn names_of_fastapi_limiter_0_1_4_have_one_index() {
    let mut store = Store::default();
    let name = "fastapi-limiter:2001:db8::1:/items:3";
    store.string(name, "5", 59_000);
    let rule = Rule::new(Some(5), Some(60));
    counts("fastapi-limiter", &store, rule, &[(name, 5, 5)]);
}
