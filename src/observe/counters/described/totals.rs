//! What a pass came across besides counts: foreign names, and keys that never expire. Pure.

use std::collections::BTreeMap;

use crate::limiters::{Description, Expires, Finding, Outcome};

/// Keys of each kind of counter whose expiry is read in any case, before only a sample is.
const ALL_OF: u64 = 1_000;

/// Of the keys beyond, one in this many is read with its expiry, other ones in each pass.
const ONE_IN: u64 = 16;

/// What one pass came across.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) struct Totals {
    /// Names that fit no counter.
    pub(in crate::observe) foreign: u64,
    /// By the counter's place in the description.
    counters: BTreeMap<usize, Expiries>,
    /// Names that were looked at.
    seen: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expiries {
    keys: u64,
    read: u64,
    without: u64,
}

impl Totals {
    /// Whether the expiry of the next name, which hashes to `hash`, is read in the pass `number`.
    pub(super) fn samples(&mut self, hash: u64, number: u64) -> bool {
        self.seen += 1;
        self.seen <= ALL_OF || hash % ONE_IN == number % ONE_IN
    }

    /// Takes in what became of a name.
    pub(super) fn add(&mut self, finding: &Finding) {
        let without = match &finding.outcome {
            Outcome::Foreign => {
                self.foreign += 1;
                return;
            }
            Outcome::Counted(reading) => reading
                .expiry
                .map(|expiry| matches!(expiry, Expires::Never(_))),
            Outcome::Over(without) => *without,
            Outcome::Invalid(_) | Outcome::Unknown(_) => None,
            Outcome::Part | Outcome::Gone | Outcome::Ignored => return,
        };
        let Some(matched) = &finding.matched else {
            return;
        };
        let counter = self.counters.entry(matched.counter).or_default();
        counter.keys += 1;
        counter.read += u64::from(without.is_some());
        counter.without += u64::from(without == Some(true));
    }

    /// How many keys never expire although they should, by counter: as many of all as of those that were read.
    pub(in crate::observe) fn without_expiry(
        &self,
        description: &Description,
    ) -> BTreeMap<String, u64> {
        let required = description.counters.iter().enumerate();
        let required = required.filter(|(_, counter)| counter.expiry.required);
        required
            .map(|(place, counter)| {
                let seen = self.counters.get(&place);
                let estimate = seen.map_or(0, Expiries::estimate);
                (counter.name.value.clone(), estimate)
            })
            .collect()
    }
}

impl Expiries {
    fn estimate(&self) -> u64 {
        let (keys, read) = (u128::from(self.keys), u128::from(self.read.max(1)));
        let estimate = (u128::from(self.without) * keys).div_ceil(read);
        u64::try_from(estimate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_all() {
        let expiries = |keys, read, without| Expiries {
            keys,
            read,
            without,
        };
        assert_eq!(expiries(100, 100, 7).estimate(), 7);
        assert_eq!(expiries(16_000, 1_000, 10).estimate(), 160);
        assert_eq!(expiries(100, 0, 0).estimate(), 0);
        assert_eq!(expiries(u64::MAX, 1, 1).estimate(), u64::MAX);
    }

    #[test]
    fn every_key_is_sampled_within_sixteen_passes() {
        let mut sampled = 0;
        for number in 0..ONE_IN {
            let mut totals = Totals {
                seen: ALL_OF,
                ..Totals::default()
            };
            sampled += u64::from(totals.samples(42, number));
        }
        assert_eq!(sampled, 1);
    }
}
