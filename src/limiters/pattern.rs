//! Patterns of names: regular expressions on bytes that fit whole names. From their literal parts follow the pattern for SCAN and
//! the prefix for CLIENT TRACKING.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use regex::bytes::{Captures, Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// The largest size of a compiled pattern, in bytes: thirty times what any built-in one takes.
const MOST_COMPILED: usize = 1 << 20;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// The named groups, and their places among all groups.
    groups: Vec<(usize, Arc<str>)>,
    prefix: Vec<u8>,
    glob: Vec<u8>,
    end: Option<Vec<u8>>,
    plain: bool,
    unnamed: bool,
}

impl Pattern {
    /// Compiles `text`. The pattern fits whole names, with or without `^` and `$`; `.` is any byte.
    pub fn compile(text: &str) -> Result<Self, String> {
        let whole = format!("^(?:{text})$");
        let regex = RegexBuilder::new(&whole)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(MOST_COMPILED)
            .dfa_size_limit(MOST_COMPILED)
            .build()
            .map_err(|error| why(&error))?;
        let parsed = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .dot_matches_new_line(true)
            .build()
            .parse(&whole)
            .map_err(|error| error.to_string())?;
        let mut parts = Vec::new();
        flatten(&parsed, &mut parts);
        let prefix = match parts.first() {
            Some(Part::Literal(literal)) => literal.clone(),
            _ => Vec::new(),
        };
        let key_alone = regex.capture_names().flatten().eq(["key"]);
        let rest = &parts[usize::from(!prefix.is_empty())..];
        let (end, plain) = match rest {
            [Part::Other(kind @ HirKind::Capture(_))] => {
                (Some(Vec::new()), key_alone && is_key_to_the_end(kind))
            }
            [Part::Other(HirKind::Capture(_)), Part::Literal(end)] => (Some(end.clone()), false),
            _ => (None, false),
        };
        let glob = glob(&parts);
        let unnamed = parts.iter().any(|part| match part {
            Part::Literal(_) => false,
            Part::Other(kind) => !is_named(kind),
        });
        let named = |(at, it): (usize, Option<&str>)| Some((at, it?.into()));
        Ok(Self {
            groups: regex
                .capture_names()
                .enumerate()
                .filter_map(named)
                .collect(),
            regex,
            prefix,
            glob,
            end,
            plain,
            unnamed,
        })
    }

    /// The names of the groups.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.regex.capture_names().flatten()
    }

    /// The literal beginning of every name that fits: the prefix for CLIENT TRACKING.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The pattern for SCAN: the literal parts of the names, with `*` between them.
    pub fn glob(&self) -> &[u8] {
        &self.glob
    }

    /// The literal end of every name that fits, if the names are their literal beginning, one group, and this end.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether it is a literal followed by the key, so that matching needs no regular expression.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether names that fit can differ outside their groups.
    pub fn has_unnamed(&self) -> bool {
        self.unnamed
    }

    /// Whether `name` fits.
    pub fn fits(&self, name: &[u8]) -> bool {
        if self.plain {
            return name.len() > self.prefix.len() && name.starts_with(&self.prefix);
        }
        name.starts_with(&self.prefix) && self.regex.is_match(name)
    }

    /// The named groups that take part, and where they are in `name`, if it fits.
    pub(super) fn ranges(&self, name: &[u8]) -> Option<Vec<(Arc<str>, Range<usize>)>> {
        if self.plain {
            let key = (Arc::clone(&self.groups[0].1), self.prefix.len()..name.len());
            return self.fits(name).then(|| vec![key]);
        }
        let captures = self.captures(name)?;
        let range =
            |(at, group): &(usize, Arc<str>)| Some((Arc::clone(group), captures.get(*at)?.range()));
        Some(self.groups.iter().filter_map(range).collect())
    }

    /// The groups of `name`, if it fits.
    pub fn captures<'n>(&self, name: &'n [u8]) -> Option<Captures<'n>> {
        if !name.starts_with(&self.prefix) {
            return None;
        }
        self.regex.captures(name)
    }
}

/// A regular expression on bytes, of bounded size.
pub(super) fn regex(text: &str) -> Result<Regex, String> {
    let builder = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(MOST_COMPILED)
        .build();
    builder.map_err(|error| why(&error))
}

/// A pattern for lines. It may match a part of a line.
#[derive(Clone, Debug)]
pub struct LinePattern(Regex);

impl LinePattern {
    /// Compiles `text`.
    pub fn compile(text: &str) -> Result<Self, String> {
        regex(text).map(Self)
    }

    /// The names of the groups.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }

    /// The groups of `line`, if it fits.
    pub fn captures<'n>(&self, line: &'n [u8]) -> Option<Captures<'n>> {
        self.0.captures(line)
    }
}

/// Why a pattern is not usable, without the pattern.
fn why(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    }
}

/// A part of a pattern.
enum Part<'h> {
    Literal(Vec<u8>),
    Other(&'h HirKind),
}

/// The parts of a concatenation, without anchors. Adjacent literals are one part.
fn flatten<'h>(hir: &'h Hir, parts: &mut Vec<Part<'h>>) {
    match hir.kind() {
        HirKind::Concat(inner) => inner.iter().for_each(|part| flatten(part, parts)),
        HirKind::Capture(capture) if matches!(capture.sub.kind(), HirKind::Literal(_)) => {
            flatten(&capture.sub, parts);
        }
        HirKind::Literal(literal) => match parts.last_mut() {
            Some(Part::Literal(before)) => before.extend_from_slice(&literal.0),
            _ => parts.push(Part::Literal(literal.0.to_vec())),
        },
        HirKind::Look(Look::Start | Look::End) | HirKind::Empty => {}
        kind => parts.push(Part::Other(kind)),
    }
}

fn glob(parts: &[Part<'_>]) -> Vec<u8> {
    let mut glob = Vec::new();
    for part in parts {
        match part {
            Part::Literal(literal) => glob.extend(escaped(literal)),
            Part::Other(_) if glob.last() == Some(&b'*') && !glob.ends_with(b"\\*") => {}
            Part::Other(_) => glob.push(b'*'),
        }
    }
    glob
}

/// Whether the named groups contain every difference between texts that fit `kind`. They do in `(?:S:(?P<namespace>.+)|ER)`,
/// because its branches have different groups.
fn is_named(kind: &HirKind) -> bool {
    match kind {
        HirKind::Capture(capture) => capture.name.is_some(),
        HirKind::Literal(_) | HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Concat(parts) => parts.iter().all(|part| is_named(part.kind())),
        HirKind::Alternation(branches) => {
            let mut seen = BTreeSet::new();
            branches
                .iter()
                .all(|branch| is_named(branch.kind()) && seen.insert(groups_of(branch.kind())))
        }
        HirKind::Class(_) | HirKind::Repetition(_) => false,
    }
}

/// The named groups that take part in every match of `kind`.
fn groups_of(kind: &HirKind) -> BTreeSet<&str> {
    match kind {
        HirKind::Capture(capture) => capture.name.as_deref().into_iter().collect(),
        HirKind::Concat(parts) => parts.iter().flat_map(|it| groups_of(it.kind())).collect(),
        _ => BTreeSet::new(),
    }
}

/// Whether it is `(?P<key>.+)`.
fn is_key_to_the_end(kind: &HirKind) -> bool {
    let HirKind::Capture(capture) = kind else {
        return false;
    };
    let HirKind::Repetition(repetition) = capture.sub.kind() else {
        return false;
    };
    let HirKind::Class(Class::Bytes(class)) = repetition.sub.kind() else {
        return false;
    };
    let all = matches!(class.ranges(), [range] if (range.start(), range.end()) == (0, 255));
    all && repetition.min == 1 && repetition.max.is_none() && capture.name.as_deref() == Some("key")
}

/// Escapes the special characters of a Redis glob in `text`.
pub(super) fn escaped(text: &[u8]) -> Vec<u8> {
    let mut glob = Vec::with_capacity(text.len());
    for byte in text {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^') {
            glob.push(b'\\');
        }
        glob.push(*byte);
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> String {
        String::from_utf8(Pattern::compile(text).unwrap().glob().to_vec()).unwrap()
    }

    #[test]
    fn scan_patterns_have_the_common_beginning_and_end_of_all_names() {
        for (text, expected) in [
            (r"^ratelimit:(?P<key>.+)$", "ratelimit:*"),
            (
                r"^LIMITS:\{LIMITER/(?P<key>.+)\}(?P<previous>/-1)?$",
                "LIMITS:{LIMITER/*}*",
            ),
            (r"^b_(?P<key>.+)_settings$", "b_*_settings"),
            (r"^a\*b\?(?P<key>.+)$", r"a\*b\?*"),
            (r"^(?P<key>.+)$", "*"),
            (r"^(?P<scope>a|b):(?P<key>.+)$", "*:*"),
            (r"^(?:a:(?P<key>.+)|b)$", "*"),
            (r"^abc?(?P<key>.+)$", "ab*"),
            (r"^(?P<ver>\d+):rl:(?P<key>[0-9a-f]{64})$", "*:rl:*"),
            (r"^(?P<key>rl)(?P<n>\d)$", "rl*"),
            (r"^rl\*(?P<key>.+)(?P<n>\d)$", r"rl\**"),
        ] {
            assert_eq!(glob(text), expected, "{text}");
        }
    }

    #[test]
    fn branches_that_no_group_distinguishes_are_unnamed() {
        for (text, unnamed) in [
            (r"^LIMIT(?:S:(?P<namespace>[^/]+)|ER)/(?P<key>.+)$", false),
            (r"^(?P<a>x)(?:b|c)(?P<key>.+)$", true),
            (r"^(?:b:(?P<key>.+)|c:(?P<other>.+)|d)$", false),
            (r"^(?:hrl|rl):(?P<key>.+)$", true),
            (r"^rl:?(?P<key>.+)$", true),
        ] {
            let pattern = Pattern::compile(text).unwrap();
            assert_eq!(pattern.has_unnamed(), unnamed, "{text}");
        }
    }

    #[test]
    fn a_literal_and_a_key_to_the_end_is_plain() {
        for (text, plain) in [
            (r"^ratelimit:(?P<key>.+)$", true),
            (r"rl:(?P<key>.+)", true),
            (r"^(?P<key>.+)$", true),
            (r"^rl:(?P<key>.*)$", false),
            (r"^rl:(?P<key>[^:]+)$", false),
            (r"^rl:(?P<user>.+)$", false),
            (r"^rl:(?P<key>.+):x$", false),
        ] {
            assert_eq!(Pattern::compile(text).unwrap().is_plain(), plain, "{text}");
        }
    }

    #[test]
    fn a_group_between_literals_has_an_end() {
        for (text, end) in [
            (r"^app:nodes:(?P<id>.+)$", Some("")),
            (r"^app:(?P<id>[^:]+):node$", Some(":node")),
            (r"^(?P<id>a|b)$", Some("")),
            (r"^app:(?P<id>.+)?$", None),
            (r"^app:\d(?P<id>.+)$", None),
            (r"^(?:app:(?P<id>.+)|b)$", None),
            (r"^app:(?P<id>.+):(?P<n>\d+)$", None),
            (r"^app$", None),
        ] {
            let pattern = Pattern::compile(text).unwrap();
            assert_eq!(pattern.end(), end.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn keys_may_hold_any_bytes() {
        let pattern = Pattern::compile(r"^rl:(?P<key>.+):(?P<n>\d+)$").unwrap();
        let captures = pattern.captures(b"rl:a\n\xff\x00:b:7").unwrap();
        assert_eq!(&captures["key"], b"a\n\xff\x00:b");
        assert!(!pattern.fits(b"xrl:a:7") && !pattern.fits(b"rl:a:7\n"));
    }

    #[test]
    fn a_pattern_that_would_be_huge_is_refused() {
        for text in [
            r"^((a{1000}){1000}){1000}(?P<key>.+)$",
            "(",
            r"(?P<key>.+)(?P<key>.+)",
            r"(?=a)",
        ] {
            let error = Pattern::compile(text).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
