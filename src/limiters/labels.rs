//! How counters are called so that no two are called alike. A label is made of some groups of a name; what else of the
//! name tells counters apart, such as a limit or a prefix, is added where a second one turns up.

use std::collections::BTreeMap;

use super::description::Description;
use super::matched::Matched;

/// Gives every counter a label of its own. Remembers one name for each way of making labels, however many keys there
/// are: counters whose names are like the least one are called by their label alone.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// By the first counter that makes its labels in the same way: the least of what labels leave out of names.
    least: BTreeMap<usize, Vec<u8>>,
}

impl Labels {
    /// What the counter `matched` is called.
    pub fn of(&mut self, description: &Description, matched: &Matched) -> Vec<u8> {
        let Some(counter) = description.counter(matched) else {
            return matched.name.clone();
        };
        let label = counter.label(matched);
        let in_label = |group: &str| match &counter.label {
            Some(label) => label.value.groups().any(|it| it == group),
            None => group == "key",
        };
        // The window passes, and the counter stays the same.
        let passes = |group: &str| ["window_start", "window_index", "previous"].contains(&group);
        if in_label("name") {
            return label;
        }
        let rest = matched.without(|group| in_label(group) || passes(group));
        let alike = |other: &super::description::Counter| {
            other.label.as_ref().map(|label| &label.value)
                == counter.label.as_ref().map(|label| &label.value)
        };
        let first = description.counters.iter().position(alike).unwrap_or(0);
        let least = self.least.entry(first).or_insert_with(|| rest.clone());
        if rest < *least {
            least.clone_from(&rest);
        }
        if rest == *least {
            return label;
        }
        let mut label = label;
        label.extend_from_slice(b" (");
        label.extend_from_slice(counter.name.value.as_bytes());
        let pattern = &counter.key.value;
        let others = pattern.groups().filter(|it| !in_label(it) && !passes(it));
        for value in others.filter_map(|group| matched.group(group)) {
            label.push(b' ');
            label.extend_from_slice(value);
        }
        if pattern.has_unnamed() {
            label.push(b' ');
            label.extend_from_slice(&crate::observation::hash_key(&rest).as_bytes()[..8]);
        }
        label.push(b')');
        label
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Description, Fit, Type, built_in};
    use super::*;

    fn labels(kind: &str, names: &[(&str, Type)]) -> Vec<String> {
        let description = Description::parse(built_in(kind).unwrap()).unwrap();
        let mut labels = Labels::default();
        let names = names.iter().map(|(name, kind)| {
            let Fit::Counter(matched) = description.match_name(name.as_bytes(), Some(*kind)) else {
                panic!("{name} is no counter");
            };
            String::from_utf8(labels.of(&description, &matched)).unwrap()
        });
        names.collect()
    }

    #[test]
    fn two_limits_of_one_client_are_two_counters() {
        let names = [
            ("LIMITS:LIMITER/user:1/10/1/minute", Type::String),
            ("LIMITS:LIMITER/user:1/100/1/hour", Type::String),
            ("LIMITS:LIMITER/user:2/10/1/minute", Type::String),
            ("LIMITS:LIMITER/user:1/100/1/hour", Type::List),
        ];
        assert_eq!(
            labels("limits", &names),
            [
                "user:1",
                "user:1 (fixed-window LIMITER 100 1 hour)",
                "user:2",
                "user:1 (moving-window LIMITER 100 1 hour)"
            ]
        );
    }

    #[test]
    fn a_counter_keeps_its_label_when_its_window_passes() {
        let names = [
            ("@upstash/ratelimit:user:1:29928195", Type::String),
            ("@upstash/ratelimit:user:1:29928196", Type::String),
        ];
        assert_eq!(labels("upstash", &names), ["user:1", "user:1"]);
    }

    #[test]
    fn counters_of_several_programs_are_told_apart() {
        let names = [("hrl:user:1", Type::Hash), ("rl:user:1", Type::String)];
        let hono = built_in("express-rate-limit").unwrap();
        let hono = Description::parse(hono).unwrap().counters[1].kind;
        let names = [(names[0].0, hono), names[1]];
        assert_eq!(
            labels("express-rate-limit", &names),
            ["user:1", "user:1 (express)"]
        );
    }
}
