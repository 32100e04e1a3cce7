//! The configurations that the README shows for each limiter watch it: the exporter starts with each as it is, and counts what
//! such a limiter would have written to a real Redis.

use std::time::{SystemTime, UNIX_EPOCH};

use lab::redis_server::RedisServer;
use lab::temp::TempDir;

use super::markdown::{Document, documents, yaml_below};
use crate::harness::{Cluster, Exporter, PATIENCE, redis_do, run, said};

/// A limiter of the README.
struct Shown {
    heading: &'static str,
    /// The name of a counter in Redis: SECONDS and MILLISECONDS are the beginning of the minute.
    counter: &'static str,
    /// What the exporter calls it.
    label: &'static str,
    /// The limit, by the name or by the block.
    limit: u32,
}

const SHOWN: [Shown; 6] = [
    Shown {
        heading: "### Flask-Limiter, slowapi, limits",
        counter: "LIMITS:LIMITER/user:1/10/1/minute",
        label: "user:1",
        limit: 10,
    },
    Shown {
        heading: "### express-rate-limit",
        counter: "rl:user:1",
        label: "user:1",
        limit: 100,
    },
    Shown {
        heading: "### NestJS",
        counter: "{abc3a47b8ad18b85:default}:hits",
        label: "abc3a47b8ad18b85",
        limit: 10,
    },
    Shown {
        heading: "### Envoy",
        counter: "edge_remote_address_10.0.0.1_SECONDS",
        label: "edge remote_address_10.0.0.1",
        limit: 10,
    },
    Shown {
        heading: "### Kong",
        counter: "ratelimit:00000000-0000-0000-0000-000000000000:00000000-0000-0000-0000-000000000000:10.0.0.1:MILLISECONDS:minute",
        label: "10.0.0.1 minute",
        limit: 100,
    },
    Shown {
        heading: "### Something of your own",
        counter: "own:user:1",
        label: "user:1",
        limit: 10,
    },
];

/// The beginning of this minute, in Unix time.
#[expect(clippy::disallowed_methods, reason = "Redis counts by the real time")]
fn minute() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() / 60 * 60)
}

fn document(path: &str) -> anyhow::Result<Document> {
    let found = documents()?.into_iter().find(|it| it.path == path);
    found.ok_or_else(|| anyhow::anyhow!("no {path}"))
}

/// The configuration below a heading of the README, and the description where it has one.
fn shown_files(heading: &str) -> anyhow::Result<(String, Option<String>)> {
    let mut blocks = yaml_below(&document("README.md")?, heading).into_iter();
    let configuration = blocks.next();
    let configuration = configuration
        .ok_or_else(|| anyhow::anyhow!("README.md has no configuration below {heading}"))?;
    Ok((configuration, blocks.next()))
}

/// Starts the exporter with the block as a file, with another address of Redis, and counts.
async fn watches(shown: &Shown) -> anyhow::Result<()> {
    let folder = TempDir::new("shown")?;
    let file = folder.path().join("exporter.yml");
    let (configuration, description) = shown_files(shown.heading)?;
    std::fs::write(&file, configuration)?;
    if let Some(description) = description {
        std::fs::write(folder.path().join("own.yml"), description)?;
    }
    let redis = RedisServer::start(&[]).await?;
    let flags = [
        format!("--redis.url={}", redis.url()),
        format!("--config.file={}", file.display()),
    ];
    let exporter = Exporter::start(&flags).await?;
    let mut connection = redis.connection().await?;
    let limit = [("key", shown.label)];
    // Again and again: the minute may end meanwhile.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let name = shown
            .counter
            .replace("MILLISECONDS", &format!("{}000", minute()));
        let name = name.replace("SECONDS", &minute().to_string());
        redis_do(&mut connection, &["SET", &name, "7", "EX", "50"]).await?;
        let scrape = exporter.scrape().await?;
        anyhow::ensure!(scrape.reported().is_empty(), "{:?}", scrape.reported());
        let counted = scrape.is("ratelimiter_key_requests", &limit, 7);
        if counted && scrape.is("ratelimiter_key_requests_limit", &limit, shown.limit) {
            return Ok(());
        }
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "{name} is not seen with its limit: {}",
            scrape.text
        );
    }
}

#[tokio::test]
async fn the_readme_shows_configurations_that_watch_their_limiters() -> anyhow::Result<()> {
    for shown in &SHOWN {
        let watched = watches(shown).await;
        watched.map_err(|error| error.context(shown.heading))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_readme_shows_a_configuration_that_watches_the_reference_limiter() -> anyhow::Result<()>
{
    let folder = TempDir::new("reference")?;
    let (block, _) = shown_files("### The reference limiter")?;
    let state = folder.path().join("state.json").display().to_string();
    let block = block.replace("/var/lib/ratelimiter-exporter/state.json", &state);
    let file = folder.path().join("exporter.yml");
    std::fs::write(&file, block)?;
    let config = format!("--config.file={}", file.display());
    // The flags of the harness beat the addresses of the file.
    let cluster = Cluster::start(2, &[&config]).await?;
    let scrape = cluster.exporter.scrape().await?;
    for node in ["node-1", "node-2"] {
        let id = [("node_id", node)];
        scrape.assert_is("ratelimiter_node_up", &id, 1);
    }
    Ok(())
}

/// Whole configuration files of the documents, by their first words.
#[tokio::test]
async fn configurations_in_documents_are_valid() -> anyhow::Result<()> {
    let folder = TempDir::new("configurations")?;
    std::fs::write(folder.path().join("redis-password"), "secret\n")?;
    let mut checked = 0;
    for document in documents()? {
        let blocks = document.blocks().into_iter();
        for block in blocks.filter(|it| it.language == "yaml" && it.text.starts_with("redis")) {
            checked += 1;
            let file = folder.path().join("exporter.yml");
            // Files that are elsewhere on a machine that runs it.
            let text = block.text.replace("/etc/ratelimiter-exporter/", "");
            let text = text.replace("eu-password", "redis-password");
            let state = folder.path().display().to_string();
            std::fs::write(&file, text.replace("/var/lib/ratelimiter-exporter", &state))?;
            std::fs::write(folder.path().join("own.yml"), OWN)?;
            let flags = vec![
                format!("--config.file={}", file.display()),
                "--config.check".to_owned(),
            ];
            let output = run(flags).await?;
            let said = said(&output);
            assert!(
                output.status.success(),
                "{}: {said}{}",
                document.path,
                block.text
            );
        }
    }
    assert!(checked > 8, "{checked}");
    Ok(())
}

/// A description; which one does not matter.
const OWN: &str = "name: own\ntitle: own\ncounters: [{name: a, key: '^a:(?P<key>.+)$', type: string, count: value, refused: counted, expiry: {is: required, max: 1 window}, without_expiry: blocks}]\n";
