//! One scrape: its samples, and what they say of invariants.

use std::collections::BTreeSet;
use std::fmt;

use lab::exposition::Exposition;
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

/// What one scrape brought.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// When it was sent.
    pub(crate) began: Instant,
    /// When the answer was there.
    pub(crate) ended: Instant,
    samples: Exposition,
}

impl Scrape {
    /// Reads the text format.
    pub(crate) fn parse(began: Instant, ended: Instant, text: &str) -> anyhow::Result<Self> {
        Ok(Self {
            began,
            ended,
            samples: Exposition::parse(text)?,
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
        self.samples.value(name, labels)
    }

    /// Whether the series has this whole number as its value.
    pub(crate) fn is(&self, name: &str, value: u32) -> bool {
        self.samples.is(name, &[], value)
    }

    fn at_one(&self, name: &str) -> Findings {
        let subjects = self.samples.subjects(name).into_iter();
        subjects
            .map(|(name, subject)| Finding { name, subject })
            .collect()
    }
}
