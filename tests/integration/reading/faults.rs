//! Every fault of a network, between the exporter and each of its sources, by a proxy between real servers: the scrape
//! ends in time with what it got, the failure has its name, nothing looks healthy that was not read, and the first
//! scrape after the fault is good. And a source that hangs for ever costs nothing but its own data.

use std::time::Duration;

use anyhow::Context as _;
use lab::faults::Faults;
use lab::node::{NodeOptions, NodeProcess};
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::proxy::{Mode, Proxy};
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use lab::traffic::{Traffic, TrafficOptions};
use tokio::time::Instant;

use crate::harness::{Exporter, PATIENCE, Scrape};

/// What Prometheus gives a scrape. The faults are noticed long before, by the timeouts of single requests.
const SCRAPE_TIMEOUT: f64 = 8.0;

/// The timeout of single requests: short beside the above, and still long for an answer on a busy machine.
const TIMEOUTS: [&str; 2] = ["--redis.timeout=700ms", "--ratelimiter.timeout=700ms"];

/// Each fault, and the reasons that failures by it may have.
const FAULTS: [(Mode, &[&str]); 5] = [
    (Mode::Reset, &["network", "truncated"]),
    (Mode::Truncate(3), &["truncated", "network"]),
    (Mode::Stall(3), &["timeout"]),
    // A black hole: connections are made, and nothing ever comes.
    (Mode::Hang, &["timeout"]),
    (Mode::Refuse, &["refused"]),
];

/// One scrape, which must have ended before Prometheus would have given up.
async fn in_time(exporter: &Exporter, what: &str) -> anyhow::Result<Scrape> {
    let started = Instant::now();
    let scrape = exporter.scrape_within(SCRAPE_TIMEOUT).await?;
    let took = started.elapsed().as_secs_f64();
    anyhow::ensure!(took < SCRAPE_TIMEOUT, "{what}: the scrape took {took} s");
    Ok(scrape)
}

/// Failures of `collector` for any of `reasons`.
fn failures(scrape: &Scrape, collector: &str, reasons: &[&str]) -> f64 {
    reasons
        .iter()
        .map(|reason| scrape.errors(collector, reason))
        .sum()
}

/// Puts `proxy` through every fault. During each, all `collectors` fail for its reasons, and `blind` says whether the
/// scrape admits what it could not read. Before, after, and when bytes only come one at a time, `good` holds.
async fn every_fault(
    exporter: &Exporter,
    proxy: &Proxy,
    collectors: &[&str],
    blind: impl Fn(&Scrape) -> bool,
    good: impl Fn(&Scrape) -> bool,
) -> anyhow::Result<()> {
    let good = |scrape: &Scrape| {
        let mut collectors = collectors.iter();
        let read = collectors.all(|collector| scrape.succeeded(collector) == Some(true));
        read && scrape.reported().is_empty() && good(scrape)
    };
    exporter.until("good before any fault", good).await?;
    for (fault, reasons) in FAULTS {
        let what = format!("{collectors:?} with {fault:?}");
        let before = in_time(exporter, &what).await?;
        proxy.set(fault).await?;
        let during = in_time(exporter, &what).await?;
        for collector in collectors {
            anyhow::ensure!(
                during.succeeded(collector) == Some(false)
                    && failures(&during, collector, reasons)
                        > failures(&before, collector, reasons),
                "{what}: {collector} is not named: {}",
                during.text
            );
        }
        anyhow::ensure!(
            blind(&during),
            "{what}: looks healthy unread: {}",
            during.text
        );
        proxy.set(Mode::Pass).await?;
        let after = in_time(exporter, &what).await?;
        anyhow::ensure!(
            good(&after),
            "{what}: not good when it was over: {}",
            after.text
        );
    }
    proxy.set(Mode::OneByte).await?;
    let dribbled = in_time(exporter, "one byte at a time").await?;
    anyhow::ensure!(good(&dribbled), "one byte at a time: {}", dribbled.text);
    Ok(())
}

/// A node whose registered address is that of a proxy before it.
async fn node_behind(redis: &RedisServer) -> anyhow::Result<(NodeProcess, Proxy)> {
    let port = lab::ports::free_port();
    let proxy = Proxy::start(format!("127.0.0.1:{port}")).await?;
    let mut options = NodeOptions::new("node-1", redis.url());
    options.listen = Some(([127, 0, 0, 1], port).into());
    options.advertise = Some(proxy.address().to_string());
    Ok((NodeProcess::start(options).await?, proxy))
}

fn flags(redis: &str, node: &str, more: &[String]) -> Vec<String> {
    let urls = [
        format!("--redis.url={redis}"),
        format!("--ratelimiter.url={node}"),
    ];
    let timeouts = TIMEOUTS.map(str::to_owned);
    [&urls[..], &timeouts[..], more].concat()
}

#[tokio::test]
async fn every_fault_on_the_way_to_redis_is_named_and_over_when_it_is_over() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let mut seeder = redis.connection().await?;
    lab::seed::fill_to(&mut seeder, b"user:1", 5).await?;
    let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let exporter = Exporter::start(&flags(&proxy.url("redis"), &node.url(), &[])).await?;
    let key = [("key", "user:1")];
    every_fault(
        &exporter,
        &proxy,
        &["redis"],
        |scrape| {
            scrape.is("ratelimiter_redis_up", &[], 0)
                && scrape.reported() == ["redis_disconnected redis"]
                && scrape.evaluable("counter_drift") == Some(false)
                && scrape.evaluable("ghost_allowing") == Some(false)
                && scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1)
                && scrape.is("ratelimiter_up", &[], 1)
        },
        |scrape| {
            scrape.is("ratelimiter_redis_up", &[], 1)
                && scrape.is("ratelimiter_key_requests", &key, 5)
                && scrape.evaluable("ghost_allowing") == Some(true)
        },
    )
    .await
}

#[tokio::test]
async fn every_fault_on_the_way_to_a_node_is_named_and_over_when_it_is_over() -> anyhow::Result<()>
{
    let redis = RedisServer::start(&[]).await?;
    let (_node, proxy) = node_behind(&redis).await?;
    let exporter = Exporter::start(&flags(&redis.url(), &proxy.url("http"), &[])).await?;
    every_fault(
        &exporter,
        &proxy,
        &["management_api", "probes"],
        |scrape| {
            scrape.is("ratelimiter_up", &[], 0)
                && scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 0)
                && scrape.reported() == ["node_down node-1"]
                && scrape
                    .labels("ratelimiter_node_latency_p99_seconds", "node_id")
                    .is_empty()
                && scrape.is("ratelimiter_redis_up", &[], 1)
        },
        |scrape| {
            scrape.is("ratelimiter_up", &[], 1)
                && scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1)
        },
    )
    .await
}

#[tokio::test]
async fn every_fault_on_the_way_to_prometheus_is_named_and_over_when_it_is_over()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let node = NodeProcess::start(NodeOptions::new("node-1", redis.url())).await?;
    let _traffic = Traffic::start(TrafficOptions {
        nodes: vec![node.address()],
        keys: 5,
        rate_per_second: 50.0,
        key_prefix: "user:".to_owned(),
    })?;
    let target = Target {
        job: "ratelimiter-nodes".to_owned(),
        address: node.address(),
        labels: vec![("node_id".to_owned(), "node-1".to_owned())],
    };
    let folder = TempDir::new("faults")?;
    let options = PrometheusOptions {
        interval: Duration::from_secs(1),
        targets: vec![target],
        rule_files: Vec::new(),
        alertmanager: None,
    };
    let prometheus = Prometheus::start_in(folder.path(), &options).await?;
    let url = prometheus.server.url();
    let address = url.strip_prefix("http://").context("no http://")?;
    let proxy = Proxy::start(address.trim_end_matches('/')).await?;
    let asked = format!("--prometheus.url={}", proxy.url("http"));
    let exporter = Exporter::start(&flags(&redis.url(), &node.url(), &[asked])).await?;
    let p99 = |scrape: &Scrape| {
        let labels = [("node_id", "node-1")];
        scrape.value("ratelimiter_node_latency_p99_seconds", &labels)
    };
    every_fault(
        &exporter,
        &proxy,
        &["prometheus"],
        |scrape| {
            p99(scrape).is_none()
                && scrape.evaluable("high_latency") == Some(false)
                && scrape.evaluable("node_down") == Some(true)
        },
        |scrape| p99(scrape).is_some(),
    )
    .await
}

#[tokio::test]
async fn prometheus_is_asked_once_for_all_nodes_and_adds_up_the_series_of_one() -> anyhow::Result<()>
{
    let redis = RedisServer::start(&[]).await?;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let options = NodeOptions::new(format!("node-{number}"), redis.url());
        nodes.push(NodeProcess::start(options).await?);
    }
    let _traffic = Traffic::start(TrafficOptions {
        nodes: nodes.iter().map(NodeProcess::address).collect(),
        keys: 5,
        rate_per_second: 60.0,
        key_prefix: "user:".to_owned(),
    })?;
    let slow = Faults {
        check_delay_ms: 300,
        ..Faults::default()
    };
    nodes[2].set_faults(&slow).await?;
    let target = |node: &NodeProcess, id: &str, shard: &str| Target {
        job: format!("{} as {id}", node.id()),
        address: node.address(),
        labels: vec![
            ("node_id".to_owned(), id.to_owned()),
            ("shard".to_owned(), shard.to_owned()),
        ],
    };
    let options = PrometheusOptions {
        interval: Duration::from_secs(1),
        targets: vec![
            // What comes first for node-1 is fast, its other series is slow; node-2 is slow under another label alone.
            target(&nodes[0], "node-1", "a"),
            target(&nodes[2], "node-1", "a"),
            target(&nodes[1], "node-2", "a"),
            target(&nodes[2], "node-2", "b"),
        ],
        rule_files: Vec::new(),
        alertmanager: None,
    };
    let folder = TempDir::new("series")?;
    let prometheus = Prometheus::start_in(folder.path(), &options).await?;
    let asked = [
        format!("--prometheus.url={}", prometheus.server.url()),
        "--latency.metric=ratelimiter_check_duration_seconds{shard=\"a\"}".to_owned(),
    ];
    let exporter = Exporter::start(&flags(&redis.url(), &nodes[0].url(), &asked)).await?;
    let p99 = |scrape: &Scrape, id: &str| {
        scrape.value("ratelimiter_node_latency_p99_seconds", &[("node_id", id)])
    };
    let right = |scrape: &Scrape| {
        p99(scrape, "node-1").is_some_and(|p99| p99 > 0.25)
            && p99(scrape, "node-2").is_some_and(|p99| p99 < 0.05)
    };
    exporter
        .until("the sum of node-1, shard a of node-2", right)
        .await?;
    let queries = || async {
        let address = prometheus.server.address();
        let answer = lab::http::get(address, "/metrics", PATIENCE).await?.text();
        let exposition = lab::exposition::Exposition::parse(&answer)?;
        let labels = [("handler", "/api/v1/query"), ("code", "200")];
        let count = exposition.value("prometheus_http_requests_total", &labels);
        anyhow::Ok(count.unwrap_or(0.0))
    };
    let before = queries().await?;
    let scrape = exporter.scrape().await?;
    anyhow::ensure!((queries().await? - before - 1.0).abs() < 0.1);
    // node-3 has no series of its own: the first query still named the others.
    anyhow::ensure!(p99(&scrape, "node-3").is_none());
    let said = exporter.get("/api/v1/observation").await?.json()?;
    let why = &said["node_metrics"]["node-3"]["latency_unknown"];
    anyhow::ensure!(why == "prometheus_no_series", "{why}");
    Ok(())
}

#[tokio::test]
async fn a_prometheus_that_hangs_is_waited_for_once_however_many_nodes_there_are()
-> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let options = NodeOptions::new(format!("node-{number}"), redis.url());
        nodes.push(NodeProcess::start(options).await?);
    }
    let proxy = Proxy::start("127.0.0.1:1").await?;
    proxy.set(Mode::Hang).await?;
    let asked = format!("--prometheus.url={}", proxy.url("http"));
    let exporter = Exporter::start(&flags(&redis.url(), &nodes[0].url(), &[asked])).await?;
    let up = |scrape: &Scrape| scrape.is("ratelimiter_nodes", &[], 3);
    let before = exporter.until("three nodes", up).await?;
    let scrape = in_time(&exporter, "hanging Prometheus").await?;
    let timeouts = |scrape: &Scrape| failures(scrape, "prometheus", &["timeout"]);
    anyhow::ensure!(
        (timeouts(&scrape) - timeouts(&before) - 1.0).abs() < 0.1,
        "{} timeouts, then {}",
        timeouts(&before),
        timeouts(&scrape)
    );
    let latencies = scrape.labels("ratelimiter_node_latency_p99_seconds", "node_id");
    anyhow::ensure!(latencies.is_empty(), "{latencies:?}");
    anyhow::ensure!(
        scrape.evaluable("high_latency") == Some(false),
        "{}",
        scrape.text
    );
    Ok(())
}

/// What a source that hangs may not fill: memory in MiB, open files, threads.
fn held(scrape: &Scrape) -> anyhow::Result<[f64; 3]> {
    let value = |name| {
        scrape
            .value(name, &[])
            .with_context(|| format!("no {name}"))
    };
    Ok([
        value("process_resident_memory_bytes")? / f64::from(1 << 20),
        value("process_open_fds")?,
        value("process_threads")?,
    ])
}

/// A thousand scrapes of a limiter that hangs as a whole: its Redis and its node take connections and never answer.
/// What a leak of one task, connection or buffer a scrape would cost is far above what is allowed for.
#[tokio::test]
async fn a_thousand_scrapes_of_a_source_that_hangs_for_ever_cost_nothing_that_stays()
-> anyhow::Result<()> {
    /// The allocator's arenas fill in the first scrapes, and it keeps what it once had. A leak of 16 KiB a scrape, half a
    /// connection's buffer, would be 14 MiB.
    const MEMORY: f64 = 8.0;
    /// The connections of one collection, of which the last may not have been closed yet.
    const FILES: f64 = 8.0;
    /// tokio's blocking threads come and go.
    const THREADS: f64 = 2.0;
    /// What Prometheus gives each scrape, in seconds.
    const DEADLINE: f64 = 0.03;
    /// A collection that takes longer went by the timeout of some single request (0.7 s), not by its deadline.
    const LATE: f64 = 0.5;

    let redis = RedisServer::start(&[]).await?;
    let (_node, to_node) = node_behind(&redis).await?;
    let mut seeder = redis.connection().await?;
    lab::seed::fill_to(&mut seeder, b"user:1", 5).await?;
    let to_redis = Proxy::start(format!("127.0.0.1:{}", redis.port())).await?;
    let mut all = flags(&to_redis.url("redis"), &to_node.url("http"), &[]);
    all.push("--web.timeout-offset=0s".to_owned());
    let exporter = Exporter::start(&all).await?;
    let good = |scrape: &Scrape| {
        scrape.reported().is_empty()
            && scrape.is("ratelimiter_redis_up", &[], 1)
            && scrape.is("ratelimiter_up", &[], 1)
            && scrape.is("ratelimiter_node_up", &[("node_id", "node-1")], 1)
            && scrape.is("ratelimiter_key_requests", &[("key", "user:1")], 5)
    };
    exporter.until("good before it hangs", good).await?;
    to_redis.set(Mode::Hang).await?;
    to_node.set(Mode::Hang).await?;
    let hung = async |times: usize| {
        let (mut last, mut late) = (None, 0);
        for _ in 0..times {
            let scrape = exporter.scrape_within(DEADLINE).await?;
            let took = scrape.value("ratelimiter_scrape_duration_seconds", &[]);
            late += usize::from(took.is_none_or(|took| took > LATE));
            last = Some(scrape);
        }
        // A busy machine may hold up a few, but not one in twenty.
        anyhow::ensure!(
            late * 20 <= times,
            "{late} of {times} outlived their deadline"
        );
        last.context("no scrape")
    };
    let warm = held(&hung(100).await?)?;
    let scrape = hung(900).await?;
    let end = held(&scrape)?;
    let grown: Vec<f64> = end.iter().zip(warm).map(|(end, warm)| end - warm).collect();
    anyhow::ensure!(
        grown[0] <= MEMORY && grown[1] <= FILES && grown[2] <= THREADS,
        "MiB, files, threads: {warm:?} after 100 scrapes, {end:?} after 1,000"
    );
    anyhow::ensure!(
        !scrape.is("ratelimiter_redis_up", &[], 1) && !scrape.is("ratelimiter_up", &[], 1),
        "a source that hangs looks healthy: {}",
        scrape.text
    );

    // Back as after a restart. Had the proxies let flow what they held back, a thousand old requests would be answered
    // before the new ones.
    for proxy in [&to_redis, &to_node] {
        proxy.set(Mode::Refuse).await?;
        proxy.set(Mode::Pass).await?;
    }
    let first = exporter.scrape_within(SCRAPE_TIMEOUT).await?;
    anyhow::ensure!(good(&first), "the first scrape after it: {}", first.text);
    // Nothing that was begun in vain goes on: connections to the sources are those of one good collection.
    let most = warm[1] + FILES;
    lab::wait_for(PATIENCE, || async {
        let files = exporter.scrape().await.and_then(|scrape| held(&scrape));
        files.is_ok_and(|held| held[1] <= most)
    })
    .await
}
