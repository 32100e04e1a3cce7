//! The configuration read anew while the exporter serves: by SIGHUP and over HTTP, taken over whole or not at all, and
//! without forgetting what was in progress.

use std::path::PathBuf;

use hyper::Method;
use lab::faults::Faults;
use lab::seed::fill_to;
use lab::temp::TempDir;
use tokio::net::unix::pipe;

use crate::harness::{Cluster, PATIENCE, Scrape, client};

const RELOADED: &str = "ratelimiter_exporter_config_last_reload_successful";
const RELOADED_AT: &str = "ratelimiter_exporter_config_last_reload_success_timestamp_seconds";

/// A limiter of one node and its exporter, with a configuration file to be changed.
struct Reloading {
    cluster: Cluster,
    file: PathBuf,
    _folder: TempDir,
}

impl Reloading {
    async fn start(text: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new("reload")?;
        let file = folder.path().join("config.yml");
        std::fs::write(&file, text)?;
        let flag = format!("--config.file={}", file.display());
        let cluster = Cluster::start(1, &[&flag, "--web.enable-lifecycle"]).await?;
        Ok(Self {
            cluster,
            file,
            _folder: folder,
        })
    }

    /// Status and text of the answer to a reload with `text` in the file.
    async fn reload(&self, text: &str) -> anyhow::Result<(u16, String)> {
        std::fs::write(&self.file, text)?;
        let answer = self.cluster.exporter.send(Method::POST, "/-/reload", "");
        let answer = answer.await?;
        Ok((answer.status, answer.text()))
    }

    async fn scrape(&self) -> anyhow::Result<Scrape> {
        self.cluster.exporter.scrape().await
    }
}

fn drift_grace(scrape: &Scrape) -> Option<f64> {
    let labels = [("name", "counter_drift")];
    scrape.value("ratelimiter_invariant_grace_period_seconds", &labels)
}

#[tokio::test]
async fn a_reload_changes_settings_and_forgets_nothing_in_progress() -> anyhow::Result<()> {
    let reloading = Reloading::start("invariants: {counter_drift: {grace_period: 1h}}\n").await?;
    let mut redis = reloading.cluster.redis.connection().await?;
    fill_to(&mut redis, b"over", 15).await?;
    let subject = [("name", "counter_drift"), ("subject", "over")];
    let since = "ratelimiter_invariant_active_since_timestamp_seconds";
    let before = reloading.scrape().await?;
    assert!(before.is("ratelimiter_invariant_pending", &subject, 1));

    let text =
        "invariants: {counter_drift: {grace_period: 0s, severity: info}}\nkeys.max-series: 7\n";
    assert_eq!(
        reloading.reload(text).await?,
        (200, "reloaded\n".to_owned())
    );
    let after = reloading.scrape().await?;
    assert!(
        after.reported().contains(&"counter_drift over".to_owned()),
        "{:?}",
        after.reported()
    );
    let labels = [("name", "counter_drift"), ("severity", "info")];
    assert!(after.is("invariant_violation", &labels, 1));
    assert_eq!(after.value(since, &subject), before.value(since, &subject));
    assert!(after.is(RELOADED, &[], 1));
    assert!(after.value(RELOADED_AT, &[]) > before.value(RELOADED_AT, &[]));

    // A rule for keys that were not written since: they are counted again.
    let text = "limits: [{match: over, limit: 100, window: 1h}]\n";
    assert_eq!(reloading.reload(text).await?.0, 200);
    let ruled = reloading.scrape().await?;
    ruled.assert_reported(&[]);
    assert!(ruled.is("ratelimiter_key_requests_limit", &[("key", "over")], 100));
    Ok(())
}

#[tokio::test]
async fn an_invalid_or_impossible_reload_leaves_the_old_configuration_in_force()
-> anyhow::Result<()> {
    let reloading = Reloading::start("invariants: {counter_drift: {grace_period: 7m}}\n").await?;
    let before = reloading.scrape().await?;
    for (text, expected) in [
        ("redis: {timeout: soon}\n", "redis.timeout"),
        ("nonsense: [\n", "YAML"),
        (
            "state: {file: /tmp/nowhere-state}\ninvariants: {counter_drift: {grace_period: 1s}}\n",
            "state.file: cannot change from none to /tmp/nowhere-state without a restart",
        ),
        (
            "log: {level: debug}\n",
            "log.level: cannot change from info to debug without a restart",
        ),
        (
            "redis: {password-file: /nonexistent}\ninvariants: {counter_drift: {grace_period: 1s}}\n",
            "/nonexistent",
        ),
    ] {
        let (status, answer) = reloading.reload(text).await?;
        assert_eq!(status, 500, "{text}: {answer}");
        assert!(answer.contains(expected), "{text}: {answer}");
        let log = reloading.cluster.exporter.log();
        assert_eq!(log.matches(expected).count(), 1, "{expected}: {log}");
        let after = reloading.scrape().await?;
        assert_eq!(drift_grace(&after), Some(420.0), "{text}");
        assert!(after.is(RELOADED, &[], 0));
        assert_eq!(
            after.value(RELOADED_AT, &[]),
            before.value(RELOADED_AT, &[])
        );
    }
    let repaired = "invariants: {counter_drift: {grace_period: 8m}}\n";
    assert_eq!(reloading.reload(repaired).await?.0, 200);
    let after = reloading.scrape().await?;
    assert_eq!(drift_grace(&after), Some(480.0));
    assert!(after.is(RELOADED, &[], 1));
    Ok(())
}

#[tokio::test]
async fn a_file_whose_reading_hangs_fails_the_reload_until_it_is_back() -> anyhow::Result<()> {
    let reloading = Reloading::start("keys.max-series: 1\n").await?;
    // Nobody writes to it, so opening it to read waits for ever, as on a dead network disk.
    std::fs::remove_file(&reloading.file)?;
    let made = std::process::Command::new("mkfifo")
        .arg(&reloading.file)
        .status()?;
    assert!(made.success());
    let exporter = &reloading.cluster.exporter;
    for expected in ["were not read within 10s", "still are"] {
        let answer = exporter.send(Method::POST, "/-/reload", "").await?;
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(expected), "{}", answer.text());
        assert!(reloading.scrape().await?.is(RELOADED, &[], 0));
    }
    let pipe = reloading.file.with_extension("pipe");
    std::fs::rename(&reloading.file, &pipe)?;
    drop(pipe::OpenOptions::new().open_sender(&pipe)?);
    let text = "keys.max-series: 2\n";
    let reloaded = lab::wait_for(PATIENCE, || async {
        let answer = reloading.reload(text).await;
        answer.is_ok_and(|(status, _)| status == 200)
    });
    reloaded.await?;
    assert!(reloading.scrape().await?.is(RELOADED, &[], 1));
    Ok(())
}

#[tokio::test]
async fn sighup_reloads_without_the_lifecycle_api_which_is_off_by_default() -> anyhow::Result<()> {
    let folder = TempDir::new("reload")?;
    let file = folder.path().join("config.yml");
    std::fs::write(&file, "invariants: {counter_drift: {grace_period: 1m}}\n")?;
    let flag = format!("--config.file={}", file.display());
    let mut cluster = Cluster::start(1, &[&flag]).await?;
    let refused = cluster.exporter.send(Method::POST, "/-/reload", "").await?;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("--web.enable-lifecycle"));
    assert_eq!(cluster.exporter.get("/-/reload").await?.status, 405);

    std::fs::write(
        &file,
        "invariants: {counter_drift: {grace_period: 2m}}\nweb.enable-lifecycle: true\n",
    )?;
    cluster.exporter.process.hang_up()?;
    let until = cluster.exporter.until("the new grace period", |scrape| {
        drift_grace(scrape) == Some(120.0)
    });
    until.await?;
    // Also what is served, and how, is of the new configuration.
    lab::wait_for(PATIENCE, || async {
        let answer = cluster.exporter.send(Method::POST, "/-/reload", "").await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    // A page elsewhere whose name points here is the same site to its browser, and not to the exporter.
    let client = client()?;
    let url = format!("http://{}/-/reload", cluster.exporter.address);
    for (host, expected) in [
        (&*cluster.exporter.address, 200),
        ("rebound.example:9972", 403),
    ] {
        let request = client.post(&url).header("host", host);
        let request = request.header("origin", format!("http://{host}"));
        assert_eq!(request.send().await?.status(), expected, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn another_redis_is_another_limiter_of_which_nothing_is_known() -> anyhow::Result<()> {
    let other = Cluster::start(1, &[]).await?;
    let folder = TempDir::new("reload")?;
    let file = folder.path().join("config.yml");
    let mut first = Cluster::start(1, &[]).await?;
    let of = |cluster: &Cluster| {
        let (redis, node) = (cluster.redis.url(), cluster.nodes[0].url());
        format!("redis.url: {redis}\nratelimiter.url: {node}\n")
    };
    std::fs::write(&file, of(&first))?;
    let flags = [
        format!("--config.file={}", file.display()),
        "--web.enable-lifecycle".to_owned(),
    ];
    first.exporter = crate::harness::Exporter::start(&flags).await?;
    let mut redis = first.redis.connection().await?;
    fill_to(&mut redis, b"over", 15).await?;
    let scrape = first.exporter.scrape().await?;
    assert!(
        scrape
            .reported()
            .contains(&"ghost_allowing over".to_owned())
    );

    std::fs::write(&file, of(&other))?;
    let answer = first.exporter.send(Method::POST, "/-/reload", "").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let scrape = first.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_keys", &[], 0);
    scrape.assert_is("ratelimiter_nodes", &[], 1);
    Ok(())
}

#[tokio::test]
async fn a_violation_of_the_canary_ends_with_the_canary() -> anyhow::Result<()> {
    let reloading = Reloading::start("probe.canary: true\n").await?;
    let fail_open = Faults {
        fail_open: true,
        ..Faults::default()
    };
    reloading.cluster.nodes[0].set_faults(&fail_open).await?;
    let open = "ghost_allowing canary:node-1".to_owned();
    let exporter = &reloading.cluster.exporter;
    exporter
        .until("the canary finds it", |scrape| {
            scrape.reported().contains(&open)
        })
        .await?;
    let (status, text) = reloading.reload("").await?;
    assert_eq!(status, 200, "{text}");
    let reported = reloading.scrape().await?.reported();
    assert!(!reported.contains(&open), "{reported:?}");
    Ok(())
}

#[tokio::test]
async fn no_scrape_fails_while_one_reload_follows_the_other() -> anyhow::Result<()> {
    let reloading = Reloading::start("").await?;
    let scrapes = async {
        for _ in 0..40 {
            let scrape = reloading.scrape().await?;
            anyhow::ensure!(scrape.is("ratelimiter_redis_up", &[], 1), "{}", scrape.text);
            anyhow::ensure!(scrape.reported().is_empty(), "{:?}", scrape.reported());
        }
        Ok(())
    };
    let reloads = async {
        for number in 0..40 {
            // Every other one makes new connections.
            let text = format!(
                "redis.timeout: {}s\nkeys.max-series: {number}\n",
                number % 2 + 1
            );
            let (status, answer) = reloading.reload(&text).await?;
            anyhow::ensure!(status == 200, "{answer}");
        }
        Ok(())
    };
    tokio::try_join!(scrapes, reloads)?;
    Ok(())
}

#[tokio::test]
async fn a_password_in_a_file_that_is_refused_shows_nowhere() -> anyhow::Result<()> {
    let reloading = Reloading::start("").await?;
    for text in [
        "prometheus.url: ftp://me:tr0ub4dor@localhost\n",
        "redis.password: tr0ub4dor\n",
        "redis: {password-file: [tr0ub4dor, {a: tr0ub4dor}]}\n",
        "redis.url: redis://me:tr0ub4dor@localhost\nredis: {url: tr0ub4dor}\n",
        "redis.url: redis://me:tr0ub4dor@localhost\nredis: [\n",
        "targets: {'redis://me:tr0ub4dor@localhost': {}}\n",
        "targets: {eu: {redis.url: 'redis://me:tr0ub4dor@localhost'}}\n",
        "targets: {eu: {redis.url: 'redis://me:tr0ub4dor@localhost/x', ratelimiter.url: 'http://a'}}\n",
    ] {
        let (status, answer) = reloading.reload(text).await?;
        assert_eq!(status, 500, "{text}: {answer}");
        assert!(!answer.contains("tr0ub4dor"), "{text}: {answer}");
    }
    let log = reloading.cluster.exporter.log();
    assert_eq!(log.matches("not reloaded").count(), 8, "{log}");
    assert!(!log.contains("tr0ub4dor"), "{log}");
    Ok(())
}
