//! The receiver of the counters that a sweep reads. Nothing outside this folder uses it.

use crate::clock::Moment;
use crate::observation::{Condition, Counter, CounterView, FallenLimit, KeyLabel};

/// Receives counters in batches as they are read, so that nothing must hold all of them.
pub(in crate::observe) trait CounterSink: Send {
    /// A pass over all counters begins. The results of an unfinished pass are discarded.
    fn begin_pass(&mut self);

    /// The pass has seen every counter. It may have begun in an earlier collection.
    fn end_pass(&mut self);

    /// Whether a key of this utilization would be exported: such keys are read directly.
    fn ranks(&self, used: f64, key: &[u8]) -> bool;

    /// Whether the key was exported last: such keys are rechecked before others.
    fn is_shown(&self, key: &[u8]) -> bool;

    /// One batch of the pass, counted at `at`.
    fn counters(&mut self, at: Moment, batch: &[CounterView<'_>]);

    /// So many live counters of the pass whose limits are malformed.
    fn without_limit(&mut self, counters: u64);

    /// Keys that are read outside the pass: watched or written ones. The pass may read them again.
    fn recheck(&mut self, at: Moment, batch: &[CounterView<'_>]);
}

/// The values of a counter, without its key.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct CounterValues {
    pub(in crate::observe) count: u64,
    pub(in crate::observe) limit: u64,
    remaining: u64,
    pub(in crate::observe) window_ms: Option<u64>,
    pub(in crate::observe) fell_from: Option<FallenLimit>,
    pub(in crate::observe) condition: Condition,
}

impl CounterValues {
    pub(in crate::observe) fn of(counter: &CounterView<'_>) -> Self {
        Self {
            count: counter.count,
            limit: counter.limit,
            remaining: counter.remaining,
            window_ms: counter.window_ms,
            fell_from: counter.fell_from,
            condition: counter.condition,
        }
    }

    /// The values of a counter whose limit has not fallen.
    pub(in crate::observe) fn new(count: u64, limit: u64, condition: Condition) -> Self {
        Self {
            count,
            limit,
            remaining: limit.saturating_sub(count),
            window_ms: None,
            fell_from: None,
            condition,
        }
    }

    pub(in crate::observe) fn view<'k>(&self, key: &'k [u8]) -> CounterView<'k> {
        CounterView {
            key,
            count: self.count,
            limit: self.limit,
            remaining: self.remaining,
            window_ms: self.window_ms,
            fell_from: self.fell_from,
            condition: self.condition,
        }
    }

    /// Converts to a counter of the observation.
    pub(in crate::observe) fn to_counter(self, key: &[u8], label: KeyLabel) -> Counter {
        Counter {
            key: label.of(key),
            count: self.count,
            limit: self.limit,
            remaining: self.remaining,
            window_ms: self.window_ms,
            fell_from: self.fell_from,
            condition: self.condition,
            counted_at: None,
            counted_from: None,
        }
    }
}
