//! Options of the limiters from npm and of those in Go. Real libraries wrote these states, or their sources show them.

use ratelimiter_exporter::limiters::{Expires, Outcome, Refused};

use crate::store::Rule;
use crate::variants::Variant;

#[test]
fn requests_that_upstash_gives_back_can_bring_a_count_below_0() {
    let mut upstash = Variant::new("upstash");
    let fixed = "@upstash/ratelimit:fw:29928996";
    let sliding = "@upstash/ratelimit:sw:29928996";
    upstash.store.string(fixed, "-1", 55_000);
    upstash.store.string(sliding, "-3", 116_000);
    let before = "@upstash/ratelimit:sw:29928995";
    upstash.store.string(before, "2", 56_000);
    upstash.counts(fixed, "fw", 0);
    upstash.counts(sliding, "sw", 0);
    // 55 of 60 s of the previous window are left.
    upstash.store.string(before, "-3", 56_000);
    upstash.store.string(sliding, "7", 116_000);
    let reading = upstash.counts(sliding, "sw", 4);
    assert_eq!(reading.is_over_limit(), Some(false));
    // Several regions
    let fixed = "@upstash/ratelimit:mf:29928996";
    let sliding = "@upstash/ratelimit:ms:29928996";
    upstash.store.hash(fixed, &[("a", "-1")], 55_000);
    upstash.store.hash(sliding, &[("a", "-1")], 116_000);
    upstash.counts(fixed, "mf", 0);
    upstash.counts(sliding, "ms", 0);
    // More tokens than the bucket has room for
    for field in ["refilledAt", "refilled_at"] {
        let bucket = "@upstash/ratelimit:tb";
        let fields = [(field, "1795739764809"), ("tokens", "7")];
        upstash.store.hash(bucket, &fields, 59_000);
        upstash.counts(bucket, "tb", 0);
    }
}

#[test]
fn a_reservoir_of_bottleneck_can_be_more_than_a_refresh_brings() {
    // incrementReservoir(), reservoirIncreaseAmount, and a reservoir that is larger at the beginning
    let mut bottleneck = Variant::new("bottleneck");
    let name = "b_group-key-user:1_settings";
    let settings = |reservoir| {
        [
            ("reservoir", reservoir),
            ("reservoirRefreshInterval", "60000"),
            ("reservoirRefreshAmount", "5"),
            ("lastReservoirRefresh", "1795739760000"),
        ]
    };
    bottleneck.rule = Rule::default();
    for (reservoir, count) in [("11", 0), ("2", 3)] {
        bottleneck.store.hash(name, &settings(reservoir), 299_000);
        bottleneck.counts(name, "group-key-user:1", count);
    }
}

#[test]
fn throttlers_of_nestjs_redis_count_by_any_name() {
    let mut nest = Variant::new("nest-throttler");
    for throttler in ["default", "short", "long"] {
        // Nest makes a key for each throttler.
        let name = format!("_throttler:{{{throttler}}}");
        nest.store.hash(&name, &[(throttler, "6")], 59_000);
        let reading = nest.counts(&name, throttler, 6);
        assert_eq!(reading.refused, Refused::Capped);
        assert_eq!(reading.expiry, Some(Expires::In(59_000)));
    }
}

#[test]
fn limiters_of_fastify_handlers_have_the_route_undefined() {
    let mut fastify = Variant::new("fastify-rate-limit");
    for (name, label) in [
        // fastify.rateLimit({max: 2}) and createRateLimit({max: 2})
        (
            "fastify-rate-limit-undefinedundefined-user:1",
            "undefinedundefined user:1",
        ),
        (
            "fastify-rate-limit-GET,POST/multi-user:1",
            "GET,POST/multi user:1",
        ),
        ("fastify-rate-limit-undefined", "undefined"),
    ] {
        fastify.store.string(name, "5", 59_000);
        fastify.counts(name, label, 5);
    }
}

#[test]
fn weeks_months_and_years_of_envoy_have_their_lengths() {
    let mut envoy = Variant::new("envoy-ratelimit");
    for days in [7, 30, 365] {
        let seconds = days * 86_400;
        envoy.rule = Rule::new(Some(5), Some(seconds));
        let start = 1_795_739_765 / seconds * seconds;
        let name = format!("mongo_cps_database_users_{start}");
        envoy.store.string(&name, "7", 1_000);
        envoy.counts(&name, "mongo cps_database_users", 7);
        let over = format!("mongo_cps_database_users_{}", start - seconds);
        envoy.store.string(&over, "7", 1_000);
        assert_eq!(envoy.outcome(&over), Outcome::Over(Some(false)), "{over}");
    }
}
