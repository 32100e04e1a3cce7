//! What the exporter says, as far as the demo shows it: which invariants are violated or pending.
//!
//! It reads two families line by line. It leaves out everything else in the text, and checking it.

use std::collections::BTreeSet;
use std::fmt;

/// One reading of `/metrics`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Whether this is a reading at all: the first view of a channel is not.
    read: bool,
    violated: BTreeSet<(String, String)>,
    pending: BTreeSet<(String, String)>,
}

impl View {
    pub(super) fn parse(text: &str) -> Self {
        let mut view = Self {
            read: true,
            ..Self::default()
        };
        for line in text.lines() {
            let into = if line.starts_with("invariant_violation{") {
                &mut view.violated
            } else if line.starts_with("ratelimiter_invariant_pending{") {
                &mut view.pending
            } else {
                continue;
            };
            if let Some(found) = name_and_subject(line) {
                into.insert(found);
            }
        }
        view
    }

    pub(super) fn is_violated(&self, name: &str) -> bool {
        self.violated.iter().any(|(violated, _)| violated == name)
    }

    /// Read, and nothing is violated or about to be.
    pub(super) fn is_quiet(&self) -> bool {
        self.read && self.violated.is_empty() && self.pending.is_empty()
    }

    pub(super) fn is_read(&self) -> bool {
        self.read
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_quiet() {
            return f.write_str("all hold");
        }
        let list = |found: &BTreeSet<(String, String)>| {
            let items = found.iter();
            let items = items.map(|(name, subject)| format!("{name} {subject:?}"));
            items.collect::<Vec<_>>().join(", ")
        };
        let mut parts = Vec::new();
        if !self.violated.is_empty() {
            parts.push(format!("VIOLATED {}", list(&self.violated)));
        }
        if !self.pending.is_empty() {
            parts.push(format!("pending {}", list(&self.pending)));
        }
        f.write_str(&parts.join("; "))
    }
}

/// The labels `name` and `subject` of a sample whose value is 1.
fn name_and_subject(line: &str) -> Option<(String, String)> {
    let mut rest = line.split_once('{')?.1;
    let (mut name, mut subject) = (None, None);
    while let Some((label, after)) = rest.split_once("=\"") {
        let (value, after) = quoted(after)?;
        match label.trim_start_matches([',', ' ']) {
            "name" => name = Some(value),
            "subject" => subject = Some(value),
            _ => {}
        }
        rest = after;
        if rest.starts_with('}') {
            break;
        }
    }
    let value: f64 = rest.strip_prefix('}')?.trim().parse().ok()?;
    let is_one = (value - 1.0).abs() < f64::EPSILON;
    is_one.then_some((name?, subject.unwrap_or_default()))
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
    fn only_samples_of_one_count() {
        let view = View::parse(
            r#"# HELP invariant_violation x
invariant_violation{name="node_down",severity="critical",subject="node-1"} 0
invariant_violation{name="node_down",severity="critical",subject="node-3"} 1
ratelimiter_invariant_pending{name="high_latency",subject="node-2"} 1
ratelimiter_invariant_violations{name="node_down",severity="critical"} 1
"#,
        );
        assert!(view.is_violated("node_down"));
        assert!(!view.is_violated("high_latency"));
        assert_eq!(
            view.to_string(),
            r#"VIOLATED node_down "node-3"; pending high_latency "node-2""#
        );
        assert!(View::parse("").is_quiet());
        assert!(!View::default().is_quiet());
    }

    #[test]
    fn odd_subjects_are_read_as_they_are() {
        let line = r#"invariant_violation{name="ghost_allowing",severity="critical",subject="a \"}\" 1\\\n,name=\"x"} 1.0"#;
        let (name, subject) = name_and_subject(line).unwrap();
        assert_eq!(name, "ghost_allowing");
        assert_eq!(subject, "a \"}\" 1\\\n,name=\"x");
    }
}
