//! Every answer that was recorded from a real limiter, read by the real exporter: the HTTP ones replayed by a stand-in for
//! a node, the Redis ones (in `stored`) loaded into a real Redis.

mod stored;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ratelimiter_exporter::observation::shown_key;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::Exporter;

/// One recorded exchange.
#[derive(Debug)]
struct Exchange {
    file: String,
    path: String,
    status: u16,
    /// Status line, headers and body as they came.
    answer: Vec<u8>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

fn files(ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder())?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    Ok(files)
}

fn exchanges() -> anyhow::Result<Vec<Exchange>> {
    let mut all = Vec::new();
    for file in files(".http.txt")? {
        let bytes = std::fs::read(&file)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut lines = text.lines();
        let request = lines.next().unwrap_or_default();
        let url = request.split(' ').nth(2).unwrap_or_default();
        let path = url.splitn(4, '/').nth(3).map(|path| format!("/{path}"));
        let status = lines
            .nth(1)
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        // Two comment lines stand before the status line.
        let head = request.len() + 1 + text.lines().nth(1).map_or(0, str::len) + 1;
        all.push(Exchange {
            file: file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            path: path.unwrap_or_default(),
            status: status.unwrap_or_default(),
            answer: bytes[head..].to_vec(),
        });
    }
    Ok(all)
}

/// Answers each path as it was recorded, and 404 for any other. Returns the paths of the requests.
struct Replay {
    url: String,
    served: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

type Answers = BTreeMap<String, (String, u16, Vec<u8>)>;

/// Each connection has a task of its own: one that sends nothing holds up no other.
async fn replay(answers: Answers) -> anyhow::Result<Replay> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let served = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&served);
    let answers = Arc::new(answers);
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(replay_to(stream, Arc::clone(&answers), Arc::clone(&told)));
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(Replay {
        url,
        served,
        _task: AbortOnDropHandle::new(task),
    })
}

/// Answers the one request of a connection.
async fn replay_to(
    mut stream: TcpStream,
    answers: Arc<Answers>,
    told: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let Some((file, status, answer)) = answers.get(path) else {
        let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        return stream.write_all(not_found).await;
    };
    told.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(file.clone());
    if *status == 599 {
        return Ok(()); // the connection broke
    }
    let text = String::from_utf8_lossy(answer);
    // The recorded lines end in a bare newline; a head on the wire does not.
    let mut out = Vec::new();
    let mut in_head = true;
    for line in text.split_inclusive('\n') {
        if in_head {
            out.extend_from_slice(line.trim_end().as_bytes());
            out.extend_from_slice(b"\r\n");
            in_head = !line.trim_end().is_empty();
        } else {
            out.extend_from_slice(line.as_bytes());
        }
    }
    stream.write_all(&out).await
}

/// No recorded answer is about time, so a busy machine may have as much of it as it takes.
const UNHURRIED: &str = "--ratelimiter.timeout=25s";

/// What a case did not record is answered as a healthy limiter does, or the rest would not be asked for.
const HEALTHY: &str = "01_few";

#[tokio::test]
async fn every_recorded_answer_is_read_or_named() -> anyhow::Result<()> {
    // Redis is down here, so that the node list and the counters come from the API.
    let nobody = format!("redis://127.0.0.1:{}", lab::ports::free_port());
    let mut cases: BTreeMap<String, Vec<Exchange>> = BTreeMap::new();
    let mut odd = Vec::new();
    for exchange in exchanges()? {
        // The case is what comes before `_api_`, `_health` or `_metrics`; the rest are requests we never send.
        let ends = ["_api_", "_health.", "_metrics."];
        let case = ends
            .iter()
            .find_map(|end| exchange.file.split_once(end))
            .map(|(case, _)| case.to_owned());
        match case.filter(|case| !case.starts_with("05_")) {
            Some(case) => cases.entry(case).or_default().push(exchange),
            None => odd.push(exchange),
        }
    }
    for recorded in cases.values() {
        // One by one what was good and what was broken, so that neither hides the other: whose metrics they are, for
        // one, is known from `/health`.
        let (good, broken): (Vec<&Exchange>, Vec<_>) =
            recorded.iter().partition(|exchange| exchange.status == 200);
        for some in [good, broken] {
            replayed(&cases[HEALTHY], &some, &nobody).await?;
        }
    }
    refused_by_status(odd, &nobody).await
}

/// Replays these answers, and the healthy ones where there is none among them.
async fn replayed(
    healthy: &[Exchange],
    recorded: &[&Exchange],
    nobody: &str,
) -> anyhow::Result<()> {
    let mut answers = BTreeMap::new();
    for exchange in healthy.iter().chain(recorded.iter().copied()) {
        let answer = (
            exchange.file.clone(),
            exchange.status,
            exchange.answer.clone(),
        );
        answers.insert(exchange.path.clone(), answer);
    }
    let replay = replay(answers).await?;
    let flags = [
        format!("--ratelimiter.url={}", replay.url),
        format!("--redis.url={nobody}"),
        UNHURRIED.to_owned(),
    ];
    let exporter = Exporter::start(&flags).await?;
    let observation: Value = exporter.get("/api/v1/observation").await?.json()?;
    let served = replay
        .served
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    for exchange in recorded {
        let file = &exchange.file;
        let asked = served.contains(file);
        if exchange.path == "/api/blocks" {
            assert!(!asked, "{file}: this costs a node seconds");
            continue;
        }
        assert!(asked, "{file} was not asked for");
        let what = format!("{}{}:", replay.url, exchange.path);
        let expected = match exchange.status {
            200 => None,
            599 => Some("truncated"),
            _ => Some("http_status"),
        };
        assert_eq!(
            failure_of(&observation, &what),
            expected,
            "{file}: {observation}"
        );
        if exchange.status == 200 {
            read(exchange, &observation)?;
        }
    }
    Ok(())
}

/// Why what is named so failed, if it did.
fn failure_of<'a>(observation: &'a Value, what: &str) -> Option<&'a str> {
    let mut failures = observation["failures"].as_array().into_iter().flatten();
    let about = |failure: &&Value| {
        failure["message"]
            .as_str()
            .is_some_and(|message| message.contains(what))
    };
    failures.find(about)?["reason"].as_str()
}

/// What this answer says is what was observed.
fn read(exchange: &Exchange, observation: &Value) -> anyhow::Result<()> {
    let file = &exchange.file;
    let text = String::from_utf8(exchange.answer.clone())?;
    let (_, body) = text.split_once("\n\n").unwrap_or_default();
    if exchange.path == "/metrics" {
        let checked = &observation["node_metrics"]["node-1"]["requests_checked"];
        for line in body.lines() {
            let Some(rest) = line.strip_prefix("ratelimiter_requests_checked_total{result=\"")
            else {
                continue;
            };
            let (result, value) = rest.split_once("\"} ").unwrap_or_default();
            assert_eq!(checked[result], value.parse::<f64>()?, "{file}: {result}");
        }
        return Ok(());
    }
    let body: Value = serde_json::from_str(body)?;
    let observed = |list: &str| observation[list].as_array().cloned().unwrap_or_default();
    match exchange.path.as_str() {
        "/api/nodes" => {
            for node in body["nodes"].as_array().into_iter().flatten() {
                let nodes = observed("nodes");
                let found = nodes.iter().find(|seen| seen["id"] == node["id"]);
                // The limiter's word for a registration without an address.
                let address = Some(&node["address"]).filter(|address| *address != "unknown");
                assert_eq!(
                    found.map(|seen| &seen["address"]),
                    Some(address.unwrap_or(&Value::Null)),
                    "{file}: {nodes:?}"
                );
            }
        }
        "/api/counters" => {
            let counters = observed("counters");
            let told = body["counters"].as_array().cloned().unwrap_or_default();
            assert_eq!(counters.len(), told.len(), "{file}: {counters:?}");
            for counter in told {
                let key = counter["key"].as_str().unwrap_or_default();
                let same = |seen: &&Value| {
                    // Keys are shown cut where they are long.
                    seen["key"].as_str() == Some(&shown_key(key.as_bytes()))
                };
                let seen = counters.iter().find(same).unwrap_or(&Value::Null);
                for field in ["count", "limit", "remaining"] {
                    assert_eq!(seen[field], counter[field], "{file}: {field} of {key:?}");
                }
            }
        }
        "/api/limits" => {
            let seen = &observation["default_limit"];
            assert_eq!(seen["limit"], body["default_limit"], "{file}");
            assert_eq!(seen["window_ms"], body["default_window_ms"], "{file}");
        }
        "/health" => {
            let nodes = observed("nodes");
            let found = nodes.iter().find(|seen| seen["id"] == body["node_id"]);
            let probed = found.is_some_and(|seen| seen["probe_seconds"].is_number());
            assert!(probed, "{file}: {nodes:?}");
        }
        path => anyhow::bail!("{file}: nothing is known of {path}"),
    }
    Ok(())
}

/// Recorded answers to requests that the exporter never sends: it refuses each by its status.
async fn refused_by_status(odd: Vec<Exchange>, nobody: &str) -> anyhow::Result<()> {
    for exchange in odd {
        assert!(
            matches!(exchange.status, 200 | 307 | 404 | 405),
            "{}",
            exchange.file
        );
        let reset = exchange.path.ends_with("/reset");
        let path = if reset {
            "/api/counters/k/reset"
        } else {
            "/api/limits"
        };
        let answer = (exchange.file.clone(), exchange.status, exchange.answer);
        let replay = replay(BTreeMap::from([(path.to_owned(), answer)])).await?;
        let url = format!("--ratelimiter.url={}", replay.url);
        if reset {
            let output =
                crate::harness::run(vec![url, "reset-counter".to_owned(), "k".to_owned()]).await?;
            let accepted = exchange.status == 200;
            assert_eq!(
                output.status.code(),
                Some(if accepted { 0 } else { 2 }),
                "{}",
                exchange.file
            );
        } else {
            let redis = format!("--redis.url={nobody}");
            let exporter = Exporter::start(&[url, redis, UNHURRIED.to_owned()]).await?;
            let failures = exporter.get("/api/v1/observation").await?.text();
            // The answer to a HEAD has a length and no body.
            let named = if exchange.file.contains("head") {
                "truncated".to_owned()
            } else {
                format!("answered {}", exchange.status)
            };
            assert!(failures.contains(&named), "{}: {failures}", exchange.file);
        }
    }
    Ok(())
}

#[test]
fn no_recording_is_left_out() -> anyhow::Result<()> {
    // The tests here replay every file of these two kinds, and nothing of any other.
    let used = files(".http.txt")?.len() + files("_redis.json")?.len();
    let rest = files("")?.len() - used;
    assert_eq!((rest, files("README.md")?.len()), (1, 1));
    assert_eq!(exchanges()?.len(), files(".http.txt")?.len());
    for exchange in exchanges()? {
        assert!(
            exchange.status >= 200 && exchange.path.starts_with('/'),
            "{exchange:?}"
        );
    }
    Ok(())
}
