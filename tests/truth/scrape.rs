//! One scrape: the samples of the text format, and what they say of invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Context as _;
use tokio::time::Instant;

/// An invariant and a subject that violates it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    name: String,
    subject: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}{{{}}}`", self.name, self.subject)
    }
}

/// Findings, each once.
pub(crate) type Findings = BTreeSet<Finding>;

/// Findings from (invariant, subject).
pub(crate) fn findings<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Findings {
    pairs
        .into_iter()
        .map(|(name, subject)| Finding {
            name: name.to_owned(),
            subject: subject.to_owned(),
        })
        .collect()
}

/// Findings for people.
pub(crate) fn shown(findings: &Findings) -> String {
    if findings.is_empty() {
        return "nothing".to_owned();
    }
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What one scrape brought.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// When it was sent.
    pub(crate) began: Instant,
    /// When the answer was there.
    pub(crate) ended: Instant,
    samples: Vec<Sample>,
}

impl Scrape {
    /// Reads the text format.
    pub(crate) fn parse(began: Instant, ended: Instant, text: &str) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples: anyhow::Result<Vec<Sample>> = lines
            .map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")))
            .collect();
        Ok(Self {
            began,
            ended,
            samples: samples?,
        })
    }

    /// What is reported.
    pub(crate) fn reported(&self) -> Findings {
        self.at_one("invariant_violation")
    }

    /// What is pending.
    pub(crate) fn pending(&self) -> Findings {
        self.at_one("ratelimiter_invariant_pending")
    }

    /// The value of a series, by its name and some of its labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut samples = self.samples.iter();
        let found = samples.find(|sample| {
            let label = |(name, value): &(&str, &str)| {
                sample.labels.get(*name).map(String::as_str) == Some(value)
            };
            sample.name == name && labels.iter().all(label)
        });
        found.map(|sample| sample.value)
    }

    /// Whether the series has this whole number as its value.
    pub(crate) fn is(&self, name: &str, value: u32) -> bool {
        self.value(name, &[])
            .is_some_and(|found| found.to_bits() == f64::from(value).to_bits())
    }

    fn at_one(&self, name: &str) -> Findings {
        let samples = self
            .samples
            .iter()
            .filter(|sample| sample.name == name && sample.value > 0.0);
        samples
            .map(|sample| Finding {
                name: sample.labels.get("name").cloned().unwrap_or_default(),
                subject: sample.labels.get("subject").cloned().unwrap_or_default(),
            })
            .collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
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

/// The value up to its closing quote, and what follows.
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
