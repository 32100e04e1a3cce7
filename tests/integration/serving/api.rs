//! Every JSON answer against its schema in `docs/schemas/`: of a limiter that is well, of one that is not, and of one
//! that cannot be seen. The schemas allow nothing that they do not describe.

use std::path::{Path, PathBuf};

use boon::{Compiler, SchemaIndex, Schemas};
use hyper::Method;
use lab::seed::fill_to;
use lab::temp::TempDir;
use ratelimiter_exporter::observation::{Collector, Reason};
use ratelimiter_exporter::report::{Decision, InvariantName};
use serde_json::{Value, json};

use crate::harness::{Cluster, base_flags, run, said};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas")
}

/// The compiled schemas.
struct Checker {
    schemas: Schemas,
    compiler: Compiler,
}

impl Checker {
    fn new() -> Self {
        let mut compiler = Compiler::new();
        compiler.enable_format_assertions();
        Self {
            schemas: Schemas::new(),
            compiler,
        }
    }

    fn compiled(&mut self, name: &str) -> anyhow::Result<SchemaIndex> {
        let path = folder().join(format!("{name}.json"));
        let location = path.display().to_string();
        let compiled = self.compiler.compile(&location, &mut self.schemas);
        compiled.map_err(|error| anyhow::anyhow!("{name}: {error:#}"))
    }

    fn check(&mut self, name: &str, answer: &Value) -> anyhow::Result<()> {
        let schema = self.compiled(name)?;
        let valid = self.schemas.validate(answer, schema);
        valid.map_err(|error| anyhow::anyhow!("{name}: {error:#}\n{answer:#}"))
    }
}

/// Asks for everything that can be asked for, and checks it.
async fn check_all(checker: &mut Checker, cluster: &Cluster) -> anyhow::Result<()> {
    for (path, schema) in [
        ("/api/v1/observation", "observation"),
        ("/api/v1/violations", "violations"),
        ("/api/v1/violations?subject=node-1", "explained"),
        ("/api/v1/violations?subject=redis", "explained"),
        ("/api/v1/violations?subject=over", "explained"),
        ("/api/v1/violations?subject=nobody", "explained"),
        ("/api/v1/actions", "actions"),
    ] {
        let answer = cluster.exporter.get(path).await?;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["content-type"], "application/json", "{path}");
        checker.check(schema, &answer.json()?)?;
    }
    Ok(())
}

#[tokio::test]
async fn every_answer_is_as_its_schema_says() -> anyhow::Result<()> {
    let mut checker = Checker::new();
    let mut cluster = Cluster::start(
        2,
        &[
            "--probe.canary",
            "--ratelimiter.timeout=300ms",
            "--redis.timeout=300ms",
        ],
    )
    .await?;
    let traffic = cluster.traffic(100.0)?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"full", 10).await?;
    cluster
        .exporter
        .until("a latency", |scrape| {
            scrape
                .value("ratelimiter_node_latency_p99_seconds", &[])
                .is_some()
        })
        .await?;
    check_all(&mut checker, &cluster).await?;

    // Reported, pending, draining.
    fill_to(&mut redis, b"over", 13).await?;
    fill_to(&mut redis, b"fell", 8).await?;
    let _: () = redis::cmd("HSET")
        .arg("ratelimit:limit:fell")
        .arg(&["limit", "5", "window_ms", "60000"])
        .query_async(&mut redis)
        .await?;
    cluster.nodes[1].kill();
    check_all(&mut checker, &cluster).await?;
    let answer = cluster.exporter.get("/api/v1/violations").await?.json()?;
    let decisions: Vec<&str> = ["violations", "pending"]
        .iter()
        .flat_map(|list| answer[list].as_array().into_iter().flatten())
        .filter_map(|violation| violation["decision"].as_str())
        .collect();
    for decision in ["reported", "in_grace", "draining"] {
        assert!(decisions.contains(&decision), "{decision}: {answer:#}");
    }
    commands(&mut checker, &cluster).await?;

    traffic.stop().await;
    cluster.redis.pause()?;
    check_all(&mut checker, &cluster).await?;
    let answer = cluster
        .exporter
        .get("/api/v1/violations?subject=over")
        .await?
        .json()?;
    assert_eq!(
        answer["invariants"][1]["decision"], "held_unknown",
        "{answer:#}"
    );
    cluster.redis.resume()?;
    Ok(())
}

/// What the subcommands print as JSON, checked.
async fn commands(checker: &mut Checker, cluster: &Cluster) -> anyhow::Result<()> {
    let folder = TempDir::new("api")?;
    let recording = folder.path().join("recording").display().to_string();
    let target = format!("--output-file={recording}");
    let sample = "--latency-sample=100ms";
    let looks: [(&[&str], &str); 4] = [
        (&["check", "--output=json", sample], "look"),
        (
            &["check", "--explain=over", "--output=json", sample],
            "explained",
        ),
        (&["check", "--output=jsonl", sample], "look"),
        (&["actions"], "actions"),
    ];
    for (words, schema) in looks {
        let mut args = base_flags(&cluster.redis.url(), &cluster.nodes);
        args.extend(words.iter().map(|&word| word.to_owned()));
        let output = run(args).await?;
        checker.check(schema, &serde_json::from_slice(&output.stdout)?)?;
    }
    let mut args = base_flags(&cluster.redis.url(), &cluster.nodes);
    args.extend(
        [
            "check",
            "--output=jsonl",
            "--every=100ms",
            "--for=500ms",
            &target,
        ]
        .map(str::to_owned),
    );
    let output = run(args).await?;
    anyhow::ensure!(output.status.success(), "{}", said(&output));
    let replays: [(&[&str], &str); 3] = [
        (&["evaluate", &recording], "evaluated"),
        (&["evaluate", &recording, "--output=json"], "backtest"),
        (
            &[
                "evaluate",
                &recording,
                "--output=json",
                "--compare=/dev/null",
            ],
            "backtest",
        ),
    ];
    for (words, schema) in replays {
        let output = run(words.iter().map(|&word| word.to_owned()).collect()).await?;
        let text = String::from_utf8(output.stdout)?;
        let answers = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        for answer in answers {
            checker.check(schema, &answer?)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn actions_are_accepted_or_refused_as_their_schemas_say() -> anyhow::Result<()> {
    let mut checker = Checker::new();
    let path = "/api/v1/actions/reset_counter";
    let mut cluster =
        Cluster::start(1, &["--web.enable-admin-api", "--web.admin-api-insecure"]).await?;
    let answer = cluster
        .exporter
        .send(Method::POST, path, "{\"key\":\"k\"}")
        .await?;
    assert_eq!(answer.status, 202);
    checker.check("accepted", &answer.json()?)?;
    let answer = cluster.exporter.send(Method::POST, path, "{}").await?;
    assert_eq!(answer.status, 400);
    checker.check("error", &answer.json()?)?;
    cluster.nodes[0].kill();
    let answer = cluster
        .exporter
        .send(Method::POST, path, "{\"key\":\"k\"}")
        .await?;
    assert_eq!(answer.status, 502);
    checker.check("error", &answer.json()?)
}

#[test]
fn schemas_refuse_what_they_do_not_describe() -> anyhow::Result<()> {
    let mut checker = Checker::new();
    let told = json!({"name": "node_down", "severity": "critical", "subject": "n", "message": "m",
        "first_seen": "2026-01-27T02:06:57.123Z", "last_seen": "2026-01-27T02:06:57Z"});
    let answer = |told: &Value| json!({"observed_at": "2026-01-27T02:06:57Z", "violations": [told], "pending": []});
    checker.check("evaluated", &answer(&told))?;
    for (field, value) in [
        ("extra", json!(1)),
        ("name", json!("node_dwon")),
        ("first_seen", json!("yesterday")),
        ("subject", json!(null)),
    ] {
        let mut wrong = told.clone();
        wrong[field] = value;
        assert!(
            checker.check("evaluated", &answer(&wrong)).is_err(),
            "{field}"
        );
    }
    let minimal = json!({"nodes": [], "counters": [], "node_metrics": {}, "redis_connected": true});
    checker.check("observation", &minimal)?;
    let mut more = minimal.clone();
    more["colour"] = json!("green");
    assert!(checker.check("observation", &more).is_err());
    assert!(checker.check("look", &minimal).is_err());
    Ok(())
}

#[test]
fn closed_lists_are_the_same_in_the_schemas() -> anyhow::Result<()> {
    let read = |name: &str| -> anyhow::Result<Value> {
        let text = std::fs::read_to_string(folder().join(name))?;
        Ok(serde_json::from_str(&text)?)
    };
    let (common, observation) = (read("common.json")?, read("observation.json")?);
    let listed = |schema: &Value, list: &str| schema["$defs"][list]["enum"].clone();
    let names = |all: &mut dyn Iterator<Item = &'static str>| json!(all.collect::<Vec<_>>());
    assert_eq!(
        listed(&common, "decision"),
        names(&mut Decision::ALL.iter().map(|it| it.name()))
    );
    assert_eq!(
        listed(&common, "reason"),
        names(&mut Reason::ALL.iter().map(|it| it.name()))
    );
    assert_eq!(
        listed(&common, "invariant"),
        names(&mut InvariantName::ALL.iter().map(|it| it.name()))
    );
    assert_eq!(
        listed(&observation, "collector"),
        names(&mut Collector::ALL.iter().map(|it| it.name()))
    );
    Ok(())
}

#[test]
fn every_schema_is_linked_and_every_path_described() -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/API.md");
    let text = std::fs::read_to_string(path)?;
    for file in std::fs::read_dir(folder())? {
        let name = file?.file_name().to_string_lossy().into_owned();
        assert!(
            text.contains(&format!("(schemas/{name})")),
            "{name} is not linked"
        );
    }
    for path in [
        "/api/v1/violations",
        "/api/v1/violations?subject=",
        "/api/v1/observation",
        "/api/v1/actions",
        "/api/v1/actions/reset_counter",
    ] {
        assert!(text.contains(path), "{path} is not described");
    }
    Ok(())
}
