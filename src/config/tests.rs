use std::time::Duration;

use super::reader::parse_duration;
use super::*;
use crate::observation::KeyLabel;
use crate::report::InvariantName;

fn load(flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut values = Values::default();
    for (flag, value) in flags {
        let setting = find(flag).unwrap();
        values.add(setting, format!("--{flag}"), vec![(*value).to_owned()]);
    }
    Config::load(values)
}

#[test]
fn the_defaults_are_valid() {
    let config = load(&[]).unwrap();
    assert_eq!(config.web.listen.to_string(), "[::]:9972");
    assert_eq!(config.web.timeout_offset, Duration::from_millis(500));
    assert_eq!(config.observe.ratelimiter_urls.len(), 1);
    assert_eq!(config.observe.redis.seeds, ["localhost:6379"]);
    assert_eq!(config.observe.max_series, 100);
    assert_eq!(config.checker, CheckerConfig::default());
}

#[test]
fn urls_repeat_by_commas() {
    let config = load(&[("ratelimiter.url", "http://a:1, http://b:2")]).unwrap();
    assert_eq!(config.observe.ratelimiter_urls.len(), 2);
}

#[test]
fn two_urls_that_would_be_one_node_are_refused() {
    for (second, is_valid) in [
        ("http://a:1", true),
        ("http://A:1/", true),
        ("http://a:2/x", true),
        ("http://a:1/x", false),
        ("https://a:1", false),
        ("http://me:hunter2@a:1", false),
    ] {
        let loaded = load(&[("ratelimiter.url", &format!("http://a:1,{second}"))]);
        assert_eq!(loaded.is_ok(), is_valid, "{second}");
        let error = loaded.err().map(|error| error.to_string());
        let expected = "expected one URL for each host and port";
        assert!(error.is_none_or(|it| it.contains(expected) && !it.contains("hunter2")));
    }
}

#[test]
fn every_mistake_names_flag_value_and_what_was_expected() {
    for (flag, value) in [
        ("web.listen-address", "nowhere"),
        ("web.listen-address", "nohost.invalid:9972"),
        ("web.listen-address", ":http"),
        ("redis.url", "redis://h:1/x"),
        ("web.telemetry-path", "metrics"),
        ("web.telemetry-path", "/-/healthy"),
        ("web.timeout-offset", "soon"),
        ("web.timeout-offset", "-1s"),
        ("ratelimiter.url", "localhost"),
        ("ratelimiter.url", "http://a:1,,http://b:1"),
        ("ratelimiter.url", "ftp://a"),
        ("ratelimiter.timeout", "0s"),
        ("ratelimiter.timeout", "10"),
        ("probe.nodes", "maybe"),
        ("redis.url", "http://localhost"),
        ("redis.url", "redis://"),
        ("redis.url", "redis://h:1/x"),
        ("redis.password-file", "/nonexistent/file"),
        ("redis.tls-ca-file", "/etc/hostname"),
        ("prometheus.url", "nope"),
        ("latency.metric", "a{b"),
        ("latency.window", "9s"),
        ("latency.window", "601s"),
        ("latency.window", "60"),
        ("keys.max-series", "-1"),
        ("keys.max-series", "1000000"),
        ("keys.label", "md5"),
        ("scan.budget", ""),
        ("scan.share", "0"),
        ("scan.share", "0.0009"),
        ("scan.share", "1.1"),
        ("scan.share", "NaN"),
        ("scan.share", "a fifth"),
        ("config.file", "/nonexistent/file"),
        ("log.level", "loud"),
        ("log.format", "xml"),
    ] {
        let error = load(&[(flag, value)]).unwrap_err().to_string();
        let start = format!("--{flag}: invalid value {value:?}: expected ");
        assert!(error.starts_with(&start), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_password_in_a_url_is_never_shown() {
    let config = load(&[("redis.url", "redis://me:hunter2%21@h:1/2")]).unwrap();
    assert_eq!(
        config
            .observe
            .redis
            .login
            .password
            .as_ref()
            .unwrap()
            .current()
            .expose(),
        "hunter2!"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    for wrong in [
        "redis://me:hunter2@h:1/x",
        "http://me:hunter2@h",
        "redis:/me:hunter2@h",
    ] {
        let error = load(&[("redis.url", wrong)]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let config = load(&[
        ("ratelimiter.url", "http://me:hunter2@h"),
        ("prometheus.url", "http://me:hunter2@p"),
    ]);
    assert!(!format!("{:?}", config.unwrap()).contains("hunter2"));
    let error = load(&[("ratelimiter.url", "htp://me:hunter2@h")]).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn the_page_shows_no_password_and_links_to_runbooks_that_exist() {
    for wrong in [
        "https://me:hunter2@h/runbooks",
        "https://h/#runbooks",
        "https://h/?a",
    ] {
        let error = load(&[("web.runbook-url", wrong)]).unwrap_err().to_string();
        assert!(
            error.contains("without user, password") && !error.contains("hunter2"),
            "{error}"
        );
    }
    let config = load(&[("web.runbook-url", "https://h/runbooks")]).unwrap();
    assert_eq!(
        config.web.runbook_url.as_deref(),
        Some("https://h/runbooks")
    );
}

#[test]
fn durations_are_written_as_prometheus_writes_them() {
    for (text, millis) in [
        ("500ms", 500),
        ("0.5s", 500),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("876000h", 3_153_600_000_000),
        ("0", 0),
    ] {
        assert_eq!(
            parse_duration(text),
            Some(Duration::from_millis(millis)),
            "{text}"
        );
    }
    // The last two are more than any clock counts: the sum of a time and such a duration was a panic.
    let too_long = ["876001h", "2562047788015215h"];
    for text in ["", "5", "-5s", "5 parsecs", "PT5S0", "s"]
        .into_iter()
        .chain(too_long)
    {
        assert_eq!(parse_duration(text), None, "{text:?}");
    }
}

#[test]
fn the_file_sets_invariants_nodes_and_limits() {
    let directory = std::env::temp_dir();
    let path = directory.join(format!(
        "ratelimiter-exporter-config-{}.yml",
        std::process::id()
    ));
    let text = "keys: {label: hash}\n\
        invariants:\n  high_latency: {threshold: 200ms, grace_period: 2m, severity: critical}\n  \
        counter_drift: {threshold: 0.5}\n  ghost_allowing: {enabled: false}\n\
        nodes: {forget_after: 10m}\n\
        limits:\n- {match: 'tenant:*', limit: 20, window: 60s}\n- {match: '*', limit: 5, window: 1s, burst: 50}\n";
    std::fs::write(&path, text).unwrap();
    let config = load(&[("config.file", path.to_str().unwrap())]);
    std::fs::remove_file(&path).unwrap();
    let config = config.unwrap();
    let latency = config.checker.of(InvariantName::HighLatency);
    assert!((latency.threshold - 0.2).abs() < 1e-9);
    assert_eq!(latency.grace_period, Duration::from_secs(120));
    assert!(!config.checker.of(InvariantName::GhostAllowing).enabled);
    assert_eq!(
        config.observe.registry.forget_after,
        Duration::from_secs(600)
    );
    let rules = &config.observe.limit_rules;
    assert_eq!((rules[0].limit.limit, rules[0].burst), (20, None));
    assert_eq!((rules[1].limit.limit, rules[1].burst), (5, Some(50)));
    assert_eq!(config.observe.key_label, KeyLabel::Hash);
}

#[test]
fn a_listen_address_whose_name_does_not_resolve_is_reported_as_such() {
    let error = load(&[("web.listen-address", "nohost.invalid:9972")]).unwrap_err();
    assert!(
        error.to_string().ends_with("the name does not resolve"),
        "{error}"
    );
}

#[test]
fn what_a_kind_does_not_have_is_refused_where_it_is_switched_on() {
    let (kind, url) = ("limiter.kind", "ratelimiter.url");
    let (canary, prometheus) = ("probe.canary", ("prometheus.url", "http://p:9090"));
    for (flags, words) in [
        (
            &[(kind, "limits"), (canary, "true")][..],
            "--probe.canary: invalid value \"true\": expected a limiter whose description has nodes.canary; that of limits has none",
        ),
        (
            &[
                (kind, "envoy-ratelimit"),
                (url, "http://e:8080"),
                (canary, "true"),
            ],
            "--probe.canary: invalid value \"true\": expected a limiter whose description has nodes.canary; that of envoy-ratelimit",
        ),
        (
            &[(kind, "limits"), prometheus],
            "--prometheus.url: invalid value \"http://p:9090\": expected a limiter whose description has nodes.latency; that of limits",
        ),
        (
            &[(kind, "envoy-ratelimit"), prometheus],
            "expected ratelimiter.url beside it",
        ),
    ] {
        let error = load(flags).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let envoy = [
        (kind, "envoy-ratelimit"),
        (url, "http://e:8080"),
        prometheus,
    ];
    assert!(load(&envoy).unwrap().observe.prometheus_url.is_some());
    assert!(load(&[(kind, "limits"), (canary, "false")]).is_ok());
}

#[test]
fn a_described_registry_says_how_long_registrations_live_unless_the_configuration_does() {
    let folder = lab::temp::TempDir::new("kind-registry").unwrap();
    let file = folder.path().join("own.yml");
    let description = crate::limiters::built_in("reference").unwrap();
    let description = description.replace("ttl: 30s", "ttl: 9s");
    std::fs::write(&file, description.replace("renewed: 10s", "renewed: 2s")).unwrap();
    let settings = folder.path().join("exporter.yml");
    let loaded = |nodes: &str| {
        std::fs::write(&settings, format!("nodes: {{{nodes}}}\n")).unwrap();
        load(&[
            ("limiter.file", &file.display().to_string()),
            ("config.file", &settings.display().to_string()),
        ])
    };
    // The nodes register, so no URL has to name one.
    let observe = loaded("").unwrap().observe;
    assert!(observe.ratelimiter_urls.is_empty());
    let timing = observe.registry;
    assert_eq!((timing.ttl.as_secs(), timing.heartbeat.as_secs()), (9, 2));
    let timing = loaded("registration_ttl: 60s").unwrap().observe.registry;
    assert_eq!((timing.ttl.as_secs(), timing.heartbeat.as_secs()), (60, 2));
    let error = loaded("heartbeat_interval: 5s").unwrap_err().to_string();
    let words = "nodes.heartbeat_interval to be less than half of nodes.registration_ttl (9s)";
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_kind_without_nodes_needs_no_url_of_any_beside_targets() {
    let folder = lab::temp::TempDir::new("kind-targets").unwrap();
    let settings = folder.path().join("exporter.yml");
    let loaded = |top: &str| {
        let targets = "targets: {eu: {redis.url: redis://eu, limiter.kind: limits}}";
        std::fs::write(&settings, format!("{top}\n{targets}\n")).unwrap();
        load(&[("config.file", &settings.display().to_string())])
    };
    loaded("redis.url: redis://us\nlimiter.kind: limits").unwrap();
    let error = loaded("redis.url: redis://us").unwrap_err().to_string();
    assert!(error.contains("redis.url and ratelimiter.url"), "{error}");
}

#[test]
fn a_canary_for_all_targets_does_not_apply_to_a_kind_without_one() {
    let folder = lab::temp::TempDir::new("kind-canary").unwrap();
    let file = folder.path().join("exporter.yml");
    let with = |own: &str| {
        let text = format!(
            "probe: {{canary: true}}\ntargets:\n  default: {{redis.url: 'redis://a', ratelimiter.url: 'http://a'}}\n  \
             library: {{redis.url: 'redis://b', limiter.kind: limits{own}}}\n"
        );
        std::fs::write(&file, text).unwrap();
        load(&[("config.file", &file.display().to_string())])
    };
    let config = with("").unwrap();
    assert!(config.observe.probe_canary && !config.targets["library"].observe.probe_canary);
    let error = with(", probe.canary: true").unwrap_err().to_string();
    assert!(error.contains("nodes.canary"), "{error}");
}
