//! Unique labels of counters. The description says how a label is made. If two counters would have the same label, more of the
//! name is appended to one of them, such as a limit or a prefix.

use super::description::Description;
use super::matched::Matched;

/// The label of a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The label.
    pub label: Vec<u8>,
    /// The part of the name that the description's label leaves out. It differs between counters with the same label.
    pub rest: Vec<u8>,
}

impl Called {
    /// The label of the counter `matched`. `kept` returns the rest of the counter that has a label now. That counter keeps it:
    /// another one gets a longer label. It keeps the longer label as long as `kept` has it, even after the first one is gone.
    pub fn of<'a>(
        description: &Description,
        matched: &Matched,
        kept: impl Fn(&[u8]) -> Option<&'a [u8]>,
    ) -> Self {
        let counter = description.counter(matched);
        let label = counter.label(matched);
        let in_label = |group: &str| match &counter.label {
            Some(label) => label.value.groups().any(|it| it == group),
            None => group == "key",
        };
        // The next window is the same counter.
        let passes = |group: &str| ["window_start", "window_index", "previous"].contains(&group);
        if in_label("name") {
            let rest = Vec::new();
            return Self { label, rest };
        }
        let mut rest = matched.without(|group| in_label(group) || passes(group));
        if let Some(label) = counter
            .label
            .as_ref()
            .filter(|it| it.value.groups().count() > 1)
        {
            // The same label may be made of other groups.
            for group in label.value.groups() {
                let length = matched.group(group).map_or(0, <[u8]>::len);
                rest.extend_from_slice(format!(" {length}").as_bytes());
            }
        }
        let is_own = |label: &[u8]| kept(label) == Some(&*rest);
        if is_own(&label) {
            return Self { label, rest };
        }
        let mut longer = label.clone();
        longer.extend_from_slice(b" (");
        longer.extend_from_slice(counter.name.value.as_bytes());
        let pattern = &counter.key.value;
        let others = pattern.groups().filter(|it| !in_label(it) && !passes(it));
        for value in others.filter_map(|group| matched.group(group)) {
            longer.push(b' ');
            longer.extend_from_slice(value);
        }
        if pattern.has_unnamed() {
            longer.push(b' ');
            longer.extend_from_slice(&crate::observation::hash_key(&rest).as_bytes()[..8]);
        }
        longer.push(b')');
        let label = if is_own(&longer) || kept(&label).is_some() {
            longer
        } else {
            label
        };
        Self { label, rest }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Description, Fit, Type, built_in};
    use super::*;

    use std::collections::HashMap;

    /// The labels of these counters after each of two passes. All of them are kept.
    fn labels(kind: &str, names: &[(&str, Type)]) -> [Vec<String>; 2] {
        let description = Description::parse(built_in(kind).unwrap()).unwrap();
        let mut kept: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        [(); 2].map(|()| {
            let names = names.iter().map(|(name, kind)| {
                let fit = description.match_name(name.as_bytes(), Some(*kind));
                let Fit::Counter(matched) = fit else {
                    panic!("{name} is no counter");
                };
                let called = Called::of(&description, &matched, |label| {
                    kept.get(label).map(Vec::as_slice)
                });
                kept.insert(called.label.clone(), called.rest);
                String::from_utf8(called.label).unwrap()
            });
            names.collect()
        })
    }

    #[test]
    fn two_limits_of_one_client_are_two_counters() {
        let names = [
            ("LIMITS:LIMITER/user:1/10/1/minute", Type::String),
            ("LIMITS:LIMITER/user:1/100/1/hour", Type::String),
            ("LIMITS:LIMITER/user:2/10/1/minute", Type::String),
            ("LIMITS:LIMITER/user:3/5/1/minute", Type::String),
            ("LIMITS:LIMITER/user:3/10/1/minute", Type::String),
        ];
        let [_, labels] = labels("limits", &names);
        assert_eq!(
            labels,
            [
                "user:1",
                "user:1 (fixed-window LIMITER 100 1 hour)",
                "user:2",
                "user:3",
                "user:3 (fixed-window LIMITER 10 1 minute)",
            ]
        );
    }

    #[test]
    fn no_counter_takes_the_label_of_another_one() {
        let names = [
            ("LIMITS:LIMITER/user:1/5/1/minute", Type::String),
            ("LIMITS:LIMITER/user:1/100/1/hour", Type::String),
            ("LIMITS:LIMITER/user:1/1/1/day", Type::String),
        ];
        let called = [
            "user:1",
            "user:1 (fixed-window LIMITER 100 1 hour)",
            "user:1 (fixed-window LIMITER 1 1 day)",
        ];
        let called = called.map(str::to_owned).to_vec();
        assert_eq!(labels("limits", &names), [called.clone(), called]);
    }

    #[test]
    fn unambiguous_counters_have_the_label_of_the_description() {
        let names = [
            ("LIMITS:LIMITER/user:1/login/5/1/minute", Type::String),
            ("LIMITS:LIMITER/user:1/search/100/1/hour", Type::List),
            ("LIMITS:{LIMITER/user:1/upload/7/1/day}", Type::String),
        ];
        let called = ["user:1/login", "user:1/search", "user:1/upload"].map(str::to_owned);
        assert_eq!(labels("limits", &names), [called.to_vec(), called.to_vec()]);
    }

    #[test]
    fn names_that_differ_in_blanks_have_different_labels() {
        let names = [
            ("{orders}:permits", Type::Zset),
            ("{orders }:permits", Type::Zset),
            ("{ orders}:permits", Type::Zset),
        ];
        let labels = labels("redisson", &names);
        assert!(
            labels
                .iter()
                .all(|it| *it == ["orders", "orders ", " orders"])
        );
    }

    #[test]
    fn names_whose_groups_make_the_same_label_have_different_labels() {
        let names = [
            ("{a}b c:permits:1", Type::Zset),
            ("{ab} c:permits:1", Type::Zset),
        ];
        let [_, labels] = labels("redisson", &names);
        assert_ne!(labels[0], labels[1]);
    }

    #[test]
    fn a_counter_keeps_its_label_when_its_window_passes() {
        let names = [
            ("@upstash/ratelimit:user:1:29928195", Type::String),
            ("@upstash/ratelimit:user:1:29928196", Type::String),
        ];
        for labels in labels("upstash", &names) {
            assert_eq!(labels, ["user:1", "user:1"]);
        }
    }

    #[test]
    fn counters_of_several_programs_have_different_labels() {
        let names = [("hrl:user:1", Type::String), ("rl:user:1", Type::String)];
        let [_, labels] = labels("express-rate-limit", &names);
        assert_eq!(labels, ["user:1", "user:1 (express)"]);
    }

    #[test]
    fn a_counter_that_is_alone_again_keeps_its_label() {
        let description = Description::parse(built_in("limits").unwrap()).unwrap();
        let name = b"LIMITS:LIMITER/user:1/100/1/hour";
        let Fit::Counter(matched) = description.match_name(name, Some(Type::String)) else {
            panic!("no counter");
        };
        let longer = b"user:1 (fixed-window LIMITER 100 1 hour)";
        let fresh = Called::of(&description, &matched, |_| None);
        assert_eq!(fresh.label, b"user:1");
        let kept = |label: &[u8]| (label == longer).then_some(&*fresh.rest);
        assert_eq!(Called::of(&description, &matched, kept).label, longer);
    }

    #[test]
    fn a_date_is_no_time_of_a_window() {
        let own = r"{name: window, key: '^own:(?P<key>[^:]+):(?P<window_start>\d+)$', type: string, count: value, refused: counted, expiry: normal_without, limits: [{fixed: {limit: 5, window: 1d}}]}";
        let text = format!("name: own\ntitle: one of my own\ncounters:\n  - {own}\n");
        let description = Description::parse(&text).unwrap();
        let fit = |name: &str| description.match_name(name.as_bytes(), None);
        assert_eq!(fit("own:u:20261127"), Fit::Foreign);
        assert_eq!(fit("own:u:202611270435"), Fit::Foreign);
        assert!(matches!(fit("own:u:1795737600"), Fit::Counter(_)));
    }
}
