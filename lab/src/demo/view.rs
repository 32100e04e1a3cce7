//! What the demo shows of `/metrics`: which invariants are violated or pending.

use std::collections::BTreeSet;
use std::fmt;

use crate::exposition::Exposition;

/// One reading of `/metrics`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Whether this is a reading at all: the first view of a channel is not.
    read: bool,
    violated: BTreeSet<(String, String)>,
    pending: BTreeSet<(String, String)>,
}

impl View {
    /// An error when the text is not what Prometheus would read.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let found = Exposition::parse(text)?;
        Ok(Self {
            read: true,
            violated: found.subjects("invariant_violation"),
            pending: found.subjects("ratelimiter_invariant_pending"),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_shows_what_is_violated_and_pending() {
        let view = View::parse(
            r#"# HELP invariant_violation x
invariant_violation{name="node_down",severity="critical",subject="node-1"} 0
invariant_violation{name="node_down",severity="critical",subject="node-3"} 1
ratelimiter_invariant_pending{name="high_latency",subject="node-2"} 1
ratelimiter_invariant_violations{name="node_down",severity="critical"} 1
"#,
        )
        .unwrap();
        assert!(view.is_violated("node_down"));
        assert!(!view.is_violated("high_latency"));
        assert_eq!(
            view.to_string(),
            r#"VIOLATED node_down "node-3"; pending high_latency "node-2""#
        );
        assert!(View::parse("").unwrap().is_quiet());
        assert!(!View::default().is_quiet());
    }
}
