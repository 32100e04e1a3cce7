//! Finds the counter of a description that fits the name and type of a key.

use super::ask::Type;
use super::description::{Counter, Description};
use super::matched::Matched;

/// What a name belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// A counter.
    Counter(Matched),
    /// Counters of several types have such names: the type of the key is needed.
    NeedsType,
    /// It belongs to the limiter and counts nothing.
    Ignored,
    /// It belongs to something else.
    Foreign,
}

/// The earliest time of a window, in September 2001. Earlier ones are the digits of a date, such as 20261127.
const EARLIEST_MS: u64 = 1_000_000_000_000;

impl Description {
    /// What `name` belongs to. `kind` is the type of the key, if it is known.
    pub fn match_name(&self, name: &[u8], kind: Option<Type>) -> Fit {
        self.match_from(0, name, kind)
    }

    /// Like [`Self::match_name`], with the counters from `first` on.
    pub(super) fn match_from(&self, first: usize, name: &[u8], kind: Option<Type>) -> Fit {
        let of_type = |counter: &Counter| kind.is_none_or(|kind| counter.kind == kind);
        let counters = self.counters.iter().enumerate().skip(first);
        let mut counters = counters.filter(|(_, counter)| of_type(counter));
        let fitting = |(index, it): (usize, &Counter)| Matched::of(index, &it.key.value, name);
        let Some(matched) = counters.find_map(fitting) else {
            let ignored = self.ignore.iter().any(|pattern| pattern.fits(name));
            return if ignored { Fit::Ignored } else { Fit::Foreign };
        };
        if kind.is_none() && self.is_open(&matched) {
            return Fit::NeedsType;
        }
        let is_date = matched.group("window_start").is_some()
            && matched.start_ms().is_none_or(|start| start < EARLIEST_MS);
        if is_date {
            return self.match_from(matched.counter + 1, name, kind);
        }
        Fit::Counter(matched)
    }

    /// Whether the name of `matched` also fits a counter of another type.
    pub(super) fn is_open(&self, matched: &Matched) -> bool {
        let counter = self.counter(matched);
        let mut others = self.counters.iter().filter(|it| it.kind != counter.kind);
        others.any(|other| other.key.value.fits(&matched.name))
    }

    /// The indices of other counters that could claim the name of `matched`, because neither type nor `when` distinguishes them
    /// from it.
    pub fn rivals(&self, matched: &Matched) -> impl Iterator<Item = usize> {
        let is_open = |it: &&Counter| it.when.as_ref().is_none_or(|when| when.otherwise);
        let counter = Some(self.counter(matched)).filter(is_open);
        let later = self.counters.iter().enumerate().skip(matched.counter + 1);
        later
            .filter(|(_, other)| !other.when.as_ref().is_some_and(|when| when.otherwise))
            .filter(move |(_, other)| {
                counter.is_some_and(|it| it.kind == other.kind)
                    && other.key.value.fits(&matched.name)
            })
            .map(|(place, _)| place)
    }

    /// The counter that `matched` fits: a name that this description matched.
    pub fn counter(&self, matched: &Matched) -> &Counter {
        &self.counters[matched.counter]
    }
}

impl Counter {
    /// The label of a counter by the description. It may not be unique. A counter without a key, or with an empty one, has its name.
    /// An empty group leaves no blank at an end.
    pub fn label(&self, matched: &Matched) -> Vec<u8> {
        match &self.label {
            Some(label) => label.value.fill_trimmed(|group| matched.group(group)),
            None => matched
                .group("key")
                .filter(|key| !key.is_empty())
                .unwrap_or(&matched.name)
                .to_vec(),
        }
    }
}
