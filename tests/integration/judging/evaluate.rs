//! `evaluate` as its users meet it: files and pipes in, lines out, mistakes named.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use lab::temp::TempDir;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::harness::{PATIENCE, run, said};

/// The minimal form, with one counter.
fn minimal(count: u64, limit: u64) -> String {
    let remaining = limit.saturating_sub(count);
    format!(
        "{{\"nodes\":[{{\"id\":\"node-1\",\"address\":\"10.0.0.1:8000\",\"state\":\"Up\"}}],\
         \"counters\":[{{\"key\":\"user:1\",\"count\":{count},\"limit\":{limit},\"remaining\":{remaining}}}],\
         \"node_metrics\":{{\"node-1\":{{\"latency_p99_ms\":10.0}}}},\"redis_connected\":true}}\n"
    )
}

/// The lines that `evaluate` prints for a file with this text, its exit status, and its standard error.
async fn evaluate(
    text: impl AsRef<[u8]>,
    flags: &[&str],
) -> anyhow::Result<(Vec<Value>, i32, String)> {
    let folder = TempDir::new("evaluate")?;
    let path = folder.path().join("recording");
    std::fs::write(&path, text)?;
    let mut args = vec!["evaluate".to_owned(), path.display().to_string()];
    args.extend(flags.iter().map(|&flag| flag.to_owned()));
    let output = run(args).await?;
    let lines = String::from_utf8(output.stdout.clone())?;
    let lines: serde_json::Result<Vec<Value>> = lines.lines().map(serde_json::from_str).collect();
    let status = output.status.code().unwrap_or(-1);
    Ok((lines?, status, said(&output)))
}

fn subjects(line: &Value, list: &str) -> Vec<String> {
    let listed = line[list].as_array().into_iter().flatten();
    let shown = listed.map(|violation| format!("{} {}", violation["name"], violation["subject"]));
    shown.map(|text| text.replace('"', "")).collect()
}

#[tokio::test]
async fn an_observation_in_is_a_verdict_out() -> anyhow::Result<()> {
    let observation = json!({
        "nodes": [{"id": "node-1", "address": "10.0.0.1:8000", "state": "Down"}],
        "counters": [{"key": "user:1", "count": 12, "limit": 10, "remaining": 0}],
        "node_metrics": {"node-1": {"latency_p99_ms": 80.0}},
        "redis_connected": true,
        "observed_at": "2026-01-27T02:06:57.123Z",
    });
    let (lines, status, said) = evaluate(observation.to_string(), &[]).await?;
    assert_eq!((status, &*said), (0, ""));
    let at = "2026-01-27T02:06:57.123Z";
    let told = |name: &str, severity: &str, subject: &str, message: &str| {
        json!({"name": name, "severity": severity, "subject": subject, "message": message,
               "first_seen": at, "last_seen": at})
    };
    let expected = json!({
        "observed_at": at,
        "violations": [
            told("node_down", "critical", "node-1", "state is Down, expected Up"),
            told("ghost_allowing", "critical", "user:1", "12 admitted, limit 10"),
        ],
        "pending": [told("counter_drift", "warning", "user:1", "12 admitted, limit 10")],
    });
    assert_eq!(lines, [expected]);
    Ok(())
}

#[tokio::test]
async fn lines_without_a_time_are_a_second_apart_from_the_epoch_on() -> anyhow::Result<()> {
    let text = minimal(12, 10).repeat(31) + "\n" + &minimal(10, 10);
    let (lines, status, _) = evaluate(text, &[]).await?;
    assert_eq!((lines.len(), status), (32, 0));
    assert_eq!(lines[0]["observed_at"], "1970-01-01T00:00:00Z");
    assert_eq!(lines[31]["observed_at"], "1970-01-01T00:00:31Z");
    assert_eq!(subjects(&lines[29], "pending"), ["counter_drift user:1"]);
    let both = ["counter_drift user:1", "ghost_allowing user:1"];
    assert_eq!(subjects(&lines[30], "violations"), both);
    assert_eq!(
        lines[30]["violations"][0]["first_seen"],
        "1970-01-01T00:00:00Z"
    );
    assert_eq!(subjects(&lines[31], "violations"), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn no_violation_is_left_out_however_many_there_are() -> anyhow::Result<()> {
    let counters =
        (0..500).map(|n| json!({"key": format!("k{n}"), "count": 11, "limit": 10, "remaining": 0}));
    let observation = json!({"nodes": [], "counters": counters.collect::<Vec<_>>(),
        "node_metrics": {}, "redis_connected": true});
    let (lines, ..) = evaluate(observation.to_string(), &["--keys.max-series=3"]).await?;
    assert_eq!(subjects(&lines[0], "violations").len(), 500);
    Ok(())
}

#[tokio::test]
async fn a_broken_line_is_named_and_ends_the_replay_without_keep_going() -> anyhow::Result<()> {
    let text = minimal(1, 10) + "{\"nodes\":[],\"counters\":[}\n" + &minimal(1, 10);
    let (lines, status, said) = evaluate(&text, &[]).await?;
    assert_eq!((lines.len(), status), (1, 2));
    assert!(
        said.contains("recording: line 2 column 25: expected value"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");

    let (lines, status, said) = evaluate(&text, &["--keep-going"]).await?;
    assert_eq!((lines.len(), status), (2, 2));
    // The line that was skipped has taken its second.
    assert_eq!(lines[1]["observed_at"], "1970-01-01T00:00:02Z");
    assert!(said.contains("line 2 column 25"), "{said}");
    assert!(
        said.contains("1 lines passed over, 2 observations judged"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn every_kind_of_mistake_is_named() -> anyhow::Result<()> {
    let whole = minimal(1, 10);
    for (text, expected) in [
        (
            whole.replace("\"count\":1", "\"count\":-1"),
            "invalid value: integer `-1`",
        ),
        (
            whole.replace("\"count\":1", "\"count\":1.5"),
            "invalid type: floating point",
        ),
        (whole.replace("\"count\":1,", ""), "missing field `count`"),
        (
            whole.replace("\"redis_connected\":true", "\"x\":1"),
            "missing field `redis_connected`",
        ),
        (
            whole.replace("true}", "true,\"observed_at\":\"yesterday\"}"),
            "four digit integer as year",
        ),
        (whole.replace("true}", "true} {}"), "trailing characters"),
        ("[]\n".to_owned(), "invalid length 0"),
        (whole[..40].to_owned(), "EOF"),
    ] {
        let (_, status, said) = evaluate(&text, &[]).await?;
        assert_eq!(status, 2, "{text}");
        assert!(said.contains("line 1 column "), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for (file, expected) in [
        ("/nonexistent", "cannot open /nonexistent"),
        ("/", "cannot open /"),
    ] {
        let output = run(vec!["evaluate".to_owned(), file.to_owned()]).await?;
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(expected), "{output:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_gzip_packed_is_read_and_what_was_cut_off_is_named() -> anyhow::Result<()> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(minimal(12, 10).repeat(40).as_bytes())?;
    let packed = packed.finish()?;
    let (lines, status, _) = evaluate([&packed[..], &packed[..]].concat(), &[]).await?;
    assert_eq!((lines.len(), status), (80, 0));
    let (_, status, said) = evaluate(&packed[..packed.len() - 8], &[]).await?;
    assert_eq!(status, 2);
    assert!(said.contains("recording: cannot read: "), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_configuration_decides_and_the_limiter_is_not_needed() -> anyhow::Result<()> {
    let folder = TempDir::new("evaluate-config")?;
    let path = folder.path().join("config.yml");
    let text = "redis.password-file: /nonexistent\ninvariants:\n  ghost_allowing: {enabled: false}\n  \
                counter_drift: {grace_period: 0s, threshold: 0.5, severity: critical}\n";
    std::fs::write(&path, text)?;
    let flag = format!("--config.file={}", path.display());
    let (lines, status, said) = evaluate(minimal(15, 10) + &minimal(16, 10), &[&flag]).await?;
    assert_eq!((status, &*said), (0, ""));
    assert_eq!(subjects(&lines[0], "violations"), [""; 0]);
    assert_eq!(subjects(&lines[1], "violations"), ["counter_drift user:1"]);
    assert_eq!(lines[1]["violations"][0]["severity"], "critical");

    let (lines, ..) = evaluate(minimal(11, 10), &["--keys.label=hash"]).await?;
    let hash = ratelimiter_exporter::observation::hash_key(b"user:1");
    assert_eq!(
        subjects(&lines[0], "violations"),
        [format!("ghost_allowing {hash}")]
    );
    Ok(())
}

#[tokio::test]
async fn a_line_is_answered_before_the_next_one_is_there() -> anyhow::Result<()> {
    let mut child = tokio::process::Command::new(lab::exporter_binary())
        .args(["evaluate", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        anyhow::bail!("no pipes");
    };
    let mut answers = BufReader::new(stdout).lines();
    for count in [1, 11, 1] {
        stdin.write_all(minimal(count, 10).as_bytes()).await?;
        let answer = tokio::time::timeout(PATIENCE, answers.next_line()).await??;
        let answer: Value = serde_json::from_str(&answer.unwrap_or_default())?;
        assert_eq!(
            subjects(&answer, "violations").len(),
            usize::from(count > 10)
        );
    }
    // A broken line ends it, although more might come.
    stdin.write_all(b"broken\n").await?;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
    assert_eq!(status.code(), Some(2));
    Ok(())
}

#[tokio::test]
async fn many_blocks_come_out_in_their_order() -> anyhow::Result<()> {
    let mut text = String::new();
    for n in 0..20_000 {
        let at = jiff::Timestamp::from_second(1_700_000_000 + n)?;
        writeln!(
            text,
            "{{\"observed_at\":\"{at}\",\"nodes\":[],\"counters\":[],\"node_metrics\":{{}},\"redis_connected\":true}}"
        )?;
    }
    let (lines, status, _) = evaluate(text, &[]).await?;
    assert_eq!((lines.len(), status), (20_000, 0));
    for (n, line) in (0..).zip(lines) {
        let at = jiff::Timestamp::from_second(1_700_000_000 + n)?;
        assert_eq!(line["observed_at"], at.to_string());
    }
    Ok(())
}
