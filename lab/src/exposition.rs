//! Prometheus's text format, read into samples: the one reader of the lab and of the tests.
//!
//! It leaves out the comments (HELP, TYPE), timestamps and `OpenMetrics`. A line that it cannot read is an error: no test passes
//! because a line was skipped. It shares nothing with the exporter's own reader, so that neither hides the other's mistakes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;

/// The samples of one answer, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Exposition {
    /// Reads the text. An error names the first line that is no sample.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples: anyhow::Result<Vec<Sample>> = lines
            .map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")))
            .collect();
        Ok(Self { samples: samples? })
    }

    /// The value of the first series with this name and, among its labels, these.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut series = self.series(name);
        let found = series.find(|sample| {
            let mut wanted = labels.iter();
            wanted.all(|(label, value)| sample.labels.get(*label).is_some_and(|is| is == value))
        });
        found.map(|sample| sample.value)
    }

    /// Whether that value is this whole number.
    pub fn is(&self, name: &str, labels: &[(&str, &str)], value: u32) -> bool {
        let found = self.value(name, labels);
        found.is_some_and(|found| found.to_bits() == f64::from(value).to_bits())
    }

    /// Every value of `label` in the series called `name`.
    pub fn labels(&self, name: &str, label: &str) -> Vec<String> {
        self.series(name)
            .filter_map(|sample| sample.labels.get(label).cloned())
            .collect()
    }

    /// The labels `name` and `subject` of the series called `metric` that are above 0: of
    /// `invariant_violation` what is reported, of `ratelimiter_invariant_pending` what is pending.
    pub fn subjects(&self, metric: &str) -> BTreeSet<(String, String)> {
        let label = |sample: &Sample, label| sample.labels.get(label).cloned().unwrap_or_default();
        self.series(metric)
            .filter(|sample| sample.value > 0.0)
            .map(|sample| (label(sample, "name"), label(sample, "subject")))
            .collect()
    }

    fn series(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: rest.trim().parse().ok()?,
    })
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_some_labels_escapes_and_all() {
        let text = "# HELP m a \"help\" text\n# TYPE m gauge\nm{a=\"x\\\\n\\n\\\"}{,\",b=\"\"} 1.5\nn -1e3\nw 3\n";
        let found = Exposition::parse(text).unwrap();
        let labels = [("a", "x\\n\n\"}{,"), ("b", "")];
        assert_eq!(found.value("m", &labels), Some(1.5));
        assert_eq!(found.value("m", &[]), Some(1.5));
        assert_eq!(found.value("m", &[("a", "x")]), None);
        assert_eq!(found.value("n", &[]), Some(-1000.0));
        assert!(found.is("w", &[], 3));
        assert!(!found.is("m", &labels, 1));
        assert_eq!(found.labels("m", "b"), [""]);
    }

    #[test]
    fn a_line_that_is_no_sample_is_an_error() {
        for broken in ["m{a=\"x} 1", "m{a=\"x\"}", "m one", "m"] {
            let error = Exposition::parse(broken).unwrap_err();
            assert!(error.to_string().contains("not a sample"), "{broken}");
        }
    }

    #[test]
    fn only_samples_above_zero_have_subjects() {
        let found = Exposition::parse(
            r#"# HELP invariant_violation x
invariant_violation{name="node_down",severity="critical",subject="node-1"} 0
invariant_violation{name="ghost_allowing",severity="critical",subject="a \"}\" 1\\\n,name=\"x"} 1.0
ratelimiter_invariant_violations{name="node_down",severity="critical"} 1
"#,
        );
        let odd = (
            "ghost_allowing".to_owned(),
            "a \"}\" 1\\\n,name=\"x".to_owned(),
        );
        assert_eq!(
            found.unwrap().subjects("invariant_violation"),
            BTreeSet::from([odd])
        );
    }
}
