//! Counters that are listed regardless of their utilization: those that the configuration names and, for a recording, all
//! counters above their limits, so that a replay can judge them by other settings.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::clock::Moment;
use crate::observation::{Counter, CounterView, KeyLabel};
use crate::observe::counters::sink::CounterValues;

/// The most counters that are listed: a line of a recording must not become too long to read back.
const MOST: usize = 100_000;

/// The counters that are listed besides the fullest, with their values in this collection.
#[derive(Debug, Default)]
pub(in crate::observe) struct Listed {
    /// Whether all counters above their limits are listed.
    above_limits: bool,
    named: BTreeSet<Box<[u8]>>,
    seen: HashMap<Box<[u8]>, Seen>,
    /// Whether counters were left out.
    pub(in crate::observe) incomplete: bool,
}

/// The last count of a counter, and its time.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Seen {
    values: CounterValues,
    above: bool,
    /// Since when it is above its limit, as seen in this collection.
    first: Timestamp,
    last: Timestamp,
}

impl Seen {
    pub(in crate::observe) fn to_counter(self, key: &[u8], label: KeyLabel) -> Counter {
        Counter {
            counted_at: Some(self.last),
            counted_from: Some(self.first).filter(|first| *first != self.last),
            ..self.values.to_counter(key, label)
        }
    }
}

impl Listed {
    pub(in crate::observe) fn new(above_limits: bool, named: BTreeSet<Box<[u8]>>) -> Self {
        Self {
            above_limits,
            named,
            seen: HashMap::new(),
            incomplete: false,
        }
    }

    /// The keys to read in the next collection.
    pub(in crate::observe) fn watched(&self) -> impl Iterator<Item = &Box<[u8]>> {
        self.named.iter().chain(self.seen.keys())
    }

    /// Whether the configuration names the key.
    pub(in crate::observe) fn is_named(&self, key: &[u8]) -> bool {
        self.named.contains(key)
    }

    /// A collection begins.
    pub(in crate::observe) fn begin(&mut self) {
        self.seen.clear();
        self.incomplete = false;
    }

    /// Adds a counter.
    pub(in crate::observe) fn take(&mut self, at: Moment, counter: &CounterView<'_>) {
        if !self.above_limits && self.named.is_empty() {
            return;
        }
        let above = is_violating(counter);
        let listed = (above && self.above_limits) || self.named.contains(counter.key);
        if !listed {
            self.seen.remove(counter.key);
            return;
        }
        let seen = Seen {
            values: CounterValues::of(counter),
            above,
            first: at.steady,
            last: at.steady,
        };
        let full = self.seen.len() >= MOST;
        match self.seen.get_mut(counter.key) {
            Some(before) => {
                let first = if before.above && above {
                    before.first
                } else {
                    at.steady
                };
                *before = Seen { first, ..seen };
            }
            None if full => self.incomplete = true,
            None => {
                self.seen.insert(counter.key.into(), seen);
            }
        }
    }

    /// The values of `key`, if it was seen.
    pub(in crate::observe) fn get(&self, key: &[u8]) -> Option<Seen> {
        self.seen.get(key).copied()
    }

    /// All keys that were seen.
    pub(in crate::observe) fn keys(&self) -> impl Iterator<Item = (&[u8], Seen)> {
        self.seen.iter().map(|(key, seen)| (&**key, *seen))
    }
}

/// Whether a replay needs the counter: it violates an invariant, or may do so under other settings.
pub(in crate::observe) fn is_violating(counter: &CounterView<'_>) -> bool {
    counter.is_above_limit() || counter.condition.stuck || counter.condition.invalid.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Condition;

    fn at(seconds: i64) -> Moment {
        Moment::from_wall(Timestamp::from_second(1_700_000_000 + seconds).unwrap())
    }

    fn view(key: &str, count: u64) -> CounterView<'_> {
        CounterView {
            key: key.as_bytes(),
            count,
            limit: 10,
            remaining: 10_u64.saturating_sub(count),
            window_ms: None,
            fell_from: None,
            condition: Condition::default(),
        }
    }

    #[test]
    fn a_counter_above_its_limit_is_listed_with_the_time_since_when() {
        let mut listed = Listed::new(true, BTreeSet::new());
        listed.begin();
        for (second, count) in [(0, 12), (1, 10), (2, 11), (3, 12), (4, 13)] {
            listed.take(at(second), &view("k", count));
        }
        let counter = listed.get(b"k").unwrap().to_counter(b"k", KeyLabel::Plain);
        assert_eq!(counter.count, 13);
        assert_eq!(counter.counted_from, Some(at(2).steady));
        assert_eq!(counter.counted_at, Some(at(4).steady));
        assert_eq!(listed.watched().count(), 1);
        listed.take(at(5), &view("k", 1));
        assert!(listed.get(b"k").is_none());
    }

    #[test]
    fn a_list_that_was_cut_short_is_marked_incomplete() {
        let mut listed = Listed::new(true, BTreeSet::new());
        listed.begin();
        for n in 0..=MOST {
            assert!(!listed.incomplete);
            listed.take(at(0), &view(&n.to_string(), 11));
        }
        assert!(listed.incomplete);
        assert_eq!(listed.keys().count(), MOST);
        listed.begin();
        assert!(!listed.incomplete);
    }

    #[test]
    fn a_configured_key_is_listed_at_any_utilization() {
        let mut listed = Listed::new(false, BTreeSet::from([Box::from(*b"k")]));
        listed.begin();
        listed.take(at(0), &view("k", 0));
        listed.take(at(0), &view("other", 99));
        assert!(listed.get(b"k").is_some());
        assert_eq!(listed.keys().count(), 1);
    }
}
