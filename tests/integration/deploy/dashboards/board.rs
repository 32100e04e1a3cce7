//! The dashboards as they stand in their files, and what Grafana asks Prometheus for them: panels, queries, variables.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use lab::prometheus::Prometheus;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// The time range of a graph here.
pub(super) const RANGE_SECONDS: u32 = 10;

/// A dashboard.
#[derive(Debug)]
pub(super) struct Board {
    /// Its file, without `.json`.
    pub(super) name: String,
    pub(super) panels: Vec<Panel>,
    /// `label_values(SELECTOR, LABEL)` of each variable, by the variable's name, in order.
    pub(super) variables: Vec<(String, String)>,
    /// The query of its annotation.
    pub(super) annotation: String,
}

/// A panel that shows something.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) queries: Vec<Query>,
    /// What it shows in place of data, where there is none.
    pub(super) no_value: Option<String>,
}

/// One of its queries.
#[derive(Debug)]
pub(super) struct Query {
    /// A, B, C.
    pub(super) name: String,
    pub(super) expr: String,
    instant: bool,
}

impl Query {
    /// A query over the time range.
    pub(super) fn range(expr: &str) -> Self {
        Self {
            name: String::new(),
            expr: expr.to_owned(),
            instant: false,
        }
    }
}

/// A series of an answer: its labels, and its finite values (the last one for an instant query).
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) values: Vec<f64>,
}

impl Series {
    /// The present value.
    pub(super) fn last(&self) -> f64 {
        self.values.last().copied().unwrap_or(f64::NAN)
    }
}

/// All dashboards in `grafana/dashboards`.
pub(super) fn boards() -> anyhow::Result<Vec<Board>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboards");
    let mut boards = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let board = Board::read(&name, &json).with_context(|| format!("{}", path.display()))?;
        boards.push(board);
    }
    Ok(boards)
}

impl Board {
    fn read(name: &str, json: &Value) -> anyhow::Result<Self> {
        let rows = list(&json["panels"])?;
        let mut panels = Vec::new();
        for panel in rows {
            if panel["type"] == "row" {
                for inner in list(&panel["panels"])? {
                    panels.push(Panel::read(inner)?);
                }
            } else {
                panels.push(Panel::read(panel)?);
            }
        }
        let variables = list(&json["templating"]["list"])?
            .iter()
            .filter(|variable| variable["type"] == "query")
            .map(|variable| Ok((text(&variable["name"])?, text(&variable["query"]["query"])?)));
        Ok(Self {
            name: name.to_owned(),
            panels,
            variables: variables.collect::<anyhow::Result<_>>()?,
            annotation: text(&json["annotations"]["list"][0]["expr"])?,
        })
    }
}

impl Panel {
    fn read(json: &Value) -> anyhow::Result<Self> {
        let queries = list(&json["targets"])?.iter().map(|target| {
            Ok(Query {
                name: text(&target["refId"])?,
                expr: text(&target["expr"])?,
                instant: target["instant"] == true,
            })
        });
        Ok(Self {
            title: text(&json["title"])?,
            queries: queries.collect::<anyhow::Result<_>>()?,
            no_value: json["fieldConfig"]["defaults"]["noValue"]
                .as_str()
                .map(str::to_owned),
        })
    }
}

fn list(json: &Value) -> anyhow::Result<&Vec<Value>> {
    json.as_array().with_context(|| format!("no list: {json}"))
}

fn text(json: &Value) -> anyhow::Result<String> {
    let text = json.as_str().with_context(|| format!("no text: {json}"))?;
    Ok(text.to_owned())
}

/// What Grafana puts in for its variables.
#[derive(Debug, Clone)]
pub(super) struct Values(BTreeMap<String, String>);

impl Values {
    /// Nothing but what depends on the time shown.
    pub(super) fn new() -> Self {
        let mut values = Self(BTreeMap::new());
        values.set("__range", &format!("{RANGE_SECONDS}s"));
        values.set("__rate_interval", "5s");
        values
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// `expr` with all of them put in; an error names one that is not known.
    pub(super) fn fill(&self, expr: &str) -> anyhow::Result<String> {
        let mut filled = String::new();
        let mut rest = expr;
        while let Some(at) = rest.find('$') {
            filled.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            // `$1` is a group of a regular expression: Grafana knows no variable of that name and leaves it.
            if rest.starts_with(|c: char| c.is_ascii_digit()) {
                filled.push('$');
                continue;
            }
            let (name, format, after) = if let Some(braced) = rest.strip_prefix('{') {
                let (inner, after) = braced.split_once('}').context("no }")?;
                let (name, format) = inner.split_once(':').unwrap_or((inner, ""));
                (name, format, after)
            } else {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (&rest[..end], "", &rest[end..])
            };
            let value = self.0.get(name);
            let value = value.with_context(|| format!("unknown variable {name} in {expr}"))?;
            match format {
                "" => filled.push_str(value),
                "regex" => filled.push_str(&regex_escaped(value)),
                other => anyhow::bail!("format {other} in {expr}"),
            }
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// As Grafana's format `regex` does.
fn regex_escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        if r"\^$*+?.()|[]{}/".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What Prometheus answers to a query; an error if it is none, or a value is not finite.
pub(super) async fn ask(
    prometheus: &Prometheus,
    query: &Query,
    values: &Values,
) -> anyhow::Result<Vec<Series>> {
    let expr = values.fill(&query.expr)?;
    let encoded = utf8_percent_encode(&expr, NON_ALPHANUMERIC);
    let path = if query.instant {
        format!("/api/v1/query?query={encoded}")
    } else {
        let now = lab::clock::now_ms() / 1000;
        let start = now - i64::from(RANGE_SECONDS);
        format!("/api/v1/query_range?query={encoded}&start={start}&end={now}&step=1")
    };
    let answer = prometheus.server.ask(&path).await?;
    let result = list(&answer["data"]["result"]).with_context(|| expr.clone())?;
    let series = result.iter().map(|series| {
        let labels = serde_json::from_value(series["metric"].clone())?;
        let one = std::slice::from_ref(&series["value"]);
        let samples = series["values"].as_array().map_or(one, Vec::as_slice);
        let values = samples.iter().map(|sample| {
            let value: f64 = text(&sample[1])?.parse()?;
            anyhow::ensure!(value.is_finite(), "{labels:?} is {value} in {expr}");
            Ok(value)
        });
        let values = values.collect::<anyhow::Result<_>>()?;
        Ok(Series { labels, values })
    });
    series.collect()
}

/// The values of a variable: those of LABEL in the series of SELECTOR.
pub(super) async fn label_values(
    prometheus: &Prometheus,
    query: &str,
    values: &Values,
) -> anyhow::Result<Vec<String>> {
    let query = values.fill(query)?;
    let inner = query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) = inner
        .and_then(|inner| inner.rsplit_once(", "))
        .with_context(|| format!("not label_values: {query}"))?;
    let selector = utf8_percent_encode(selector, NON_ALPHANUMERIC);
    let path = format!("/api/v1/label/{label}/values?match[]={selector}");
    let answer = prometheus.server.ask(&path).await?;
    Ok(serde_json::from_value(answer["data"].clone())?)
}

#[test]
fn variables_are_put_in_as_grafana_does_it() -> anyhow::Result<()> {
    let mut values = Values::new();
    values.set("job", "limiter");
    values.set("key", r#"a "b" \x.c"#);
    let filled =
        values.fill("f(x{job=\"$job\", key=~`${key:regex}`}[$__rate_interval], \"$1\")")?;
    assert_eq!(
        filled,
        r#"f(x{job="limiter", key=~`a "b" \\x\.c`}[5s], "$1")"#
    );
    assert!(values.fill("$unknown").is_err());
    Ok(())
}
