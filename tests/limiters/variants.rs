//! Options of libraries that change names and values. Real libraries wrote these states, or their sources show them.

use ratelimiter_exporter::limiters::{
    CounterReading, Description, Finding, Fit, Invalid, Outcome, Refused, Type, Unknown, built_in,
};

use crate::store::{Rule, Store, Value};

mod python_java_lua;

/// 5 s into a minute.
const NOW_MS: u64 = 1_795_739_765_000;

pub(crate) struct Variant {
    kind: &'static str,
    pub(crate) store: Store,
    pub(crate) rule: Rule,
}

impl Variant {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            store: Store::default(),
            rule: Rule::new(Some(5), Some(60)),
        }
    }

    fn description(&self) -> Description {
        Description::parse(built_in(self.kind).unwrap()).unwrap()
    }

    fn finding(&self, name: &str) -> Finding {
        let description = self.description();
        let name = name.as_bytes();
        self.store
            .read_name(&description, self.rule, NOW_MS, true, name)
    }

    pub(crate) fn outcome(&self, name: &str) -> Outcome {
        self.finding(name).outcome
    }

    /// Checks the label and the count of a name, and that its state is valid.
    #[track_caller]
    pub(crate) fn counts(&self, name: &str, label: &str, count: u64) -> CounterReading {
        let description = self.description();
        let finding = self.finding(name);
        let (Some(matched), Outcome::Counted(reading)) = (finding.matched, &finding.outcome) else {
            panic!("{name}: {:?}", finding.outcome);
        };
        let found = description.counter(&matched).label(&matched);
        assert_eq!(String::from_utf8_lossy(&found), label, "{name}");
        assert_eq!((reading.count, reading.invalid), (count, None), "{name}");
        reading.clone()
    }
}

#[test]
fn other_data_whose_names_fit_a_common_word_is_no_counter() {
    for (kind, name) in [
        ("rate-limiter-flexible", "burst:photos"),
        ("litellm", "{user:1}:requests"),
        ("litellm", "{user:1}:tokens"),
        ("litellm", "{user_tpd:1}:tokens"),
        ("zset-log", "limit:orders:count"),
    ] {
        let mut variant = Variant::new(kind);
        variant.store.string(name, r#"{"of":1}"#, 50_000);
        assert_eq!(variant.outcome(name), Outcome::Foreign, "{kind}: {name}");
        variant.store.string(name, "3", 50_000);
        assert!(!matches!(variant.outcome(name), Outcome::Foreign), "{name}");
    }
}

#[test]
fn garbage_beside_the_window_of_a_counter_is_invalid() {
    for (kind, name, beside) in [
        ("litellm", "{user:1}:requests", "{user:1}:window"),
        ("litellm", "{user:1}:tokens", "{user:1}:window"),
        ("zset-log", "limit:user:1:count", "limit:user:1:reset"),
    ] {
        let mut variant = Variant::new(kind);
        variant.store.string(name, "garbage", 50_000);
        variant.store.string(beside, "1795739764", 50_000);
        let invalid = Outcome::Invalid(Invalid::NotANumber);
        assert_eq!(variant.outcome(name), invalid, "{kind}: {name}");
    }
}

#[test]
fn limits_without_identifiers_are_counted() {
    let mut limits = Variant::new("limits");
    let (fixed, sliding) = ("LIMITS:LIMITER/5/1/minute", "LIMITS:{LIMITER/5/2/day}");
    limits.store.string(fixed, "3", 59_000);
    limits.store.string(sliding, "2", 345_599_000);
    limits.rule = Rule::default();
    for (name, count) in [(fixed, 3), (sliding, 2)] {
        let reading = limits.counts(name, name, count);
        assert_eq!(reading.limits.limit, Some(5));
    }
}

#[test]
fn a_colon_in_the_key_prefix_of_django_is_part_of_the_prefix() {
    let mut drf = Variant::new("drf");
    let name = "my:site:1:throttle_user_2001:db8::1";
    drf.store
        .string(name, "[1795739764.5, 1795739704.9]", 59_000);
    drf.counts(name, "user 2001:db8::1", 1);
    let mut ratelimit = Variant::new("django-ratelimit");
    let name = "my:site:1:rl:0eec078501f8ca11cc5898f02c3db322";
    ratelimit.store.string(name, "7", 64_000);
    ratelimit.counts(name, "0eec078501f8ca11cc5898f02c3db322", 7);
}

#[test]
fn histories_of_drf_in_other_formats_are_unknown_and_not_invalid() {
    let mut drf = Variant::new("drf");
    // django-redis with MessagePack, a pickle of protocol 0, lzma, and zlib of a low level
    for value in [
        &b"\x91\xcb\x41\xda\xc2\x0e\xd0\xf8\x00\x00"[..],
        b"(lp0\nF1795739764.5\na.",
        b"\xfd7zXZ\0\0\x04",
        b"\x78\x5e\x6b\x60",
    ] {
        let name = ":1:throttle_user_1";
        drf.store.set(name, Value::String(value.to_vec()), 59_000);
        let unreadable = Outcome::Unknown(Unknown::Unreadable);
        assert_eq!(drf.outcome(name), unreadable, "{value:?}");
    }
}

#[test]
fn names_of_fastapi_limiter_with_own_identifiers_and_of_websockets_are_counted() {
    let mut limiter = Variant::new("fastapi-limiter");
    for (name, label) in [
        ("fastapi-limiter:2001:db8::1:/:4:1", "/ 2001:db8::1"),
        (
            "fastapi-limiter:2001:db8::1:/v1/items:batch:5:0",
            "/v1/items:batch 2001:db8::1",
        ),
        ("fastapi-limiter:user:2001:db8::1:6:0", "user:2001:db8::1"),
        ("fastapi-limiter:ws:10.0.0.1:/ws:", "10.0.0.1:/ws"),
        ("fastapi-limiter:ws:10.0.0.1:/ws:hello", "10.0.0.1:/ws"),
    ] {
        limiter.store.string(name, "4", 59_000);
        limiter.counts(name, label, 4);
    }
}

#[test]
fn a_limit_for_all_workers_of_a_bullmq_queue_is_read() {
    let mut bullmq = Variant::new("bullmq");
    bullmq.store.string("bull:mail:limiter", "3", 57_000);
    let meta = [
        ("version", "bullmq:5.81.5"),
        ("max", "3"),
        ("duration", "60000"),
    ];
    bullmq.store.hash("bull:mail:meta", &meta, -1);
    bullmq.rule = Rule::default();
    let reading = bullmq.counts("bull:mail:limiter", "mail", 3);
    let limits = (reading.limits.limit, reading.limits.window_ms);
    assert_eq!(limits, (Some(3), Some(60_000)));
}

#[test]
fn a_block_of_nestjs_redis_is_a_counter() {
    let mut nest = Variant::new("nest-throttler");
    let name = "_throttler:{2001:db8::1}:block:long";
    nest.store.string(name, "1", 59_000);
    nest.counts(name, "2001:db8::1 blocked", 1);
}

#[test]
fn counters_of_several_upstash_regions_slide_if_they_outlive_their_window() {
    let mut upstash = Variant::new("upstash");
    let (fixed, sliding) = (
        "@upstash/ratelimit:mf:1:29928996",
        "@upstash/ratelimit:ms:1:29928996",
    );
    let requests = [("a", "1"), ("b", "2"), ("c", "1")];
    upstash.store.hash(fixed, &requests, 55_000);
    upstash.store.hash(sliding, &requests, 116_000);
    let before = "@upstash/ratelimit:ms:1:29928995";
    upstash.store.hash(before, &[("d", "2")], 56_000);
    assert_eq!(upstash.counts(fixed, "mf:1", 4).refused, Refused::Counted);
    // 55 of 60 s of the previous window are left.
    assert_eq!(
        upstash.counts(sliding, "ms:1", 5).refused,
        Refused::NotCounted
    );
    assert_eq!(upstash.outcome(before), Outcome::Part);
    // Of a client whose id ends like a window.
    let bucket = "@upstash/ratelimit:user:12345";
    let fields = [("refilledAt", "1795739764809"), ("tokens", "3")];
    upstash.store.hash(bucket, &fields, 119_000);
    upstash.counts(bucket, "user:12345", 2);
}

#[test]
fn laravel_10_has_a_colon_after_its_prefix() {
    let mut laravel = Variant::new("laravel");
    let key = "1eec14053d99b7ebec4e559b4b2d4c208451e117";
    let name = format!("laravel_database_laravel_cache_:{key}");
    laravel.store.string(&name, "5", 50_000);
    laravel
        .store
        .string(&format!("{name}:timer"), "1795739815", 50_000);
    laravel.counts(&name, key, 5);
    assert_eq!(laravel.outcome(&format!("{name}:timer")), Outcome::Ignored);
}

#[test]
fn calls_of_laravels_rate_limiter_are_counted_by_their_own_keys() {
    let mut laravel = Variant::new("laravel");
    for (prefix, key) in [
        ("laravel_database_laravel_cache_:", "a@b.c|2001:db8::1"),
        ("laravel-database-laravel-cache-", "login:1"),
    ] {
        let name = format!("{prefix}{key}");
        let timer = format!("{name}:timer");
        laravel.store.string(&name, "5", 50_000);
        laravel.store.string(&timer, "1795739815", 50_000);
        laravel.counts(&timer, key, 5);
        assert_eq!(laravel.outcome(&name), Outcome::Foreign, "{name}");
    }
    // An entry of the cache that is called like a timer.
    let timer = "laravel-database-laravel-cache-foo:timer";
    laravel.store.string(timer, "12", 50_000);
    assert_eq!(laravel.outcome(timer), Outcome::Gone);
}

#[test]
fn requests_that_laravel_refuses_in_redis_are_no_violation() {
    let mut laravel = Variant::new("laravel");
    let fields = [
        ("start", "1795739760"),
        ("end", "1795739820"),
        ("count", "7"),
    ];
    let named = "laravel_database_my-key:1";
    laravel.store.hash(named, &fields, 115_000);
    assert_eq!(
        laravel.counts(named, "my-key:1", 7).refused,
        Refused::Counted
    );
    // In a cluster
    let key = "{a01145a54ad20721c4bd29b11773ed8f}";
    let name = format!("laravel-database-{key}");
    laravel.store.hash(&name, &fields, 115_000);
    // The middleware checks each limit before it counts only since Laravel 12 in February 2026.
    assert_eq!(laravel.counts(&name, key, 7).refused, Refused::Counted);
    let other = "laravel_database_horizon:x";
    laravel.store.hash(other, &[("end", "never")], -1);
    assert_eq!(laravel.outcome(other), Outcome::Foreign);
}

#[test]
fn counters_of_apisix_groups_are_counted() {
    let mut apisix = Variant::new("apisix");
    for (name, value) in [
        ("plugin-limit-count:v1:services_1#16:10.0.0.1", "4"),
        ("plugin-limit-countservices_1#16:10.0.0.1", "1"),
        (
            "plugin-limit-count:services_1#16:2001:db8::1.29928996.counter",
            "4",
        ),
        ("plugin-limit-count:v1:/apisix/routes/1:12:::1", "4"),
        ("plugin-limit-count/apisix/routes/1:12:::1", "1"),
    ] {
        apisix.store.string(name, value, 50_000);
        let label = ["2001:db8::1", "::1", "10.0.0.1"];
        let label = label.into_iter().find(|label| name.contains(label));
        apisix.counts(name, label.unwrap(), 4);
    }
}

#[test]
fn names_of_limitador_end_with_what_the_counter_leaves_open() {
    // serde writes all fields of the counter.
    let name = |variables: &str| {
        let limit =
            r#"{"namespace":"api","seconds":60,"conditions":["m == 'GET'"],"variables":["u"]}"#;
        format!(
            r#"namespace:{{api}},counter:{{"limit":{limit},"set_variables":{{{variables}}},"remaining":null,"expires_in":null}}"#
        )
    };
    let mut limitador = Variant::new("limitador");
    for (variables, label) in [
        (r#""u":"2001:db8::1""#, "api 2001:db8::1"),
        (r#""u":"a}b c""#, "api a}b c"),
        ("", "api"),
    ] {
        let name = name(variables);
        limitador.store.string(&name, "4", 59_000);
        limitador.counts(&name, label, 4);
        let reservations = format!("{name},reservations");
        limitador.store.hash(&reservations, &[("id", "1")], 50_000);
        assert_eq!(limitador.outcome(&reservations), Outcome::Ignored);
    }
}

#[test]
fn binary_names_of_limitador_with_one_variable_are_counted() {
    let mut limitador = Variant::new("limitador");
    let long = "0123456789abcdef".repeat(9);
    for (length, key) in [
        ("\u{6}", "user:1"),
        ("\u{b}", "2001:db8::1"),
        ("$", "123e4567-e89b-12d3-a456-426614174000"),
    ] {
        let name = format!("\u{2}\u{8}per_user\u{1}\u{7}user_id{length}{key}");
        limitador.store.string(&name, "4", 59_000);
        limitador.counts(&name, &format!("per_user {key}"), 4);
    }
    // The length of 144 takes two bytes.
    let name = [b"\x02\x08per_user\x01\x07user_id\x90\x01", long.as_bytes()].concat();
    let description = limitador.description();
    let Fit::Counter(matched) = description.match_name(&name, Some(Type::String)) else {
        panic!("{long}");
    };
    assert_eq!(matched.key(), long.as_bytes());
}

#[test]
fn buckets_and_connections_of_apisix_up_to_3_17_are_strings() {
    let mut apisix = Variant::new("apisix");
    let bucket = "limit_req:10.0.0.1route&plugin5excess";
    let time = "limit_req:10.0.0.1route&plugin5last";
    apisix.store.string(bucket, "3000", -1);
    apisix.store.string(time, "1795739764800", -1);
    apisix.rule = Rule::new(Some(5), None);
    // 3 requests, less 0.2 s of 5 a second
    apisix.counts(bucket, "10.0.0.1route&plugin5 requests", 2);
    assert_eq!(apisix.outcome(time), Outcome::Ignored);
    let connections = "limit_conn:10.0.0.1route&plugin5";
    apisix.store.string(connections, "4", -1);
    let label = "10.0.0.1route&plugin5 connections";
    assert_eq!(
        apisix.counts(connections, label, 4).refused,
        Refused::Counted
    );
}

#[test]
fn times_of_dotnet_in_seconds_are_read_like_those_in_milliseconds() {
    for (earlier, now, end) in [
        (1_795_739_700.5, 1_795_739_764.938, "1795739790"),
        (1_795_739_700_500.0, 1_795_739_764_938.0, "1795739790000"),
    ] {
        let mut dotnet = Variant::new("dotnet");
        dotnet
            .store
            .zset("rl:sw:{user:1}", &[earlier, now, now], 59_000);
        dotnet.counts("rl:sw:{user:1}", "user:1", 2);
        dotnet.store.string("rl:fw:{user:1}", "4", 26_000);
        dotnet.store.string("rl:fw:{user:1}:exp", end, 26_000);
        dotnet.counts("rl:fw:{user:1}", "user:1", 4);
        dotnet.store.string("rl:tb:{user:1}", "1", 100_000);
        let time = format!("{now}");
        dotnet.store.string("rl:tb:{user:1}:ts", &time, 100_000);
        dotnet.counts("rl:tb:{user:1}", "user:1", 4);
    }
}
