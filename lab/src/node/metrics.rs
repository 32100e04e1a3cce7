//! What a node counts about itself, as `/metrics` shows it.
//!
//! Names, labels and edges are those of a recorded node. Its interpreter's own metrics and the
//! `_created` companions are left out: nobody watches them.

use std::time::Duration;

use hyper::Method;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

const CHECK_EDGES: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const HANDLER_EDGES: [f64; 3] = [0.1, 0.5, 1.0];
const FINE_EDGES: [f64; 21] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    checked: IntCounterVec,
    check_duration: Histogram,
    active_counters: Gauge,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    request_duration_fine: Histogram,
}

impl Metrics {
    pub(super) fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            checked: IntCounterVec::new(
                Opts::new(
                    "ratelimiter_requests_checked_total",
                    "Total rate limit checks performed",
                ),
                &["result"],
            )?,
            check_duration: Histogram::with_opts(
                HistogramOpts::new(
                    "ratelimiter_check_duration_seconds",
                    "Rate limit check latency in seconds",
                )
                .buckets(CHECK_EDGES.to_vec()),
            )?,
            active_counters: Gauge::new(
                "ratelimiter_active_counters",
                "Number of active rate limit counters",
            )?,
            requests: IntCounterVec::new(
                Opts::new(
                    "http_requests_total",
                    "Total number of requests by method, status and handler.",
                ),
                &["handler", "method", "status"],
            )?,
            request_duration: HistogramVec::new(
                HistogramOpts::new(
                    "http_request_duration_seconds",
                    "Latency with only few buckets by handler.",
                )
                .buckets(HANDLER_EDGES.to_vec()),
                &["handler", "method"],
            )?,
            request_duration_fine: Histogram::with_opts(
                HistogramOpts::new(
                    "http_request_duration_highr_seconds",
                    "Latency with many buckets but no API specific labels.",
                )
                .buckets(FINE_EDGES.to_vec()),
            )?,
        };
        let node_up = Gauge::new(
            "ratelimiter_node_up",
            "Whether this node is up (1) or down (0)",
        )?;
        node_up.set(1.0);

        let registry = &metrics.registry;
        registry.register(Box::new(metrics.checked.clone()))?;
        registry.register(Box::new(metrics.check_duration.clone()))?;
        registry.register(Box::new(node_up))?;
        registry.register(Box::new(metrics.active_counters.clone()))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.request_duration.clone()))?;
        registry.register(Box::new(metrics.request_duration_fine.clone()))?;
        Ok(metrics)
    }

    pub(super) fn count_check(&self, allowed: bool) {
        let result = if allowed { "allowed" } else { "blocked" };
        self.checked.with_label_values(&[result]).inc();
    }

    pub(super) fn observe_check(&self, elapsed: Duration) {
        self.check_duration.observe(elapsed.as_secs_f64());
    }

    pub(super) fn set_active_counters(&self, listed: usize) {
        #[expect(clippy::cast_precision_loss, reason = "the list stops at 100")]
        self.active_counters.set(listed as f64);
    }

    /// Counts a request; `status` is none when its client left before the answer.
    pub(super) fn observe_request(
        &self,
        handler: &str,
        method: &Method,
        status: Option<u16>,
        elapsed: Duration,
    ) {
        let method = method.as_str();
        if let Some(status) = status {
            let class = format!("{}xx", status / 100);
            let labels = [handler, method, &class];
            self.requests.with_label_values(&labels).inc();
        }
        let seconds = elapsed.as_secs_f64();
        let by_handler = self.request_duration.with_label_values(&[handler, method]);
        by_handler.observe(seconds);
        self.request_duration_fine.observe(seconds);
    }

    pub(super) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_recorded_names_and_labels() {
        let metrics = Metrics::new().unwrap();
        metrics.count_check(true);
        metrics.count_check(false);
        metrics.observe_check(Duration::from_millis(3));
        let elapsed = Duration::from_millis(120);
        metrics.observe_request("/check", &Method::POST, Some(429), elapsed);
        let text = metrics.text().unwrap();
        for line in [
            r#"ratelimiter_requests_checked_total{result="allowed"} 1"#,
            r#"ratelimiter_requests_checked_total{result="blocked"} 1"#,
            r#"ratelimiter_check_duration_seconds_bucket{le="0.001"} 0"#,
            r#"ratelimiter_check_duration_seconds_bucket{le="0.005"} 1"#,
            r#"ratelimiter_check_duration_seconds_bucket{le="1"} 1"#,
            r#"http_requests_total{handler="/check",method="POST",status="4xx"} 1"#,
            r#"http_request_duration_seconds_bucket{handler="/check",method="POST",le="0.1"} 0"#,
            r#"http_request_duration_highr_seconds_bucket{le="0.25"} 1"#,
        ] {
            assert!(
                text.lines().any(|candidate| candidate == line),
                "{line} is missing from\n{text}"
            );
        }
    }
}
