//! What is kept of the counters as they stream by: totals, the utilization histogram, and the top keys.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashSet};

use crate::clock::Moment;
use crate::observation::{
    Counter, CounterView, KeyLabel, KeyTotals, UTILIZATION_BOUNDS, utilization,
};
use crate::subject::{CounterSink, InvariantChecker};

/// Hands every batch to the checker and keeps a summary of the pass.
#[derive(Debug)]
pub(super) struct Summary<'a, C> {
    checker: &'a mut C,
    keys: u64,
    per_bucket: [u64; UTILIZATION_BOUNDS.len()],
    sum: f64,
    top: TopKeys,
}

impl<'a, C: InvariantChecker> Summary<'a, C> {
    pub(super) fn new(checker: &'a mut C, most: usize) -> Self {
        Self {
            checker,
            keys: 0,
            per_bucket: [0; UTILIZATION_BOUNDS.len()],
            sum: 0.0,
            top: TopKeys::new(most),
        }
    }

    fn add(&mut self, counter: &CounterView<'_>) {
        let used = utilization(counter.count, counter.limit);
        self.keys += 1;
        if let Some(bucket) = UTILIZATION_BOUNDS.iter().position(|bound| used <= *bound) {
            self.per_bucket[bucket] += 1;
        }
        if used.is_finite() {
            self.sum += used;
        }
        self.top.offer(used, counter);
    }

    /// The totals and the top keys, highest utilization first.
    pub(super) fn finish(self, label: KeyLabel) -> (KeyTotals, Vec<Counter>) {
        let mut below = 0;
        let cumulative = self.per_bucket.iter().map(|n| {
            below += n;
            below
        });
        let totals = KeyTotals {
            keys: self.keys,
            utilization: cumulative.collect(),
            utilization_sum: self.sum,
            ..KeyTotals::default()
        };
        (totals, self.top.into_counters(label))
    }
}

impl<C: InvariantChecker> CounterSink for Summary<'_, C> {
    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]) {
        self.checker.counters(at, batch);
        for counter in batch {
            self.add(counter);
        }
    }

    fn recheck(&mut self, at: Moment, batch: &[CounterView<'_>]) {
        self.checker.counters(at, batch);
    }
}

/// The `most` keys with the highest utilization; ties go by name. Violators have more than 1, so they come first.
#[derive(Debug)]
struct TopKeys {
    most: usize,
    /// The least of them on top.
    heap: BinaryHeap<Reverse<Ranked>>,
}

#[derive(Debug)]
struct Ranked {
    used: f64,
    key: Box<[u8]>,
    count: u64,
    limit: u64,
    remaining: u64,
    window_ms: Option<u64>,
}

impl Ranked {
    fn rank(&self, used: f64, key: &[u8]) -> Ordering {
        self.used.total_cmp(&used).then_with(|| key.cmp(&self.key))
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

    fn offer(&mut self, used: f64, counter: &CounterView<'_>) {
        if self.heap.len() >= self.most {
            match self.heap.peek() {
                Some(Reverse(least)) if least.rank(used, counter.key) == Ordering::Less => {
                    self.heap.pop();
                }
                _ => return,
            }
        }
        self.heap.push(Reverse(Ranked {
            used,
            key: counter.key.into(),
            count: counter.count,
            limit: counter.limit,
            remaining: counter.remaining,
            window_ms: counter.window_ms,
        }));
    }

    fn into_counters(self, label: KeyLabel) -> Vec<Counter> {
        // SCAN may bring a key twice; a label may stand for one only.
        let mut seen = HashSet::new();
        let ranked = self.heap.into_sorted_vec().into_iter();
        ranked
            .map(|Reverse(ranked)| Counter {
                key: label.of(&ranked.key),
                count: ranked.count,
                limit: ranked.limit,
                remaining: ranked.remaining,
                window_ms: ranked.window_ms,
                fell_from: None,
            })
            .filter(|counter| seen.insert(counter.key.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(most: usize, counters: &[(&str, u64, u64)]) -> Vec<String> {
        let mut top = TopKeys::new(most);
        for (key, count, limit) in counters {
            let view = CounterView {
                key: key.as_bytes(),
                count: *count,
                limit: *limit,
                remaining: limit.saturating_sub(*count),
                window_ms: None,
                fell_from: None,
            };
            top.offer(utilization(*count, *limit), &view);
        }
        let counters = top.into_counters(KeyLabel::Plain);
        counters.into_iter().map(|counter| counter.key).collect()
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
    fn a_key_that_scan_brings_twice_stands_once() {
        assert_eq!(
            top(3, &[("a", 1, 10), ("a", 1, 10), ("b", 2, 10)]),
            ["b", "a"]
        );
    }
}
