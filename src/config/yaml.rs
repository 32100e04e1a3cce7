//! YAML of any form, with the place of every key and value. Settings are not known here.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value. [`Spanned`] adds its place.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Nothing,
    /// A number, `true` or `false`.
    Plain(String),
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<Entry>),
}

/// A key and its value.
pub(super) type Entry = (Spanned<String>, Spanned<Node>);

impl Node {
    /// The text of a scalar.
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Plain(text) | Self::Text(text) => Some(text),
            Self::Nothing | Self::List(_) | Self::Map(_) => None,
        }
    }

    /// The node in an error message.
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::Nothing => "nothing",
            Self::Plain(text) | Self::Text(text) => text,
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

/// Debug keeps the point of a number: 5.0 is not a whole number.
macro_rules! plain {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, value: $type) -> Result<Node, E> {
            Ok(Node::Plain(format!("{value:?}")))
        })*
    };
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    plain!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        std::iter::from_fn(|| items.next_element().transpose())
            .collect::<Result<_, _>>()
            .map(Node::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        std::iter::from_fn(|| entries.next_entry().transpose())
            .collect::<Result<_, _>>()
            .map(Node::Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    /// `path value line:column` of everything that is no mapping or list.
    fn leaves(path: &str, node: &Spanned<Node>, into: &mut Vec<String>) {
        match &node.value {
            Node::List(items) => {
                let items = items.iter().enumerate();
                items.for_each(|(i, item)| leaves(&format!("{path}[{i}]"), item, into));
            }
            Node::Map(entries) => entries
                .iter()
                .for_each(|(key, node)| leaves(&format!("{path}/{}", key.value), node, into)),
            leaf => {
                let at = node.referenced;
                let (line, column) = (at.line(), at.column());
                into.push(format!("{path} {leaf:?} {line}:{column}"));
            }
        }
    }

    #[test]
    fn every_value_has_its_place() {
        let text = "a.b.c: 1\na:\n  b: {d: x}\n  e: [true, 5.0]\n  f:\n";
        let mut found = Vec::new();
        leaves("", &parse::<Spanned<Node>>(text).unwrap(), &mut found);
        assert_eq!(
            found,
            [
                "/a.b.c Plain(\"1\") 1:8",
                "/a/b/d Text(\"x\") 3:10",
                "/a/e[0] Plain(\"true\") 4:7",
                "/a/e[1] Plain(\"5.0\") 4:13",
                // The place of a missing value is the colon.
                "/a/f Nothing 5:4",
            ]
        );
    }

    #[test]
    fn an_alias_has_the_value_of_its_anchor() {
        let text = "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n";
        let mut found = Vec::new();
        leaves("", &parse::<Spanned<Node>>(text).unwrap(), &mut found);
        let values: Vec<&str> = found
            .iter()
            .filter_map(|leaf| leaf.split(' ').next())
            .collect();
        assert_eq!(values, ["/a/b", "/c/b", "/d/e", "/d/b"]);
    }

    #[test]
    fn a_syntax_error_is_reported_with_its_place() {
        for (text, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: [1, 2\nb: 3\n", 2),
            (&format!("{{\na: {}", "[".repeat(100)), 2),
        ] {
            let (at, message) = parse::<Spanned<Node>>(text).unwrap_err();
            assert_eq!(at.map(|at| at.line()), Some(line), "{text:?}: {message}");
            assert_eq!(message.lines().count(), 1);
        }
    }

    #[test]
    fn errors_do_not_name_the_parsers_options_and_types() {
        for text in [
            "a: 1\na: 2\n",
            "a: 1\n---\nb: 2\n",
            "a: &x [*x]\n",
            "a: !!int x\n",
            "a: .inf\n",
            "? [a]\n: b\n",
            "~: 1\n",
            &format!("a: {}{}", "[".repeat(20), "]".repeat(20)),
        ] {
            let (at, message) = parse::<Spanned<Node>>(text).unwrap_err();
            assert!(at.is_some());
            for word in [
                "Policy", "policy", "Option", "from_str", "u64", "Depth", "scalar", "weak", "_",
            ] {
                assert!(!message.contains(word), "{text:?}: {message}");
            }
        }
    }
}
