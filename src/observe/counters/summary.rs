//! A summary of the counters that a sweep streams: totals, the utilization histogram, and the top keys.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, HashSet};

use crate::clock::Moment;
use crate::observation::{
    Counter, CounterView, KeyLabel, KeyTotals, Lacks, UTILIZATION_BOUNDS, utilization,
};
use crate::observe::counters::listed::Listed;
use crate::observe::counters::sink::{CounterSink, CounterValues};
use crate::subject::InvariantChecker;

/// Totals over the counters of one pass, which may take several collections.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct Totals {
    keys: u64,
    per_bucket: [u64; UTILIZATION_BOUNDS.len()],
    sum: f64,
    without_limit: u64,
}

impl Totals {
    fn add(&mut self, used: f64) {
        self.keys += 1;
        if let Some(bucket) = bucket_of(used) {
            self.per_bucket[bucket] += 1;
        }
        if used.is_finite() {
            self.sum += used;
        }
    }

    fn add_without_limit(&mut self, counters: u64) {
        self.keys += counters;
        self.without_limit += counters;
    }
}

fn bucket_of(used: f64) -> Option<usize> {
    UTILIZATION_BOUNDS.iter().position(|bound| used <= *bound)
}

/// The summary of keys between collections.
#[derive(Debug, Default)]
pub(in crate::observe) struct KeysKept {
    /// The totals of the current pass.
    current: Totals,
    /// The totals of the last full pass.
    full: Totals,
    /// The fullest keys found since the last collection. The next one counts them again and may export them.
    found: TopKeys,
    /// The exported keys. They are read in every collection, so that they stay fresh while a pass takes several collections.
    exported: BTreeSet<Box<[u8]>>,
    /// The keys that are listed in any case.
    listed: Listed,
}

impl KeysKept {
    pub(in crate::observe) fn new(listed: Listed) -> Self {
        Self {
            listed,
            ..Self::default()
        }
    }

    /// Whether keys were left out of the list.
    pub(in crate::observe) fn list_is_incomplete(&self) -> bool {
        self.listed.incomplete
    }

    /// The keys to read in the next collection besides those in violation.
    pub(in crate::observe) fn watched(&self) -> impl Iterator<Item = &Box<[u8]>> {
        let found = self.found.heap.iter().map(|Reverse(ranked)| &ranked.key);
        self.exported
            .iter()
            .chain(self.listed.watched())
            .chain(found)
    }
}

/// Passes every batch to the checker and summarizes it.
#[derive(Debug)]
pub(in crate::observe) struct Summary<'a, C> {
    checker: &'a mut C,
    kept: &'a mut KeysKept,
    most: usize,
    top: TopKeys,
}

impl<'a, C: InvariantChecker> Summary<'a, C> {
    pub(in crate::observe) fn new(checker: &'a mut C, kept: &'a mut KeysKept, most: usize) -> Self {
        kept.listed.begin();
        kept.found = TopKeys::default();
        Self {
            checker,
            kept,
            most,
            // Twice as many, because a key may come twice: outside the pass and in it.
            top: TopKeys::new(most * 2),
        }
    }

    /// For a pass between collections: nothing of it is exported before the next collection.
    pub(in crate::observe) fn between(
        checker: &'a mut C,
        kept: &'a mut KeysKept,
        most: usize,
    ) -> Self {
        let top = std::mem::take(&mut kept.found);
        Self {
            top: TopKeys {
                most: most * 2,
                ..top
            },
            checker,
            kept,
            most,
        }
    }

    /// Keeps the keys found since [`Self::between`] for the next collection.
    pub(in crate::observe) fn keep(self) {
        self.kept.found = self.top;
    }

    /// The totals of the last full pass, and the top keys together with the listed ones, highest utilization first.
    pub(in crate::observe) fn finish(self, label: KeyLabel) -> (KeyTotals, Vec<Counter>) {
        let top = self.top.into_ranked(self.most);
        self.kept.exported = top.iter().map(|ranked| ranked.key.clone()).collect();
        let full = &self.kept.full;
        let mut below = 0;
        let cumulative = full.per_bucket.iter().map(|n| {
            below += n;
            below
        });
        let totals = KeyTotals {
            keys: full.keys,
            utilization: cumulative.collect(),
            utilization_sum: full.sum,
            without_limit: full.without_limit,
            ..KeyTotals::default()
        };
        let listed = &self.kept.listed;
        let on_top: HashSet<&[u8]> = top.iter().map(|ranked| &*ranked.key).collect();
        let others = listed.keys().filter(|(key, _)| !on_top.contains(key));
        let mut others: Vec<Counter> = others
            .map(|(key, seen)| seen.to_counter(key, label))
            .collect();
        others.sort_unstable_by(|one, other| {
            let used = other.utilization().total_cmp(&one.utilization());
            used.then_with(|| one.key.cmp(&other.key))
        });
        let top = top.iter().map(|ranked| match listed.get(&ranked.key) {
            Some(seen) => seen.to_counter(&ranked.key, label),
            None => ranked.to_counter(label),
        });
        (totals, top.chain(others).collect())
    }
}

impl<C: InvariantChecker> CounterSink for Summary<'_, C> {
    fn begin_pass(&mut self) {
        self.kept.current = Totals::default();
    }

    fn end_pass(&mut self) {
        self.kept.full = std::mem::take(&mut self.kept.current);
    }

    fn ranks(&self, used: f64, key: &[u8]) -> bool {
        self.top.takes(used, key)
    }

    fn is_shown(&self, key: &[u8]) -> bool {
        self.kept.exported.contains(key) || self.kept.listed.is_named(key)
    }

    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]) {
        self.checker.counters(at, batch);
        for counter in batch {
            match counter.condition.lacks {
                Lacks::Nothing => {
                    let used = utilization(counter.count, counter.limit);
                    self.kept.current.add(used);
                    self.top.offer(used, counter);
                }
                Lacks::Limit => self.kept.current.add_without_limit(1),
                Lacks::Count => {}
            }
            self.kept.listed.take(at, counter);
        }
    }

    fn without_limit(&mut self, counters: u64) {
        self.kept.current.add_without_limit(counters);
    }

    fn recheck(&mut self, at: Moment, batch: &[CounterView<'_>]) {
        self.checker.counters(at, batch);
        for counter in batch {
            if counter.condition.lacks == Lacks::Nothing {
                let used = utilization(counter.count, counter.limit);
                self.top.offer(used, counter);
            }
            self.kept.listed.take(at, counter);
        }
    }
}

/// The `most` keys with the highest utilization; equal ones are ordered by name. Keys in violation are above 1, so they come
/// first.
#[derive(Debug, Default)]
struct TopKeys {
    most: usize,
    /// The key with the lowest rank is on top.
    heap: BinaryHeap<Reverse<Ranked>>,
}

#[derive(Debug)]
struct Ranked {
    used: f64,
    key: Box<[u8]>,
    values: CounterValues,
}

impl Ranked {
    fn rank(&self, used: f64, key: &[u8]) -> Ordering {
        self.used.total_cmp(&used).then_with(|| key.cmp(&self.key))
    }
}

impl Ranked {
    fn to_counter(&self, label: KeyLabel) -> Counter {
        Counter {
            // Only recordings need it.
            fell_from: None,
            ..self.values.to_counter(&self.key, label)
        }
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank(other.used, &other.key)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl TopKeys {
    fn new(most: usize) -> Self {
        Self {
            most,
            heap: BinaryHeap::new(),
        }
    }

    fn takes(&self, used: f64, key: &[u8]) -> bool {
        self.heap.len() < self.most
            || self
                .heap
                .peek()
                .is_some_and(|Reverse(least)| least.rank(used, key) == Ordering::Less)
    }

    fn offer(&mut self, used: f64, counter: &CounterView<'_>) {
        if counter.count == 0 || !self.takes(used, counter.key) {
            return;
        }
        if self.heap.len() >= self.most {
            self.heap.pop();
        }
        self.heap.push(Reverse(Ranked {
            used,
            key: counter.key.into(),
            values: CounterValues::of(counter),
        }));
    }

    /// The best `most`, each key once, best first.
    fn into_ranked(self, most: usize) -> Vec<Ranked> {
        let ranked = self.heap.into_sorted_vec().into_iter();
        let mut seen = HashSet::new();
        ranked
            .map(|Reverse(ranked)| ranked)
            .filter(|ranked| seen.insert(ranked.key.clone()))
            .take(most)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Condition;

    fn top(most: usize, counters: &[(&str, u64, u64)]) -> Vec<String> {
        let mut top = TopKeys::new(most * 2);
        for (key, count, limit) in counters {
            let view = CounterView {
                key: key.as_bytes(),
                count: *count,
                limit: *limit,
                remaining: limit.saturating_sub(*count),
                window_ms: None,
                fell_from: None,
                condition: Condition::default(),
            };
            top.offer(utilization(*count, *limit), &view);
        }
        let ranked = top.into_ranked(most).into_iter();
        ranked
            .map(|ranked| ranked.to_counter(KeyLabel::Plain).key)
            .collect()
    }

    #[test]
    fn violators_come_first_and_ties_go_by_name() {
        let counters = [
            ("b", 5, 10),
            ("zero", 1, 0),
            ("a", 5, 10),
            ("over", 11, 10),
            ("c", 1, 10),
        ];
        assert_eq!(top(4, &counters), ["zero", "over", "a", "b"]);
        let mut reversed = counters;
        reversed.reverse();
        assert_eq!(top(4, &reversed), ["zero", "over", "a", "b"]);
        assert_eq!(top(0, &counters), [""; 0]);
    }

    #[test]
    fn a_key_that_scan_brings_twice_is_shown_once() {
        assert_eq!(
            top(3, &[("a", 1, 10), ("a", 1, 10), ("b", 2, 10)]),
            ["b", "a"]
        );
    }
}
