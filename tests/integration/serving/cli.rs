//! `check` and its exit status, and mistakes on the command line.

use lab::redis_server::RedisServer;
use lab::seed::fill_to;

use crate::harness::{Cluster, base_flags, run, said};

fn check(cluster: &Cluster, more: &[&str]) -> Vec<String> {
    let mut args = base_flags(&cluster.redis.url(), &cluster.nodes);
    args.push("check".to_owned());
    args.extend(more.iter().map(|&word| word.to_owned()));
    args
}

#[tokio::test]
async fn check_has_the_verdict_as_its_exit_status() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, &[]).await?;
    // Without traffic there is no latency to judge.
    let output = run(check(&cluster, &["--latency-sample=100ms"])).await?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("no_samples"));

    let traffic = cluster.traffic(200.0)?;
    let output = run(check(&cluster, &[])).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("node_down") && text.contains("node-2"),
        "{text}"
    );

    let output = run(check(&cluster, &["--output", "json"])).await?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(json["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["redis_connected"], true);
    for counter in json["counters"].as_array().into_iter().flatten() {
        for field in ["count", "limit", "remaining"] {
            assert!(counter[field].is_u64(), "{field}: {counter}");
        }
    }
    assert!(json["node_metrics"]["node-1"]["latency_p99_ms"].is_number());
    assert!(json["counters"][0]["count"].is_number());
    traffic.stop().await;

    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"over", 11).await?;
    cluster.nodes[1].kill();
    let output = run(check(&cluster, &[])).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let over = |line: &str| line.contains("VIOLATED") && line.contains(" over ");
    assert!(text.lines().any(over), "{text}");
    Ok(())
}

#[tokio::test]
async fn check_without_anything_to_reach_is_a_violation() -> anyhow::Result<()> {
    let port = lab::ports::free_port();
    let args = [
        format!("--redis.url=redis://127.0.0.1:{port}"),
        format!("--ratelimiter.url=http://127.0.0.1:{port}"),
        "check".to_owned(),
        "--latency-sample=0s".to_owned(),
    ];
    let output = run(args.to_vec()).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn limiters_lists_the_kinds_and_prints_one() -> anyhow::Result<()> {
    let output = run(vec!["limiters".to_owned()]).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names.first(), Some(&"reference"), "{text}");
    for name in &names {
        let output = run(vec!["limiters".to_owned(), (*name).to_owned()]).await?;
        let file = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(
            file.starts_with(&format!("name: {name}\n")),
            "{name}: {file}"
        );
    }
    let output = run(vec!["limiters".to_owned(), "knog".to_owned()]).await?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        error.contains("kong") && error.lines().count() == 1,
        "{error}"
    );
    Ok(())
}

#[test]
fn output_on_a_full_disk_is_an_error() -> anyhow::Result<()> {
    for args in [&["limiters", "kong"][..], &["actions"], &["--config.check"]] {
        let full = std::fs::File::options().write(true).open("/dev/full")?;
        let mut command = std::process::Command::new(lab::exporter_binary());
        let output = command.args(args).stdout(full).output()?;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("standard output: No space left"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn mistakes_are_one_line_and_exit_status_2() -> anyhow::Result<()> {
    // Of each: what is named, what was given, and that something else was expected.
    for (args, expected) in [
        (
            &["--redis.timeout=soon"][..],
            &["--redis.timeout", "\"soon\"", "expected a duration"][..],
        ),
        (
            &["--redis.url=http://x"],
            &["--redis.url", "http://x", "expected redis://"],
        ),
        (
            &["--ratelimiter.url=localhost:8000"],
            &["--ratelimiter.url", "localhost:8000", "expected an http://"],
        ),
        (
            &["--ratelimiter.url=http://a:1,ftp://b:2"],
            &["--ratelimiter.url", "ftp://b:2", "expected an http://"],
        ),
        (
            &["--web.listen-address=nowhere"],
            &["--web.listen-address", "\"nowhere\"", "expected HOST:PORT"],
        ),
        (
            &["--config.file=/nonexistent.yml"],
            &[
                "--config.file",
                "/nonexistent.yml",
                "expected a readable file",
            ],
        ),
        (
            &["--keys.max-series=-1"],
            &["--keys.max-series", "\"-1\"", "expected"],
        ),
        (
            &["check", "--keys.max-series", "-1"],
            &["--keys.max-series", "\"-1\"", "expected"],
        ),
        (
            &["--web.timeout-offset", "-1s"],
            &["--web.timeout-offset", "\"-1s\"", "expected"],
        ),
        (
            &["--keys.label=md5", "check"],
            &["--keys.label", "\"md5\"", "expected plain or hash"],
        ),
        (
            &["check", "--latency-sample=soon"],
            &["--latency-sample", "\"soon\"", "expected a duration"],
        ),
        (
            &["check", "--output=xml"],
            &["--output", "xml", "table, json"],
        ),
        (&["check", "--every=15s"], &["--every", "--output jsonl"]),
        (
            &["check", "--output=jsonl", "--for=1h"],
            &["--for needs --every"],
        ),
        (
            &["check", "--output=jsonl", "--every=1ms"],
            &["--every", "\"1ms\"", "from 100ms to"],
        ),
        (
            &["check", "--output=jsonl", "--explain=k"],
            &["--explain", "--output"],
        ),
        (
            &["check", "--watch", "--output=json"],
            &["--watch", "no output except the table"],
        ),
        (&["evaluate"], &["FILE"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
        (&["chekc"], &["chekc"]),
        (&["reset-counter"], &["KEY"]),
    ] {
        mistaken(args, expected).await?;
    }
    Ok(())
}

async fn mistaken(args: &[&str], expected: &[&str]) -> anyhow::Result<()> {
    let output = run(args.iter().map(|&arg| arg.to_owned()).collect()).await?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    for word in expected {
        assert!(said.contains(word), "{args:?}: {word:?} is not in: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let taken = format!("--web.listen-address=127.0.0.1:{}", redis.port());
    let output = run(vec![taken]).await?;
    let said = said(&output);
    // Not 2, after which a supervisor does not restart it: the port may be free in a moment.
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--web.listen-address: cannot listen on 127.0.0.1:"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn check_explains_one_subject_also_when_nothing_is_wrong() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    // More than are listed, all fuller than the one of `--explain`.
    for key in 0..5 {
        fill_to(&mut redis, format!("fuller:{key}").as_bytes(), 9).await?;
    }
    fill_to(&mut redis, b"quiet", 2).await?;
    fill_to(&mut redis, b"over", 12).await?;
    for (subject, status, expected) in [
        (
            "quiet",
            0,
            &["ghost_allowing   holds", "counter.count = 2"][..],
        ),
        (
            "over",
            1,
            &[
                "ghost_allowing   reported",
                "counter_drift    in_grace",
                "ZCOUNT",
            ],
        ),
        (
            "node-1",
            2,
            &[
                "node_down           holds",
                "high_latency        inconclusive",
                "node.state",
            ],
        ),
        (
            "redis",
            0,
            &["redis_disconnected  holds", "redis.ping_seconds"],
        ),
        ("nobody", 2, &["not_seen"]),
    ] {
        let explain = format!("--explain={subject}");
        let flags = [&explain, "--keys.max-series=2", "--latency-sample=100ms"];
        let output = run(check(&cluster, &flags)).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{text}");
        for word in expected {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
    }
    let flags = [
        "--explain=quiet",
        "--output=json",
        "--latency-sample=0s",
        "--keys.label=hash",
    ];
    let output = run(check(&cluster, &flags)).await?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(json["counter"]["count"], 2, "{json}");
    assert_eq!(json["invariants"][0]["decision"], "holds");
    Ok(())
}

#[tokio::test]
async fn watch_shows_one_table_after_the_other() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"half", 5).await?;
    fill_to(&mut redis, b"over", 12).await?;
    let flags = ["--watch", "--every=100ms", "--for=450ms"];
    let output = run(check(&cluster, &flags)).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let tables = text.matches("✕ 1 critical: ghost_allowing").count();
    assert!((1..=5).contains(&tables), "{text}");
    assert_eq!(text.matches("KEY   COUNT").count(), tables, "{text}");
    assert!(
        text.contains("half  5      10     5     50 %   █████░░░░░\n"),
        "{text}"
    );
    assert!(
        text.contains("over  12     10     0     120 %  ██████████▶\n"),
        "{text}"
    );
    // Not a terminal: nothing that moves a cursor.
    assert!(!text.contains('\x1b'), "{text}");
    Ok(())
}
