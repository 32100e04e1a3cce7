//! Summarizes what a description finds among many names: the keys of each counter by outcome, names that fit no counter, and
//! names that two counters could claim. It keeps totals and a few examples, so its size does not depend on the number of names.

use std::collections::BTreeMap;

use super::description::Description;
use super::reading::{Expires, Finding, Outcome, Unknown};
use crate::observation::Invalid;

/// The most examples of one outcome for each counter.
const MOST_EXAMPLES: usize = 3;

/// The most examples of names that fit no counter.
const MOST_FOREIGN: usize = 5;

/// The summary.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Names that were classified.
    pub names: u64,
    /// For each counter of the description, in its order.
    pub counters: Vec<Fitting>,
    /// Registrations of nodes.
    pub registrations: u64,
    /// Names that the description ignores.
    pub ignored: u64,
    /// Names that fit no counter.
    pub foreign: u64,
    /// How many of them begin like a counter. The exporter reads those in each pass.
    pub foreign_swept: u64,
    /// A few names that fit no counter. Names that begin like a counter come first.
    pub foreign_examples: Vec<(bool, Vec<u8>)>,
    /// Names that two counters could claim: their number and an example, by the index of the counter that counts them and the
    /// index of the other one.
    pub rivals: BTreeMap<(usize, usize), (u64, Vec<u8>)>,
}

/// The keys of one counter.
#[derive(Clone, Debug, Default)]
pub struct Fitting {
    /// All keys.
    pub keys: u64,
    /// Keys whose limit is unknown.
    pub without_limit: u64,
    /// Keys that never expire although they should, among those whose expiry was read.
    pub without_expiry: u64,
    /// Keys whose window is over.
    pub over: u64,
    /// Keys that could not be judged, by reason.
    pub unknown: BTreeMap<Unknown, u64>,
    /// Keys in a state that the limiter cannot make.
    pub invalid: BTreeMap<Invalid, u64>,
    /// A few examples of each outcome.
    pub examples: Vec<Example>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Example {
    /// Its name.
    pub name: Vec<u8>,
    /// The counter's label.
    pub label: Vec<u8>,
    /// The result of reading it.
    pub outcome: Outcome,
}

impl Inventory {
    /// An empty summary for `description`.
    pub fn new(description: &Description) -> Self {
        Self {
            counters: vec![Fitting::default(); description.counters.len()],
            ..Self::default()
        }
    }

    /// Removes the names of registrations and counts them.
    pub fn take_registrations(&mut self, description: &Description, names: &mut Vec<Vec<u8>>) {
        let before = names.len();
        if let Some(registry) = description.registry() {
            names.retain(|name| registry.id_of(name).is_none());
        }
        let registrations = (before - names.len()) as u64;
        self.names += registrations;
        self.registrations += registrations;
    }

    /// Adds the finding of `name`.
    pub fn add(&mut self, description: &Description, name: &[u8], finding: &Finding) {
        let counter = match (&finding.outcome, &finding.matched) {
            // The key has expired since SCAN returned it.
            (Outcome::Gone, _) => return,
            (Outcome::Ignored, _) => {
                self.names += 1;
                self.ignored += 1;
                return;
            }
            (Outcome::Foreign, _) | (_, None) => return self.add_foreign(description, name),
            (_, Some(matched)) => matched,
        };
        self.names += 1;
        for rival in description.rivals(counter) {
            let pair = (counter.counter, rival);
            let (times, _) = self
                .rivals
                .entry(pair)
                .or_insert_with(|| (0, name.to_vec()));
            *times += 1;
        }
        let label = description.counter(counter).label(counter);
        self.counters[counter.counter].add(name, label, &finding.outcome);
    }

    fn add_foreign(&mut self, description: &Description, name: &[u8]) {
        self.names += 1;
        self.foreign += 1;
        let mut prefixes = description.counters.iter().map(|it| it.key.value.prefix());
        let swept = prefixes.any(|prefix| name.starts_with(prefix));
        self.foreign_swept += u64::from(swept);
        let examples = &mut self.foreign_examples;
        if examples.len() < MOST_FOREIGN {
            examples.push((swept, name.to_vec()));
        } else if swept && let Some(other) = examples.iter_mut().find(|(swept, _)| !swept) {
            *other = (true, name.to_vec());
        }
    }
}

/// The class of an outcome, for choosing examples.
fn class(outcome: &Outcome) -> (u8, &'static str) {
    match outcome {
        Outcome::Counted(reading) => match (reading.invalid, reading.limits.capacity()) {
            (Some(invalid), _) => (1, invalid.name()),
            (None, Some(_)) => (2, ""),
            (None, None) => (3, ""),
        },
        Outcome::Invalid(invalid) => (1, invalid.name()),
        Outcome::Unknown(unknown) => (4, unknown.name()),
        Outcome::Over(_) => (5, ""),
        Outcome::Part | Outcome::Gone | Outcome::Ignored | Outcome::Foreign => (6, ""),
    }
}

impl Fitting {
    fn add(&mut self, name: &[u8], label: Vec<u8>, outcome: &Outcome) {
        self.keys += 1;
        match outcome {
            Outcome::Counted(reading) => {
                self.without_limit += u64::from(reading.limits.capacity().is_none());
                self.without_expiry +=
                    u64::from(matches!(reading.expiry, Some(Expires::Never(Some(_)))));
                if let Some(invalid) = reading.invalid {
                    *self.invalid.entry(invalid).or_default() += 1;
                }
            }
            Outcome::Invalid(invalid) => *self.invalid.entry(*invalid).or_default() += 1,
            Outcome::Unknown(unknown) => *self.unknown.entry(*unknown).or_default() += 1,
            Outcome::Over(_) => self.over += 1,
            Outcome::Part | Outcome::Gone | Outcome::Ignored | Outcome::Foreign => {}
        }
        let alike = |example: &&Example| class(&example.outcome) == class(outcome);
        if self.examples.iter().filter(alike).count() < MOST_EXAMPLES {
            self.examples.push(Example {
                name: name.to_vec(),
                label,
                outcome: outcome.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, Type};
    use super::*;

    fn own() -> Description {
        Description::parse(
            "
name: own
title: own
counters:
  - {name: login, key: '^own:login:(?P<key>.+)$', type: string, count: value, refused: counted, expiry: normal_without}
  - {name: all, key: '^own:(?P<key>.+)$', type: string, count: value, refused: counted, expiry: normal_without}
  - {name: list, key: '^own:(?P<key>.+)$', type: list, count: {log: {unit: s}}, refused: counted, expiry: normal_without}
ignore: ['^own:login:seq$']
",
        )
        .unwrap()
    }

    fn added(inventory: &mut Inventory, name: &str, outcome: Outcome) {
        let own = own();
        let matched = match own.match_name(name.as_bytes(), Some(Type::String)) {
            Fit::Counter(matched) => Some(matched),
            _ => None,
        };
        let finding = Finding { matched, outcome };
        inventory.add(&own, name.as_bytes(), &finding);
    }

    #[test]
    fn a_name_that_two_counters_of_one_type_could_claim_is_noted_with_both() {
        let mut inventory = Inventory::new(&own());
        added(
            &mut inventory,
            "own:login:1",
            Outcome::Unknown(Unknown::NoLimit),
        );
        added(&mut inventory, "own:1", Outcome::Unknown(Unknown::NoLimit));
        let rivals: Vec<_> = inventory.rivals.into_iter().collect();
        assert_eq!(rivals, [((0, 1), (1, b"own:login:1".to_vec()))]);
        assert_eq!(inventory.counters[0].keys, 1);
        assert_eq!(inventory.counters[1].keys, 1);
    }

    #[test]
    fn a_few_examples_of_each_outcome_are_kept_however_many_names_there_are() {
        let mut inventory = Inventory::new(&own());
        for number in 0..1000 {
            let name = format!("own:{number}");
            added(&mut inventory, &name, Outcome::Unknown(Unknown::NoWindow));
            added(&mut inventory, &name, Outcome::Invalid(Invalid::Negative));
            added(&mut inventory, &format!("other:{number}"), Outcome::Foreign);
        }
        added(&mut inventory, "own:", Outcome::Foreign);
        let fitting = &inventory.counters[1];
        assert_eq!((fitting.keys, fitting.examples.len()), (2000, 6));
        assert_eq!((inventory.foreign, inventory.foreign_swept), (1001, 1));
        assert_eq!(inventory.foreign_examples.len(), MOST_FOREIGN);
        assert!(
            inventory
                .foreign_examples
                .contains(&(true, b"own:".to_vec()))
        );
    }
}
