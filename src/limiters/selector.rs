//! Selectors of series in a description, such as `x_seconds{handler="/check",code=~"5.."}`.

use regex::bytes::Regex;

use super::pattern::regex;
use super::yaml::from_text;

/// The name of a metric and the conditions on its labels.
#[derive(Clone, Debug)]
pub struct Selector {
    /// The metric's name.
    pub metric: String,
    /// The conditions on labels.
    pub labels: Vec<Label>,
}

/// The condition on one label.
#[derive(Clone, Debug)]
pub struct Label {
    /// The label's name.
    pub name: String,
    /// The condition on its value.
    pub value: Wanted,
}

/// The condition on a label's value. A missing label is empty.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// It equals this text.
    Text(String),
    /// The pattern matches all of it.
    Pattern(Regex),
}

impl Selector {
    /// Parses `text`. The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = |what: &str| format!("{text:?}: expected {what}");
        let end = text.find('{').unwrap_or(text.len());
        let (metric, mut rest) = text.split_at(end);
        if !is_name(metric.trim(), true) {
            return Err(expected(
                "the name of a metric, then {label=\"value\"} or nothing",
            ));
        }
        let mut labels = Vec::new();
        if !rest.is_empty() {
            rest = rest[1..].trim_start();
            while !rest.starts_with('}') {
                let (label, tail) = label(rest).ok_or_else(|| {
                    expected("label=\"value\" or label=~\"pattern\" inside of { and }")
                })?;
                labels.push(label?);
                rest = tail.trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
                if rest.is_empty() {
                    return Err(expected("a } at the end"));
                }
            }
            if !rest[1..].trim().is_empty() {
                return Err(expected("nothing after the }"));
            }
        }
        let metric = metric.trim().to_owned();
        Ok(Self { metric, labels })
    }

    /// Whether it selects a series with this name and these labels.
    pub fn selects<'a>(&self, metric: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds = |wanted: &Label| {
            let value = label(&wanted.name).unwrap_or_default();
            match &wanted.value {
                Wanted::Text(text) => text == value,
                Wanted::Pattern(pattern) => pattern.is_match(value.as_bytes()),
            }
        };
        self.metric == metric && self.labels.iter().all(holds)
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.metric)?;
        for (index, label) in self.labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let (is, value) = match &label.value {
                Wanted::Text(text) => ("=", text.as_str()),
                Wanted::Pattern(pattern) => ("=~", inner(pattern.as_str())),
            };
            let value = value.replace('\\', r"\\").replace('"', "\\\"");
            let value = value.replace('\n', r"\n");
            write!(f, "{open}{}{is}\"{value}\"", label.name)?;
        }
        if self.labels.is_empty() {
            Ok(())
        } else {
            f.write_str("}")
        }
    }
}

/// The pattern as the description writes it.
fn inner(whole: &str) -> &str {
    let inner = whole
        .strip_prefix("^(?:")
        .and_then(|it| it.strip_suffix(")$"));
    inner.unwrap_or(whole)
}

from_text!(Selector, |text| Self::parse(text));

/// The label at the beginning of `text`, and what follows it.
fn label(text: &str) -> Option<(Result<Label, String>, &str)> {
    let at = text.find('=')?;
    let name = text[..at].trim().to_owned();
    if !is_name(&name, false) {
        return None;
    }
    let rest = &text[at + 1..];
    let pattern = rest.strip_prefix('~');
    let is_pattern = pattern.is_some();
    let rest = pattern.unwrap_or(rest).trim_start().strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = rest.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => {
                let label = if is_pattern {
                    wanted_pattern(&value).map(|value| Label { name, value })
                } else {
                    Ok(Label {
                        name,
                        value: Wanted::Text(value),
                    })
                };
                return Some((label, &rest[at + 1..]));
            }
            (_, '\\') => match characters.next()?.1 {
                'n' => value.push('\n'),
                other @ ('"' | '\\') => value.push(other),
                other => value.extend(['\\', other]),
            },
            (_, other) => value.push(other),
        }
    }
}

fn wanted_pattern(text: &str) -> Result<Wanted, String> {
    let compiled = regex(&format!("^(?:{text})$"));
    let compiled = compiled.map(Wanted::Pattern);
    compiled.map_err(|error| format!("{text:?}: expected a regular expression: {error}"))
}

pub(super) fn is_name(text: &str, colons: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    !text.is_empty() && !digit && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select_by_name_and_labels() {
        let selector = Selector::parse(r#"x_total{ code=~"5..|429", path="a \"b\"", }"#).unwrap();
        let with = |code: &'static str| {
            selector.selects("x_total", |label| match label {
                "code" => Some(code),
                "path" => Some("a \"b\""),
                _ => None,
            })
        };
        assert!(with("503") && with("429") && !with("200") && !with("5031"));
        let written = r#"x_total{code=~"5..|429",path="a \"b\""}"#;
        assert_eq!(selector.to_string(), written);
        assert!(!selector.selects("y_total", |_| None));
        assert!(Selector::parse("x{a=\"\"}").unwrap().selects("x", |_| None));
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            "",
            "1x",
            "x{",
            "x{a}",
            "x{a=b}",
            "x{a=\"b\"",
            "x{a=\"b\"} y",
            "x{a=~\"(\"}",
            "x y",
        ] {
            let error = Selector::parse(text).unwrap_err();
            assert!(error.contains("expected"), "{error}");
        }
    }
}
