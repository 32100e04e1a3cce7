//! Several limiters watched by one exporter, each by its name and for itself.

use anyhow::Context as _;
use hyper::Method;
use lab::seed::fill_to;
use lab::temp::TempDir;

use crate::harness::promtool;
use crate::harness::{Cluster, Exporter, PATIENCE, Scrape, run, said, until_asked};

/// Two limiters, `default` and `eu`, and an exporter that watches both. The two exporters that come with them are not used.
struct Two {
    default: Cluster,
    eu: Cluster,
    exporter: Exporter,
    flags: Vec<String>,
    folder: TempDir,
}

fn file(default: &Cluster, more: &str) -> String {
    let (redis, node) = (default.redis.url(), default.nodes[0].url());
    format!("redis.url: {redis}\nratelimiter.url: {node}\n{more}")
}

fn target(name: &str, cluster: &Cluster, more: &str) -> String {
    let (redis, node) = (cluster.redis.url(), cluster.nodes[0].url());
    format!("targets.{name}: {{redis.url: {redis}, ratelimiter.url: {node}, {more}}}\n")
}

impl Two {
    async fn start(of_eu: &str) -> anyhow::Result<Self> {
        let (default, eu) = tokio::try_join!(Cluster::start(1, &[]), Cluster::start(1, &[]))?;
        let folder = TempDir::new("targets")?;
        let path = folder.path().join("config.yml");
        std::fs::write(&path, file(&default, &target("eu", &eu, of_eu)))?;
        let flags = vec![
            format!("--config.file={}", path.display()),
            format!("--state.file={}", folder.path().join("state").display()),
            "--web.enable-lifecycle".to_owned(),
            "--web.enable-admin-api".to_owned(),
            "--web.admin-api-insecure".to_owned(),
        ];
        let exporter = Exporter::start(&flags).await?;
        Ok(Self {
            default,
            eu,
            exporter,
            flags,
            folder,
        })
    }

    async fn probe(&self, name: &str) -> anyhow::Result<Scrape> {
        let answer = self.exporter.get(&format!("/probe?target={name}")).await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Scrape::parse(answer.text())
    }
}

#[tokio::test]
async fn each_target_is_judged_alone_and_only_metrics_has_the_exporters_own() -> anyhow::Result<()>
{
    let two = Two::start("invariants: {ghost_allowing: {severity: info}}").await?;
    let mut redis = two.eu.redis.connection().await?;
    fill_to(&mut redis, b"over", 15).await?;

    let metrics = two.exporter.scrape().await?;
    metrics.assert_reported(&[]);
    assert!(metrics.text.contains("process_open_fds"));
    let eu = two.probe("eu").await?;
    eu.assert_reported(&["ghost_allowing over"]);
    let labels = [("name", "ghost_allowing"), ("severity", "info")];
    assert!(eu.is("invariant_violation", &labels, 1));
    assert!(eu.is("ratelimiter_keys", &[], 1));
    // The log names the target.
    let log = two.exporter.log();
    let line = log.lines().find(|line| line.contains("violated: "));
    let told = line.is_some_and(|line| line.contains("limiter=eu"));
    assert!(told, "{log}");
    for of_the_exporter in ["process_open_fds", "unauthorized", "config_last_reload"] {
        assert!(!eu.text.contains(of_the_exporter), "{of_the_exporter}");
    }
    // Dashboards choose limiters by the one, alerts reckon from the other.
    for needed in [
        "ratelimiter_exporter_build_info{",
        "process_start_time_seconds ",
    ] {
        assert!(eu.text.contains(needed), "{needed}");
    }
    promtool(eu.text).await?;
    // The default one has a name, too.
    let default = two.probe("default").await?;
    assert!(default.is("ratelimiter_keys", &[], 0));

    // A target that hangs delays no other.
    let mut two = two;
    two.eu.redis.pause()?;
    let (eu, metrics) = tokio::join!(two.probe("eu"), two.exporter.scrape());
    assert!(eu?.is("ratelimiter_redis_up", &[], 0));
    assert!(metrics?.is("ratelimiter_redis_up", &[], 1));
    two.eu.redis.resume()?;
    assert!(two.probe("eu").await?.is("ratelimiter_redis_up", &[], 1));
    drop(two.default);
    Ok(())
}

#[tokio::test]
async fn an_unknown_target_or_a_url_is_not_found_and_not_repeated() -> anyhow::Result<()> {
    let two = Two::start("").await?;
    for (query, status, words) in [
        (
            "",
            400,
            "expected one ?target=NAME, with one of: default, eu",
        ),
        ("?target=eu&target=eu", 400, "expected one ?target=NAME"),
        (
            "?target=us",
            404,
            "expected the name of a limiter in the configuration, never a URL; one of: default, eu",
        ),
        (
            "?target=http%3A%2F%2Fme%3Asecret%40evil.example",
            404,
            "never a URL",
        ),
        ("?target=http://evil.example:8000", 404, "never a URL"),
        ("?target=redis://evil.example", 404, "never a URL"),
        ("?target=%3Cscript%3E", 404, "no such target"),
        ("?target=eu%0A", 404, "no such target"),
    ] {
        let answer = two.exporter.get(&format!("/probe{query}")).await?;
        let text = answer.text();
        assert_eq!(answer.status, status, "{query}: {text}");
        assert!(text.contains(words), "{query}: {text}");
        for given in ["evil", "secret", "script"] {
            assert!(!text.contains(given), "{query}: {text}");
        }
    }
    let refused = two
        .exporter
        .send(Method::POST, "/probe?target=eu", "")
        .await?;
    assert_eq!(refused.status, 405);
    Ok(())
}

#[tokio::test]
async fn the_page_and_the_json_are_about_the_target_that_is_named() -> anyhow::Result<()> {
    let two = Two::start("").await?;
    let mut redis = two.eu.redis.connection().await?;
    fill_to(&mut redis, b"over", 15).await?;
    let json = async |path: &str| two.exporter.get(path).await?.json();
    for (query, violations) in [("", 0), ("?target=default", 0), ("?target=eu", 1)] {
        let told = json(&format!("/api/v1/violations{query}")).await?;
        let told = told["violations"].as_array().map(Vec::len);
        assert_eq!(told, Some(violations), "{query}");
        let seen = json(&format!("/api/v1/observation{query}")).await?;
        let seen = seen["counters"].as_array().map(Vec::len);
        assert_eq!(seen, Some(violations), "{query}");
    }
    let explained = json("/api/v1/violations?subject=over&target=eu").await?;
    let decisions = explained["invariants"].to_string();
    assert!(decisions.contains("violated"), "{explained}");

    // From each page one sees how all of them stand, and gets there.
    for (query, title, here) in [
        ("", "default", "href=\"./\" aria-current=\"page\""),
        (
            "?target=eu",
            "eu",
            "href=\"./?target=eu\" aria-current=\"page\"",
        ),
    ] {
        let page = two.exporter.get(&format!("/{query}")).await?.text();
        let (_, rest) = page.split_once("<title>").context("no title")?;
        assert!(
            rest.split_once("</title>")
                .is_some_and(|(it, _)| it.ends_with(title)),
            "{page}"
        );
        assert!(page.contains(here), "{page}");
        assert!(
            page.contains(&format!("href=\"api/v1/violations{query}\"")),
            "{page}"
        );
        let eu = page.split_once("id=\"limiter-eu\"").map(|(_, rest)| rest);
        let eu = eu
            .and_then(|rest| rest.split_once("</a>"))
            .context("no eu")?
            .0;
        assert!(
            eu.ends_with("eu<span class=\"hidden\">: violated</span>"),
            "{eu}"
        );
    }

    for (path, status, words) in [
        ("/api/v1/violations?target=us", 404, "no such target"),
        ("/api/v1/observation?target=http://evil", 404, "never a URL"),
        (
            "/api/v1/violations?target=eu&target=eu",
            400,
            "expected one ?target=NAME",
        ),
        ("/?target=us", 404, "no such target"),
        // Else the default one's would be taken for those of eu.
        ("/metrics?target=eu", 400, "/probe?target=eu"),
    ] {
        let answer = two.exporter.get(path).await?;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
        if path.starts_with("/api/") {
            assert!(answer.json()?["error"].is_string(), "{}", answer.text());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_counter_is_reset_at_the_target_that_is_named() -> anyhow::Result<()> {
    let two = Two::start("").await?;
    let mut connections = [
        two.default.redis.connection().await?,
        two.eu.redis.connection().await?,
    ];
    for redis in &mut connections {
        fill_to(redis, b"k", 3).await?;
    }
    let path = "/api/v1/actions/reset_counter";
    for (body, status, left) in [
        (r#"{"key":"k","target":"us"}"#, 404, [1, 1]),
        (r#"{"key":"k","target":"redis://me:pw@h"}"#, 404, [1, 1]),
        (r#"{"key":"k","target":"eu"}"#, 202, [1, 0]),
        (r#"{"key":"k"}"#, 202, [0, 0]),
    ] {
        let answer = two.exporter.send(Method::POST, path, body).await?;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(!answer.text().contains("pw"), "{}", answer.text());
        for (redis, left) in connections.iter_mut().zip(left) {
            let there: u64 = redis::cmd("EXISTS")
                .arg("ratelimit:k")
                .query_async(redis)
                .await?;
            assert_eq!(there, left, "{body}");
        }
    }
    let log = two.exporter.log();
    assert!(
        log.contains("action=reset_counter key=k limiter=eu"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn each_target_has_state_of_its_own_that_survives_a_restart() -> anyhow::Result<()> {
    let mut two = Two::start("invariants: {counter_drift: {grace_period: 1h}}").await?;
    let mut redis = two.eu.redis.connection().await?;
    fill_to(&mut redis, b"over", 15).await?;
    let since = |scrape: &Scrape| {
        let labels = [("name", "counter_drift"), ("subject", "over")];
        scrape.value(
            "ratelimiter_invariant_active_since_timestamp_seconds",
            &labels,
        )
    };
    let before = two.probe("eu").await?;
    assert!(since(&before).is_some());
    assert!(two.exporter.process.terminate().await?.success());
    for name in ["state", "state.eu"] {
        // Of the default one nothing was ever asked, so there is nothing to remember.
        assert_eq!(two.folder.path().join(name).exists(), name == "state.eu");
    }
    two.exporter = Exporter::start(&two.flags).await?;
    assert_eq!(since(&two.probe("eu").await?), since(&before));
    Ok(())
}

#[tokio::test]
async fn check_reads_the_target_that_is_named() -> anyhow::Result<()> {
    let two = Two::start("").await?;
    let mut redis = two.eu.redis.connection().await?;
    fill_to(&mut redis, b"over", 15).await?;
    // Without latencies one is unknown, which is status 2; a violation is status 1.
    for (target, status, words) in [
        (&["--target=default"][..], 2, ""),
        (&[], 2, ""),
        (&["--target=eu"], 1, "over"),
        (
            &["--target=us"],
            2,
            "no target called \"us\": expected one of default, eu",
        ),
    ] {
        let mut args = vec![
            two.flags[0].clone(),
            "check".to_owned(),
            "--latency-sample=0s".to_owned(),
        ];
        args.extend(target.iter().map(|&word| word.to_owned()));
        let output = run(args).await?;
        let text = crate::harness::said(&output) + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{target:?}: {text}");
        assert!(text.contains(words), "{target:?}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reload_adds_and_removes_targets() -> anyhow::Result<()> {
    let two = Two::start("").await?;
    two.probe("eu").await?;
    let path = two.folder.path().join("config.yml");
    std::fs::write(&path, file(&two.default, &target("us", &two.eu, "")))?;
    let answer = two.exporter.send(Method::POST, "/-/reload", "").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(two.exporter.get("/probe?target=eu").await?.status, 404);
    assert!(two.probe("us").await?.is("ratelimiter_redis_up", &[], 1));
    lab::wait_for(PATIENCE, || async {
        two.exporter
            .scrape()
            .await
            .is_ok_and(|scrape| scrape.is("ratelimiter_redis_up", &[], 1))
    })
    .await
}

#[tokio::test]
async fn a_target_whose_state_would_overwrite_anothers_is_refused() -> anyhow::Result<()> {
    let two = Two::start("").await?;
    let path = two.folder.path().join("config.yml");
    for name in ["limits", "tmp", "damaged"] {
        std::fs::write(&path, file(&two.default, &target(name, &two.eu, "")))?;
        let expected = format!("state.{name} to be the file of one target, not of two");
        let answer = two.exporter.send(Method::POST, "/-/reload", "").await?;
        assert_eq!(answer.status, 500, "{name}");
        assert!(answer.text().contains(&expected), "{}", answer.text());
        let mut flags = two.flags.clone();
        flags.push("--config.check".to_owned());
        let output = run(flags).await?;
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
        assert!(said(&output).contains(&expected), "{output:?}");
    }
    two.probe("eu").await?;
    Ok(())
}

#[tokio::test]
async fn a_reload_that_waits_for_one_target_keeps_the_others_waiting_for_nothing()
-> anyhow::Result<()> {
    let mut two = Two::start("redis.timeout: 60s, ratelimiter.timeout: 60s").await?;
    two.probe("eu").await?;
    two.eu.redis.pause()?;
    let address = two.exporter.address.clone();
    let hanging = tokio::spawn({
        let address = address.clone();
        async move { lab::http::get(&address, "/probe?target=eu", PATIENCE).await }
    });
    until_asked(&format!("127.0.0.1:{}", two.eu.redis.port())).await?;
    let reload = tokio::spawn(async move {
        lab::http::request(&address, Method::POST, "/-/reload", "", PATIENCE).await
    });
    let mut meanwhile = 0;
    while meanwhile < 50 {
        assert!(
            two.exporter
                .scrape()
                .await?
                .is("ratelimiter_redis_up", &[], 1)
        );
        assert!(!reload.is_finished() && !hanging.is_finished());
        meanwhile += 1;
    }
    two.eu.redis.resume()?;
    let answer = reload.await??;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(hanging.await??.status, 200);
    Ok(())
}
