//! Limits from an API: the address to ask, and the limits of a name in an answer. Nothing here does I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::limits::{Fields, Limits, of_json};
use super::matched::Matched;
use super::pattern::LinePattern;
use super::template::Template;
use super::units::{Period, Unit, duration};
use super::yaml::from_text;
use crate::text::{nearest, percent_encoded};

/// The most rules of one answer that are used.
const MOST_RULES: usize = 100_000;

/// The default interval at which limits are fetched.
fn every() -> u64 {
    5 * 60 * 1000
}

/// An API with limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The full URL. The default is the limiter's address.
    pub url: Option<String>,
    /// The port, if it is not the limiter's.
    pub port: Option<u16>,
    /// The path, which may contain groups of a name.
    pub path: Option<Template>,
    /// The header for the bearer token, if it is not Authorization.
    pub token_header: Option<Header>,
    /// What the exporter needs for access, in words, for error messages.
    pub needs: Option<String>,
    /// The interval at which it is fetched, in milliseconds.
    #[serde(default = "every", deserialize_with = "duration")]
    pub every: u64,
    /// For an answer of lines: the pattern of the lines that are rules. Groups are `limit`, `window`, `unit`, `burst`. All other
    /// groups must have the same text in the name.
    pub line: Option<LinePattern>,
    /// For an answer of lines: a group that is a path of levels.
    pub levels: Option<Levels>,
    /// For an answer in JSON: where the rules and their limits are.
    pub json: Option<Json>,
}

/// A group of a line that is a path, each level with or without a value, such as `domain.key_value.key2`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// The group, in the line and in the name.
    pub group: String,
    /// The separator of levels in the line.
    pub split: String,
    /// The separator of levels, and of a level and its value, in the name.
    pub join: String,
}

/// Rules in JSON. The parts of a rule are given as JSON pointers, which may contain groups of a name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Json {
    /// The list or mapping of rules. Without it, the whole answer is one rule.
    pub each: Option<Pointer>,
    /// The text that a rule must have, by pointer.
    #[serde(default, rename = "where")]
    pub only: BTreeMap<Pointer, String>,
    /// The fields that must equal a group of the name: pointer by group. A rule without such a field fits every name.
    #[serde(default, rename = "match")]
    pub matches: BTreeMap<String, Pointer>,
    /// The limit.
    pub limit: Template,
    /// The window.
    pub window: Option<Template>,
    /// The burst.
    pub burst: Option<Template>,
    /// The unit of a window that is a number. The default is seconds.
    pub unit: Option<Unit>,
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Header(pub String);

from_text!(Header, |text| {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!text.is_empty() && text.chars().all(fits))
        .then(|| Self(text.to_owned()))
        .ok_or_else(|| format!("{text:?}: expected the name of a header, such as X-API-Key"))
});

/// A JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pointer(pub String);

from_text!(Pointer, |text| {
    let fits = text.is_empty() || text.starts_with('/');
    fits.then(|| Self(text.to_owned()))
        .ok_or_else(|| format!("{text:?}: expected a JSON pointer, such as /node/id"))
});

/// The rules of an answer. In whatever order an API lists them, they are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules(Vec<Rule>);

/// The parts of a rule that say which names it fits, and their limits: texts by the groups of a line, or by pointers into JSON.
/// Everything else in an answer is left out: it may contain passwords.
type Rule = BTreeMap<String, String>;

impl Rules {
    /// How many bytes of text they have.
    pub fn size(&self) -> usize {
        let parts = self.0.iter().flatten();
        parts.map(|(place, text)| place.len() + text.len()).sum()
    }
}

impl Http {
    /// Whether it is `GET /api/limits` of the management API, at the limiter's own address.
    pub(super) fn is_default_of_management_api(&self) -> bool {
        let is = |template: Option<&Template>, text: &str| {
            template.is_some_and(|template| Template::parse(text).as_ref() == Ok(template))
        };
        let Self {
            url: None,
            port: None,
            path,
            token_header: None,
            json: Some(json),
            ..
        } = self
        else {
            return false;
        };
        is(path.as_ref(), "/api/limits")
            && json.each.is_none()
            && json.only.is_empty()
            && json.matches.is_empty()
            && is(Some(&json.limit), "/default_limit")
            && is(json.window.as_ref(), "/default_window_ms")
            && json.burst.is_none()
            && json.unit == Some(Unit::Milliseconds)
    }

    /// The groups of names that it needs.
    fn groups(&self) -> impl Iterator<Item = &str> {
        let limits = self.json.iter().flat_map(Json::limits);
        let templates = self.path.iter().chain(limits).flat_map(Template::groups);
        let matches = self.json.iter().flat_map(|json| json.matches.keys());
        let levels = self.levels.iter().map(|levels| &levels.group);
        templates.chain(levels.chain(matches).map(String::as_str))
    }

    /// Whether the required settings are there, none contradicts another, and names have the `groups` for them.
    pub(super) fn check(&self, groups: &[&str]) -> Result<(), String> {
        let of_line = [groups, &OF_LIMITS].concat();
        let of_names = self.groups().map(|group| (group, groups));
        let of_lines = self.line.iter().flat_map(LinePattern::groups);
        let mut needed = of_names.chain(of_lines.map(|group| (group, &of_line[..])));
        if let Some((unknown, known)) =
            needed.find(|(it, known)| *it != "name" && !known.contains(it))
        {
            return Err(unknown_group(unknown, known));
        }
        let in_line = |group: &str| self.line.iter().any(|it| it.groups().any(|it| it == group));
        match (&self.line, &self.json) {
            (Some(_), None) if !in_line("limit") => {
                return Err("http: line: expected a group (?P<limit>…)".to_owned());
            }
            (None, Some(json)) if !json.limits().all(Template::is_pointer) => {
                return Err("http: json: expected JSON pointers, such as /limit".to_owned());
            }
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err("http: expected one of line and json".to_owned()),
        }
        if self.levels.iter().any(|levels| !in_line(&levels.group)) {
            return Err("http: levels: expected a group of line".to_owned());
        }
        if self.url.is_some() && (self.port.is_some() || self.path.is_some()) {
            return Err("http: expected url, or port and path".to_owned());
        }
        let has_login = |url: &String| {
            let host = url.split("://").nth(1)?.split(['/', '?', '#']).next()?;
            Some(host.contains('@'))
        };
        if self.url.as_ref().and_then(has_login) == Some(true) {
            return Err(
                "http: url: expected no login: it would be in messages and in the state file"
                    .to_owned(),
            );
        }
        let is_http = |url: &String| {
            let scheme = ["http://", "https://"].iter().any(|it| url.starts_with(it));
            scheme && !url.contains('$')
        };
        if !self.url.iter().all(is_http) {
            return Err(
                "http: url: expected http:// or https://, and no groups: those are for path"
                    .to_owned(),
            );
        }
        if self.url.is_none() && self.path.is_none() {
            return Err("http: expected url or path".to_owned());
        }
        Ok(())
    }

    /// The path with the groups of `matched` filled in, percent-encoded, or the full URL if that is configured. `None` if a group
    /// is missing or would lead to another path.
    pub fn place(&self, matched: &Matched) -> Option<String> {
        let mut groups = self.path.iter().flat_map(Template::groups);
        let leads_away =
            groups.any(|group| matches!(matched.group(group), None | Some(b"." | b"..")));
        (!leads_away).then(|| self.filled(|group| matched.group(group)))
    }

    /// [`Self::place`], if it is the same for every name.
    pub fn only_place(&self) -> Option<String> {
        let groups = self.path.iter().flat_map(Template::groups).count();
        (groups == 0).then(|| self.filled(|_| None))
    }

    fn filled<'a>(&self, group: impl Fn(&str) -> Option<&'a [u8]>) -> String {
        if let Some(url) = &self.url {
            return url.clone();
        }
        let Some(path) = &self.path else {
            return String::new();
        };
        let encode = |text: &[u8]| percent_encoded(text).to_string();
        String::from_utf8_lossy(&path.fill_encoded(group, encode)).into_owned()
    }

    /// Parses an answer. The error says what was expected.
    pub fn parse(&self, text: &[u8]) -> Result<Rules, String> {
        if let Some(line) = &self.line {
            if text.trim_ascii_start().starts_with(b"<") {
                // The error page of a proxy must not count as an answer without rules.
                return Err("expected lines of rules, not a page".to_owned());
            }
            let lines = text.split(|byte| *byte == b'\n');
            let rules = lines.filter_map(|text| of_line(line, text.trim_ascii()));
            return Ok(sorted(rules));
        }
        let Some(json) = &self.json else {
            return Ok(sorted([].into_iter()));
        };
        let answer: Value = serde_json::from_slice(text).map_err(|_| "expected JSON".to_owned())?;
        let items: Vec<&Value> = match &json.each {
            None => vec![&answer],
            Some(pointer) => match answer.pointer(&pointer.0) {
                Some(Value::Array(items)) => items.iter().collect(),
                Some(Value::Object(items)) => items.values().collect(),
                _ => return Err(format!("expected a list or a mapping at {:?}", pointer.0)),
            },
        };
        let holds = |item: &&Value| {
            let mut only = json.only.iter();
            only.all(|(pointer, text)| {
                of_json(item, &pointer.0).is_some_and(|it| it == text.as_bytes())
            })
        };
        let items = items.into_iter().take(MOST_RULES).filter(holds);
        Ok(sorted(items.map(|item| json.rule(item))))
    }

    /// The limits of a name, from the rule that matches most of the name. If two rules match equally much and differ, the
    /// limits are unknown.
    pub fn limits(&self, rules: &Rules, matched: &Matched) -> Limits {
        let mut best: Option<(usize, Limits)> = None;
        for rule in &rules.0 {
            let Some((weight, limits)) = self.weigh(rule, matched) else {
                continue;
            };
            if limits.limit.is_none() {
                continue;
            }
            best = match best {
                Some((most, other)) if weight == most && limits != other => {
                    Some((most, Limits::default()))
                }
                Some((most, other)) if weight <= most => Some((most, other)),
                _ => Some((weight, limits)),
            };
        }
        best.map(|(_, limits)| limits).unwrap_or_default()
    }

    /// How much of the name the rule matches, if it applies to the name.
    fn weigh(&self, rule: &Rule, matched: &Matched) -> Option<(usize, Limits)> {
        let mut weight = 0;
        let text = |place: &str| rule.get(place).map(|text| text.clone().into_bytes());
        let Some(json) = &self.json else {
            for (group, text) in rule {
                let Some(of_name) = matched
                    .group(group)
                    .filter(|_| !OF_LIMITS.contains(&group.as_str()))
                else {
                    continue;
                };
                weight += match &self.levels {
                    Some(levels) if levels.group == *group => levels.weigh(text, of_name)?,
                    _ if text.as_bytes() == of_name => text.len(),
                    _ => return None,
                };
            }
            let group = |name: &str| Some(name.to_owned());
            let groups = Fields {
                limit: group("limit"),
                window: group("window"),
                burst: group("burst"),
                unit: None,
            };
            let limits = groups.limits(text);
            let unit = rule.get("unit");
            let unit = unit.and_then(|word| Period::parse(word.as_bytes()));
            let window_ms = limits.window_ms.or(unit.map(Period::ms));
            let limits = Limits {
                window_ms,
                ..limits
            };
            return Some((weight, limits));
        };
        for (group, pointer) in &json.matches {
            let Some(text) = rule.get(&pointer.0) else {
                continue;
            };
            if matched.group(group) != Some(text.as_bytes()) {
                return None;
            }
            weight += 1;
        }
        let place = |template: &Template| {
            let escape = |text: &[u8]| escaped(&String::from_utf8_lossy(text));
            String::from_utf8(template.fill_encoded(|group| matched.group(group), escape)).ok()
        };
        let places = Fields {
            limit: place(&json.limit),
            window: json.window.as_ref().and_then(place),
            burst: json.burst.as_ref().and_then(place),
            unit: json.unit,
        };
        Some((weight, places.limits(text)))
    }
}

impl Json {
    /// Where the limit, the window and the burst are.
    fn limits(&self) -> impl Iterator<Item = &Template> + Clone {
        let limits = [Some(&self.limit), self.window.as_ref(), self.burst.as_ref()];
        limits.into_iter().flatten()
    }

    /// The rule in `item`. Below a group of a pointer, only numbers are read.
    fn rule(&self, item: &Value) -> Rule {
        let mut rule = Rule::new();
        let limits = self.limits();
        for template in limits.clone().filter(|it| it.groups().next().is_some()) {
            let begin = String::from_utf8_lossy(template.beginning());
            let parent = begin.rsplit_once('/').map_or("", |(parent, _)| parent);
            if let Some(value) = item.pointer(parent) {
                numbers(value, parent, &mut rule);
            }
        }
        let whole = limits.filter(|it| it.groups().next().is_none());
        let whole = whole.map(|it| String::from_utf8_lossy(it.beginning()).into_owned());
        for pointer in whole.chain(self.matches.values().map(|it| it.0.clone())) {
            if let Some(text) = of_json(item, &pointer) {
                rule.insert(pointer, String::from_utf8_lossy(&text).into_owned());
            }
        }
        rule
    }
}

/// A name in a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Adds the numbers in `value`, which is at the pointer `at`, to `rule`.
fn numbers(value: &Value, at: &str, rule: &mut Rule) {
    match value {
        Value::Number(number) => {
            rule.insert(at.to_owned(), number.to_string());
        }
        Value::Object(items) => {
            for (name, item) in items {
                numbers(item, &format!("{at}/{}", escaped(name)), rule);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
    }
}

fn sorted(rules: impl Iterator<Item = Rule>) -> Rules {
    let mut rules: Vec<Rule> = rules.take(MOST_RULES).collect();
    rules.sort_unstable();
    Rules(rules)
}

/// What is wrong with a group that is not in the name.
pub(super) fn unknown_group(unknown: &str, groups: &[&str]) -> String {
    match nearest(unknown, groups.iter().copied()) {
        Some(near) => format!("unknown group {unknown:?} (did you mean {near}?)"),
        None => format!(
            "unknown group {unknown:?}: expected one of {}",
            groups.join(", ")
        ),
    }
}

/// The groups of a line that are parts of the limits.
const OF_LIMITS: [&str; 4] = ["limit", "window", "unit", "burst"];

fn of_line(pattern: &LinePattern, text: &[u8]) -> Option<Rule> {
    let captures = pattern.captures(text)?;
    let group = |name: &str| {
        let text = captures.name(name)?.as_bytes();
        Some((name.to_owned(), String::from_utf8_lossy(text).into_owned()))
    };
    Some(pattern.groups().filter_map(group).collect())
}

impl Levels {
    /// How many bytes of `name` the levels of `rule` match, if they fit it.
    fn weigh(&self, rule: &str, name: &[u8]) -> Option<usize> {
        let levels: Vec<&str> = rule.split(self.split.as_str()).collect();
        let weight = levels
            .iter()
            .map(|level| level.trim_end_matches('*').len())
            .sum();
        self.fits(&levels, name).then_some(weight)
    }

    /// Whether the levels fit the name, one after the other. The value of a level, if it has one, follows it.
    fn fits(&self, levels: &[&str], name: &[u8]) -> bool {
        let join = self.join.as_bytes();
        // The offsets in the name where the levels so far can end: a handful, and never more than the length of the name.
        let mut begins = vec![0_usize];
        for (number, level) in levels.iter().enumerate() {
            let last = number + 1 == levels.len();
            let literal = level.trim_end_matches('*');
            let open = literal.len() < level.len();
            let mut next = Vec::new();
            for begin in begins {
                let Some(rest) = name
                    .get(begin..)
                    .and_then(|rest| rest.strip_prefix(literal.as_bytes()))
                else {
                    continue;
                };
                let at = begin + literal.len();
                let valued = open || rest.is_empty() || rest.starts_with(join);
                if last && valued {
                    return true;
                }
                if last || join.is_empty() {
                    continue;
                }
                if !self.split.is_empty() && rest.starts_with(self.split.as_bytes()) {
                    // The value may contain the separator.
                    next.push(at + self.split.len());
                }
                let ends = rest
                    .windows(join.len())
                    .enumerate()
                    .filter(|(_, text)| *text == join);
                next.extend(
                    ends.filter(|(offset, _)| *offset == 0 || valued)
                        .map(|(offset, _)| at + offset + join.len()),
                );
            }
            next.sort_unstable();
            next.dedup();
            begins = next;
        }
        false
    }
}
