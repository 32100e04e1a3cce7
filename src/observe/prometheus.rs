//! Latencies from a Prometheus server that scrapes the nodes: the alternative to their own histograms.

use serde::Deserialize;

use super::http::{Http, HttpError};
use super::latency::{Quantile, quantile};
use super::management_api::join;
use crate::observation::{Bucket, Histogram, Reason};

/// The answer to an instant query.
#[derive(Deserialize)]
pub(super) struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: std::collections::BTreeMap<String, String>,
    value: (f64, String),
}

/// The expression for the exported figure.
fn quantile_query(metric: &str, node_id: &str) -> String {
    format!(
        "histogram_quantile(0.99, rate({metric}_bucket{{node_id=\"{}\"}}[1m]))",
        escape(node_id)
    )
}

/// The expression for the buckets that carry the verdict.
fn buckets_query(metric: &str, node_id: &str) -> String {
    format!(
        "sum by (le) (rate({metric}_bucket{{node_id=\"{}\"}}[1m]))",
        escape(node_id)
    )
}

fn escape(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The p99 of `node_id` as Prometheus computes it, and the bucket it lies in; `None` without samples.
pub(super) async fn p99(
    http: &Http,
    base: &reqwest::Url,
    metric: &str,
    node_id: &str,
) -> Result<Option<Quantile>, HttpError> {
    let value_query = quantile_query(metric, node_id);
    let bucket_query = buckets_query(metric, node_id);
    let (value, buckets) = tokio::try_join!(
        query(http, base, &value_query),
        query(http, base, &bucket_query),
    )?;
    Ok(quantile_of(&value, &buckets))
}

/// The figure that the first answer gives, and the bucket of the second that it lies in.
pub(super) fn quantile_of(value: &Response, buckets: &Response) -> Option<Quantile> {
    let seconds = value.data.result.first()?.value.1.parse::<f64>().ok()?;
    // `NaN` is no samples; infinite is no latency either.
    if !seconds.is_finite() {
        return None;
    }
    let bucket = quantile(&histogram(&buckets.data.result), 0.99).map(|quantile| quantile.bucket);
    Some(Quantile {
        seconds,
        // Without buckets the figure is somewhere, which carries no verdict.
        bucket: bucket.unwrap_or(Bucket {
            lower: 0.0,
            upper: None,
        }),
    })
}

fn histogram(series: &[Series]) -> Histogram {
    let mut histogram = Histogram::default();
    for one in series {
        let le = one.metric.get("le").and_then(|le| le.parse::<f64>().ok());
        let (Some(le), Ok(rate)) = (le, one.value.1.parse::<f64>()) else {
            continue;
        };
        if le == f64::INFINITY {
            histogram.count = rate;
        } else if le.is_finite() {
            histogram.buckets.push((le, rate));
        }
    }
    histogram.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    histogram
}

async fn query(http: &Http, base: &reqwest::Url, expression: &str) -> Result<Response, HttpError> {
    let mut url = join(base, "api/v1/query");
    url.query_pairs_mut().append_pair("query", expression);
    let what = format!("Prometheus query {expression}");
    let answer = http.get(url).await.map_err(|mut error| {
        error.message = format!("{what}: {}", error.message);
        error
    })?;
    let response: Response = answer.ok(&what)?.json(&what)?;
    if response.data.result.len() > 10_000 {
        return Err(HttpError {
            status: None,
            reason: Reason::TooLarge,
            message: format!("{what}: {} series", response.data.result.len()),
        });
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_the_documented_one() {
        assert_eq!(
            quantile_query("ratelimiter_check_duration_seconds", "node-1"),
            "histogram_quantile(0.99, rate(ratelimiter_check_duration_seconds_bucket{node_id=\"node-1\"}[1m]))"
        );
        assert!(quantile_query("m", "a\"b\\").contains(r#"{node_id="a\"b\\"}"#));
    }
}
