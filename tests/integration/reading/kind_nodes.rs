//! Processes and APIs of kinds of limiters: limits, health, metrics. A server in this test answers the requests that
//! `docs/LIMITERS.md` describes; Redis is real.

mod addresses;
mod canary;
mod falls;
mod management_api;
mod redis_errors;
mod registry;
mod stand_in;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lab::redis_server::RedisServer;
use lab::temp::TempDir;

use crate::harness::{Exporter, PATIENCE, Scrape, redis_do};
use stand_in::StandIn;

/// Seconds of now.
#[expect(clippy::disallowed_methods, reason = "Redis counts by the real time")]
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A Redis and an exporter that watches it as a kind of limiter.
struct Watched {
    exporter: Exporter,
    flags: Vec<String>,
    redis: RedisServer,
    _folder: TempDir,
}

impl Watched {
    /// As the kind that is built in, with its nodes at `url`.
    async fn start(kind: &str, url: &str) -> anyhow::Result<Self> {
        Self::with(&["--limiter.kind", kind, "--ratelimiter.url", url]).await
    }

    /// In a description that the test writes.
    async fn described(description: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = TempDir::new("kind-nodes")?;
        let file = folder.path().join("own.yml");
        std::fs::write(&file, description)?;
        let file = format!("--limiter.file={}", file.display());
        let mut all = vec![file.as_str()];
        all.extend(flags);
        Self::in_folder(&all, folder).await
    }

    async fn with(flags: &[&str]) -> anyhow::Result<Self> {
        Self::in_folder(flags, TempDir::new("kind-nodes")?).await
    }

    async fn in_folder(flags: &[&str], folder: TempDir) -> anyhow::Result<Self> {
        let redis = RedisServer::start(&[]).await?;
        let file = folder.path().join("exporter.yml");
        let graces = "invariants:\n  stuck_counter: {grace_period: 0s}\n  high_latency: {grace_period: 0s}\n";
        std::fs::write(&file, graces)?;
        let mut all = vec![
            format!("--redis.url={}", redis.url()),
            format!("--config.file={}", file.display()),
        ];
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        Ok(Self {
            exporter: Exporter::start(&all).await?,
            flags: all,
            redis,
            _folder: folder,
        })
    }

    /// Ends the exporter as a service manager does, and starts it with the same flags.
    async fn restart(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.exporter.process.terminate().await?.success());
        self.exporter = Exporter::start(&self.flags).await?;
        Ok(())
    }

    async fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        redis_do(&mut self.redis.connection().await?, words).await
    }
}

fn limit(scrape: &Scrape, label: &str) -> Option<f64> {
    scrape.value("ratelimiter_key_requests_limit", &[("key", label)])
}

/// What a built-in kind says, with its limits fetched every second.
fn fetched_often(kind: &str) -> anyhow::Result<String> {
    let file = format!("{}/limiters/{kind}.yml", env!("CARGO_MANIFEST_DIR"));
    Ok(std::fs::read_to_string(file)?.replace("every: 5m", "every: 1s"))
}

/// Rules as Envoy's service lists them.
const RULES: &str =
    "edge.remote_address: unit=DAY requests_per_unit=10, shadow_mode: false, quota_mode: false\n";

/// A counter of Envoy's service in the window that is now.
fn envoy_counter() -> String {
    let start = now() / 86_400 * 86_400;
    format!("edge_remote_address_10.0.0.1_{start}")
}

#[tokio::test]
async fn limits_of_an_api_are_remembered_while_it_is_away() -> anyhow::Result<()> {
    let mut envoy = StandIn::new();
    envoy.serve(6070, "/rlconfig", RULES).await?;
    let url = envoy.url(8080);
    let watched = Watched::described(
        &fetched_often("envoy-ratelimit")?,
        &["--ratelimiter.url", &url],
    )
    .await?;
    watched
        .run(&["SET", &envoy_counter(), "12", "EX", "90000"])
        .await?;
    let label = "edge remote_address_10.0.0.1";
    let known = |scrape: &Scrape| limit(scrape, label) == Some(10.0);
    let scrape = watched.exporter.until("the limit is known", known).await?;
    scrape.assert_is("ratelimiter_key_requests", &[("key", label)], 12);
    scrape.assert_is("ratelimiter_up", &[], 1);
    envoy.stop(6070);
    let away = |scrape: &Scrape| scrape.errors("management_api", "refused") > 0.0;
    let scrape = watched.exporter.until("the API is away", away).await?;
    assert!(
        known(&scrape) && scrape.is("ratelimiter_up", &[], 0),
        "{}",
        scrape.text
    );
    assert!(scrape.errors("counters", "limits_unread") <= 0.0);
    // It comes back with another limit.
    envoy.answer(6070, "/rlconfig", 200, &RULES.replace("=10", "=20"));
    envoy.listen(6070).await?;
    let changed = |scrape: &Scrape| limit(scrape, label) == Some(20.0);
    let scrape = watched.exporter.until("it is back", changed).await?;
    scrape.assert_is("ratelimiter_up", &[], 1);
    assert!(
        scrape
            .reported()
            .iter()
            .all(|it| !it.contains("remote_address"))
    );
    Ok(())
}

#[tokio::test]
async fn limits_of_an_api_that_was_never_read_are_unknown_and_judged_once_it_was()
-> anyhow::Result<()> {
    let mut limitador = StandIn::new();
    let watched = Watched::start("limitador", &limitador.url(8080)).await?;
    let limit_of =
        r#"{"namespace":"shop one","seconds":60,"conditions":[],"variables":["user_id"]}"#;
    let name = format!(
        r#"namespace:{{shop one}},counter:{{"limit":{limit_of},"set_variables":{{"user_id":"bob"}}}}"#
    );
    watched.run(&["SET", &name, "10"]).await?;
    let unread = |scrape: &Scrape| scrape.errors("counters", "limits_unread") > 0.0;
    let scrape = watched.exporter.until("no limit is known", unread).await?;
    for name in ["stuck_counter", "counter_drift"] {
        assert_eq!(scrape.evaluable(name), Some(false), "{name}");
    }
    let page = watched.exporter.get("/").await?.text();
    assert!(page.contains("limits_unread"), "{page}");
    let rules = r#"[{"id":null,"namespace":"shop one","max_value":10,"seconds":60,"name":null,"conditions":[],"variables":["user_id"]}]"#;
    limitador.serve(8080, "/limits/shop%20one", rules).await?;
    let label = "shop one bob";
    let stuck = |scrape: &Scrape| {
        scrape
            .reported()
            .contains(&format!("stuck_counter {label}"))
    };
    let scrape = watched.exporter.until("it never expires", stuck).await?;
    assert_eq!(limit(&scrape, label), Some(10.0));
    assert_eq!(scrape.evaluable("stuck_counter"), Some(true));
    Ok(())
}

#[tokio::test]
async fn limits_are_fetched_seldom() -> anyhow::Result<()> {
    let mut envoy = StandIn::new();
    envoy.serve(6070, "/rlconfig", RULES).await?;
    let watched = Watched::start("envoy-ratelimit", &envoy.url(8080)).await?;
    watched
        .run(&["SET", &envoy_counter(), "12", "EX", "90000"])
        .await?;
    let known = |scrape: &Scrape| limit(scrape, "edge remote_address_10.0.0.1") == Some(10.0);
    watched.exporter.until("the limit is known", known).await?;
    for _ in 0..5 {
        assert!(known(&watched.exporter.scrape().await?));
    }
    assert_eq!(envoy.asked("GET /rlconfig"), 1);
    // A violation may come from a limit that was raised: it is confirmed, but not in each collection.
    let other = envoy_counter().replace("10.0.0.1", "10.0.0.2");
    watched.run(&["SET", &other, "12", "EX", "190000"]).await?;
    for _ in 0..5 {
        watched.exporter.scrape().await?;
    }
    assert_eq!(envoy.asked("GET /rlconfig"), 2);
    Ok(())
}

#[tokio::test]
async fn limits_are_read_from_the_apis_of_gateways() -> anyhow::Result<()> {
    let zero = "00000000-0000-0000-0000-000000000000";
    let route = "11111111-2222-3333-4444-555555555555";
    let day = now() / 86_400 * 86_400_000;
    let kong = format!("ratelimit:{route}:{zero}:10.0.0.1:{day}:day");
    let plugins = format!(
        r#"{{"data":[{{"name":"rate-limiting","enabled":true,"route":{{"id":"{route}"}},"service":null,
        "config":{{"day":10,"policy":"redis"}}}}],"next":null}}"#
    );
    let routes = r#"{"total":1,"list":[{"key":"/apisix/routes/1","value":{"plugins":{"limit-count":
        {"count":10,"time_window":60,"policy":"redis"}},"uri":"/"}}]}"#;
    let middlewares = r#"[{"name":"shop@file","type":"ratelimit","status":"enabled",
        "rateLimit":{"average":100,"period":"1m0s","burst":10}}]"#;
    let micros = (now() * 1_000_000).to_string();
    let bucket = [
        "HSET",
        "rate:shop@file:10.0.0.1",
        "tokens",
        "4",
        "last",
        micros.as_str(),
    ];
    let apisix = [
        "SET",
        "plugin-limit-count:v1:/apisix/routes/1:4711:bob",
        "4",
        "EX",
        "50",
    ];
    let kong_set = ["SET", kong.as_str(), "4", "EX", "80000"];
    for (kind, port, path, answer, words, label) in [
        (
            "kong",
            8001,
            "/plugins?size=1000",
            plugins.as_str(),
            &kong_set[..],
            "10.0.0.1 day",
        ),
        (
            "apisix",
            9180,
            "/apisix/admin/routes",
            routes,
            &apisix[..],
            "bob",
        ),
        (
            "traefik",
            8080,
            "/api/http/middlewares",
            middlewares,
            &bucket[..],
            "shop@file 10.0.0.1",
        ),
    ] {
        let mut gateway = StandIn::new();
        gateway.serve(port, path, answer).await?;
        let watched = Watched::start(kind, &gateway.url(8080)).await?;
        watched.run(words).await?;
        let known = |scrape: &Scrape| limit(scrape, label) == Some(10.0);
        let scrape = watched.exporter.until(kind, known).await?;
        assert!(
            scrape.is("ratelimiter_up", &[], 1),
            "{kind}: {}",
            scrape.text
        );
    }
    Ok(())
}

/// A node's metrics: decisions that Redis answered and that failed, and how many of them took up to 10 ms and more.
fn metrics(answered: u32, failed: u32, fast: u32, slow: u32) -> String {
    let grpc = "grpc_method=\"ShouldRateLimit\"";
    let all = fast + slow;
    format!(
        "# TYPE ratelimit_service_rate_limit_within_limit counter\n\
         ratelimit_service_rate_limit_total_hits{{domain=\"edge\",key1=\"a\"}} {}\n\
         ratelimit_service_rate_limit_within_limit{{domain=\"edge\",key1=\"a\"}} {answered}\n\
         ratelimit_service_rate_limit_over_limit{{domain=\"edge\",key1=\"a\"}} 2\n\
         ratelimit_service_should_rate_limit_error{{err_type=\"service_error\"}} 1\n\
         ratelimit_service_should_rate_limit_error{{err_type=\"redis_error\"}} {failed}\n\
         ratelimit_service_response_time_seconds_bucket{{{grpc},le=\"0.01\"}} {fast}\n\
         ratelimit_service_response_time_seconds_bucket{{{grpc},le=\"0.1\"}} {fast}\n\
         ratelimit_service_response_time_seconds_bucket{{{grpc},le=\"+Inf\"}} {all}\n\
         ratelimit_service_response_time_seconds_sum{{{grpc}}} 1\n\
         ratelimit_service_response_time_seconds_count{{{grpc}}} {all}\n",
        answered + failed + 2,
    )
}

/// A node of Envoy's service on its three ports.
async fn envoy_node() -> anyhow::Result<StandIn> {
    let mut envoy = StandIn::new();
    envoy.serve(6070, "/rlconfig", RULES).await?;
    envoy.serve(8080, "/healthcheck", "OK").await?;
    envoy
        .serve(9090, "/metrics", &metrics(10, 0, 10, 0))
        .await?;
    Ok(envoy)
}

/// Whether a node's figure is this.
fn node(scrape: &Scrape, figure: &str, id: &str, value: u32) -> bool {
    scrape.is(
        &format!("ratelimiter_node_{figure}"),
        &[("node_id", id)],
        value,
    )
}

#[tokio::test]
async fn a_node_that_is_asked_on_its_three_ports_is_up_and_down_by_its_health() -> anyhow::Result<()>
{
    let mut envoy = envoy_node().await?;
    let id = envoy.address(8080);
    let watched = Watched::start("envoy-ratelimit", &envoy.url(8080)).await?;
    let up = |scrape: &Scrape| node(scrape, "up", &id, 1);
    let scrape = watched.exporter.until("the node is up", up).await?;
    scrape.assert_is("ratelimiter_nodes", &[], 1);
    for (result, count) in [("allowed", 10), ("denied", 2)] {
        let labels = [("node_id", id.as_str()), ("result", result)];
        let is = scrape.is("ratelimiter_node_requests_checked_total", &labels, count);
        assert!(is, "{}", scrape.text);
    }
    assert!(
        node(&scrape, "check_errors_total", &id, 1),
        "{}",
        scrape.text
    );
    let collectors = scrape.labels("ratelimiter_scrape_collector_success", "collector");
    let expected = [
        "management_api",
        "redis",
        "counters",
        "probes",
        "node_metrics",
    ];
    assert_eq!(collectors, expected);
    scrape.assert_reported(&[]);
    // No request of the reference limiter is made.
    assert_eq!(envoy.asked("GET /health "), 0);
    assert_eq!(envoy.asked("GET /api/"), 0);
    envoy.answer(8080, "/healthcheck", 500, "");
    let down = format!("node_down {id}");
    let is_down = |scrape: &Scrape| scrape.reported() == [down.as_str()];
    watched.exporter.until("its health fails", is_down).await?;
    envoy.answer(8080, "/healthcheck", 200, "OK");
    watched
        .exporter
        .until("it is back", |it| it.reported().is_empty())
        .await?;
    envoy.stop(8080);
    let scrape = watched.exporter.until("it is gone", is_down).await?;
    assert!(scrape.errors("probes", "refused") > 0.0);
    Ok(())
}

#[tokio::test]
async fn failures_of_redis_that_rise_are_a_lost_redis_of_that_node() -> anyhow::Result<()> {
    let (lost, well) = (envoy_node().await?, envoy_node().await?);
    let id = lost.address(8080);
    let urls = format!("{},{}", lost.url(8080), well.url(8080));
    let watched = Watched::start("envoy-ratelimit", &urls).await?;
    let two = |scrape: &Scrape| scrape.is("ratelimiter_nodes", &[], 2);
    let scrape = watched.exporter.until("two nodes", two).await?;
    scrape.assert_reported(&[]);
    lost.answer(9090, "/metrics", 200, &metrics(10, 3, 10, 0));
    let expected = format!("redis_disconnected {id}");
    let broken = |scrape: &Scrape| scrape.reported() == [expected.as_str()];
    let scrape = watched.exporter.until("it lost Redis", broken).await?;
    assert!(node(&scrape, "up", &id, 1));
    // Nothing is decided: that is no sign that it is back.
    assert!(broken(&watched.exporter.scrape().await?));
    lost.answer(9090, "/metrics", 200, &metrics(30, 3, 30, 0));
    let back =
        |scrape: &Scrape| scrape.reported().is_empty() && node(scrape, "redis_connected", &id, 1);
    watched.exporter.until("it is back", back).await?;
    Ok(())
}

#[tokio::test]
async fn slow_decisions_of_a_kind_are_high_latency() -> anyhow::Result<()> {
    let envoy = envoy_node().await?;
    let id = envoy.address(8080);
    let watched = Watched::start("envoy-ratelimit", &envoy.url(8080)).await?;
    let up = |scrape: &Scrape| node(scrape, "up", &id, 1);
    watched.exporter.until("the node is up", up).await?;
    envoy.answer(9090, "/metrics", 200, &metrics(110, 0, 10, 100));
    let slow = format!("high_latency {id}");
    let is_slow = |scrape: &Scrape| scrape.reported() == [slow.as_str()];
    watched.exporter.until("it is slow", is_slow).await?;
    Ok(())
}

#[tokio::test]
async fn a_summary_and_milliseconds_are_latencies_and_health_may_cover_redis() -> anyhow::Result<()>
{
    let mut own = StandIn::new();
    own.serve(8100, "/health", r#"{"node":{"id":"node-a"}}"#)
        .await?;
    own.serve(
        8100,
        "/metrics",
        "took_ms{quantile=\"0.99\"} 20\ntook_ms_count 1\n",
    )
    .await?;
    let description = "name: own\ntitle: own\ncounters:\n  - {name: a, key: '^own:(?P<key>.+)$', type: string, \
        count: value, refused: counted, expiry: required, without_expiry: leaks}\nnodes:\n  \
        health: {path: /health, id: /node/id, covers_redis: true}\n  metrics: {path: /metrics}\n  \
        latency: [{metric: took_ms, unit: ms}]\n";
    let url = own.url(8100);
    let watched = Watched::described(description, &["--ratelimiter.url", &url]).await?;
    let up = |scrape: &Scrape| node(scrape, "up", "node-a", 1);
    let scrape = watched.exporter.until("the node is up", up).await?;
    assert!(
        node(&scrape, "redis_connected", "node-a", 1),
        "{}",
        scrape.text
    );
    own.answer(
        8100,
        "/metrics",
        200,
        "took_ms{quantile=\"0.99\"} 70\ntook_ms_count 5\n",
    );
    let slow = |scrape: &Scrape| scrape.reported() == ["high_latency node-a"];
    let scrape = watched.exporter.until("it is slow", slow).await?;
    let p99 = scrape.value(
        "ratelimiter_node_latency_p99_seconds",
        &[("node_id", "node-a")],
    );
    assert!(p99.is_some_and(|p99| (p99 - 0.07).abs() < 1e-9), "{p99:?}");
    own.answer(
        8100,
        "/metrics",
        200,
        "took_ms{quantile=\"0.99\"} 20\ntook_ms_count 9\n",
    );
    own.answer(8100, "/health", 503, r#"{"status":"DOWN"}"#);
    let lost = |scrape: &Scrape| scrape.reported() == ["redis_disconnected node-a"];
    let scrape = watched.exporter.until("it lost Redis", lost).await?;
    assert!(up(&scrape), "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn a_name_is_as_many_nodes_as_it_has_addresses() -> anyhow::Result<()> {
    let port = lab::ports::free_port();
    let mut nodes = Vec::new();
    let addresses = tokio::net::lookup_host(("localhost", port)).await?;
    for address in addresses.collect::<std::collections::BTreeSet<_>>() {
        let mut node = StandIn::at(&address.ip().to_string());
        node.serve(port, "/health", "OK").await?;
        nodes.push(node);
    }
    let description = "name: own\ntitle: own\ncounters:\n  - {name: a, key: '^own:(?P<key>.+)$', type: string, \
        count: value, refused: counted, expiry: required, without_expiry: leaks}\nnodes:\n  \
        discover: dns\n  health: {path: /health}\n";
    let url = format!("http://localhost:{port}");
    let watched = Watched::described(description, &["--ratelimiter.url", &url]).await?;
    let up = |scrape: &Scrape| {
        let mut all = nodes.iter();
        all.all(|one| node(scrape, "up", &one.address(port), 1))
    };
    let scrape = watched.exporter.until("each address is a node", up).await?;
    let ids = scrape.labels("ratelimiter_node_up", "node_id");
    assert_eq!(ids.len(), nodes.len(), "{ids:?}");
    // It does not say how long its decisions take.
    assert_eq!(scrape.evaluable("high_latency"), None);
    assert_eq!(scrape.evaluable("node_down"), Some(true));
    Ok(())
}

#[tokio::test]
async fn nodes_of_a_kind_are_not_applicable_where_no_url_says_where_they_are() -> anyhow::Result<()>
{
    let watched = Watched::with(&["--limiter.kind", "kong"]).await?;
    let scrape = watched.exporter.scrape().await?;
    for name in ["node_down", "high_latency"] {
        assert_eq!(scrape.evaluable(name), None, "{name}");
    }
    for absent in ["ratelimiter_up", "ratelimiter_nodes", "ratelimiter_node_up"] {
        assert_eq!(scrape.value(absent, &[]), None, "{absent}");
    }
    scrape.assert_reported(&[]);
    let page = watched.exporter.get("/").await?.text();
    assert!(page.contains("not applicable"), "{page}");
    Ok(())
}

#[tokio::test]
async fn latencies_of_a_kind_come_from_the_prometheus_that_scrapes_its_nodes() -> anyhow::Result<()>
{
    let envoy = envoy_node().await?;
    let id = envoy.address(8080);
    let mut prometheus = StandIn::new();
    let scraped_at = envoy.address(9090);
    prometheus.decide(9090, "/api/v1/query", move |head, _| {
        let asked = head.contains("ratelimit_service_response_time_seconds_bucket");
        let by = head.contains("instance") && !head.contains("node_id");
        let bucket = |le: &str, value: &str| {
            format!(
                r#"{{"metric":{{"part":"window","instance":"{scraped_at}","le":"{le}"}},"value":[0,"{value}"]}}"#
            )
        };
        let series = [bucket("0.1", "0"), bucket("0.2", "5"), bucket("+Inf", "5")].join(",");
        let answer = format!(r#"{{"status":"success","data":{{"result":[{series}]}}}}"#);
        (if asked && by { 200 } else { 400 }, answer)
    });
    prometheus.listen(9090).await?;
    let flags = [
        "--limiter.kind=envoy-ratelimit".to_owned(),
        format!("--ratelimiter.url={}", envoy.url(8080)),
        format!("--prometheus.url={}", prometheus.url(9090)),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let watched = Watched::with(&flags).await?;
    let slow = format!("high_latency {id}");
    let is_slow = |scrape: &Scrape| scrape.reported() == [slow.as_str()];
    let scrape = watched.exporter.until("it is slow", is_slow).await?;
    let success = "ratelimiter_scrape_collector_success";
    assert!(scrape.is(success, &[("collector", "prometheus")], 1));
    Ok(())
}

#[tokio::test]
async fn a_node_that_answers_late_once_is_not_down() -> anyhow::Result<()> {
    let mut node = StandIn::new();
    node.serve(8100, "/health", "OK").await?;
    let description = "name: own\ntitle: own\ncounters:\n  - {name: a, key: '^own:(?P<key>.+)$', type: string, \
        count: value, refused: counted, expiry: required, without_expiry: leaks}\nnodes:\n  health: {path: /health}\n";
    let url = node.url(8100);
    let flags = ["--ratelimiter.url", &url, "--ratelimiter.timeout=2s"];
    let watched = Watched::described(description, &flags).await?;
    let exporter = &watched.exporter;
    let up =
        |scrape: &Scrape| scrape.is("ratelimiter_nodes", &[], 1) && scrape.reported().is_empty();
    exporter.until("it is up", up).await?;
    let asked = node.asked("GET /health");
    let hangs = || node.answer_late(8100, "/health", 200, "OK", Duration::from_secs(60));
    hangs();
    let late = async {
        lab::wait_for(PATIENCE, || async { node.asked("GET /health") > asked }).await?;
        node.answer(8100, "/health", 200, "OK");
        anyhow::Ok(())
    };
    let (scrape, late) = tokio::join!(exporter.scrape(), late);
    late?;
    assert!(up(&scrape?), "{}", exporter.log());
    assert_eq!(node.asked("GET /health"), asked + 2);
    hangs();
    let hung = exporter.scrape().await?;
    assert_eq!(
        hung.reported(),
        [format!("node_down {}", node.address(8100))]
    );
    Ok(())
}
