//! `limiters --check`: what a description finds in a real Redis.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use lab::redis_cluster::RedisCluster;
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use redis::aio::ConnectionLike;

use crate::harness::{run, said};

/// A file in a folder of its own.
struct File {
    folder: TempDir,
}

impl File {
    fn new(text: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new("kind-check")?;
        std::fs::write(folder.path().join("own.yml"), text)?;
        Ok(Self { folder })
    }

    fn path(&self) -> String {
        self.folder.path().join("own.yml").display().to_string()
    }
}

/// What `limiters --check` prints, which must end well.
async fn checked(description: &str, url: &str, flags: &[&str]) -> anyhow::Result<String> {
    let mut args = vec![
        format!("--redis.url={url}"),
        "limiters".to_owned(),
        "--check".to_owned(),
        description.to_owned(),
    ];
    args.extend(flags.iter().map(|&flag| flag.to_owned()));
    let output = run(args).await?;
    anyhow::ensure!(output.status.code() == Some(0), "{}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Commands of these words, all at once.
async fn write(redis: &mut impl ConnectionLike, commands: &[&[&str]]) -> anyhow::Result<()> {
    let mut pipe = redis::pipe();
    for words in commands {
        pipe.cmd(words[0]).arg(&words[1..]);
    }
    pipe.query_async::<redis::Value>(redis).await?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "Redis counts by the real time")]
fn now_ms() -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_millis().to_string())
}

/// The block of `docs/LIMITERS.md` that begins with `begin`.
fn documented(begin: &str) -> anyhow::Result<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/LIMITERS.md");
    let text = std::fs::read_to_string(path)?;
    let mut blocks = text.split("```").skip(1).step_by(2);
    let block = blocks.find_map(|block| {
        let (_, body) = block.split_once('\n')?;
        body.starts_with(begin).then(|| body.to_owned())
    });
    block.with_context(|| format!("no block in docs/LIMITERS.md begins with {begin:?}"))
}

/// The example of the documentation: its description prints what the document shows, on the keys that it names.
#[tokio::test]
async fn the_documented_description_finds_what_the_document_says() -> anyhow::Result<()> {
    let description = documented("name: own")?;
    assert!(description.lines().count() <= 22, "{description}");
    let file = File::new(&description)?;
    let redis = RedisServer::start(&[]).await?;
    let now = now_ms()?;
    let commands: [&[&str]; 6] = [
        &["SET", "own:user:1:10/minute", "10", "PX", "50000"],
        &["SET", "own:user:2:10/minute", "3"],
        &["SET", "own:user:3:10/hour", "many", "PX", "50000"],
        &["ZADD", "own:log:user:4", &now, "a", &now, "b"],
        &["SET", "own:settings", "{}"],
        &["HSET", "session:1", "user", "1"],
    ];
    write(&mut redis.connection().await?, &commands).await?;
    let text = checked(&file.path(), &redis.url(), &[]).await?;
    let address = format!("127.0.0.1:{}", redis.port());
    let expected = documented("own (")?;
    assert_eq!(text.replace(&address, "127.0.0.1:6379"), expected, "{text}");
    Ok(())
}

const ONE: &str = "
name: own
title: own
counters:
  - name: login
    key: '^own:login:(?P<key>.+)$'
    type: string
    count: value
    refused: counted
    expiry: normal_without
  - name: all
    key: '^own:(?P<key>.+)$'
    type: string
    count: value
    refused: counted
    expiry: normal_without
";

#[tokio::test]
async fn keys_that_two_counters_could_claim_are_a_warning_by_name() -> anyhow::Result<()> {
    let file = File::new(ONE)?;
    let redis = RedisServer::start(&[]).await?;
    let commands: [&[&str]; 3] = [
        &["SET", "own:login:1", "1"],
        &["SET", "own:login:2", "1"],
        &["SET", "own:2", "1"],
    ];
    write(&mut redis.connection().await?, &commands).await?;
    let text = checked(&file.path(), &redis.url(), &[]).await?;
    let warned = text.lines().any(|line| {
        line.starts_with(
            "warning: counters login and all could both claim 2 keys, such as own:login:",
        )
    });
    assert!(warned, "{text}");
    Ok(())
}

#[tokio::test]
async fn names_and_values_of_any_bytes_are_shown_and_do_no_harm() -> anyhow::Result<()> {
    let file = File::new(ONE)?;
    let redis = RedisServer::start(&[]).await?;
    let mut pipe = redis::pipe();
    let (long, value) = (vec![0xff; 70_000], vec![0x1b_u8; 70_000]);
    for name in [&b"own:\x1b[2J\n\xff\0"[..], b"\x1b]0;title\x07\r", &long] {
        pipe.cmd("SET").arg(name).arg(&value);
    }
    pipe.query_async::<redis::Value>(&mut redis.connection().await?)
        .await?;
    let text = checked(&file.path(), &redis.url(), &[]).await?;
    let harmful = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(harmful), "{text:?}");
    assert!(text.contains(r"own:\u{1b}[2J\n\xff\x00"), "{text}");
    assert!(text.contains("invalid: too_large"), "{text}");
    Ok(())
}

#[tokio::test]
async fn many_keys_are_counted_by_kinds_that_are_built_in_in_a_cluster_too() -> anyhow::Result<()> {
    let cluster = RedisCluster::start(3, false).await?;
    let mut connection = cluster.connection().await?;
    for number in 0..1_500 {
        let name = format!("rl:user:{number}");
        let mut set = redis::cmd("SET");
        set.arg(name).arg(1).arg("PX").arg(600_000);
        set.query_async::<redis::Value>(&mut connection).await?;
    }
    let mut set = redis::cmd("SET");
    set.arg("session").arg("x");
    set.query_async::<redis::Value>(&mut connection).await?;
    let text = checked("express-rate-limit", &cluster.url(), &[]).await?;
    let row = |begin: &str, end: &str| {
        let cells = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = text.lines().map(cells);
        lines.any(|line| line.starts_with(begin) && line.ends_with(end))
    };
    assert!(
        row("express 1500 counted", "1500 without a limit"),
        "{text}"
    );
    assert!(row("no counter 1", "1"), "{text}");
    assert!(row("no counter session", "not swept"), "{text}");
    Ok(())
}

#[tokio::test]
async fn mistakes_are_named_by_line_and_a_redis_that_is_away_by_its_address() -> anyhow::Result<()>
{
    let file = File::new(&ONE.replace("type: string", "type: strin"))?;
    let away = format!("redis://127.0.0.1:{}", lab::ports::free_port());
    let whole = File::new(ONE)?;
    for (description, expected) in [
        (file.path(), "line 7"),
        (whole.path(), "127.0.0.1"),
        ("/nonexistent.yml".to_owned(), "a file, or one of the kinds"),
        (
            "expres-rate-limit".to_owned(),
            "did you mean express-rate-limit?",
        ),
    ] {
        let args = ["--redis.url", &away, "limiters", "--check", &description];
        let output = run(args.map(str::to_owned).to_vec()).await?;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(expected) && said.lines().count() == 1,
            "{said}"
        );
    }
    Ok(())
}
