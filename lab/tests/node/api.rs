//! The node's API: its lists, its odd corners, and its faults as a client sees them.

use std::time::Duration;

use hyper::Method;
use lab::faults::Faults;
use lab::http;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Limiter, SOON, ask};

#[tokio::test]
async fn odd_keys_come_out_as_they_went_in() {
    let limiter = Limiter::start().await;
    let odd = [
        "a key with spaces",
        "line1\nline2",
        "",
        "a\u{0}b",
        "a:b:c::d",
        "path/to/thing",
        "🔥key",
        "he said \"hi\"",
        "a%20b%2Fc",
        "ratelimit:inner",
    ];
    for key in odd {
        assert_eq!(limiter.check_key(key).await.0, 200, "{key:?}");
    }
    for hidden in ["foo:seq", "x:limit:y"] {
        assert_eq!(limiter.check_key(hidden).await.0, 200, "{hidden:?}");
    }
    let counters = limiter.get("/api/counters").await.json().unwrap();
    let counters = counters["counters"].as_array().unwrap();
    let mut listed: Vec<&str> = counters.iter().filter_map(|c| c["key"].as_str()).collect();
    listed.sort_unstable();
    let mut expected = odd.to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected);

    let reset = |path: &'static str| limiter.send(Method::POST, path, json!({}));
    let answer = reset("/api/counters/%F0%9F%94%A5key/reset").await;
    assert_eq!(answer.text(), r#"{"key":"🔥key","reset":true}"#);
    assert_eq!(
        reset("/api/counters/path%2Fto%2Fthing/reset").await.status,
        404
    );
    let mut conn = limiter.conn().await;
    let left: i64 = ask(&mut conn, &["EXISTS", "ratelimit:🔥key"]).await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn the_lists_have_the_recorded_shapes() {
    let limiter = Limiter::start().await;
    assert_eq!(
        limiter.get("/api/counters").await.text(),
        r#"{"counters":[]}"#
    );
    assert_eq!(
        limiter.get("/api/limits").await.text(),
        r#"{"default_limit":10,"default_window_ms":60000}"#
    );
    assert_eq!(
        limiter.get("/health").await.text(),
        r#"{"status":"healthy","node_id":"node-1"}"#
    );
    for _ in 0..10 {
        limiter.check_key("user:2").await;
    }
    assert_eq!(
        limiter.get("/api/counters").await.text(),
        r#"{"counters":[{"key":"user:2","count":10,"limit":10,"remaining":0}]}"#
    );
    assert_eq!(
        limiter.get("/api/blocks").await.text(),
        r#"{"blocked":[{"key":"user:2","current_count":10,"limit":10}]}"#
    );
    let metrics = limiter.get("/metrics").await;
    let content_type = metrics.headers["content-type"].to_str().unwrap();
    assert_eq!(content_type, "text/plain; version=1.0.0; charset=utf-8");
}

#[tokio::test]
async fn the_counters_stop_at_a_hundred() {
    let limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    lab::seed::counters(&mut conn, 150, 1, 0, true)
        .await
        .unwrap();
    let counters = limiter.get("/api/counters").await.json().unwrap();
    assert_eq!(counters["counters"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn one_malformed_value_fails_the_whole_list() {
    let limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    limiter.check_key("bad").await;
    limiter.check_key("ok").await;

    let limit = "ratelimit:limit:bad";
    let window = ["window_ms", "60000"];
    for fields in [["limit", "seven"], ["limit", "7.5"]] {
        let _: () = ask(
            &mut conn,
            &[&["HSET", limit][..], &fields, &window].concat(),
        )
        .await;
        assert_eq!(limiter.get("/api/counters").await.status, 500, "{fields:?}");
        assert_eq!(limiter.get("/api/nodes").await.status, 200);
    }
    let _: () = ask(&mut conn, &["DEL", limit]).await;
    let _: () = ask(&mut conn, &["HSET", limit, "limit", "7"]).await;
    assert_eq!(limiter.get("/api/counters").await.status, 500, "no window");
    let _: () = ask(&mut conn, &["DEL", limit]).await;

    let _: () = ask(&mut conn, &["SET", "ratelimit:text", "x"]).await;
    assert_eq!(
        limiter.get("/api/counters").await.status,
        200,
        "type decides"
    );
    assert_eq!(limiter.get("/api/blocks").await.status, 500);

    let mut not_utf8 = redis::cmd("ZADD");
    not_utf8.arg(b"ratelimit:\xff").arg(1).arg("x");
    not_utf8.query_async::<()>(&mut conn).await.unwrap();
    let answer = limiter.get("/api/counters").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (500, "Internal Server Error")
    );

    let _: () = ask(&mut conn, &["SET", "ratelimiter:nodes:text", "x"]).await;
    assert_eq!(limiter.get("/api/nodes").await.status, 500);
}

#[tokio::test]
async fn odd_registrations_are_up_all_the_same() {
    let limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    let _: () = ask(
        &mut conn,
        &["HSET", "ratelimiter:nodes:rack:node-9", "address", "h:1"],
    )
    .await;
    let _: () = ask(&mut conn, &["HSET", "ratelimiter:nodes:ghost", "x", "y"]).await;
    let nodes = limiter.get("/api/nodes").await.text();
    for expected in [
        r#"{"id":"node-9","address":"h:1","state":"Up","registered_at":null}"#,
        r#"{"id":"ghost","address":"unknown","state":"Up","registered_at":null}"#,
    ] {
        assert!(nodes.contains(expected), "{nodes}");
    }
}

#[tokio::test]
async fn wrong_paths_and_methods_answer_as_recorded() {
    let limiter = Limiter::start().await;
    let unknown = limiter.get("/nope").await;
    assert_eq!(
        (unknown.status, unknown.text().as_str()),
        (404, r#"{"detail":"Not Found"}"#)
    );
    let wrong = limiter.get("/check").await;
    assert_eq!(
        (wrong.status, wrong.headers["allow"].as_bytes()),
        (405, &b"POST"[..])
    );
    let slash = limiter.get("/api/nodes/").await;
    assert_eq!(slash.status, 307);
    let location = slash.headers["location"].to_str().unwrap();
    assert_eq!(location, format!("{}/api/nodes", limiter.node.url()));
    let head = limiter.send(Method::HEAD, "/health", json!({})).await;
    assert_eq!(head.status, 405);
}

/// Sends a request over a bare socket and reads until the server closes, or `patience` is over.
async fn read_to_the_end(
    stream: &mut TcpStream,
    request: &str,
    patience: Duration,
) -> (String, bool) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    let closed = tokio::time::timeout(patience, reading).await.is_ok();
    (String::from_utf8(bytes).unwrap(), closed)
}

const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_500_closes_the_connection_without_saying_so() {
    let limiter = Limiter::start().await;
    let failing = Faults {
        health_status: Some(500),
        ..Faults::default()
    };
    limiter.node.set_faults(&failing).await.unwrap();
    let mut stream = TcpStream::connect(limiter.node.address()).await.unwrap();
    let well_before_idle = Duration::from_secs(3);
    let (answer, closed) = read_to_the_end(&mut stream, GET_HEALTH, well_before_idle).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(!answer.to_lowercase().contains("connection:"), "{answer}");
    assert!(
        answer.ends_with(r#"{"status":"healthy","node_id":"node-1"}"#),
        "{answer}"
    );
    assert!(closed);

    let keeping = Faults {
        keep_open_after_500: true,
        ..failing
    };
    limiter.node.set_faults(&keeping).await.unwrap();
    let mut stream = TcpStream::connect(limiter.node.address()).await.unwrap();
    let (_, closed) = read_to_the_end(&mut stream, GET_HEALTH, Duration::from_secs(1)).await;
    assert!(!closed);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_five_seconds() {
    let limiter = Limiter::start().await;
    let mut stream = TcpStream::connect(limiter.node.address()).await.unwrap();
    let (answer, closed) = read_to_the_end(&mut stream, GET_HEALTH, Duration::from_secs(4)).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !closed, "{answer}");
    let mut rest = Vec::new();
    let closing = tokio::time::timeout(SOON, stream.read_to_end(&mut rest));
    closing.await.unwrap().unwrap();
    assert_eq!(String::from_utf8(rest).unwrap(), "");
}

#[tokio::test]
async fn faults_are_switched_over_http_and_an_unknown_one_is_refused() {
    let limiter = Limiter::start().await;
    let put = |body| limiter.send(Method::PUT, "/lab/faults", body);
    assert_eq!(put(json!({"check_delay_ms": 60})).await.status, 200);
    assert_eq!(limiter.node.faults().await.unwrap().check_delay_ms, 60);
    assert_eq!(put(json!({"chek_delay_ms": 60})).await.status, 422);

    limiter.check_key("k").await;
    let bucket = |le| {
        let series = format!("ratelimiter_check_duration_seconds_bucket{{le=\"{le}\"}}");
        let limiter = &limiter;
        async move { limiter.metric(&series).await }
    };
    assert_eq!(bucket("0.05").await, Some(0.0));
    assert_eq!(bucket("+Inf").await, Some(1.0));

    assert_eq!(
        put(json!({"histogram_never_counts": true})).await.status,
        200
    );
    limiter.check_key("k").await;
    assert_eq!(bucket("+Inf").await, Some(1.0));
    let by_handler = r#"http_request_duration_seconds_count{handler="/check",method="POST"}"#;
    assert_eq!(limiter.metric(by_handler).await, Some(2.0));

    put(json!({"node_state": "Draining", "metrics_status": 503, "check_status": 502})).await;
    let nodes = limiter.get("/api/nodes").await.json().unwrap();
    assert_eq!(nodes["nodes"][0]["state"], "Draining");
    assert_eq!(limiter.get("/metrics").await.status, 503);
    assert_eq!(limiter.check_key("k").await.0, 502);
}

#[tokio::test]
async fn a_broken_api_fails_as_its_switches_say() {
    let limiter = Limiter::start().await;
    let put = |body| limiter.send(Method::PUT, "/lab/faults", body);
    let address = limiter.node.address();
    let patience = Duration::from_millis(300);

    put(json!({"api_status": 503})).await;
    assert_eq!(limiter.get("/api/nodes").await.status, 503);
    put(json!({"api_body": "{\"nodes\":{}}"})).await;
    assert_eq!(limiter.get("/api/nodes").await.text(), r#"{"nodes":{}}"#);
    put(json!({"api_truncate": true})).await;
    let error = http::get(&address, "/api/nodes", SOON).await.unwrap_err();
    assert!(format!("{error:#}").contains("cut off"), "{error:#}");
    put(json!({"api_hang": true})).await;
    assert!(http::get(&address, "/api/nodes", patience).await.is_err());
    assert_eq!(limiter.get("/health").await.status, 200);
    put(json!({"api_delay_ms": 50})).await;
    assert_eq!(limiter.get("/api/nodes").await.status, 200);

    put(json!({"api_endless": true})).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = b"GET /api/nodes HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut some = vec![0; 4 * 1024 * 1024];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    assert_eq!(limiter.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_list_goes_on_in_steps_of_ten_after_its_client_has_hung_up() {
    const KEYS: u64 = 20_000;
    // A step may bring a few names more than ten, never twice as many.
    const STEPS: u64 = KEYS / 20;
    let limiter = Limiter::start().await;
    let mut conn = limiter.conn().await;
    let seed = "for i = 1, ARGV[1] do redis.call('ZADD', 'ratelimit:' .. i, i, i) end return 1";
    let _: i64 = ask(&mut conn, &["EVAL", seed, "0", &KEYS.to_string()]).await;

    let mut stream = TcpStream::connect(limiter.node.address()).await.unwrap();
    let request = b"GET /api/nodes HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let begun = lab::wait_for(SOON, async || scans(&limiter).await > 0).await;
    begun.unwrap();
    drop(stream);
    let all = lab::wait_for(SOON, async || scans(&limiter).await >= STEPS).await;
    assert!(all.is_ok(), "{} scans", scans(&limiter).await);
}

/// How many SCANs Redis has answered.
async fn scans(limiter: &Limiter) -> u64 {
    let mut conn = limiter.conn().await;
    let stats: String = ask(&mut conn, &["INFO", "commandstats"]).await;
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_scan:calls="));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}
