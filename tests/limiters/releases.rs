//! Older releases and rarer options of limiters from npm, and of those in Go, Rust and .NET. Real libraries wrote such states, or
//! their sources show them.

use ratelimiter_exporter::limiters::{Invalid, Outcome, Refused};

use crate::store::{Rule, Value};
use crate::variants::Variant;

#[test]
fn token_buckets_of_upstash_before_1_0_begin_anew_in_each_window() {
    let mut upstash = Variant::new("upstash");
    let bucket = "@upstash/ratelimit:2001:db8::1:29928996";
    let fields = |tokens| [("updatedAt", "1795739764809"), ("tokens", tokens)];
    upstash.store.hash(bucket, &fields("2"), 59_000);
    let reading = upstash.counts(bucket, "2001:db8::1", 3);
    assert_eq!(reading.refused, Refused::NotCounted);
    let before = "@upstash/ratelimit:2001:db8::1:29928995";
    upstash.store.hash(before, &fields("0"), 1_000);
    assert_eq!(upstash.outcome(before), Outcome::Over(Some(false)));
    upstash.store.hash(bucket, &fields("-1"), 59_000);
    let Outcome::Counted(reading) = upstash.outcome(bucket) else {
        panic!("{bucket}");
    };
    assert_eq!(reading.invalid, Some(Invalid::Negative));
}

#[test]
fn analytics_of_upstash_are_no_counters() {
    let mut upstash = Variant::new("upstash");
    let name = "@upstash/ratelimit:events:1795737600000";
    let event = r#"{"identifier":"user:1","success":true}"#;
    upstash.store.hash(name, &[(event, "10")], -1);
    assert_eq!(upstash.outcome(name), Outcome::Ignored);
    let events = Value::Zset(vec![(event.as_bytes().to_vec(), 10.0)]);
    upstash.store.set(name, events, -1);
    assert_eq!(upstash.outcome(name), Outcome::Ignored);
}

#[test]
fn requests_of_several_upstash_regions_before_1_0_are_not_foreign() {
    let mut upstash = Variant::new("upstash");
    let name = "@upstash/ratelimit:user:1:29928996";
    upstash.store.set(name, Value::Other("set"), 59_000);
    assert_eq!(upstash.outcome(name), Outcome::Ignored);
}

#[test]
fn throttlers_of_nestjs_redis_before_1_0_have_no_braces() {
    let mut nest = Variant::new("nest-throttler");
    for (name, label) in [
        ("_throttler:2001:db8::1", "2001:db8::1"),
        ("_throttler:{2001:db8::1}", "2001:db8::1"),
    ] {
        nest.store.hash(name, &[("default", "6")], 59_000);
        nest.counts(name, label, 6);
        let block = format!("{name}:block:default");
        nest.store.string(&block, "1", 59_000);
        nest.counts(&block, &format!("{label} blocked"), 1);
    }
}

#[test]
fn a_bottleneck_without_a_reservoir_does_not_make_invariants_unevaluable() {
    let mut bottleneck = Variant::new("bottleneck");
    bottleneck.rule = Rule::default();
    let name = "b_crawler_settings";
    let settings = [("lastReservoirRefresh", "1795739764000"), ("reservoir", "")];
    bottleneck.store.hash(name, &settings, -1);
    assert_eq!(bottleneck.outcome(name), Outcome::Ignored);
    bottleneck.store.hash(name, &settings[..1], -1);
    let missing = Outcome::Invalid(Invalid::CompanionMissing);
    assert_eq!(bottleneck.outcome(name), missing);
}

#[test]
fn the_burst_of_rate_limiter_flexible_is_counted() {
    let mut flexible = Variant::new("rate-limiter-flexible");
    flexible.store.string("burst:2001:db8::1", "5", 599_000);
    flexible.counts("burst:2001:db8::1", "burst 2001:db8::1", 5);
}

#[test]
fn ratelimiter_before_3_counts_what_remains() {
    let mut log = Variant::new("zset-log");
    log.rule = Rule::new(None, Some(60));
    let name = "limit:2001:db8::1:count";
    log.store.string(name, "0", 59_000);
    log.store.string("limit:2001:db8::1:limit", "10", 59_000);
    log.store
        .string("limit:2001:db8::1:reset", "1795739824", 59_000);
    let reading = log.counts(name, "2001:db8::1", 10);
    assert_eq!(reading.limits.limit, Some(10));
    for part in ["limit:2001:db8::1:limit", "limit:2001:db8::1:reset"] {
        assert_eq!(log.outcome(part), Outcome::Ignored);
    }
    log.store.string(name, "0", -1);
    assert!(log.counts(name, "2001:db8::1", 10).is_stuck());
    log.store
        .string("limit:2001:db8::1:reset", "1795739764", 500);
    assert!(!log.counts(name, "2001:db8::1", 0).is_stuck());
}

#[test]
fn variables_of_limitador_that_are_expressions_are_no_part_of_labels() {
    let mut limitador = Variant::new("limitador");
    let variable = r#"descriptors[0][\"auth.identity.userid\"]"#;
    let limit =
        format!(r#"{{"namespace":"api","seconds":60,"conditions":[],"variables":["{variable}"]}}"#);
    let name = format!(
        r#"namespace:{{api}},counter:{{"limit":{limit},"set_variables":{{"{variable}":"2001:db8::1"}},"remaining":null,"expires_in":null}}"#
    );
    limitador.store.string(&name, "4", 59_000);
    limitador.counts(&name, "api 2001:db8::1", 4);
    // Of a limit with an id. The name of the variable has 38 bytes.
    let variable = variable.replace('\\', "");
    let name = format!("\u{2}\u{8}per_user\u{1}&{variable}\u{b}2001:db8::1");
    limitador.store.string(&name, "4", 59_000);
    limitador.counts(&name, "per_user 2001:db8::1", 4);
}

#[test]
fn limits_of_limitador_with_an_id_count_with_any_number_of_variables() {
    let mut limitador = Variant::new("limitador");
    let none = "\u{2}\u{8}per_user\0";
    let two = "\u{2}\u{8}per_user\u{2}\u{3}app\u{1}a\u{4}user\u{6}user:1";
    limitador.store.string(none, "4", 59_000);
    limitador.counts(none, "per_user", 4);
    limitador.store.string(two, "11", -1);
    let label = "per_user \u{3}app\u{1}a\u{4}user\u{6}user:1";
    let reading = limitador.counts(two, label, 11);
    assert_eq!(reading.is_over_limit(), Some(true));
    assert!(reading.is_stuck());
    let index = "\u{2}\u{8}per_user";
    limitador.store.set(index, Value::Other("set"), -1);
    let reservations = format!("{two},reservations");
    limitador.store.hash(&reservations, &[("id", "1")], 50_000);
    for name in [index, &reservations] {
        assert_eq!(limitador.outcome(name), Outcome::Ignored);
    }
}

#[test]
fn a_request_that_redis_rate_admits_half_an_interval_early_is_legal() {
    let mut gcra = Variant::new("gcra");
    gcra.rule = Rule::new(Some(10), Some(60));
    // 10.4 and 11 intervals of 6 s ahead
    let name = "rate:user:1";
    gcra.store.string(name, "312511027.4", 63_000);
    let reading = gcra.counts(name, "user:1", 10);
    assert_eq!(reading.is_over_limit(), Some(false));
    gcra.store.string(name, "312511031", 66_000);
    let Outcome::Counted(reading) = gcra.outcome(name) else {
        panic!("{name}");
    };
    assert_eq!(reading.is_over_limit(), Some(true));
    assert_eq!(reading.invalid, Some(Invalid::AboveCapacity));
}
