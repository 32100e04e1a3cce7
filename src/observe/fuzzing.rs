//! Entry points for fuzzing: arbitrary bytes as a node's metrics, and as the JSON of its management API and of Prometheus.

use jiff::{Timestamp, ToSpan as _};

use crate::credentials::Secret;
use crate::limiters::{Latency, Selector, Unit};
use crate::observation::{LatencyWindow, Observation};
use crate::observe::http::client::ClientResponse;
use crate::observe::http::management_api::{self as api, Limits};
use crate::observe::latency::node_metrics::{LatencyHistory, ScrapedMetrics};
use crate::observe::latency::prometheus;
use crate::observe::latency::wanted::WantedSeries;

/// A password that the server received, and may send back.
const PASSWORD: &str = "hunter2";

/// Several readings of one node's `/metrics` over time, separated by form feeds. An error must name a line, and a latency
/// must lie in its bucket. Returns the observation.
pub(crate) fn node_metrics(data: &[u8]) -> Observation {
    let mut observation = Observation::default();
    let Ok(text) = std::str::from_utf8(data) else {
        return observation;
    };
    if let Ok(selector) = Selector::parse(text) {
        let written = selector.to_string();
        let again = Selector::parse(&written).map(|again| again.to_string());
        assert_eq!(again, Ok(written));
    }
    let selectors = WantedSeries::of_reference();
    let mut node = LatencyHistory::default();
    let mut now = Timestamp::UNIX_EPOCH;
    for text in text.split('\x0c') {
        let reading = match ScrapedMetrics::parse(text, &selectors) {
            Ok(reading) => reading,
            Err(error) => {
                let number = error.strip_prefix("line ").and_then(|rest| {
                    let (number, _) = rest.split_once(':')?;
                    number.parse::<usize>().ok()
                });
                let lines = text.lines().count().max(1);
                assert!(number.is_some_and(|n| n >= 1 && n <= lines), "{error}");
                assert_eq!(error.lines().count(), 1, "{error:?}");
                continue;
            }
        };
        now += 20.seconds();
        let metrics = node.add(now, &reading, &selectors, LatencyWindow::default(), false);
        assert_ne!(
            metrics.latency_p99_ms.is_some(),
            metrics.latency_unknown.is_some(),
            "a latency is known, or the reason why not is"
        );
        if let (Some(p99), Some(bucket)) = (metrics.latency_p99_ms, metrics.latency_p99_bucket) {
            assert!(p99.is_finite(), "p99 of {p99}");
            // Interpolation rounds.
            let slack = 1e-9 * p99.abs().max(1.0);
            assert!(p99 >= bucket.lower.min(0.0).max(bucket.lower) * 1e3 - slack);
            assert!(bucket.upper.is_none_or(|upper| p99 <= upper * 1e3 + slack));
        }
        observation
            .node_metrics
            .insert("node-1".to_owned(), metrics);
    }
    observation
}

/// The same bytes as each JSON answer. An error must be one line without a secret, a limit must be valid, and an address
/// must lead to a host and a port and nothing else.
pub fn management_api(data: &[u8]) {
    let answer = ClientResponse {
        what: "GET /".to_owned(),
        status: reqwest::StatusCode::OK,
        body: bytes::Bytes::copy_from_slice(data),
        secrets: vec![Secret::new(PASSWORD)],
    };
    let refused = ClientResponse {
        status: reqwest::StatusCode::INTERNAL_SERVER_ERROR,
        ..answer.clone()
    };
    let error = refused.ok().expect_err("500 is no success");
    is_a_message(&error.message);
    if let Some(nodes) = read::<api::Nodes>(&answer) {
        for node in nodes.nodes {
            leads_to_host_and_port(&node.address);
        }
    }
    if let Ok(address) = std::str::from_utf8(data) {
        leads_to_host_and_port(address);
    }
    if let Some(limits) = read::<Limits>(&answer)
        && let Ok(limit) = limits.checked()
    {
        assert!(limit.window_ms > 0);
    }
    read::<api::Counters>(&answer);
    read::<api::Reset>(&answer);
    read::<serde_json::Value>(&answer);
    if let Some(response) = read::<prometheus::Response>(&answer)
        && let Ok(metric) = Selector::parse("d")
    {
        let unit = Unit::Seconds;
        let latencies = prometheus::Latencies::new(response, &Latency { metric, unit }, "node_id");
        let Ok((p99, newest)) = latencies.of("node-1", LatencyWindow::default()) else {
            return;
        };
        assert!(p99.seconds.is_finite(), "{p99:?}");
        let figures = newest.map(|newest| [newest.seconds, newest.slow, newest.slow_expected]);
        assert!(figures.is_none_or(|it| it.iter().all(|it| it.is_finite())));
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &ClientResponse) -> Option<T> {
    match answer.json() {
        Ok(value) => Some(value),
        Err(error) => {
            is_a_message(&error.message);
            None
        }
    }
}

/// A message is one line of bounded length, and does not repeat the secret.
fn is_a_message(message: &str) {
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < 16 * 1024, "{} bytes", message.len());
    assert!(!message.contains(PASSWORD), "{message:?}");
}

fn leads_to_host_and_port(address: &str) {
    let Some(base) = api::base_of(address) else {
        return;
    };
    let url = api::join(&base, "health");
    assert!(
        url.username().is_empty() && url.password().is_none(),
        "{url}"
    );
    assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
    assert!(["http", "https"].contains(&url.scheme()), "{url}");
    assert!(url.path().ends_with("/health"), "{url}");
}
