//! Python, Java and Lua: options, versions and states of which there is no dump.

use ratelimiter_exporter::limiters::{Invalid, Outcome, Refused, Unknown};

use super::{NOW_MS, Variant};
use crate::store::{Rule, Value};

#[test]
fn requests_that_several_litellm_processes_refuse_are_no_violation() {
    let mut litellm = Variant::new("litellm");
    litellm.store.string("{user:u1}:requests", "9", 50_000);
    litellm
        .store
        .string("{user:u1}:window", "1795739755", 50_000);
    let reading = litellm.counts("{user:u1}:requests", "user u1", 9);
    assert_eq!(reading.refused, Refused::Counted);
    assert_eq!(reading.is_over_limit(), Some(false));
}

#[test]
fn a_litellm_counter_that_outlives_its_window_is_over_and_not_invalid() {
    let mut litellm = Variant::new("litellm");
    // Tokens began the window again after the requests were counted; the next request then began a counter of 60 s.
    let name = "{api_key:k1}:requests";
    litellm.store.string(name, "3", 20_000);
    assert_eq!(litellm.outcome(name), Outcome::Over(Some(false)));
}

#[test]
fn limits_of_litellm_per_day_have_a_window_of_a_day() {
    let mut litellm = Variant::new("litellm");
    litellm.rule = Rule::new(Some(1000), None);
    let name = "{api_key_tpd:k1}:tokens";
    litellm.store.string(name, "700", 80_000_000);
    let window = "{api_key_tpd:k1}:window";
    litellm.store.string(window, "1795733365", 80_000_000);
    let reading = litellm.counts(name, "tokens api_key_tpd k1", 700);
    assert_eq!(reading.limits.window_ms, Some(86_400_000));
    let name = "{model_per_key:k1:gpt-4o}:tokens";
    litellm.store.string(name, "12.5", 50_000);
    let reading = litellm.counts(name, "tokens model_per_key k1:gpt-4o", 13);
    assert_eq!(reading.limits.window_ms, Some(60_000));
}

#[test]
fn parallel_requests_of_litellm_1_80_that_never_end_are_stuck() {
    let mut litellm = Variant::new("litellm");
    let name = "{api_key:k1}:max_parallel_requests";
    litellm.store.string(name, "6", -1);
    assert!(litellm.counts(name, "parallel api_key k1", 6).is_stuck());
    // Its key expired before a request ended.
    litellm.store.string(name, "-1", 50_000);
    litellm.counts(name, "parallel api_key k1", 0);
}

#[test]
fn an_agents_session_that_never_expires_is_stuck_in_litellm() {
    let mut litellm = Variant::new("litellm");
    litellm.rule = Rule::new(Some(25), None);
    let name = "{session_iterations:2001:db8::1}:count";
    litellm.store.string(name, "30", -1);
    let reading = litellm.counts(name, "iterations 2001:db8::1", 30);
    assert!(reading.is_stuck());
    assert_eq!(reading.is_over_limit(), Some(false));
    let spend = "{session_budget:s1}:spend";
    litellm.store.string(spend, "0.0125", 3_600_000);
    assert_eq!(litellm.outcome(spend), Outcome::Foreign);
}

#[test]
fn redisson_limiters_with_braces_in_their_names_have_their_own_limits() {
    let mut redisson = Variant::new("redisson");
    redisson.rule = Rule::default();
    let member = |permits: u32| [&[1, 7][..], &permits.to_le_bytes()].concat();
    let permits = Value::Zset(vec![(member(2), 1_795_739_764_000.0)]);
    let client = "8743c9c0-0795-4907-87fd-6c719a6b4586";
    let name_of_client = format!("{{tenant}}:mail:permits:{client}");
    let label_of_client = format!("tenant:mail {client}");
    for (limiter, permits_of, label) in [
        ("orders", "{orders}:permits", "orders"),
        ("{tenant:1}", "{tenant:1}:permits", "tenant:1"),
        (
            "{tenant}:orders",
            "{tenant}:orders:permits",
            "tenant:orders",
        ),
        (
            "{tenant}:mail",
            name_of_client.as_str(),
            label_of_client.as_str(),
        ),
    ] {
        let rates = [("rate", "10"), ("interval", "60000"), ("type", "0")];
        redisson.store.hash(limiter, &rates, -1);
        redisson.store.set(permits_of, permits.clone(), -1);
        let reading = redisson.counts(permits_of, label, 2);
        assert_eq!(reading.limits.limit, Some(10), "{limiter}");
    }
    redisson.store.string("{tenant}:orders:value", "8", -1);
    assert_eq!(redisson.outcome("{tenant}:orders:value"), Outcome::Ignored);
    // A malformed configuration is a problem, and not one that has ended.
    for (interval, unknown) in [("a minute", true), ("60000", false)] {
        let rates = [("rate", "10"), ("interval", interval), ("type", "0")];
        redisson.store.hash("orders", &rates, -1);
        let outcome = redisson.outcome("{orders}:permits");
        let is_unknown = outcome == Outcome::Unknown(Unknown::NoWindow);
        assert_eq!(is_unknown, unknown, "{outcome:?}");
    }
    // expire() of older versions ends the configuration alone.
    redisson.store.keys.remove(&b"orders"[..]);
    let over = redisson.outcome("{orders}:permits");
    assert!(matches!(over, Outcome::Over(_)), "{over:?}");
    redisson.rule = Rule::new(Some(5), Some(60));
    redisson.counts("{orders}:permits", "orders", 2);
}

#[test]
fn what_kongs_upstreams_count_in_their_responses_is_counted() {
    let mut kong = Variant::new("kong");
    let zero = "00000000-0000-0000-0000-000000000000";
    let minute = NOW_MS / 60_000 * 60_000;
    for (client, label) in [
        ("2001:db8::1", "2001:db8::1 videos minute"),
        ("/v1/items", "/v1/items videos minute"),
        ("", "videos minute"),
    ] {
        let name = format!("response-ratelimit:{zero}:{zero}:{client}:{minute}:videos:minute");
        kong.store.string(&name, "8", 50_000);
        let reading = kong.counts(&name, label, 8);
        assert_eq!(reading.refused, Refused::Counted);
    }
}

#[test]
fn a_scope_of_drf_with_an_underscore_is_not_that_of_its_first_word() {
    let mut drf = Variant::new("drf");
    for (name, label) in [
        (":1:throttle_user_sustained_42", "user_sustained 42"),
        (
            ":1:throttle_contact_request_2001:db8::1",
            "contact_request 2001:db8::1",
        ),
    ] {
        drf.store.string(name, "[1795739764.5]", 59_000);
        drf.counts(name, label, 1);
    }
}

#[test]
fn a_spring_gateway_whose_clock_has_fractions_of_seconds_refills_by_them() {
    let mut gateway = Variant::new("spring-cloud-gateway");
    gateway.rule = Rule::new(Some(10), Some(1)).burst(20);
    let name = "request_rate_limiter.{api.2001:db8::1}.tokens";
    let time = "request_rate_limiter.{api.2001:db8::1}.timestamp";
    gateway.store.string(name, "8.5", 4_000);
    gateway.store.string(time, "1795739764.75", 4_000);
    // 2.5 tokens more after 0.25 s
    gateway.counts(name, "api.2001:db8::1", 9);
}

#[test]
fn a_counter_of_all_clients_is_counted_in_rails() {
    let mut rails = Variant::new("rails");
    for name in [
        "rate-limit:api/sessions",
        "app:rate-limit:api/sessions",
        "rate-limit:api/sessions:",
    ] {
        rails.store.string(name, "7", 50_000);
        rails.counts(name, "api/sessions", 7);
    }
}

#[test]
fn values_of_other_programs_under_rate_limit_are_no_counters_of_rails() {
    let mut rails = Variant::new("rails");
    let name = "rate-limit:10.0.0.1";
    rails.store.string(name, r#"{"hits":3}"#, 50_000);
    assert_eq!(rails.outcome(name), Outcome::Foreign);
    // Of one client
    let name = "rate-limit:sessions:10.0.0.1";
    rails.store.string(name, r#"{"hits":3}"#, 50_000);
    assert_eq!(rails.outcome(name), Outcome::Invalid(Invalid::NotANumber));
}

#[test]
fn what_laravel_takes_back_is_not_invalid() {
    let mut laravel = Variant::new("laravel");
    let key = "1eec14053d99b7ebec4e559b4b2d4c208451e117";
    for (name, label) in [
        (format!("laravel_cache_{key}"), key),
        ("laravel_cache_import:1".to_owned(), "import:1"),
    ] {
        let timer = format!("{name}:timer");
        laravel.store.string(&name, "-2", 50_000);
        laravel.store.string(&timer, "1795739815", 50_000);
        let counted = if label == key { &name } else { &timer };
        laravel.counts(counted, label, 0);
    }
}
