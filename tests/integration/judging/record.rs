//! A recording of a live limiter, faults and all, and its replay: the same verdicts at the same times.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lab::process::Process;
use lab::redis_server::RedisServer;
use lab::seed::{extra_members, fill_to, remove_extra};
use lab::temp::TempDir;
use ratelimiter_exporter::observation::hash_key;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, base_flags, redis_do, run, said};

/// A `check` that records into a file.
struct Recording {
    process: Process,
    path: PathBuf,
    folder: TempDir,
}

impl Recording {
    fn start(cluster: &Cluster, name: &str, more: &[&str]) -> anyhow::Result<Self> {
        Self::of(base_flags(&cluster.redis.url(), &cluster.nodes), name, more)
    }

    /// Of what the flags `args` name.
    fn of(mut args: Vec<String>, name: &str, more: &[&str]) -> anyhow::Result<Self> {
        let folder = TempDir::new("record")?;
        let path = folder.path().join(name);
        let file = format!("--output-file={}", path.display());
        args.extend(["check", "--output=jsonl", "--every=100ms", &file].map(str::to_owned));
        args.extend(more.iter().map(|&flag| flag.to_owned()));
        let log = folder.path().join("log");
        let process = Process::spawn(&lab::exporter_binary(), &args, Some(&log))?;
        Ok(Self {
            process,
            path,
            folder,
        })
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for a line that `holds`, behind all that are there.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let before = self.lines().len();
        lab::wait_for(PATIENCE, || async {
            self.lines().iter().skip(before).any(&holds)
        })
        .await
        .with_context(|| format!("never: {what}; {}", self.process.output()))
    }

    /// Ends it as Ctrl-C does.
    async fn interrupt(&mut self) -> anyhow::Result<()> {
        let pid = self.process.pid().to_string();
        let sent = tokio::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .await?;
        anyhow::ensure!(sent.success(), "kill -INT: {sent}");
        let mut ended = None;
        lab::wait_for(PATIENCE, || {
            ended = self.process.exit_status();
            let over = ended.is_some();
            async move { over }
        })
        .await?;
        let ended = ended.context("not ended")?;
        anyhow::ensure!(ended.success(), "{ended}: {}", self.process.output());
        Ok(())
    }
}

/// `evaluate` on a file.
async fn evaluate(path: &Path, more: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut args = vec!["evaluate".to_owned(), path.display().to_string()];
    args.extend(more.iter().map(|&flag| flag.to_owned()));
    let output = run(args).await?;
    anyhow::ensure!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout)?;
    let lines: serde_json::Result<Vec<Value>> = text.lines().map(serde_json::from_str).collect();
    Ok(lines?)
}

fn has(line: &Value, list: &str, name: &str) -> bool {
    let listed = line[list].as_array().into_iter().flatten();
    listed
        .into_iter()
        .any(|violation| violation["name"] == name)
}

/// The violations of a recorded line as `evaluate` tells them: without what they rest on.
fn told(line: &Value, list: &str) -> Vec<Value> {
    let mut told = line[list].as_array().cloned().unwrap_or_default();
    for violation in &mut told {
        if let Some(violation) = violation.as_object_mut() {
            violation.remove("evidence");
            violation.remove("decision");
        }
    }
    told
}

/// A replay reports the same as the recording, at the same times.
fn assert_replay_reports(recorded: &[Value], replayed: &[Value]) {
    assert_eq!(replayed.len(), recorded.len());
    for (replayed, recorded) in replayed.iter().zip(recorded) {
        assert_eq!(replayed["observed_at"], recorded["observed_at"]);
        for list in ["violations", "pending"] {
            assert_eq!(told(replayed, list), told(recorded, list), "{recorded}");
        }
    }
}

#[tokio::test]
async fn a_replay_reports_what_was_reported_live() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    let _traffic = cluster.traffic(50.0)?;
    let mut redis = cluster.redis.connection().await?;
    let folder = TempDir::new("record-config")?;
    let config = folder.path().join("config.yml");
    // Grace periods of a whole number of observations, so that many end exactly then.
    std::fs::write(
        &config,
        "invariants:\n  counter_drift: {grace_period: 200ms}\n  ghost_allowing: {grace_period: 100ms}\n  \
         node_down: {grace_period: 300ms}\n  redis_disconnected: {grace_period: 100ms}\n",
    )?;
    let flag = format!("--config.file={}", config.display());
    let mut recording = Recording::start(&cluster, "recording.jsonl", &[&flag])?;
    recording.until("a first line", |_| true).await?;

    for key in 0..5 {
        fill_to(&mut redis, format!("over:{key}").as_bytes(), 13).await?;
    }
    recording
        .until("a drift", |line| has(line, "violations", "counter_drift"))
        .await?;
    extra_members(&mut redis, b"over:1", 3, 60_000).await?;
    remove_extra(&mut redis, b"over:1").await?;
    cluster.redis.pause()?;
    recording
        .until("no Redis", |line| {
            has(line, "violations", "redis_disconnected")
        })
        .await?;
    cluster.redis.resume()?;
    cluster.nodes[1].kill();
    recording
        .until("a dead node", |line| has(line, "violations", "node_down"))
        .await?;
    cluster.nodes[1].restart().await?;
    recording
        .until("a node again", |line| !has(line, "violations", "node_down"))
        .await?;
    redis_do(&mut redis, &["DEL", "ratelimit:over:0"]).await?;
    recording
        .until("one less", |line| !line.to_string().contains("\"over:0\""))
        .await?;
    recording.interrupt().await?;

    let text = std::fs::read_to_string(&recording.path)?;
    assert!(text.ends_with("}\n"));
    let recorded = recording.lines();
    assert_eq!(recorded.len(), text.lines().count());
    assert_replay_reports(&recorded, &evaluate(&recording.path, &[&flag]).await?);
    Ok(())
}

#[tokio::test]
async fn every_key_above_its_limit_is_recorded_whatever_is_exported() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    for key in 0..20 {
        fill_to(&mut redis, format!("over:{key}").as_bytes(), 11).await?;
        fill_to(&mut redis, format!("under:{key}").as_bytes(), 9).await?;
    }
    let folder = TempDir::new("record-config")?;
    let config = folder.path().join("config.yml");
    // They are no violations for the exporter that records.
    std::fs::write(&config, "invariants:\n  ghost_allowing: {enabled: false}\n")?;
    let flag = format!("--config.file={}", config.display());
    let more = ["--keys.max-series=3", &flag];
    let mut recording = Recording::start(&cluster, "recording.jsonl", &more)?;
    recording.until("a first line", |_| true).await?;
    recording.until("a second line", |_| true).await?;
    recording.interrupt().await?;
    for line in evaluate(&recording.path, &[]).await? {
        let found = line["violations"].as_array().map(Vec::len);
        assert_eq!(found, Some(20), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn keys_are_hashed_and_lines_packed_on_request() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"jane@example.com", 11).await?;
    let more = ["--keys.label=hash", "--for=500ms"];
    for name in ["packed.gz", "plain"] {
        let mut recording = Recording::start(&cluster, name, &more)?;
        lab::wait_for(PATIENCE, || {
            let ended = recording.process.exit_status().is_some();
            async move { ended }
        })
        .await?;
        let bytes = std::fs::read(&recording.path)?;
        assert_eq!(bytes.starts_with(&[0x1f, 0x8b]), name == "packed.gz");
        assert!(!String::from_utf8_lossy(&bytes).contains("jane"));
        // Whether it is hashed once more, or not at all.
        for label in ["hash", "plain"] {
            let lines = evaluate(&recording.path, &[&format!("--keys.label={label}")]).await?;
            assert!((1..=5).contains(&lines.len()), "{}", lines.len());
            let subject = &lines[0]["violations"][0]["subject"];
            assert_eq!(subject, &hash_key(b"jane@example.com"));
        }
        drop(recording.folder);
    }
    Ok(())
}

#[tokio::test]
async fn one_line_is_a_recording_and_the_exit_status_is_its_verdict() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"over", 11).await?;
    let mut args = base_flags(&cluster.redis.url(), &cluster.nodes);
    args.extend(["check", "--output=jsonl", "--latency-sample=0s"].map(str::to_owned));
    let output = run(args).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let folder = TempDir::new("record-one")?;
    let path = folder.path().join("line");
    std::fs::write(&path, &output.stdout)?;
    let lines = evaluate(&path, &[]).await?;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["violations"][0]["subject"], "over");
    Ok(())
}

#[tokio::test]
async fn a_replay_of_a_described_kind_reports_what_was_reported_live() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    let folder = TempDir::new("record-config")?;
    let config = folder.path().join("config.yml");
    std::fs::write(
        &config,
        "limiter: {kind: limits}\ninvariants:\n  stuck_counter: {grace_period: 200ms}\n  \
         invalid_counter: {grace_period: 100ms}\n  counter_drift: {grace_period: 300ms}\n",
    )?;
    let flag = format!("--config.file={}", config.display());
    let url = vec![format!("--redis.url={}", redis.url())];
    let mut recording = Recording::of(url, "recording.jsonl", &[&flag])?;
    recording.until("a first line", |_| true).await?;

    let name = |user: &str| format!("LIMITS:LIMITER/{user}/10/1/hour");
    // Demand, a client that is blocked for ever, a value that is no count, and requests too many that were admitted.
    redis_do(&mut connection, &["SET", &name("busy"), "15", "EX", "3000"]).await?;
    redis_do(&mut connection, &["SET", &name("stuck"), "10"]).await?;
    redis_do(
        &mut connection,
        &["SET", &name("odd"), "many", "EX", "3000"],
    )
    .await?;
    let now: Vec<String> = redis::cmd("TIME").query_async(&mut connection).await?;
    let push = [
        vec!["LPUSH", "LIMITS:LIMITER/over/10/1/hour"],
        vec![&now[0]; 13],
    ]
    .concat();
    redis_do(&mut connection, &push).await?;
    redis_do(&mut connection, &["EXPIRE", &name("over"), "3600"]).await?;
    for invariant in [
        "stuck_counter",
        "invalid_counter",
        "ghost_allowing",
        "counter_drift",
    ] {
        let found = |line: &Value| has(line, "violations", invariant);
        recording.until(invariant, found).await?;
    }
    redis_do(&mut connection, &["EXPIRE", &name("stuck"), "3000"]).await?;
    redis_do(&mut connection, &["DEL", &name("odd"), &name("over")]).await?;
    let well = |line: &Value| line["violations"].as_array().is_some_and(Vec::is_empty);
    recording.until("all is well", well).await?;
    recording.interrupt().await?;

    let recorded = recording.lines();
    // The recording says what its counters prove; the kind in the configuration of the replay does not matter.
    let own = folder.path().join("own.yml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&own, text.replace("limiter: {kind: limits}\n", ""))?;
    for config in [flag, format!("--config.file={}", own.display())] {
        assert_replay_reports(&recorded, &evaluate(&recording.path, &[&config]).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_described_key_is_explained_by_what_its_count_proves() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    let name = |user: &str| format!("LIMITS:LIMITER/{user}/10/1/hour");
    redis_do(&mut connection, &["SET", &name("busy"), "15", "EX", "3000"]).await?;
    redis_do(
        &mut connection,
        &["SET", &name("odd"), "many", "EX", "3000"],
    )
    .await?;
    let explained = async |user: &str| {
        let flags = [
            "check",
            "--latency-sample=0s",
            "--limiter.kind=limits",
            &format!("--redis.url={}", redis.url()),
            &format!("--explain={user}"),
        ];
        let output = run(flags.map(str::to_owned).to_vec()).await?;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let holds = |text: &str, invariant: &str, decision: &str| {
        let line = text.lines().find(|line| line.starts_with(invariant));
        assert!(line.is_some_and(|line| line.contains(decision)), "{text}");
    };
    let busy = explained("busy").await?;
    holds(&busy, "ghost_allowing", "demand");
    holds(&busy, "stuck_counter", "holds");
    assert!(busy.contains("counter.count = 15"), "{busy}");
    let odd = explained("odd").await?;
    holds(&odd, "counter_drift", "its value is not a count");
    holds(&odd, "invalid_counter", "in_grace");
    assert!(odd.contains("counter.condition"), "{odd}");
    let nobody = explained("nobody").await?;
    holds(&nobody, "stuck_counter", "not_seen");
    holds(&nobody, "node_down", "no nodes that are watched");
    Ok(())
}
