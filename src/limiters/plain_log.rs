//! The simplest kind of description: one log for each key, and its limit in a hash beside it, both named by a literal and the key.
//! The names alone say which key a counter and a limit belong to, so limits can be remembered, and a counter takes one command.

use super::ask::Type;
use super::description::{Counter, Description, Malformed};
use super::expiry::{Expiry, WithoutExpiry};
use super::pattern::escaped;
use super::source::{Form, Source};
use super::units::Unit;
use crate::observation::Refused;

/// The names and fields of such a description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainLog {
    /// What the name of each counter starts with; the key follows.
    pub prefix: Vec<u8>,
    /// What the name of each limit starts with, behind [`Self::prefix`]; the key follows.
    pub limit: Vec<u8>,
    /// The fields of a limit: the limit, and the window in milliseconds.
    pub fields: [String; 2],
    /// The end of names of strings that are written together with their counters.
    pub sequence: Option<Vec<u8>>,
}

impl PlainLog {
    /// The form of `description`. `None` if anything in it is beyond this form.
    pub fn of(description: &Description) -> Option<Self> {
        let Description {
            counters,
            ignore,
            limits,
            ..
        } = description;
        let [counter] = &counters[..] else {
            return None;
        };
        let Counter {
            name: _,
            key,
            kind: Type::Zset,
            label: None,
            count,
            refused: Refused::NotCounted,
            expiry: Expiry { required: true, .. },
            without_expiry: Some(WithoutExpiry::Leaks),
            when: None,
            // For groups that a plain pattern does not have.
            units: _,
            limits: own,
            companions,
            malformed: Malformed::Invalid,
        } = counter
        else {
            return None;
        };
        let [own] = &own[..] else {
            return None;
        };
        let Source::Key(own) = &own.value else {
            return None;
        };
        let (Form::Hash, Some(limit), Some(window), None, Some(Unit::Milliseconds)) =
            (own.form, &own.limit, &own.window, &own.burst, own.unit)
        else {
            return None;
        };
        let prefix = key.value.prefix();
        let beginning = own.name.value.before_key()?.strip_prefix(prefix)?;
        let mut sequence = None;
        for pattern in ignore {
            let rest = pattern.prefix().strip_prefix(prefix)?;
            match pattern.end()? {
                b"" if rest == beginning => {}
                end if rest.is_empty() && !end.is_empty() && sequence.is_none() => {
                    sequence = Some(end.to_vec());
                }
                _ => return None,
            }
        }
        let fits = key.value.is_plain()
            && !prefix.is_empty()
            && !beginning.is_empty()
            && count.value.counting().counts_scores_in_ms()
            && companions.is_empty()
            // As a part of keys, it would leave open what a name is.
            && !beginning.last().is_some_and(u8::is_ascii_alphanumeric)
            && limits.iter().all(|limits| limits.value.is_default_of_management_api());
        fits.then(|| Self {
            prefix: prefix.to_vec(),
            limit: beginning.to_vec(),
            fields: [limit.clone(), window.clone()],
            sequence,
        })
    }

    /// The name of the counter of `key`.
    pub fn counter_name(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix[..], key].concat()
    }

    /// The name of the limit of `key`.
    pub fn limit_name(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix[..], &self.limit, key].concat()
    }

    /// What all names are made of, as one text.
    pub fn identity(&self) -> Vec<u8> {
        let [limit, window] = &self.fields;
        let parts = [
            &self.prefix[..],
            &self.limit,
            limit.as_bytes(),
            window.as_bytes(),
        ];
        parts.join(&0)
    }

    /// The pattern that matches the names of all limits, for SCAN.
    pub fn scan_of_limits(&self) -> Vec<u8> {
        let beginning = escaped(&self.limit_name(b""));
        [&beginning[..], b"*"].concat()
    }

    /// Whether this key is, by its name, that of a string beside a counter.
    pub fn is_sequence(&self, key: &[u8]) -> bool {
        let end = self.sequence.as_ref();
        end.is_some_and(|end| key.ends_with(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::built_in;

    /// The description of the reference limiter, changed.
    fn changed(changes: &[(&str, &str)]) -> Option<PlainLog> {
        let mut text = built_in("reference").unwrap().to_owned();
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
        PlainLog::of(&Description::parse(&text).unwrap())
    }

    #[test]
    fn names_and_fields_are_those_of_the_description() {
        let plain = PlainLog {
            prefix: b"ratelimit:".to_vec(),
            limit: b"limit:".to_vec(),
            fields: ["limit", "window_ms"].map(str::to_owned),
            sequence: Some(b":seq".to_vec()),
        };
        assert_eq!(changed(&[]), Some(plain));
        let own = changed(&[
            ("^ratelimit:", r"^my\*app:"),
            ("ratelimit:limit:$key", "my*app:max/$key"),
            (r"^my\*app:limit:", r"^my\*app:max/"),
            ("):seq$", ")/n$"),
            ("limit: limit, window: window_ms", "limit: max, window: ms"),
        ]);
        let own = own.unwrap();
        assert_eq!(own.counter_name(b"a"), b"my*app:a");
        assert_eq!(own.limit_name(b"a"), b"my*app:max/a");
        assert_eq!(own.scan_of_limits(), br"my\*app:max/*");
        assert_eq!(own.fields, ["max", "ms"].map(str::to_owned));
        assert!(own.is_sequence(b"a/n") && !own.is_sequence(b"a:seq"));
        let without = changed(&[("  - '^ratelimit:(?P<key>.+):seq$'\n", "")]).unwrap();
        assert!(!without.is_sequence(b"a:seq"));
    }

    #[test]
    fn what_a_remembered_limit_and_one_command_cannot_read_is_not_plain() {
        for change in [
            ("ratelimit:limit:$key", "ratelimit:l$key"),
            ("path: /api/limits", "path: /limits"),
            ("window: /default_window_ms", "window: /window_ms"),
            ("(?P<key>.+)$'\n    type", "(?P<key>[^:]+)$'\n    type"),
            (
                "^ratelimit:(?P<key>.+)$'\n    type",
                "^(?P<key>.+)$'\n    type",
            ),
            ("{unit: ms}", "{unit: s}"),
            ("{unit: ms}", "{unit: ms, times: ends}"),
            ("refused: not_counted", "refused: counted"),
            ("without_expiry: leaks", "without_expiry: blocks"),
            ("ratelimit:limit:$key", "limits:$key"),
            ("ratelimit:limit:$key", "ratelimit:limit:$name"),
            ("unit: ms}\n\nignore", "unit: s}\n\nignore"),
            ("):seq$", "):seq:.*$"),
            ("^ratelimit:limit:", "^ratelimit:other:"),
            (
                "limits:\n  - http:",
                "limits:\n  - fixed: {limit: 5, window: 1m}\n  - http:",
            ),
        ] {
            assert_eq!(changed(&[change]), None, "{change:?}");
        }
    }
}
