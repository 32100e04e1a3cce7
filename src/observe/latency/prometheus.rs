//! Latencies from a Prometheus server that scrapes the nodes: the alternative to the nodes' own histograms. One query asks
//! for all nodes. The latency of a node is that of the sum over all its series.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::limiters::{Label, Latency, Selector, Wanted};
use crate::observation::{Histogram, LatencyWindow, NewestChecks, Reason};
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::management_api::join;
use crate::observe::latency::exposition::sane;
use crate::observe::latency::histogram::{Quantile, newest, quantile};

/// How many series an answer may have. A node has some twenty-five.
const MOST_SERIES: usize = 50_000;

/// The answer to an instant query.
#[derive(Deserialize)]
pub(in crate::observe) struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

/// The query for the buckets of all nodes, which `label` distinguishes: their rates over the window and over the newest
/// scrapes, the age of the last scrape, and the interval between scrapes.
fn latency_query(selector: &Selector, label: &str, window: LatencyWindow) -> String {
    let mut buckets = Selector {
        metric: format!("{}_bucket", selector.metric),
        labels: selector.labels.clone(),
    };
    let every = buckets.to_string();
    buckets.labels.push(Label {
        name: "le".to_owned(),
        value: Wanted::Text("+Inf".to_owned()),
    });
    let one = buckets.to_string();
    let seconds = window.span().as_secs_f64();
    let (window, recent) = (span(window.span()), span(window.newest()));
    let rates = format!("sum by ({label}, le) (rate({every}[{window}]))");
    // If scrapes are far apart, there are too few samples for `rate`. `irate` uses the last two.
    let newest =
        format!("sum by ({label}, le) (rate({every}[{recent}]) or irate({every}[{window}]))");
    let age = format!("max by ({label}) (time() - timestamp({one}))");
    let interval = format!("max by ({label}) ({seconds} / count_over_time({one}[{window}]))");
    let parts = [rates, newest, age, interval].into_iter();
    let parts = parts.zip(["window", "newest", "age", "interval"]);
    let parts = parts
        .map(|(what, name)| format!("label_replace({what}, \"part\", \"{name}\", \"\", \"\")"));
    parts.collect::<Vec<_>>().join(" or ")
}

/// A span in a query of Prometheus, which has no fractions.
fn span(span: Duration) -> String {
    match (span.as_millis(), span.subsec_millis()) {
        (_, 0) => format!("{}s", span.as_secs()),
        (millis, _) => format!("{millis}ms"),
    }
}

/// Prometheus's answer about one node.
#[derive(Clone, Debug, Default, PartialEq)]
struct OfNode {
    /// The counts per second over the window.
    window: Histogram,
    /// The counts per second over the newest scrapes.
    newest: Histogram,
    /// The age of the last scrape, in seconds.
    age: Option<f64>,
    /// The interval between scrapes, in seconds.
    interval: Option<f64>,
}

/// Prometheus's answer about the nodes, by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::observe) struct Latencies(BTreeMap<String, OfNode>);

impl Latencies {
    /// The p99 of a node and its newest checks, or the reason why there is none.
    pub(in crate::observe) fn of(
        &self,
        node_id: &str,
        window: LatencyWindow,
    ) -> Result<(Quantile, Option<NewestChecks>), &'static str> {
        let of_node = self.0.get(node_id).ok_or("prometheus_no_series")?;
        if of_node.window == Histogram::default() {
            return Err("first_sample");
        }
        let p99 = quantile(&of_node.window, 0.99).ok_or("no_samples")?;
        let (Some(age), Some(interval)) = (of_node.age, of_node.interval) else {
            return Ok((p99, None));
        };
        let checks = newest(&of_node.window, &of_node.newest, p99, age + interval);
        // The rates become counts: multiplied with the shortest time that they may cover.
        let span = interval.max(window.newest().as_secs_f64() / 2.0);
        let checks = NewestChecks {
            slow: checks.slow * span,
            slow_expected: checks.slow_expected * span,
            ..checks
        };
        Ok((p99, Some(checks)))
    }

    /// The latencies in an answer about `durations`. `label` names the nodes.
    pub(in crate::observe) fn new(response: Response, durations: &Latency, label: &str) -> Self {
        let mut nodes: BTreeMap<String, OfNode> = BTreeMap::new();
        for series in response.data.result {
            let of = |name: &str| series.metric.get(name).map_or("", String::as_str);
            let value = series.value.1.parse::<f64>().ok();
            let Some(value) = value.filter(|value| sane(*value)) else {
                continue;
            };
            let node = nodes.entry(of(label).to_owned()).or_default();
            let histogram = match of("part") {
                "window" => &mut node.window,
                "newest" => &mut node.newest,
                "age" => {
                    node.age = Some(value.max(0.0));
                    continue;
                }
                "interval" => {
                    node.interval = Some(value);
                    continue;
                }
                _ => continue,
            };
            match of("le").parse::<f64>() {
                Ok(le) if le == f64::INFINITY => histogram.count = value,
                Ok(le) if sane(le) => histogram.buckets.push((durations.seconds(le), value)),
                _ => {}
            }
        }
        for node in nodes.values_mut() {
            for histogram in [&mut node.window, &mut node.newest] {
                histogram.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            }
        }
        Self(nodes)
    }
}

/// Asks for the latencies of all nodes. `label` names the nodes.
pub(in crate::observe) async fn latencies(
    http: &Http,
    base: &reqwest::Url,
    durations: &Latency,
    label: &str,
    window: LatencyWindow,
) -> Result<Latencies, HttpError> {
    let expression = latency_query(&durations.metric, label, window);
    let mut url = join(base, "api/v1/query");
    url.query_pairs_mut().append_pair("query", &expression);
    let what = format!("Prometheus query for {}", durations.metric);
    let mut answer = http.get(url).await.map_err(|mut error| {
        error.message = format!("{what}: {}", error.message);
        error
    })?;
    answer.what.clone_from(&what);
    let response: Response = answer.ok()?.json()?;
    let series = response.data.result.len();
    if series > MOST_SERIES {
        let message = format!("{what}: {series} series, expected at most {MOST_SERIES}");
        return Err(HttpError::new(Reason::TooLarge, message));
    }
    Ok(Latencies::new(response, durations, label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::Unit;

    const WINDOW: LatencyWindow = LatencyWindow::new(Duration::from_secs(60));

    fn series(part: &str, node: &str, le: Option<&str>, value: &str) -> serde_json::Value {
        let mut metric = serde_json::json!({"part": part, "node_id": node});
        if let Some(le) = le {
            metric["le"] = le.into();
        }
        serde_json::json!({"metric": metric, "value": [1_700_000_000.0, value]})
    }

    fn answer(result: &[serde_json::Value]) -> Latencies {
        let answer = serde_json::json!({"status": "success", "data": {"resultType": "vector", "result": result}});
        let response = serde_json::from_value(answer).unwrap();
        Latencies::new(response, &durations(Unit::Seconds), "node_id")
    }

    fn durations(unit: Unit) -> Latency {
        Latency {
            metric: Selector::parse("d").unwrap(),
            unit,
        }
    }

    #[test]
    fn one_query_asks_for_all_nodes_with_the_labels_of_the_metric() {
        let selector = Selector::parse("d{handler=\"/check\",q=\"a\\\"b\\\\\"}").unwrap();
        let query = latency_query(&selector, "node_id", WINDOW);
        let every = r#"d_bucket{handler="/check",q="a\"b\\"}"#;
        let window = format!("sum by (node_id, le) (rate({every}[60s]))");
        assert!(query.contains(&window), "{query}");
        assert_eq!(query.matches(every).count(), 3, "{query}");
        let one = r#"d_bucket{handler="/check",q="a\"b\\",le="+Inf"}"#;
        assert_eq!(query.matches(one).count(), 2, "{query}");
    }

    #[test]
    fn the_query_follows_the_window() {
        let selector = Selector::parse("d").unwrap();
        let query = latency_query(
            &selector,
            "instance",
            LatencyWindow::new(Duration::from_secs(10)),
        );
        for part in [
            "rate(d_bucket[10s])",
            "rate(d_bucket[3333ms]) or irate(d_bucket[10s])",
            "10 / count_over_time(d_bucket{le=\"+Inf\"}[10s])",
        ] {
            assert!(query.contains(part), "{query}");
        }
    }

    #[test]
    fn the_p99_lies_in_its_bucket_however_many_series_a_node_has() {
        // Prometheus sums the series: nine in ten checks are fast, one is slow.
        let latencies = answer(&[
            series("window", "n", Some("+Inf"), "10"),
            series("window", "n", Some("0.1"), "9"),
            series("window", "n", Some("0.5"), "10"),
            series("window", "n", Some("0.05"), "9"),
            series("newest", "n", Some("+Inf"), "10"),
            series("newest", "n", Some("0.1"), "10"),
            series("age", "n", None, "4"),
            series("interval", "n", None, "15"),
            series("window", "other", Some("+Inf"), "NaN"),
            series("window", "other", Some("0.05"), "1"),
        ]);
        let (p99, checks) = latencies.of("n", WINDOW).unwrap();
        assert_eq!((p99.bucket.lower, p99.bucket.upper), (0.1, Some(0.5)));
        assert!((0.1..=0.5).contains(&p99.seconds), "{p99:?}");
        let checks = checks.unwrap();
        assert_eq!((checks.slow, checks.slow_expected), (0.0, 15.0));
        assert_eq!(checks.seconds.to_bits(), 19.0_f64.to_bits());
        let (p99, _) = latencies.of("other", WINDOW).unwrap();
        assert_eq!(p99.bucket.upper, Some(0.05));
    }

    #[test]
    fn a_node_without_latency_has_a_reason() {
        let latencies = answer(&[
            series("window", "idle", Some("+Inf"), "0"),
            series("window", "idle", Some("0.1"), "0"),
            series("interval", "new", None, "60"),
        ]);
        assert_eq!(latencies.of("idle", WINDOW).unwrap_err(), "no_samples");
        assert_eq!(latencies.of("new", WINDOW).unwrap_err(), "first_sample");
        assert_eq!(
            latencies.of("gone", WINDOW).unwrap_err(),
            "prometheus_no_series"
        );
    }

    #[test]
    fn latencies_in_milliseconds_are_read_by_instance() {
        let of = |le: &str, value: &str| serde_json::json!({"metric": {"part": "window", "instance": "a:9090", "le": le}, "value": [1_700_000_000.0, value]});
        let answer = serde_json::json!({"data": {"result": [of("50", "9"), of("100", "10"), of("+Inf", "10")]}});
        let response = serde_json::from_value(answer).unwrap();
        let latencies = Latencies::new(response, &durations(Unit::Milliseconds), "instance");
        let (p99, _) = latencies.of("a:9090", WINDOW).unwrap();
        assert_eq!((p99.bucket.lower, p99.bucket.upper), (0.05, Some(0.1)));
        let query = latency_query(
            &Selector::parse("d{k=~\"a.*\"}").unwrap(),
            "instance",
            WINDOW,
        );
        assert!(
            query.contains("sum by (instance, le) (rate(d_bucket{k=~\"a.*\"}[60s]))"),
            "{query}"
        );
    }
}
