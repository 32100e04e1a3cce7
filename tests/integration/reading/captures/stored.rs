//! What was recorded of Redis, loaded into a real one: every counter, limit and registration shows as it was.

use std::collections::{BTreeMap, BTreeSet};

use lab::redis_server::RedisServer;
use ratelimiter_exporter::observation::decode_key;
use serde_json::Value;

use super::{Exporter, HEALTHY, exchanges, files, replay};

/// What one recording holds.
#[derive(Debug, Default)]
struct Stored {
    counters: BTreeMap<Vec<u8>, u64>,
    limits: BTreeMap<Vec<u8>, u64>,
    /// Node ids with the milliseconds that their registrations had left.
    nodes: BTreeMap<String, f64>,
}

impl Stored {
    fn of(keys: &[Value]) -> Self {
        let mut stored = Self::default();
        for key in keys {
            let name = key["key"].as_str().unwrap_or_default();
            if let Some(id) = name.strip_prefix("ratelimiter:nodes:") {
                let ttl = key["pttl_ms"].as_f64().unwrap_or_default();
                stored.nodes.insert(id.to_owned(), ttl);
            }
            let Some(rest) = name.strip_prefix("ratelimit:") else {
                continue;
            };
            if let Some(members) = key["value"].as_array() {
                stored
                    .counters
                    .insert(rest.as_bytes().to_vec(), members.len() as u64);
            }
            let limit = key["value"]["limit"].as_str();
            if let (Some(of), Some(Ok(limit))) =
                (rest.strip_prefix("limit:"), limit.map(str::parse))
            {
                stored.limits.insert(of.as_bytes().to_vec(), limit);
            }
        }
        stored
    }

    /// What the limit of a key is, or the recorded limiter's default.
    fn limit(&self, key: &[u8]) -> u64 {
        self.limits.get(key).copied().unwrap_or(10)
    }
}

#[tokio::test]
async fn every_recorded_redis_is_swept() -> anyhow::Result<()> {
    let redis = RedisServer::start(&[]).await?;
    let mut connection = redis.connection().await?;
    let defaults = exchanges()?
        .into_iter()
        .find(|exchange| exchange.file.starts_with(HEALTHY) && exchange.path == "/api/limits")
        .map(|exchange| {
            (
                exchange.path,
                (exchange.file, exchange.status, exchange.answer),
            )
        });
    let api = replay(defaults.into_iter().collect()).await?;
    let flags = [
        format!("--redis.url={}", redis.url()),
        format!("--ratelimiter.url={}", api.url),
        "--keys.max-series=1000".to_owned(),
    ];
    for file in files("_redis.json")? {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
        let keys: Vec<Value> = serde_json::from_slice(&std::fs::read(&file)?)?;
        for key in &keys {
            load(&mut connection, key).await?;
        }
        let stored = Stored::of(&keys);
        let exporter = Exporter::start(&flags).await?;
        let scrape = exporter.scrape().await?;

        let labels = scrape.labels("ratelimiter_key_requests", "key");
        let shown: BTreeSet<Vec<u8>> = labels.iter().map(|label| decode_key(label)).collect();
        let expected: BTreeSet<Vec<u8>> = stored.counters.keys().cloned().collect();
        assert_eq!(shown, expected, "{file:?}");
        for label in &labels {
            let key = decode_key(label);
            let is = |name, value: u64| {
                let value = u32::try_from(value).unwrap_or(u32::MAX);
                scrape.is(name, &[("key", label)], value)
            };
            let (count, limit) = (stored.counters[&key], stored.limit(&key));
            assert!(is("ratelimiter_key_requests", count), "{file:?}: {label:?}");
            assert!(
                is("ratelimiter_key_requests_limit", limit),
                "{file:?}: {label:?}"
            );
            let remaining = limit.saturating_sub(count);
            assert!(
                is("ratelimiter_key_requests_remaining", remaining),
                "{file:?}: {label:?}"
            );
            let ghost = [("name", "ghost_allowing"), ("subject", label)];
            assert_eq!(
                scrape.is("invariant_violation", &ghost, 1),
                count > limit,
                "{file:?}: {label:?}"
            );
        }

        let ttl = "ratelimiter_node_heartbeat_ttl_seconds";
        assert_eq!(
            scrape.labels(ttl, "node_id").len(),
            stored.nodes.len(),
            "{file:?}"
        );
        for (id, left) in &stored.nodes {
            let shown = scrape.value(ttl, &[("node_id", id)]);
            assert!(
                shown.is_some_and(|shown| shown > 0.0 && shown * 1e3 <= *left),
                "{file:?}: {id}: {shown:?}"
            );
            // Nobody listens where they were: their registrations are all there is to judge them by.
            assert!(
                scrape.is("ratelimiter_node_up", &[("node_id", id)], 1),
                "{id}"
            );
        }
    }
    Ok(())
}

/// Writes one recorded key, its scores moved to now.
async fn load(
    connection: &mut redis::aio::MultiplexedConnection,
    key: &Value,
) -> anyhow::Result<()> {
    let name = key["key"].as_str().unwrap_or_default();
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
