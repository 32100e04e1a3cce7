//! The canary of kinds other than the reference, by the request that their description names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lab::temp::TempDir;
use serde_json::Value;

use super::stand_in::StandIn;
use super::{Watched, node};
use crate::harness::Scrape;

/// How a node decides.
const COUNTS: u8 = 0;
const ADMITS_ALL: u8 = 1;
/// It forgets what it counted after each first request, as if Redis were flushed then.
const FORGETS_ONCE: u8 = 2;
const FAILS: u8 = 3;

/// A node that decides on requests for `/check` at port 8100, and how it does so.
async fn deciding() -> anyhow::Result<(StandIn, Arc<AtomicU8>)> {
    let mut own = StandIn::new();
    let how = Arc::new(AtomicU8::new(ADMITS_ALL));
    let counts: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let decides = Arc::clone(&how);
    own.decide(8100, "/check", move |head, body| {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let (user, max) = (request["user"].as_str(), request["max"].as_u64());
        let (Some(user), Some(max), Some(10_000)) = (user, max, request["ms"].as_u64()) else {
            return (400, String::new());
        };
        if !head.contains(&format!("x-user: {user}")) {
            return (400, String::new());
        }
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(user.to_owned()).or_default();
        *count += 1;
        let counted = *count;
        let status = match decides.load(Ordering::Relaxed) {
            FAILS => 503,
            ADMITS_ALL => {
                *count = 0;
                200
            }
            FORGETS_ONCE if max == 1 && counted == 1 => {
                // The next one is counted as the first, and the one after that as the second.
                decides.store(COUNTS, Ordering::Relaxed);
                *count = 0;
                200
            }
            _ if counted > max => 403,
            _ => 200,
        };
        (status, String::new())
    });
    own.serve(8100, "/health", "OK").await?;
    Ok((own, how))
}

/// A description whose canary is `canary`.
fn description(canary: &str) -> String {
    format!(
        "name: own\ntitle: own\ncounters:\n  - {{name: a, key: '^own:(?P<key>.+)$', type: string, \
         count: value, refused: not_counted, expiry: normal_without, \
         limits: [{{fixed: {{limit: 5, window: 1m}}}}]}}\n\
         nodes:\n  health: {{path: /health}}\n  canary: {canary}\n"
    )
}

const CANARY: &str = "{path: /check, refused: 403, covers_redis: true, headers: {X-User: $key}, \
    body: '{\"user\":\"$key\",\"max\":$limit,\"ms\":$window_ms}'}";

#[tokio::test]
async fn a_node_of_a_kind_is_asked_by_its_canary_and_what_it_admits_is_judged() -> anyhow::Result<()>
{
    let (own, how) = deciding().await?;
    let url = own.url(8100);
    let flags = ["--ratelimiter.url", url.as_str(), "--probe.canary"];
    let watched = Watched::described(&description(CANARY), &flags).await?;
    // As the limiter would count the canary, and a client above its limit.
    let canary = "own:ratelimiter-exporter-canary:a";
    watched.run(&["SET", canary, "9"]).await?;
    watched.run(&["SET", "own:busy", "6"]).await?;
    let id = own.address(8100);
    let open = format!("ghost_allowing canary:{id}");
    let busy = "ghost_allowing busy".to_owned();
    let is_open = |scrape: &Scrape| scrape.reported() == [busy.clone(), open.clone()];
    let scrape = watched.exporter.until("it admits all", is_open).await?;
    assert!(node(&scrape, "redis_connected", &id, 1), "{}", scrape.text);
    assert_eq!(scrape.evaluable("high_latency"), Some(true));
    let success = "ratelimiter_scrape_collector_success";
    assert!(scrape.is(success, &[("collector", "canary")], 1));
    // Counters that are flushed between two requests are no node that admits too much.
    how.store(FORGETS_ONCE, Ordering::Relaxed);
    let well = |scrape: &Scrape| scrape.reported() == [busy.clone()];
    watched.exporter.until("it refuses", well).await?;
    assert_eq!(how.load(Ordering::Relaxed), COUNTS, "it was asked");
    how.store(FAILS, Ordering::Relaxed);
    let lost = format!("redis_disconnected {id}");
    let is_lost = |scrape: &Scrape| scrape.reported().contains(&lost);
    let scrape = watched.exporter.until("it lost Redis", is_lost).await?;
    assert!(node(&scrape, "up", &id, 1), "{}", scrape.text);
    assert!(scrape.errors("canary", "http_status") > 0.0);
    Ok(())
}

#[tokio::test]
async fn a_canary_without_a_limit_measures_and_proves_nothing_else() -> anyhow::Result<()> {
    let mut own = StandIn::new();
    own.serve(8100, "/health", "OK").await?;
    own.answer(8100, "/", 429, "");
    let url = own.url(8100);
    let flags = ["--ratelimiter.url", url.as_str(), "--probe.canary"];
    let canary = "{method: GET, path: /, headers: {X-User: $key}}";
    let description = description(canary).replace("refused: not_counted", "refused: counted");
    let watched = Watched::described(&description, &flags).await?;
    let id = own.address(8100);
    let p99 = |scrape: &Scrape| {
        let labels = [("node_id", id.as_str())];
        let p99 = scrape.value("ratelimiter_node_latency_p99_seconds", &labels);
        p99.is_some()
    };
    let scrape = watched.exporter.until("it is measured", p99).await?;
    assert_eq!(scrape.evaluable("ghost_allowing"), None);
    let labels = [("node_id", id.as_str())];
    let redis = scrape.value("ratelimiter_node_redis_connected", &labels);
    assert_eq!(redis, None);
    own.answer(8100, "/", 502, "");
    let failed = |scrape: &Scrape| scrape.errors("canary", "http_status") > 0.0;
    let scrape = watched.exporter.until("it fails", failed).await?;
    assert!(scrape.reported().is_empty(), "{:?}", scrape.reported());
    assert_eq!(own.asked("POST "), 0);
    Ok(())
}

#[tokio::test]
async fn a_canary_may_say_its_key_and_limit_in_the_path() -> anyhow::Result<()> {
    let mut own = StandIn::new();
    own.serve(8100, "/health", r#"{"node":7}"#).await?;
    let canary = "{method: GET, path: '/check?user=$key&max=$limit'}";
    let description = description(canary).replace("{path: /health}", "{path: /health, id: /node}");
    own.decide(8100, "/check", |head, _| {
        let user = "GET /check?user=ratelimiter-exporter-canary%3A";
        let first = head.starts_with(&format!("{user}7&max=1000000 "));
        let second = head.starts_with(&format!("{user}refusal%3A7&max=1 "));
        (if first || second { 200 } else { 400 }, String::new())
    });
    let url = own.url(8100);
    let flags = ["--ratelimiter.url", url.as_str(), "--probe.canary"];
    let watched = Watched::described(&description, &flags).await?;
    let open = |scrape: &Scrape| scrape.reported() == ["ghost_allowing canary:7"];
    watched.exporter.until("it admits all", open).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_failed_open_stays_reported_while_it_is_not_asked() -> anyhow::Result<()> {
    let (own, how) = deciding().await?;
    let url = own.url(8100);
    let folder = TempDir::new("canary-state")?;
    let state = format!("--state.file={}", folder.path().join("state").display());
    let flags = ["--ratelimiter.url", &url, "--probe.canary", &state];
    let mut watched = Watched::described(&description(CANARY), &flags).await?;
    let open = format!("ghost_allowing canary:{}", own.address(8100));
    let is_open = |scrape: &Scrape| scrape.reported() == [open.as_str()];
    watched.exporter.until("it admits all", is_open).await?;
    // The first collection after the restart ends before the node answers.
    own.answer_late(8100, "/health", 200, "OK", Duration::from_secs(60));
    watched.restart().await?;
    let scrape = watched.exporter.scrape_within(0.6).await?;
    assert!(is_open(&scrape), "{}", scrape.text);
    assert_eq!(scrape.evaluable("ghost_allowing"), Some(false));
    own.answer(8100, "/health", 200, "OK");
    how.store(COUNTS, Ordering::Relaxed);
    let well = |scrape: &Scrape| scrape.reported().is_empty();
    watched.exporter.until("it refuses", well).await?;
    Ok(())
}
