//! YAML as a tree in which every key and value knows its place in the file. Knows nothing of settings.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use crate::yaml::plainly;

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    line: u64,
    column: u64,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Text, a number, a boolean or null.
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping, where the key stands, and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Place,
    pub(super) node: Node,
}

/// How deep a document may nest, also by dots. Settings do five levels; every level takes of a stack that has an end.
const MOST_LEVELS: usize = 16;

/// Why a text is no tree: where, if that is known, and why.
pub(super) type Malformed = (Option<Place>, String);

/// Parses `text`. Keys with dots are nested mappings: `a.b: 1` is `a: {b: 1}`.
pub(super) fn parse(text: &str) -> Result<Node, Malformed> {
    if text.trim().is_empty() {
        let at = Place { line: 1, column: 1 };
        let kind = Kind::Scalar(Value::Null);
        return Ok(Node { at, kind });
    }
    let options =
        serde_saphyr::options! { budget: serde_saphyr::budget! { max_depth: MOST_LEVELS } };
    let parsed = serde_saphyr::from_str_with_options(text, options);
    let parsed: Spanned<Raw> = parsed.map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().map(Place::from);
        (place, plainly(&error.to_string()))
    })?;
    nested(node(parsed), MOST_LEVELS)
}

/// As YAML has it; places come around each by [`Spanned`].
#[derive(Debug)]
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        // What JSON cannot say, such as infinity, is told as text and will be refused by name.
        let number = serde_json::Number::from_f64(value);
        let value = number.map_or_else(|| Value::String(value.to_string()), Value::Number);
        Ok(Raw::Scalar(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key()? {
            map.push((key, entries.next_value()?));
        }
        Ok(Raw::Map(map))
    }
}

fn node(raw: Spanned<Raw>) -> Node {
    let kind = match raw.value {
        Raw::Scalar(value) => Kind::Scalar(value),
        Raw::List(items) => Kind::List(items.into_iter().map(node).collect()),
        Raw::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| Entry {
                key: key.value,
                at: key.referenced.into(),
                node: node(value),
            });
            Kind::Map(entries.collect())
        }
    };
    Node {
        at: raw.referenced.into(),
        kind,
    }
}

/// Takes keys apart at their dots and joins what belongs together, down to so many levels. Lists are left as they are.
fn nested(node: Node, levels: usize) -> Result<Node, Malformed> {
    let Kind::Map(entries) = node.kind else {
        return Ok(node);
    };
    let Some(levels) = levels.checked_sub(1) else {
        let why = format!("nested deeper than {MOST_LEVELS} levels");
        return Err((Some(node.at), why));
    };
    let mut joined = Vec::new();
    for entry in entries {
        insert(&mut joined, entry)?;
    }
    let joined = joined.into_iter().map(|entry| {
        let node = nested(entry.node, levels)?;
        Ok(Entry { node, ..entry })
    });
    let joined: Result<_, Malformed> = joined.collect();
    let kind = Kind::Map(joined?);
    Ok(Node { kind, ..node })
}

fn insert(into: &mut Vec<Entry>, entry: Entry) -> Result<(), Malformed> {
    let Entry { key, at, node } = entry;
    let (key, node) = match key.split_once('.') {
        None => (key, node),
        Some((first, rest)) => {
            let key = rest.to_owned();
            let kind = Kind::Map(vec![Entry { key, at, node }]);
            (first.to_owned(), Node { at, kind })
        }
    };
    let Some(before) = into.iter_mut().find(|before| before.key == key) else {
        into.push(Entry { key, at, node });
        return Ok(());
    };
    match (&mut before.node.kind, node.kind) {
        (Kind::Map(before), Kind::Map(more)) => {
            before.extend(more);
            Ok(())
        }
        _ => Err((Some(at), format!("{key} stands here again"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path value line:column` of every scalar.
    fn leaves(path: &str, node: &Node, into: &mut Vec<String>) {
        match &node.kind {
            Kind::Scalar(value) => into.push(format!("{path} {value} {}", node.at)),
            Kind::List(items) => {
                let items = items.iter().enumerate();
                items.for_each(|(i, item)| leaves(&format!("{path}[{i}]"), item, into));
            }
            Kind::Map(entries) => entries
                .iter()
                .for_each(|entry| leaves(&format!("{path}/{}", entry.key), &entry.node, into)),
        }
    }

    #[test]
    fn dots_nest_and_every_value_has_its_place() {
        let text = "a.b.c: 1\na:\n  b: {d: x}\n  e: [true, 1.5]\n";
        let mut found = Vec::new();
        leaves("", &parse(text).unwrap(), &mut found);
        assert_eq!(
            found,
            [
                "/a/b/c 1 1:8",
                "/a/b/d \"x\" 3:10",
                "/a/e[0] true 4:7",
                "/a/e[1] 1.5 4:13"
            ]
        );
    }

    #[test]
    fn an_alias_stands_for_its_anchor_at_its_own_place() {
        let text = "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n";
        let mut found = Vec::new();
        leaves("", &parse(text).unwrap(), &mut found);
        let values: Vec<&str> = found
            .iter()
            .filter_map(|leaf| leaf.rsplit_once(' '))
            .map(|(leaf, _)| leaf)
            .collect();
        assert_eq!(values, ["/a/b 1", "/c/b 1", "/d/e 2", "/d/b 1"]);
    }

    #[test]
    fn what_is_no_yaml_or_stands_twice_is_told_with_its_place() {
        for (text, place) in [
            ("a.b: 1\na: {b: 2}\n", "2:5"),
            ("a: 1\na.b: 2\n", "2:1"),
            ("a: 1\na: 2\n", "2:1"),
            ("a: [1, 2\nb: 3\n", "2:"),
            (&format!("{{\na: {}", "[".repeat(100)), "2:"),
            (&format!("{{\n{}: 1}}", ["a"; 100].join(".")), "2:1"),
        ] {
            let (at, message) = parse(text).unwrap_err();
            let at = at.map(|at| at.to_string()).unwrap_or_default();
            assert!(at.starts_with(place), "{text:?}: {at} {message}");
            assert_eq!(message.lines().count(), 1);
        }
    }

    #[test]
    fn a_mistake_is_told_without_the_names_of_the_parsers_options_and_types() {
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
            let (at, told) = parse(text).unwrap_err();
            assert!(at.is_some());
            for word in [
                "Policy", "policy", "Option", "from_str", "u64", "Depth", "scalar", "weak", "_",
            ] {
                assert!(!told.contains(word), "{text:?}: {told}");
            }
        }
    }
}
