//! What a pass finds besides counts: foreign names, keys that never expire, and counters that cannot be judged. Also chooses the
//! sample of keys whose expiry is read. Pure.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use crate::limiters::{Description, Expires, Finding, Outcome};
use crate::observation::{Lacks, Reason};

/// This many names at the beginning of a pass, or of a collection's written keys, are all in the sample.
const ALL_OF: u64 = 100;

/// Of all further names, one in this many is in the sample, other ones each time. Two more commands for each of them add a
/// sixteenth to the one command for every key.
const ONE_IN: u64 = 32;

/// Chooses the names whose expiry is read although nothing depends on it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) struct Sample {
    /// Samples with different numbers have different names.
    number: u64,
    /// How many names there were so far.
    seen: u64,
}

impl Sample {
    /// The sample with this number.
    pub(in crate::observe) fn new(number: u64) -> Self {
        Self { number, seen: 0 }
    }

    /// Whether `name`, the next one, is in the sample.
    pub(in crate::observe) fn takes(&mut self, name: &[u8]) -> bool {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.seen += 1;
        self.seen <= ALL_OF || hasher.hash_one(name) % ONE_IN == self.number % ONE_IN
    }

    /// Which of `names`, the next ones, are in the sample.
    pub(in crate::observe) fn of(&mut self, names: &[Vec<u8>]) -> Vec<bool> {
        names.iter().map(|name| self.takes(name)).collect()
    }
}

/// What one pass has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) struct Totals {
    /// Names that fit no counter.
    pub(in crate::observe) foreign: u64,
    /// By the counter's index in the description.
    counters: BTreeMap<usize, Expiries>,
    /// The counters that cannot be judged. Between passes, those of the last pass are reported.
    pub(in crate::observe) unjudged: BTreeMap<Reason, Skipped>,
    pub(in crate::observe) sample: Sample,
}

/// Keys that were passed over for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Skipped {
    pub(in crate::observe) times: u64,
    pub(in crate::observe) example: Vec<u8>,
    /// What is unknown about at least one of them; `Nothing` if none of them is a counter to judge.
    pub(in crate::observe) lacks: Lacks,
}

impl Skipped {
    pub(in crate::observe) fn new(label: &[u8], lacks: Lacks) -> Self {
        Self {
            times: 1,
            example: label.to_vec(),
            lacks,
        }
    }

    /// Adds them to those that were passed over for the same reason.
    pub(in crate::observe) fn add_to(self, all: &mut BTreeMap<Reason, Self>, reason: Reason) {
        match all.get_mut(&reason) {
            Some(skipped) => {
                skipped.times += self.times;
                skipped.lacks = skipped.lacks.max(self.lacks);
            }
            None => {
                all.insert(reason, self);
            }
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expiries {
    /// Keys that never expire and block their clients. Their expiry is always read.
    stuck: u64,
    /// All other keys.
    keys: u64,
    /// How many of them are in the sample.
    read: u64,
    without: u64,
}

impl Totals {
    /// Empty totals for the pass that follows `last`.
    pub(in crate::observe) fn after(last: Option<&Self>) -> Self {
        let number = last.map_or(0, |last| last.sample.number + 1);
        Self {
            sample: Sample::new(number),
            ..Self::default()
        }
    }

    /// Adds a key of the counter at `place`. `without`: whether it has no expiry, if that was read.
    pub(in crate::observe) fn add_key(&mut self, place: usize, without: Option<bool>) {
        let counter = self.counters.entry(place).or_default();
        counter.keys += 1;
        counter.read += u64::from(without.is_some());
        counter.without += u64::from(without == Some(true));
    }

    /// Adds the finding of a name. If the name is `sampled`, its expiry counts towards the estimate for all keys.
    pub(in crate::observe) fn add(&mut self, finding: &Finding, sampled: bool) {
        let Some(matched) = &finding.matched else {
            self.foreign += u64::from(finding.outcome == Outcome::Foreign);
            return;
        };
        let without = match &finding.outcome {
            Outcome::Foreign => {
                self.foreign += 1;
                return;
            }
            Outcome::Counted(reading) if reading.is_stuck() => {
                self.counters.entry(matched.counter).or_default().stuck += 1;
                return;
            }
            Outcome::Counted(reading) => reading
                .expiry
                .map(|expiry| matches!(expiry, Expires::Never(_))),
            Outcome::Over(without) => *without,
            // The expiry of these is never read, or they are no counters.
            Outcome::Invalid(_)
            | Outcome::Unknown(_)
            | Outcome::Part
            | Outcome::Gone
            | Outcome::Ignored => return,
        };
        self.add_key(matched.counter, without.filter(|_| sampled));
    }

    /// How many keys never expire although they should, by counter: all keys that block their clients, and an estimate of the
    /// others from the sample.
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
        let estimate = u64::try_from(estimate).unwrap_or(u64::MAX);
        estimate.saturating_add(self.stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_expiry_are_estimated_from_the_sample() {
        let expiries = |keys, read, without| Expiries {
            keys,
            read,
            without,
            stuck: 0,
        };
        assert_eq!(expiries(100, 100, 7).estimate(), 7);
        assert_eq!(expiries(16_000, 1_000, 10).estimate(), 160);
        assert_eq!(expiries(100, 0, 0).estimate(), 0);
        assert_eq!(expiries(u64::MAX, 1, 1).estimate(), u64::MAX);
    }

    #[test]
    fn keys_that_are_always_read_do_not_raise_the_estimate() {
        let stuck = Expiries {
            keys: 1_000_000,
            read: 31_250,
            without: 0,
            stuck: 1_000,
        };
        assert_eq!(stuck.estimate(), 1_000);
    }

    #[test]
    fn every_key_is_in_one_sample_of_thirty_two() {
        let mut sampled = 0;
        for number in 0..ONE_IN {
            let mut sample = Sample {
                number,
                seen: ALL_OF,
            };
            sampled += u64::from(sample.takes(b"ratelimit:user:1"));
        }
        assert_eq!(sampled, 1);
        assert!(Sample::default().takes(b"the first ones are all in it"));
    }
}
