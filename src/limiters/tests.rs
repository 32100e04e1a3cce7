//! Descriptions and their mistakes, names, and limits from APIs.

mod sources;

use super::*;

const COUNTER: &str = "
name: own
title: one of my own
counters:
  - name: window
    key: '^own:(?P<scope>[^:]+):(?P<key>.+)$'
    label: '$scope $key'
    type: string
    count: value
    refused: counted
    expiry: required
    without_expiry: blocks
";

fn with(text: &str) -> Result<Description, Vec<Mistake>> {
    Description::parse(&format!("{}{text}", COUNTER.trim_start()))
}

fn matched(description: &Description, name: &str) -> Matched {
    match description.match_name(name.as_bytes(), None) {
        Fit::Counter(matched) => matched,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn assert_mistake(text: &str, line: u64, words: &[&str]) {
    let mistakes = Description::parse(text).unwrap_err();
    let first = &mistakes[0];
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    for word in words {
        assert!(first.text.contains(word), "{word:?} is not in: {first}");
    }
    assert_eq!(first.line, Some(line), "{first}");
    assert_eq!(first.to_string().lines().count(), 1, "{first}");
}

#[test]
fn mistakes_name_line_and_what_was_expected() {
    let own = COUNTER.trim_start();
    for (text, line, words) in [
        (
            own.replace("refused: counted", "refused: sometimes"),
            9,
            &["sometimes", "not_counted"][..],
        ),
        (
            own.replace("    refused:", "    refusd:"),
            9,
            &["refusd", "did you mean refused"],
        ),
        (
            own.replace("count: value", "count: valeu"),
            8,
            &["valeu", "did you mean value"],
        ),
        (
            own.replace("count: value", "count: gcra"),
            8,
            &["gcra", "expected its settings"],
        ),
        (
            own.replace("count: value", "count: {gcra: {unti: s}}"),
            8,
            &["unti", "did you mean unit"],
        ),
        (
            own.replace("count: value", "count: {value: {}, log: {}}"),
            8,
            &["log", "expected one method"],
        ),
        (
            own.replace(
                "count: value",
                "count: {two_windows: {weight: clock, refunds: true, cap_previous: true}}",
            )
            .replace("<scope>", "<window_start>")
            .replace("$scope $key", "$key"),
            8,
            &["cap_previous", "expected no refunds"],
        ),
        (
            own.replace("count: value", "count: {value: {over_below: soon}}"),
            8,
            &["soon", "expected a duration"],
        ),
        (
            own.replace("type: string", "type: set"),
            7,
            &["set", "zset"],
        ),
        (
            own.replace("(?P<key>.+)$", "(?P<key>.+$"),
            5,
            &["expected a regular expression"],
        ),
        (
            own.replace("(?P<key>.+)$", "(?P<user>.+)$")
                .replace("$scope $key", "$scope"),
            5,
            &["expected a group (?P<key>"],
        ),
        (
            own.replace("$scope $key", "$scop $key"),
            6,
            &["scop", "did you mean scope"],
        ),
        (own.replace("$scope $key", "${scope"), 6, &["expected a }"]),
        (
            own.replace("expiry: required", "expiry: requierd"),
            10,
            &["requierd", "normal_without"],
        ),
        (
            own.replace("expiry: required", "expiry: {is: required, max: 2 widnows}"),
            10,
            &["2 widnows", "expected"],
        ),
        (
            own.replace("    without_expiry: blocks\n", ""),
            4,
            &["without_expiry", "expected blocks"],
        ),
        (
            own.replace("type: string", "type: hash"),
            8,
            &["value", "expected type: string"],
        ),
        (
            own.replace("<scope>", "<window_strat>")
                .replace("$scope $key", "$key"),
            5,
            &["window_strat", "did you mean window_start"],
        ),
    ] {
        assert_mistake(&text, line, words);
    }
}

#[test]
fn a_fixed_limit_that_no_counter_can_have_is_a_mistake() {
    for (limits, words) in [
        (
            "limit: 1, window: 0s",
            ["0s", "expected a duration of 1ms or more"],
        ),
        ("limit: -1", ["-1", "expected a whole number, 0 or more"]),
        (
            "limit: 1, burst: 1.5",
            ["1.5", "expected a whole number, 0 or more"],
        ),
    ] {
        let own = COUNTER.trim_start();
        let text = format!("{own}    limits: [{{fixed: {{{limits}}}}}]\n");
        assert_mistake(&text, 12, &words);
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = COUNTER
        .replace("$scope $key", "$user")
        .replace("type: string", "type: hash");
    assert_eq!(Description::parse(&text).unwrap_err().len(), 2);
}

#[test]
fn deep_or_empty_text_is_a_mistake() {
    let deep = format!("name: {}", "[".repeat(10_000));
    for text in [
        "",
        "name: x",
        "[]",
        "counters: []",
        deep.as_str(),
        "\u{0}",
        "a: &a [*a]",
    ] {
        assert!(Description::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_first_counter_that_fits_name_and_type_wins() {
    let limits = Description::parse(built_in("limits").unwrap()).unwrap();
    let name = b"LIMITS:LIMITER/user:1/10/5/minute";
    assert_eq!(limits.match_name(name, None), Fit::NeedsType);
    let of_type = |kind| match limits.match_name(name, Some(kind)) {
        Fit::Counter(matched) => limits.counter(&matched).name.value.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(of_type(Type::String), "fixed-window");
    assert_eq!(of_type(Type::List), "moving-window");
    assert_eq!(of_type(Type::Zset), "Foreign");
    assert_eq!(limits.match_name(b"session:1", None), Fit::Foreign);
    let Fit::Counter(matched) = limits.match_name(name, Some(Type::String)) else {
        panic!("no counter");
    };
    let found = matched.limits(&limits.counters[0].units);
    assert_eq!((found.limit, found.window_ms), (Some(10), Some(300_000)));
}

#[test]
fn labels_are_made_of_groups() {
    let own = with("").unwrap();
    let matched = matched(&own, "own:login:user:1");
    assert_eq!(own.counters[0].label(&matched), b"login user:1");
    assert_eq!(matched.group("none"), None);
    assert_eq!(matched.group("name"), Some(&b"own:login:user:1"[..]));
}

#[test]
fn envoys_rules_are_matched_by_their_levels() {
    let envoy = Description::parse(built_in("envoy-ratelimit").unwrap()).unwrap();
    let Source::Http(http) = &envoy.limits[0].value else {
        panic!("no http")
    };
    let text = b"edge.remote_address: unit=MINUTE requests_per_unit=10, shadow_mode: false
edge.remote_address_10.0.0.1: unit=MINUTE requests_per_unit=20, shadow_mode: false
edge.path_/login.remote_address: unit=HOUR requests_per_unit=30, shadow_mode: false
edge.user_ab*: unit=DAY requests_per_unit=40, shadow_mode: false
other.remote_address: unit=SECOND requests_per_unit=50
edge_proxy.user: unit=WEEK requests_per_unit=60, shadow_mode: true
solo.io.user_a b: unit=MONTH requests_per_unit=70, shadow_mode: false
not a rule
";
    let rules = http.parse(text).unwrap();
    for (name, limit, window) in [
        (
            "edge_remote_address_10.0.0.2_1795691640",
            Some(10),
            Some(60_000),
        ),
        (
            "edge_remote_address_10.0.0.1_1795691640",
            Some(20),
            Some(60_000),
        ),
        (
            "edge_path_/login_remote_address_10.0.0.1_1795691640",
            Some(30),
            Some(3_600_000),
        ),
        ("edge_user_abc_1795691640", Some(40), Some(86_400_000)),
        ("edge_user_b_1795691640", None, None),
        ("other_remote_address_x_1795691640", Some(50), Some(1_000)),
        ("third_remote_address_x_1795691640", None, None),
        // Domains with a _ or a dot
        ("edge_proxy_user_1_1795691640", Some(60), Some(604_800_000)),
        ("solo.io_user_a b_1795691640", Some(70), Some(2_592_000_000)),
        ("solo.io_user_c_1795691640", None, None),
    ] {
        let found = http.limits(&rules, &matched(&envoy, name));
        assert_eq!((found.limit, found.window_ms), (limit, window), "{name}");
    }
}

#[test]
fn a_pointer_finds_names_with_a_slash_or_a_tilde() {
    let text = "limits:\n  - http: {path: /a, json: {limit: '/limits/$scope'}}\n";
    let own = with(text).unwrap();
    let Source::Http(http) = &own.limits[0].value else {
        panic!("no http")
    };
    let rules = http.parse(br#"{"limits":{"a/b~c":5}}"#).unwrap();
    let found = http.limits(&rules, &matched(&own, "own:a/b~c:user"));
    assert_eq!(found.limit, Some(5));
}

#[test]
fn kongs_rules_hold_for_the_route_that_they_name() {
    let kong = Description::parse(built_in("kong").unwrap()).unwrap();
    let mut apis = kong.apis();
    let (http, of_responses) = (apis.next().unwrap(), apis.next().unwrap());
    let route = "11111111-1111-1111-1111-111111111111";
    let text = format!(
        r#"{{"data":[
        {{"name":"rate-limiting","enabled":true,"route":null,"service":null,"config":{{"minute":10,"hour":null}}}},
        {{"name":"rate-limiting","enabled":true,"route":{{"id":"{route}"}},"config":{{"minute":20}}}},
        {{"name":"rate-limiting","enabled":false,"route":{{"id":"{route}"}},"config":{{"minute":30}}}},
        {{"name":"response-ratelimiting","enabled":true,"route":{{"id":"{route}"}},
          "config":{{"minute":60,"limits":{{"videos":{{"minute":50,"hour":null}}}}}}}},
        {{"name":"cors","enabled":true,"config":{{"minute":40}}}}]}}"#
    );
    let rules = http.parse(text.as_bytes()).unwrap();
    let zero = "00000000-0000-0000-0000-000000000000";
    let limit = |route: &str, unit: &str| {
        let name = format!("ratelimit:{route}:{zero}:10.0.0.1:1795691640000:{unit}");
        http.limits(&rules, &matched(&kong, &name)).limit
    };
    assert_eq!(limit(zero, "minute"), Some(10));
    assert_eq!(limit(route, "minute"), Some(20));
    assert_eq!(limit(zero, "hour"), None);
    let rules = of_responses.parse(text.as_bytes()).unwrap();
    let limit = |quota: &str| {
        let name = format!("response-ratelimit:{route}:{zero}:::1:1795691640000:{quota}:minute");
        of_responses.limits(&rules, &matched(&kong, &name)).limit
    };
    assert_eq!((limit("videos"), limit("images")), (Some(50), None));
    assert!(http.parse(b"<html>").is_err());
    assert!(http.parse(b"{}").is_err());
}

#[test]
fn rules_are_the_same_in_any_order_and_have_nothing_else_of_an_answer() {
    let kong = Description::parse(built_in("kong").unwrap()).unwrap();
    let http = kong.apis().next().unwrap();
    let plugin = |minute: u64| {
        format!(
            r#"{{"name":"rate-limiting","enabled":true,"updated_at":{minute},"config":{{"minute":10,
            "redis_password":"hunter2","redis":{{"password":"hunter2"}}}}}}"#
        )
    };
    let parse = |plugins: [String; 2]| {
        let text = format!(r#"{{"data":[{}]}}"#, plugins.join(","));
        http.parse(text.as_bytes()).unwrap()
    };
    let rules = parse([plugin(1), plugin(2)]);
    assert_eq!(rules, parse([plugin(3), plugin(1)]));
    let saved = serde_json::to_string(&rules).unwrap();
    assert_eq!(
        saved,
        r#"[{"/config/minute":"10"},{"/config/minute":"10"}]"#
    );
    let envoy = Description::parse(built_in("envoy-ratelimit").unwrap()).unwrap();
    let http = envoy.apis().next().unwrap();
    let line = |key: &str| format!("edge.{key}: unit=DAY requests_per_unit=10");
    let parse = |lines: [String; 2]| http.parse(lines.join("\n").as_bytes());
    assert_eq!(parse([line("a"), line("b")]), parse([line("b"), line("a")]));
}

#[test]
fn rules_that_contradict_each_other_leave_a_limit_unknown() {
    let limitador = Description::parse(built_in("limitador").unwrap()).unwrap();
    let Source::Http(http) = &limitador.limits[0].value else {
        panic!("no http")
    };
    let rule = |limit: u64, seconds: u64| {
        format!(r#"{{"namespace":"api","max_value":{limit},"seconds":{seconds}}}"#)
    };
    let name =
        r#"namespace:{api},counter:{"limit":{"seconds":60},"set_variables":{"user_id":"a"}}"#;
    let limit = |rules: &[String]| {
        let rules = http
            .parse(format!("[{}]", rules.join(",")).as_bytes())
            .unwrap();
        http.limits(&rules, &matched(&limitador, name)).limit
    };
    assert_eq!(limit(&[rule(10, 60), rule(20, 3600)]), Some(10));
    assert_eq!(limit(&[rule(10, 60), rule(20, 60)]), None);
}

#[test]
fn a_page_of_a_proxy_is_no_list_without_rules() {
    let envoy = Description::parse(built_in("envoy-ratelimit").unwrap()).unwrap();
    let http = envoy.apis().next().unwrap();
    assert!(http.parse(b"\n<!DOCTYPE html>\nedge.a: unit=DAY").is_err());
    assert!(http.parse(b"").is_ok());
}

#[test]
fn a_group_in_a_path_is_encoded_and_leads_to_no_other_path() {
    let limitador = Description::parse(built_in("limitador").unwrap()).unwrap();
    let http = limitador.apis().next().unwrap();
    assert_eq!(http.only_place(), None);
    for (namespace, place) in [
        ("a/b c?", Some("/limits/a%2Fb%20c%3F")),
        ("..", None),
        ("a.b", Some("/limits/a.b")),
    ] {
        let name = format!(
            r#"namespace:{{{namespace}}},counter:{{"limit":{{"seconds":60}},"set_variables":{{"u":"a"}}}}"#
        );
        let found = http.place(&matched(&limitador, &name));
        assert_eq!(found.as_deref(), place);
    }
    // The name of a limit with an id has no namespace.
    let name = "\u{2}\u{8}per_user\u{1}\u{7}user_id\u{6}user:1";
    assert_eq!(http.place(&matched(&limitador, name)), None);
}

#[test]
fn traefiks_middlewares_have_period_and_burst() {
    let traefik = Description::parse(built_in("traefik").unwrap()).unwrap();
    let Source::Http(http) = &traefik.limits[0].value else {
        panic!("no http")
    };
    let text = br#"[{"name":"api@file","rateLimit":{"average":100,"period":"1m0s","burst":50}},{"name":"auth@file"}]"#;
    let rules = http.parse(text).unwrap();
    let found = http.limits(&rules, &matched(&traefik, "rate:api@file:10.0.0.1"));
    let expected = Limits {
        limit: Some(100),
        window_ms: Some(60_000),
        burst: Some(50),
    };
    assert_eq!(found, expected);
    assert_eq!(
        http.limits(&rules, &matched(&traefik, "rate:auth@file:10.0.0.1")),
        Limits::default()
    );
}

#[test]
fn scan_patterns_follow_from_the_key_patterns() {
    let globs = |kind: &str| {
        let description = Description::parse(built_in(kind).unwrap()).unwrap();
        let glob =
            |counter: &Counter| String::from_utf8(counter.key.value.glob().to_vec()).unwrap();
        description.counters.iter().map(glob).collect::<Vec<_>>()
    };
    assert_eq!(globs("reference"), ["ratelimit:*"]);
    assert_eq!(globs("bottleneck"), ["b_*_settings"]);
    assert_eq!(globs("drf"), ["*:*:throttle_*_*"]);
    assert_eq!(
        globs("fastapi-limiter"),
        [
            "fastapi-limiter:*:*:*",
            "fastapi-limiter:*:*",
            "fastapi-limiter:ws:*:*",
            "fastapi-limiter"
        ]
    );
    let reference = Description::parse(built_in("reference").unwrap()).unwrap();
    let pattern = &reference.counters[0].key.value;
    assert!(pattern.is_plain());
    assert_eq!(pattern.prefix(), b"ratelimit:");
}

#[test]
fn nodes_are_read_whole() {
    let own = with(
        "nodes:
  discover: dns
  health: {path: /healthz, port: 81, id: /node/id, covers_redis: true}
  metrics: {port: 9090}
  latency: [a_seconds, {metric: 'b_ms{x=\"y\"}', unit: ms}]
  redis_errors: ['e{t=~\"redis.*\"}']
  canary: {path: /check, body: '{\"key\":\"$key\"}', refused: 429}
",
    )
    .unwrap();
    let nodes = own.nodes.unwrap().value;
    assert_eq!(nodes.discover, Discover::Dns);
    let health = nodes.health.unwrap();
    assert_eq!(
        (health.path.0.as_str(), health.port, health.covers_redis),
        ("/healthz", Some(81), true)
    );
    assert_eq!(nodes.metrics.unwrap().path.0, "/metrics");
    let units: Vec<_> = nodes.latency.iter().map(|latency| latency.unit).collect();
    assert_eq!(units, [Unit::Seconds, Unit::Milliseconds]);
    assert!(nodes.redis_errors[0].selects("e", |_| Some("redis_error")));
    let canary = nodes.canary.unwrap();
    assert!(!canary.sets_limit() && !canary.covers_redis);
    let reference = Description::parse(built_in("reference").unwrap()).unwrap();
    let canary = reference.nodes.unwrap().value.canary.unwrap();
    assert!(canary.sets_limit() && canary.covers_redis);
}

const REGISTRY: &str = "nodes:
  health: {path: /health}
  registry:
    key: '^myapp:nodes:(?P<id>.+):info$'
    address: '$ip:$port'
    ttl: 12s
    renewed: 4s
";

#[test]
fn the_url_of_an_api_has_no_login() {
    let limits = |url: &str| {
        let limits = format!("limits:\n  - http: {{url: '{url}', line: '^(?P<limit>[0-9]+)$'}}\n");
        format!("{}{limits}", COUNTER.trim_start())
    };
    for url in ["https://10.0.0.1/limits", "https://10.0.0.1/limits/@all"] {
        Description::parse(&limits(url)).unwrap();
    }
    let line = COUNTER.trim_start().lines().count() as u64 + 2;
    let login = limits("https://admin:secret@10.0.0.1/limits");
    assert_mistake(&login, line, &["http: url", "expected no login"]);
}

#[test]
fn a_registry_is_read_whole_and_its_names_are_swept() {
    let own = with(REGISTRY).unwrap();
    let registry = own.registry().unwrap();
    assert_eq!((registry.ttl, registry.renewed), (12_000, 4_000));
    assert_eq!(
        registry.address.groups().collect::<Vec<_>>(),
        ["ip", "port"]
    );
    assert_eq!(registry.registered_at, None);
    for id in [&b"node-1"[..], b"a:b\xff\n"] {
        assert_eq!(registry.id_of(&registry.name_of(id)), Some(id));
    }
    assert_eq!(registry.id_of(b"myapp:nodes:node-1"), None);
    assert_eq!(own.prefixes(), [&b"myapp:nodes:"[..], b"own:"]);
    let scans = own.scans(MOST_SCANS);
    assert_eq!(scans, [&b"myapp:nodes:*:info"[..], b"own:*:*"]);
}

#[test]
fn mistakes_in_a_registry_name_its_line_and_what_was_expected() {
    let own = COUNTER.trim_start().lines().count() as u64;
    let within = own + 4;
    for (old, new, line, words) in [
        (
            "(?P<id>.+)",
            "(?P<node>.+)",
            within,
            &["registry: key", "(?P<id>…)"][..],
        ),
        (
            "(?P<id>.+)",
            r"\d(?P<id>.+)",
            within,
            &["literal text around"],
        ),
        (
            "(?P<id>.+)",
            "(?P<id>.+):(?P<n>.+)",
            within,
            &["one group", "literal text around"],
        ),
        ("(?P<id>.+)", "(?P<id>.+", within, &["regular expression"]),
        (
            "'^myapp:nodes:(?P<id>.+):info$'",
            "'(?P<id>.+)'",
            within,
            &["every key would fit"],
        ),
        ("'$ip:$port'", "''", within, &["address", "name of a field"]),
        ("'$ip:$port'", "'$ip:$'", own + 5, &["after $"]),
        ("ttl: 12s", "ttl: 8s", within, &["more than twice renewed"]),
        ("ttl: 12s", "ttl: 3s", within, &["4s or more"]),
        ("renewed: 4s", "renewed: 0s", own + 7, &["1ms or more"]),
        (
            "renewed: 4s",
            "renewed: often",
            own + 7,
            &["often", "duration"],
        ),
        (
            "renewed: 4s",
            "reneved: 4s",
            own + 7,
            &["reneved", "did you mean renewed"],
        ),
        ("    renewed: 4s\n", "", own + 6, &["renewed"]),
    ] {
        let text = format!("{}{}", COUNTER.trim_start(), REGISTRY.replace(old, new));
        assert_mistake(&text, line, words);
    }
    let api = "nodes: {health: {path: /health}, management_api: true}\n";
    let text = format!("{}{api}", COUNTER.trim_start());
    let line = COUNTER.trim_start().lines().count() as u64 + 1;
    assert_mistake(&text, line, &["management_api: expected a registry"]);
    let text = format!("{}{REGISTRY}  id_label: 'a b'\n", COUNTER.trim_start());
    assert_mistake(&text, own + 2, &["id_label", "name of a label"]);
}

#[test]
fn the_documentation_has_a_row_for_each_kind_and_a_description_that_is_valid() {
    let text = include_str!("../../docs/LIMITERS.md");
    for (name, _) in BUILT_IN {
        let row = format!("\n| `{name}` ");
        assert!(text.contains(&row), "{name}");
    }
    let example = text.split("```yaml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    assert_eq!(Description::parse(example).unwrap().name, "own");
}
