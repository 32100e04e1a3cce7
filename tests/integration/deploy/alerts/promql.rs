//! Which metrics and labels a `PromQL` expression names. It reads expressions that promtool has found valid, and knows
//! nothing of what they mean. (Crates that parse `PromQL` have dozens of dependencies.)

use std::collections::BTreeSet;

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Its selectors.
    pub(super) selectors: Vec<Selector>,
    /// The labels that it groups or matches by, or copies by `label_replace`.
    pub(super) labels: BTreeSet<String>,
}

/// One selector: `name{label="value"}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) metric: String,
    pub(super) matchers: Vec<Matcher>,
}

/// One matcher: `label="value"`, with any operator.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Matcher {
    pub(super) label: String,
    pub(super) operator: String,
    pub(super) value: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Sign(char),
}

/// After these comes a list of labels.
const LABEL_LISTS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// After these comes another operand.
const OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// What `expression` names.
pub(super) fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let mut tokens = tokens(expression).into_iter().peekable();
    while let Some(token) = tokens.next() {
        let word = match token {
            Token::Name(word) => word,
            // Texts outside of matchers are label_replace's: two are labels, and the others have signs in them.
            Token::Text(text) if is_name(&text) => {
                names.labels.insert(text);
                continue;
            }
            Token::Text(_) | Token::Sign(_) => continue,
        };
        let list = LABEL_LISTS.contains(&word.as_str());
        match tokens.peek() {
            Some(Token::Sign('(')) if list => {
                let inside = tokens
                    .by_ref()
                    .take_while(|token| *token != Token::Sign(')'));
                names.labels.extend(inside.filter_map(Token::name));
            }
            // A function or an aggregation.
            Some(Token::Sign('(')) => {}
            Some(Token::Name(next)) if ["by", "without"].contains(&next.as_str()) => {}
            Some(Token::Sign('{')) => {
                let inside = tokens
                    .by_ref()
                    .take_while(|token| *token != Token::Sign('}'));
                names.selectors.push(Selector {
                    metric: word,
                    matchers: matchers(&inside.collect::<Vec<_>>()),
                });
            }
            _ if list || OPERATORS.contains(&word.as_str()) => {}
            _ => names.selectors.push(Selector {
                metric: word,
                matchers: Vec::new(),
            }),
        }
    }
    names
}

impl Token {
    fn name(self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// `label`, one or two signs, `"value"`, over and over.
fn matchers(inside: &[Token]) -> Vec<Matcher> {
    let mut matchers = vec![Matcher::default()];
    for token in inside {
        let matcher = matchers.last_mut().expect("there is always one");
        match token {
            Token::Name(label) => matcher.label.clone_from(label),
            Token::Sign(',' | '{') => {}
            Token::Sign(sign) => matcher.operator.push(*sign),
            Token::Text(value) => {
                matcher.value.clone_from(value);
                matchers.push(Matcher::default());
            }
        }
    }
    matchers.pop();
    matchers
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Names, texts and signs; numbers, durations (ranges among them), space and comments are left out.
fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:.".contains(c)));
        let word = &rest[..word.unwrap_or(rest.len())];
        let length = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' | '`' => {
                let text = quoted(rest, first);
                tokens.push(Token::Text(text.to_owned()));
                text.len() + 2
            }
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            _ if word.is_empty() => {
                tokens.push(Token::Sign(first));
                first.len_utf8()
            }
            _ => {
                if !first.is_ascii_digit() {
                    tokens.push(Token::Name(word.to_owned()));
                }
                word.len()
            }
        };
        rest = rest[length.min(rest.len())..].trim_start();
    }
    tokens
}

/// What is between the quote at the beginning of `text` and the next one that is not escaped.
fn quoted(text: &str, quote: char) -> &str {
    let mut escaped = false;
    let end = text[1..].find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped && quote != '`';
        ends
    });
    &text[1..=end.unwrap_or(text.len() - 1)]
}

#[test]
fn the_names_in_an_expression_are_found() {
    let found = names(
        r#"max without (pod, replica) (rate(a_total{name=~"x|}", job!="\"(["}[5m])) > 0.5 # by (c)
           and on () sum by (le) (b:c:max offset 5m) * ignoring (key) group_left () (time() - 1e3)
           or label_replace(up, "subject", "$1", "key", "(?s)(.*)") unless d"#,
    );
    let metrics: Vec<&str> = found.selectors.iter().map(|s| s.metric.as_str()).collect();
    assert_eq!(metrics, ["a_total", "b:c:max", "up", "d"]);
    let matcher = |label: &str, operator: &str, value: &str| Matcher {
        label: label.to_owned(),
        operator: operator.to_owned(),
        value: value.to_owned(),
    };
    let expected = [
        matcher("name", "=~", "x|}"),
        matcher("job", "!=", r#"\"(["#),
    ];
    assert_eq!(found.selectors[0].matchers, expected);
    let labels: Vec<&str> = found.labels.iter().map(String::as_str).collect();
    assert_eq!(labels, ["key", "le", "pod", "replica", "subject"]);
}
