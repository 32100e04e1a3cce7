//! Limiters without captures: the states follow their formulas.

use ratelimiter_exporter::limiters::{
    CounterReading, Description, Expires, Invalid, Outcome, WithoutExpiry, built_in,
};

use crate::store::{Rule, Store, Value};

/// A Thursday in November 2026, 47.25 s into a minute.
const NOW_MS: u64 = 1_795_691_687_250;
const NOW_S: u64 = NOW_MS / 1000;

fn outcome(kind: &str, store: &Store, rule: Rule, name: &str) -> Outcome {
    let description = Description::parse(built_in(kind).unwrap()).unwrap();
    store
        .read_name(&description, rule, NOW_MS, true, name.as_bytes())
        .outcome
}

#[track_caller]
fn reading(kind: &str, store: &Store, rule: Rule, name: &str) -> CounterReading {
    match outcome(kind, store, rule, name) {
        Outcome::Counted(reading) => reading,
        other => panic!("{kind}: {name}: {other:?}"),
    }
}

#[track_caller]
fn counts(kind: &str, store: &Store, rule: Rule, expected: &[(&str, u64)]) {
    for (name, count) in expected {
        let reading = reading(kind, store, rule, name);
        assert_eq!(
            (reading.count, reading.invalid),
            (*count, None),
            "{kind}: {name}: {reading:?}"
        );
    }
}

#[track_caller]
fn invalid(kind: &str, store: &Store, rule: Rule, name: &str, expected: Invalid) {
    let found = match outcome(kind, store, rule, name) {
        Outcome::Counted(reading) => reading.invalid,
        Outcome::Invalid(invalid) => Some(invalid),
        other => panic!("{kind}: {name}: {other:?}"),
    };
    assert_eq!(found, Some(expected), "{kind}: {name}");
}

fn per_minute(limit: u64) -> Rule {
    Rule::new(Some(limit), Some(60))
}

/// `ratelimit` of Kong and others: the beginning of the minute.
fn minute_s() -> u64 {
    NOW_S / 60 * 60
}

#[test]
fn reference_counts_the_window_alone() {
    let now = 1_795_691_687_250.0;
    let mut store = Store::default();
    store.zset(
        "ratelimit:user:1",
        &[now - 60_001.0, now - 60_000.0, now - 1.0],
        61_000,
    );
    store.string("ratelimit:user:1:seq", "3", -1);
    store.hash(
        "ratelimit:limit:user:2",
        &[("limit", "5"), ("window_ms", "1000")],
        -1,
    );
    store.zset("ratelimit:user:2", &[now - 2_000.0, now - 500.0], 2_000);
    store.zset("ratelimit:ahead", &[now + 60_000.0], 61_000);
    counts(
        "reference",
        &store,
        per_minute(10),
        &[("ratelimit:user:1", 2)],
    );
    let own = reading("reference", &store, Rule::default(), "ratelimit:user:2");
    assert_eq!(
        (own.count, own.limits.limit, own.limits.window_ms),
        (1, Some(5), Some(1_000))
    );
    invalid(
        "reference",
        &store,
        per_minute(10),
        "ratelimit:ahead",
        Invalid::InTheFuture,
    );
    for name in ["ratelimit:user:1:seq", "ratelimit:limit:user:2"] {
        assert_eq!(
            outcome("reference", &store, per_minute(10), name),
            Outcome::Ignored,
            "{name}"
        );
    }
}

#[test]
fn envoy_counts_the_window_of_the_name() {
    let mut store = Store::default();
    let name = |start: u64| format!("edge_remote_address_10.0.0.1_{start}");
    let (current, old, ahead) = (
        name(minute_s()),
        name(minute_s() - 120),
        name(minute_s() + 60),
    );
    store.string(&current, "15", 200_000);
    store.string(&old, "10", -1);
    store.string(&ahead, "1", 300_000);
    counts("envoy-ratelimit", &store, per_minute(10), &[(&current, 15)]);
    assert_eq!(
        outcome("envoy-ratelimit", &store, per_minute(10), &old),
        Outcome::Over(Some(true))
    );
    invalid(
        "envoy-ratelimit",
        &store,
        per_minute(10),
        &ahead,
        Invalid::InTheFuture,
    );
    let unknown = outcome("envoy-ratelimit", &store, Rule::default(), &current);
    assert!(matches!(unknown, Outcome::Unknown(_)), "{unknown:?}");
}

#[test]
fn a_key_of_a_future_window_that_is_gone_is_not_invalid() {
    let next = minute_s() / 60 + 1;
    for (kind, name) in [
        (
            "envoy-ratelimit",
            format!("edge_remote_address_10.0.0.1_{}", minute_s() + 60),
        ),
        (
            "throttled-py",
            format!("throttled:v1:fixed_window:a:period:{next}"),
        ),
        (
            "throttled-py",
            format!("throttled:v1:sliding_window:a:period:{next}"),
        ),
    ] {
        let mut store = Store::default();
        let gone = outcome(kind, &store, per_minute(10), &name);
        assert_eq!(gone, Outcome::Gone, "{name}");
        store.string(&name, "1", 60_000);
        invalid(kind, &store, per_minute(10), &name, Invalid::InTheFuture);
    }
}

#[test]
fn kong_counts_by_the_calendar_and_finds_an_expiry_of_57_000_years() {
    let zero = "00000000-0000-0000-0000-000000000000";
    let name = |start_ms: u64, unit: &str| {
        format!("ratelimit:{zero}:{zero}:2001:db8::1:{start_ms}:{unit}")
    };
    // The first of November 2026, and of October.
    let (november, october) = (1_793_491_200_000, 1_790_812_800_000);
    let mut store = Store::default();
    for (start, unit, value) in [
        (minute_s() * 1000, "minute", "7"),
        (november, "month", "700"),
        (october, "month", "600"),
    ] {
        store.string(&name(start, unit), value, 30_000);
    }
    let rule = Rule::new(Some(10), None);
    counts(
        "kong",
        &store,
        rule,
        &[
            (&name(minute_s() * 1000, "minute"), 7),
            (&name(november, "month"), 700),
        ],
    );
    let over = outcome("kong", &store, rule, &name(october, "month"));
    assert_eq!(over, Outcome::Over(Some(false)));
    store.string(
        &name(minute_s() * 1000, "minute"),
        "7",
        1_793_897_858_507_000,
    );
    invalid(
        "kong",
        &store,
        rule,
        &name(minute_s() * 1000, "minute"),
        Invalid::ExpiresTooLate,
    );
}

#[test]
fn spring_cloud_gateway_refills_by_the_second() {
    let pair = |tokens: &str, time: u64| {
        let mut store = Store::default();
        store.string("request_rate_limiter.{api.user:1}.tokens", tokens, 15_000);
        store.string(
            "request_rate_limiter.{api.user:1}.timestamp",
            &time.to_string(),
            15_000,
        );
        store
    };
    let name = "request_rate_limiter.{api.user:1}.tokens";
    // 10 a second, 80 at once: 3 s ago 20 were left, so that 50 are now.
    let rule = Rule::new(Some(10), Some(1)).burst(80);
    counts(
        "spring-cloud-gateway",
        &pair("20", NOW_S - 3),
        rule,
        &[(name, 30)],
    );
    counts(
        "spring-cloud-gateway",
        &pair("20", NOW_S - 3000),
        rule,
        &[(name, 0)],
    );
    invalid(
        "spring-cloud-gateway",
        &pair("81", NOW_S),
        rule,
        name,
        Invalid::AboveCapacity,
    );
    invalid(
        "spring-cloud-gateway",
        &pair("-1", NOW_S),
        rule,
        name,
        Invalid::Negative,
    );
    invalid(
        "spring-cloud-gateway",
        &pair("1", NOW_S + 60),
        rule,
        name,
        Invalid::InTheFuture,
    );
    invalid(
        "spring-cloud-gateway",
        &pair("NaN", NOW_S),
        rule,
        name,
        Invalid::NotANumber,
    );
    let mut broken = pair("20", NOW_S);
    broken
        .keys
        .remove(&b"request_rate_limiter.{api.user:1}.timestamp"[..]);
    invalid(
        "spring-cloud-gateway",
        &broken,
        rule,
        name,
        Invalid::CompanionMissing,
    );
}

#[test]
fn apisix_formats_are_distinguished() {
    let mut store = Store::default();
    let v1 = "plugin-limit-count:v1:/apisix/routes/1:123456:10.0.0.1";
    let old = "plugin-limit-count/apisix/routes/1:123456:10.0.0.1";
    store.string(v1, "15", 30_000);
    store.string(old, "-5", 30_000);
    counts("apisix", &store, per_minute(10), &[(v1, 15), (old, 15)]);
    let index = NOW_S / 60;
    let sliding =
        |index: u64| format!("plugin-limit-count:/apisix/routes/1:1:10.0.0.1.{index}.counter");
    store.string(&sliding(index), "3", 100_000);
    store.string(&sliding(index - 1), "14", 40_000);
    // 12.75 s of 60 s of the previous window are left, which counts 10 at the most: 3 + 2.125.
    counts("apisix", &store, per_minute(10), &[(&sliding(index), 5)]);
    assert_eq!(
        outcome("apisix", &store, per_minute(10), &sliding(index - 1)),
        Outcome::Part
    );
    let last = (NOW_MS - 500).to_string();
    let requests = "limit_req:/apisix/routes/1:1:10.0.0.1";
    store.hash(requests, &[("excess", "8000"), ("last", &last)], 4_000);
    // 8 were in it, of which 5 drained.
    counts(
        "apisix",
        &store,
        Rule::new(Some(10), None).burst(20),
        &[(requests, 3)],
    );
    let connections = "limit_conn:/apisix/routes/1:1:10.0.0.1";
    let ends =
        [NOW_S - 1, NOW_S + 10, NOW_S + 3_600].map(|end| f64::from(u32::try_from(end).unwrap()));
    store.zset(connections, &ends, 3_000_000);
    counts(
        "apisix",
        &store,
        Rule::new(Some(10), None),
        &[(connections, 2)],
    );
}

#[test]
fn traefik_refills_all_the_time() {
    let mut store = Store::default();
    let name = "rate:api@file:10.0.0.1";
    let last = (NOW_MS * 1000 - 250_000).to_string();
    store.hash(name, &[("last", &last), ("tokens", "2.5")], 1_800);
    // 20 a second: 5 in a quarter.
    let rule = Rule::new(Some(20), Some(1)).burst(50);
    counts("traefik", &store, rule, &[(name, 43)]);
    store.hash(name, &[("last", &last), ("tokens", "-0.4")], 1_800);
    counts("traefik", &store, rule, &[(name, 46)]);
    store.hash(name, &[("last", &last), ("tokens", "-2")], 1_800);
    invalid("traefik", &store, rule, name, Invalid::Negative);
    assert_eq!(
        outcome("traefik", &store, rule, "rate:user:1"),
        Outcome::Foreign
    );
}

#[test]
fn redisson_counts_permits_and_knows_its_limit() {
    let mut store = Store::default();
    let member = |permits: u32| [&[1, 7][..], &permits.to_le_bytes()].concat();
    let now = 1_795_691_687_250.0;
    let permits = vec![
        (member(9), now - 60_001.0),
        (member(2), now - 10.0),
        (member(3), now - 5.0),
    ];
    store.set("{orders}:permits", Value::Zset(permits), -1);
    store.hash(
        "orders",
        &[("rate", "10"), ("interval", "60000"), ("type", "0")],
        -1,
    );
    store.string("{orders}:value", "5", -1);
    let read = reading("redisson", &store, Rule::default(), "{orders}:permits");
    assert_eq!(
        (read.count, read.limits.limit, read.invalid),
        (5, Some(10), None)
    );
    assert_eq!(read.expiry, Some(Expires::Never(None)));
    assert_eq!(
        outcome("redisson", &store, Rule::default(), "{orders}:value"),
        Outcome::Ignored
    );
}

#[test]
fn rack_attack_has_its_period_in_the_number_of_the_name() {
    let mut store = Store::default();
    for period in [1, 60, 300, 3_600] {
        let name = |index: u64| format!("cache:rack::attack:{index}:req/ip:2001:db8::1");
        let (current, old) = (name(NOW_S / period), name(NOW_S / period - 2));
        store.string(&current, "15", 900);
        store.string(&old, "15", -1);
        let read = reading("rack-attack", &store, Rule::new(Some(10), None), &current);
        assert_eq!(
            (read.count, read.limits.window_ms),
            (15, Some(period * 1000)),
            "{period}"
        );
        let over = outcome(
            "rack-attack",
            &store,
            Rule::new(Some(10), Some(period)),
            &old,
        );
        assert_eq!(over, Outcome::Over(Some(true)), "{period}");
    }
    store.string("rack::attack:fail2ban:ban:10.0.0.1", "1", -1);
    assert!(
        reading(
            "rack-attack",
            &store,
            Rule::default(),
            "rack::attack:fail2ban:ban:10.0.0.1"
        )
        .is_stuck()
    );
}

#[test]
fn rails_sets_a_lost_expiry_at_the_next_request() {
    let mut store = Store::default();
    store.string("rate-limit:sessions:2001:db8::1", "15", 50_000);
    store.string("app:rate-limit:sessions:10.0.0.1", "10", -1);
    counts(
        "rails",
        &store,
        per_minute(10),
        &[("rate-limit:sessions:2001:db8::1", 15)],
    );
    let name = "app:rate-limit:sessions:10.0.0.1";
    let endless = reading("rails", &store, per_minute(10), name);
    assert_eq!(
        endless.expiry,
        Some(Expires::Never(Some(WithoutExpiry::Heals)))
    );
    assert!(!endless.is_stuck());
}

#[test]
fn laravel_counts_until_its_keys_expire() {
    let hash = "0123456789abcdef0123456789abcdef";
    let name = format!("app-cache-{hash}");
    let timer = format!("{name}:timer");
    let mut store = Store::default();
    store.string(&name, "10", 30_000);
    store.string(&timer, &(NOW_S + 30).to_string(), 30_000);
    counts("laravel", &store, per_minute(10), &[(&name, 10)]);
    assert_eq!(
        outcome("laravel", &store, per_minute(10), &timer),
        Outcome::Ignored
    );
    store.keys.remove(timer.as_bytes());
    store.string(&name, "10", -1);
    assert!(reading("laravel", &store, per_minute(10), &name).is_stuck());
    store.string(&name, "a:1:{s:1:\"x\";i:1;}", 30_000);
    assert_eq!(
        outcome("laravel", &store, per_minute(10), &name),
        Outcome::Foreign
    );
    let redis = format!("app-database-{hash}");
    let (start, end) = ((NOW_S - 30).to_string(), (NOW_S + 30).to_string());
    store.hash(
        &redis,
        &[("start", &start), ("end", &end), ("count", "4")],
        90_000,
    );
    counts("laravel", &store, per_minute(10), &[(&redis, 4)]);
}

#[test]
fn limitador_names_key_and_window() {
    let limit = r#"{"namespace":"api","seconds":60,"conditions":[],"variables":["user_id"]}"#;
    let name = format!(
        r#"namespace:{{api}},counter:{{"limit":{limit},"set_variables":{{"user_id":"user:1"}}}}"#
    );
    let mut store = Store::default();
    store.string(&name, "11", -1);
    let read = reading("limitador", &store, Rule::new(Some(10), None), &name);
    assert_eq!((read.count, read.limits.window_ms), (11, Some(60_000)));
    assert!(read.is_stuck() && read.is_over_limit() == Some(true));
    let description = Description::parse(built_in("limitador").unwrap()).unwrap();
    let finding = store.read_name(
        &description,
        Rule::new(Some(10), None),
        NOW_MS,
        false,
        name.as_bytes(),
    );
    assert_eq!(finding.matched.unwrap().key(), b"user:1");
}

#[test]
fn dotnet_counts_admitted_requests_alone() {
    let mut store = Store::default();
    let now = 1_795_691_687_250.0;
    store.string("rl:fw:{user:1}", "10", 30_000);
    store.string("rl:fw:{user:1}:exp", &(NOW_MS + 30_000).to_string(), 30_000);
    store.zset("rl:sw:{user:1}", &[now - 61_000.0, now - 1_000.0], 59_000);
    store.string("rl:tb:{user:1}", "2", 59_000);
    // 10 a minute, 30 at once: two minutes and a half ago, so that 20 came.
    store.string("rl:tb:{user:1}:ts", &(NOW_MS - 150_000).to_string(), 59_000);
    store.zset("rl:cc:{user:1}", &[now - 61_000.0, now - 1_000.0], -1);
    let rule = per_minute(10).burst(30);
    let expected = [
        ("rl:fw:{user:1}", 10),
        ("rl:sw:{user:1}", 1),
        ("rl:tb:{user:1}", 8),
        ("rl:cc:{user:1}", 1),
    ];
    counts("dotnet", &store, rule, &expected);
    assert_eq!(
        outcome("dotnet", &store, rule, "rl:fw:{user:1}:exp"),
        Outcome::Ignored
    );
}

#[test]
fn tyk_reads_its_limit_from_the_session() {
    let mut store = Store::default();
    let now = 1_795_691_687_250_000_000.0;
    store.zset(
        "rate-limit-abc123",
        &[now - 61e9, now - 1e9, now - 2e9],
        59_000,
    );
    store.string(
        "apikey-abc123",
        r#"{"rate":5,"per":60,"quota_max":100,"quota_renewal_rate":3600}"#,
        -1,
    );
    store.string("rate-limit-abc123.BLOCKED", "1", 30_000);
    store.string("quota-abc123", "7", -1);
    let read = reading("tyk", &store, Rule::default(), "rate-limit-abc123");
    assert_eq!(
        (read.count, read.limits.limit, read.limits.window_ms),
        (2, Some(5), Some(60_000))
    );
    let quota = reading("tyk", &store, Rule::default(), "quota-abc123");
    assert_eq!(
        (quota.count, quota.limits.limit, quota.expiry),
        (7, Some(100), Some(Expires::Never(None)))
    );
    counts(
        "tyk",
        &store,
        Rule::default(),
        &[("rate-limit-abc123.BLOCKED", 1)],
    );
}

#[test]
fn skipper_counts_log_and_leaky_bucket() {
    let mut store = Store::default();
    let now = 1_795_691_687_250_000_000.0;
    store.zset("ratelimit.api.0a1b2c", &[now - 61e9, now - 1e9], -1);
    // Three intervals of 6 s.
    store.string(
        "lkb.0a1b2c",
        &(NOW_MS * 1000 + 18_000_000).to_string(),
        18_000,
    );
    counts(
        "skipper",
        &store,
        per_minute(10),
        &[("ratelimit.api.0a1b2c", 1), ("lkb.0a1b2c", 3)],
    );
    let read = reading("skipper", &store, per_minute(10), "ratelimit.api.0a1b2c");
    assert_eq!(
        read.expiry,
        Some(Expires::Never(Some(WithoutExpiry::Leaks)))
    );
}

#[test]
fn go_redis_rate_counts_from_2017() {
    let mut store = Store::default();
    // 52.1 s ahead of now, in intervals of 20 s.
    store.string("rate:user:1", "312462939.35", 60_000);
    store.string("rate:garbage", "soon", 60_000);
    let rule = per_minute(3);
    counts("gcra", &store, rule, &[("rate:user:1", 3)]);
    invalid("gcra", &store, rule, "rate:garbage", Invalid::NotANumber);
}
