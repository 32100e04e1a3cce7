//! Every answer that was recorded from a real limiter, read by the real exporter: the HTTP ones replayed by a stand-in for
//! a node, the Redis ones loaded into a real Redis.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lab::redis_server::RedisServer;
use ratelimiter_exporter::observation::decode_key;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::harness::Exporter;

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

/// Answers each path as it was recorded; what was not recorded is 404. Tells what was asked for.
struct Replay {
    url: String,
    served: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

async fn replay(answers: BTreeMap<String, (String, u16, Vec<u8>)>) -> anyhow::Result<Replay> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let served = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&served);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let Some((file, status, answer)) = answers.get(path) else {
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    .await;
                continue;
            };
            told.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(file.clone());
            if *status == 599 {
                continue; // the connection broke
            }
            let text = String::from_utf8_lossy(answer);
            let lines = text.split_inclusive('\n');
            // The recorded lines end in a bare newline; a head on the wire does not.
            let mut out = Vec::new();
            let mut in_head = true;
            for line in lines {
                if in_head {
                    out.extend_from_slice(line.trim_end().as_bytes());
                    out.extend_from_slice(b"\r\n");
                    in_head = !line.trim_end().is_empty();
                } else {
                    out.extend_from_slice(line.as_bytes());
                }
            }
            let _ = stream.write_all(&out).await;
        }
    });
    Ok(Replay {
        url,
        served,
        _task: AbortOnDropHandle::new(task),
    })
}

#[tokio::test]
async fn every_recorded_answer_is_read_or_named() -> anyhow::Result<()> {
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
    for (case, exchanges) in &cases {
        let answers = exchanges.iter().map(|exchange| {
            let answer = (
                exchange.file.clone(),
                exchange.status,
                exchange.answer.clone(),
            );
            (exchange.path.clone(), answer)
        });
        let replay = replay(answers.collect()).await?;
        let flags = [
            format!("--ratelimiter.url={}", replay.url),
            format!("--redis.url={nobody}"),
        ];
        let exporter = Exporter::start(&flags).await?;
        let observation: Value = exporter.get("/api/v1/observation").await?.json()?;
        let failures = observation["failures"].to_string();
        let served = replay
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for exchange in exchanges
            .iter()
            .filter(|exchange| served.contains(&exchange.file))
        {
            let named = failures.contains(&format!("{}{}", replay.url, exchange.path));
            match exchange.status {
                200 => assert!(!named, "{}: {failures}", exchange.file),
                500 => assert!(
                    named && failures.contains("answered 500"),
                    "{}: {failures}",
                    exchange.file
                ),
                _ => assert!(
                    named && failures.contains("truncated"),
                    "{}: {failures}",
                    exchange.file
                ),
            }
        }
        // Redis is down here, so that the node list and the counters come from the API, where it has them.
        let listed = exchanges
            .iter()
            .find(|e| e.path == "/api/nodes" && e.status == 200 && served.contains(&e.file));
        if let Some(listed) = listed {
            let text = String::from_utf8_lossy(&listed.answer).into_owned();
            let body: Value = serde_json::from_str(text.split("\n\n").last().unwrap_or_default())?;
            for node in body["nodes"].as_array().into_iter().flatten() {
                let ids: Vec<&Value> = observation["nodes"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|n| &n["id"])
                    .collect();
                assert!(
                    ids.contains(&&node["id"]),
                    "{case}: {} of {ids:?}",
                    node["id"]
                );
            }
        }
    }
    refused_by_status(odd, &nobody).await
}

/// Requests that the exporter never sends as they were recorded are answers all the same: each is refused by status.
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
                super::harness::run(vec![url, "reset-counter".to_owned(), "k".to_owned()]).await?;
            let accepted = exchange.status == 200;
            assert_eq!(
                output.status.code(),
                Some(if accepted { 0 } else { 2 }),
                "{}",
                exchange.file
            );
        } else {
            let exporter = Exporter::start(&[url, format!("--redis.url={nobody}")]).await?;
            let failures = exporter.get("/api/v1/observation").await?.text();
            // What answers a HEAD tells a length and has no body.
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

#[tokio::test]
async fn every_recorded_redis_is_swept() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    for file in files("_redis.json")? {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
        let keys: Vec<Value> = serde_json::from_slice(&std::fs::read(&file)?)?;
        let mut counters = Vec::new();
        let mut nodes = 0;
        for key in &keys {
            let name = key["key"].as_str().unwrap_or_default();
            load(&mut connection, name, key).await?;
            nodes += usize::from(name.starts_with("ratelimiter:nodes:"));
            if key["type"] == "zset" {
                let members = key["value"].as_array().map_or(0, Vec::len);
                counters.push((
                    name.strip_prefix("ratelimit:").unwrap_or(name).to_owned(),
                    members,
                ));
            }
        }
        let nobody = format!("http://127.0.0.1:{}", lab::ports::free_port());
        let folder = lab::temp::TempDir::new("captures")?;
        let config = folder.path().join("config.yml");
        // Nobody answers for the API, so the defaults of the recorded limiter come from a rule that matches last.
        std::fs::write(&config, "limits:\n- {match: '*', limit: 10, window: 60s}\n")?;
        let flags = [
            format!("--redis.url={}", redis.url()),
            format!("--ratelimiter.url={nobody}"),
            format!("--config.file={}", config.display()),
            "--keys.max-series=1000".to_owned(),
        ];
        let exporter = Exporter::start(&flags).await?;
        let scrape = exporter.scrape().await?;
        assert!(
            scrape.is("ratelimiter_keys", &[], u32::try_from(counters.len())?),
            "{file:?}: {}",
            scrape.text
        );
        let labels = scrape.labels("ratelimiter_key_requests", "key");
        for (key, members) in counters {
            let label = labels
                .iter()
                .find(|label| decode_key(label) == key.as_bytes());
            let label = label.unwrap_or_else(|| panic!("{file:?}: {key:?} is missing"));
            assert!(
                scrape.is(
                    "ratelimiter_key_requests",
                    &[("key", label)],
                    u32::try_from(members)?
                ),
                "{file:?}: {key:?}"
            );
        }
        let registered = scrape.labels("ratelimiter_node_heartbeat_ttl_seconds", "node_id");
        assert_eq!(registered.len(), nodes, "{file:?}");
    }
    Ok(())
}

/// Writes one recorded key, its scores moved to now.
async fn load(
    connection: &mut redis::aio::MultiplexedConnection,
    name: &str,
    key: &Value,
) -> anyhow::Result<()> {
    let mut pipe = redis::pipe();
    match key["type"].as_str() {
        Some("zset") => {
            for member in key["value"].as_array().into_iter().flatten() {
                let name_of_member = member[0].as_str().unwrap_or_default();
                pipe.cmd("ZADD")
                    .arg(name)
                    .arg(lab::clock::now_ms())
                    .arg(name_of_member)
                    .ignore();
            }
        }
        Some("hash") => {
            for (field, value) in key["value"].as_object().into_iter().flatten() {
                pipe.cmd("HSET")
                    .arg(name)
                    .arg(field)
                    .arg(value.as_str().unwrap_or_default())
                    .ignore();
            }
        }
        _ => {
            pipe.cmd("SET")
                .arg(name)
                .arg(key["value"].as_str().unwrap_or_default())
                .ignore();
        }
    }
    if let Some(ttl) = key["pttl_ms"].as_i64().filter(|ttl| *ttl > 0) {
        pipe.cmd("PEXPIRE").arg(name).arg(ttl).ignore();
    }
    pipe.query_async::<()>(connection).await?;
    Ok(())
}
