//! Checks whether the parts of a description fit together.

use std::collections::BTreeSet;

use serde_saphyr::Spanned;

use super::ask::Type;
use super::description::{Counter, Description, Malformed};
use super::expiry::WithoutExpiry;
use super::http_limits::unknown_group;
use super::source::Source;
use super::template::Template;
use super::yaml::{Mistake, parse};
use crate::text::nearest;

/// The groups of a name that have a meaning in every description.
const KNOWN_GROUPS: [&str; 9] = [
    "key",
    "limit",
    "window",
    "multiple",
    "unit",
    "window_start",
    "window_index",
    "previous",
    "burst",
];

impl Description {
    /// Parses and checks `text`. The error has all mistakes, or only the first if the text cannot be parsed.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let description: Self = parse(text).map_err(|mistake| vec![mistake])?;
        let mistakes = mistakes(&description);
        if mistakes.is_empty() {
            Ok(description)
        } else {
            Err(mistakes)
        }
    }
}

/// The mistakes in `description`.
fn mistakes(description: &Description) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if !is_name(&description.name) {
        let text = format!(
            "name: {:?}: expected small letters, digits and - only",
            description.name
        );
        mistakes.push(Mistake { line: None, text });
    }
    if description.counters.is_empty() {
        let text = "counters: expected at least one".to_owned();
        mistakes.push(Mistake { line: None, text });
    }
    let mut names = BTreeSet::new();
    for counter in &description.counters {
        let mut check = Check {
            counter,
            mistakes: &mut mistakes,
        };
        check.all(&description.limits);
        if !names.insert(counter.name.value.as_str()) {
            let line = counter.name.referenced.line();
            check.add_mistake(line, "name: another counter has the same");
        }
    }
    if let Some(nodes) = &description.nodes {
        let line = Some(nodes.referenced.line());
        let wrong = nodes.value.check().err();
        mistakes.extend(wrong.map(|text| Mistake { line, text }));
        if let Some(registry) = &nodes.value.registry {
            let line = Some(registry.referenced.line());
            let wrong = registry.value.check().err();
            mistakes.extend(wrong.map(|text| Mistake {
                line,
                text: format!("nodes: registry: {text}"),
            }));
        }
    }
    // One counter with the groups of a shared source is enough: it says nothing about the others.
    let of_all = (&description.counters[..], &description.limits);
    let of_each = description.counters.iter();
    let of_each = of_each.map(|counter| (std::slice::from_ref(counter), &counter.limits));
    for (counters, sources) in of_each.chain([of_all]) {
        let groups = counters.iter().flat_map(|it| it.key.value.groups());
        let groups: Vec<&str> = groups.collect();
        for source in sources {
            if let Source::Http(http) = &source.value
                && let Err(text) = http.check(&groups)
            {
                let line = Some(source.referenced.line());
                let text = format!("limits: {text}");
                mistakes.push(Mistake { line, text });
            }
        }
    }
    mistakes
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 64 && name.chars().all(fits)
}

struct Check<'a> {
    counter: &'a Counter,
    mistakes: &'a mut Vec<Mistake>,
}

impl Check<'_> {
    fn add_mistake(&mut self, line: u64, text: &str) {
        let text = format!("counter {:?}: {text}", self.counter.name.value);
        self.mistakes.push(Mistake {
            line: Some(line),
            text,
        });
    }

    fn has_group(&self, name: &str) -> bool {
        self.counter.key.value.groups().any(|group| group == name)
    }

    fn all(&mut self, shared: &[Spanned<Source>]) {
        let counter = self.counter;
        let line = counter.key.referenced.line();
        if !is_name(&counter.name.value) {
            let line = counter.name.referenced.line();
            self.add_mistake(line, "name: expected small letters, digits and - only");
        }
        if !self.has_group("key") {
            self.add_mistake(line, "key: expected a group (?P<key>…) in the pattern");
        }
        if self.has_group("name") {
            let text =
                "key: expected another group than name: in templates, $name is the whole name";
            self.add_mistake(line, text);
        }
        let groups: Vec<&str> = counter.key.value.groups().collect();
        for group in groups {
            let known =
                nearest(group, KNOWN_GROUPS).filter(|known| *known != group && group.len() > 3);
            if let Some(known) = known.filter(|_| !KNOWN_GROUPS.contains(&group)) {
                self.add_mistake(
                    line,
                    &format!("key: unknown group {group:?} (did you mean {known}?)"),
                );
            }
        }
        if self.has_group("multiple") && !self.has_group("unit") {
            self.add_mistake(line, "key: expected the group unit beside multiple");
        }
        if let Some(label) = &counter.label {
            self.template("label", label);
        }
        for companion in &counter.companions {
            self.template("companions: key", &companion.key);
        }
        if let Malformed::ForeignUnless(key) = &counter.malformed {
            self.template("malformed: foreign_unless", key);
        }
        for source in counter.limits.iter().chain(shared) {
            if let Some(template) = source.value.template() {
                self.template("limits: key", template);
            }
            let from_fields = matches!(source.value, Source::Fields(_));
            if from_fields && counter.kind != Type::Hash {
                let line = source.referenced.line();
                let text = "limits: fields: expected type: hash for the counter".to_owned();
                self.add_mistake(line, &text);
            }
        }
        let line = counter.count.referenced.line();
        for template in counter.count.value.counting().templates() {
            self.template("count", template);
        }
        if let Err(text) = counter.count.value.counting().check(&counter.keys()) {
            let method = counter.count.value.name();
            self.add_mistake(line, &format!("count: {method}: {text}"));
        }
        if let Some(when) = &counter.when {
            let windows = self.has_group("window_start") || self.has_group("window_index");
            let said = [
                when.outlives_windows.is_some(),
                when.field.is_some(),
                when.otherwise,
            ];
            let text = if said.into_iter().filter(|said| *said).count() != 1 {
                Some("when: expected one of outlives_windows, field and otherwise: true")
            } else if when.outlives_windows.is_some() && !windows {
                Some("when: expected a group window_start or window_index in the key")
            } else if when.field.is_some() && counter.kind != Type::Hash {
                Some("when: field: expected type: hash")
            } else {
                None
            };
            if let Some(text) = text {
                self.add_mistake(counter.key.referenced.line(), text);
            }
        }
        let required = counter.expiry.required;
        let line = counter.name.referenced.line();
        match (required, counter.without_expiry) {
            (true, None) => self.add_mistake(
                line,
                "without_expiry: expected blocks, leaks or heals, as expiry is required",
            ),
            (false, Some(WithoutExpiry::Blocks | WithoutExpiry::Heals)) => self.add_mistake(
                line,
                "without_expiry: expected leaks or nothing, as being without expiry is normal",
            ),
            (true, Some(_)) | (false, None | Some(WithoutExpiry::Leaks)) => {}
        }
    }

    fn template(&mut self, place: &str, template: &Spanned<Template>) {
        let unknown = template
            .value
            .groups()
            .find(|group| *group != "name" && !self.has_group(group));
        let Some(unknown) = unknown else { return };
        let groups: Vec<&str> = self.counter.key.value.groups().collect();
        let text = format!("{place}: {}", unknown_group(unknown, &groups));
        self.add_mistake(template.referenced.line(), &text);
    }
}
