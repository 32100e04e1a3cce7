//! Options and versions of limiters in Python, PHP and Ruby. Real libraries wrote states of these forms.

use ratelimiter_exporter::limiters::{Invalid, Outcome, Unknown};

use crate::store::Rule;
use crate::variants::Variant;

#[test]
fn limits_with_an_empty_namespace_are_counted() {
    let mut limits = Variant::new("limits");
    limits.rule = Rule::default();
    let fixed = "LIMITS:/2001:db8::1/5/1/minute";
    let sliding = "LIMITS:{/user:1/5/1/minute}";
    limits.store.string(fixed, "7", 59_000);
    limits.store.string(sliding, "4", 119_000);
    limits.counts(fixed, "2001:db8::1", 7);
    limits.counts(sliding, "user:1", 4);
}

#[test]
fn a_state_of_pyrate_limiter_with_several_rates_may_live_for_the_slowest() {
    let mut pyrate = Variant::new("pyrate-limiter");
    // 5 a minute, of which 3 are used, and 50 an hour.
    let times = [("tat1", "1795739801000000"), ("tat2", "1795739981000000")];
    pyrate.store.hash("gcra:user:1", &times, 7_199_000);
    pyrate.counts("gcra:user:1", "user:1", 3);
}

#[test]
fn a_client_without_a_name_is_counted() {
    let mut drf = Variant::new("drf");
    let name = ":1:throttle_anon_";
    drf.store.string(name, "[1795739764.5]", 59_000);
    drf.counts(name, "anon", 1);
    let mut attack = Variant::new("rack-attack");
    let name = "rack::attack:29928996:logins/email:";
    attack.store.string(name, "4", 50_000);
    attack.counts(name, "logins/email", 4);
    let mut apisix = Variant::new("apisix");
    let name = "plugin-limit-count:v1:/apisix/routes/1:12:";
    apisix.store.string(name, "4", 50_000);
    apisix.counts(name, name, 4);
}

const HASH: &str = "1eec14053d99b7ebec4e559b4b2d4c208451e117";

#[test]
fn laravel_counts_without_a_timer_that_can_be_read() {
    let mut laravel = Variant::new("laravel");
    let name = format!("laravel-database-laravel-cache-{HASH}");
    let named = "laravel-database-laravel-cache-login:1";
    // Serialized by PHP, by igbinary, and as JSON with LZF
    for timer in ["i:1795739815;", "\0\0\0\u{2}\n", "\t1795739815"] {
        for counter in [&name, named] {
            laravel.store.string(counter, "4", 50_000);
            laravel
                .store
                .string(&format!("{counter}:timer"), timer, 50_000);
        }
        laravel.counts(&name, HASH, 4);
        laravel.counts(&format!("{named}:timer"), "login:1", 4);
    }
}

#[test]
fn laravel_counts_without_a_prefix_of_the_cache_and_with_others() {
    let mut laravel = Variant::new("laravel");
    for (name, label) in [
        (
            "laravel_database_login:a@b.c|10.0.0.1",
            "login:a@b.c|10.0.0.1",
        ),
        ("laravel_database_shop:export:cafe", "shop:export:cafe"),
        ("laravel_database_laravel_cache_42", "42"),
        (&format!("laravel_database_{HASH}"), HASH),
        (
            &format!("laravel_database_laravel_cache_login:{HASH}"),
            &format!("login:{HASH}"),
        ),
    ] {
        let timer = format!("{name}:timer");
        laravel.store.string(name, "2", 50_000);
        laravel.store.string(&timer, "1795739815", 50_000);
        laravel.counts(&timer, label, 2);
        assert_eq!(laravel.outcome(name), Outcome::Foreign, "{name}");
    }
}

#[test]
fn other_data_of_laravel_whose_name_is_a_hash_is_no_counter() {
    let mut laravel = Variant::new("laravel");
    for prefix in ["laravel_database_", "laravel_database_shop:"] {
        let name = format!("{prefix}{HASH}");
        laravel.store.string(&name, "4711", -1);
        assert_eq!(laravel.outcome(&name), Outcome::Foreign, "{name}");
    }
}

#[test]
fn a_number_in_laravels_cache_whose_name_is_a_hash_is_not_over_the_limit_without_a_timer() {
    let mut laravel = Variant::new("laravel");
    let name = format!("laravel-database-laravel-cache-{HASH}");
    laravel.store.string(&name, "4711", 50_000);
    assert_eq!(laravel.outcome(&name), Outcome::Foreign);
    laravel.store.string(&name, "4711", 500_000);
    assert_eq!(laravel.outcome(&name), Outcome::Foreign);
    // It outlived its timer.
    laravel.store.string(&name, "7", -1);
    assert!(laravel.counts(&name, HASH, 7).is_stuck());
    let timer = format!("{name}:timer");
    laravel.store.string(&timer, "1795739815", 50_000);
    laravel.store.string(&name, "7", 50_000);
    let reading = laravel.counts(&name, HASH, 7);
    assert_eq!(reading.is_over_limit(), Some(true));
}

#[test]
fn garbage_in_laravels_cache_is_invalid_beside_a_timer() {
    let mut laravel = Variant::new("laravel");
    let cache = format!("laravel-database-laravel-cache-{HASH}");
    let none = format!("laravel_database_{HASH}");
    for (name, by) in [(&cache, cache.clone()), (&none, format!("{none}:timer"))] {
        laravel.store.string(name, "garbage", 50_000);
        assert_eq!(laravel.outcome(name), Outcome::Foreign, "{name}");
        let timer = format!("{name}:timer");
        laravel.store.string(&timer, "1795739815", 50_000);
        let invalid = Outcome::Invalid(Invalid::NotANumber);
        assert_eq!(laravel.outcome(&by), invalid, "{by}");
    }
}

#[test]
fn garbage_in_a_hash_of_laravels_middleware_is_invalid() {
    let mut laravel = Variant::new("laravel");
    let fields = [("start", "x"), ("end", "x"), ("count", "x")];
    let name = format!("laravel_database_{HASH}");
    laravel.store.hash(&name, &fields, 50_000);
    let invalid = Outcome::Invalid(Invalid::NotANumber);
    assert_eq!(laravel.outcome(&name), invalid);
    let other = "laravel_database_report:1";
    laravel.store.hash(other, &fields, 50_000);
    assert_eq!(laravel.outcome(other), Outcome::Foreign);
}

#[test]
fn a_throttle_of_20_seconds_is_not_in_the_future_of_a_rule_for_a_minute() {
    let mut attack = Variant::new("rack-attack");
    let window = 1_795_739_765 / 20;
    let name = |index: u64| format!("rack::attack:{index}:logins/ip:2001:db8::1");
    attack.store.string(&name(window), "4", 15_000);
    let reading = attack.counts(&name(window), "logins/ip 2001:db8::1", 4);
    assert_eq!(reading.limits.window_ms, Some(20_000));
    assert_eq!(reading.limits.limit, None);
    // The key of the window before lives a second longer.
    attack.store.string(&name(window - 1), "4", 500);
    let unknown = Outcome::Unknown(Unknown::NoWindow);
    assert_eq!(attack.outcome(&name(window - 1)), unknown);
}
