//! What limits that fell leave behind: the counts that were legal before, and for how long they may be left over. Pure.

use super::description::Counter;
use super::limits::{Draining, Former, Limits};
use super::methods::At;

/// How long a count may be left over if neither its window nor the longest expiry of its key is known.
pub const WITHOUT_WINDOW_MS: u64 = 5 * 60 * 1000;

impl Counter {
    /// The counts that may be left over from `former`. `None` if none of them is above the limit of now.
    pub(super) fn draining(&self, former: Former, at: &At<'_>) -> Option<Draining> {
        let legal = self.legal(&former.limits, at.limits, at.tolerance_ms);
        let above = legal.filter(|legal| Some(*legal) > at.limits.capacity());
        let known = at.limits.capacity().and(above);
        known.map(|limit| Draining {
            limit,
            ago_ms: former.ago_ms,
            lasts_ms: self.drains_ms(&former.limits, at.limits),
        })
    }

    /// The highest count under the limits of `now` that was legal under those `before`, up to a difference of clocks.
    pub fn legal(&self, before: &Limits, now: &Limits, tolerance_ms: u64) -> Option<u64> {
        let counting = self.count.value.counting();
        counting.legal(before, now, tolerance_ms)
    }

    /// How long after limits fell from `before` to `now` a count may be left over, in milliseconds.
    pub fn drains_ms(&self, before: &Limits, now: &Limits) -> u64 {
        let drains_ms = self.count.value.counting().drains_ms(before, now);
        drains_ms.unwrap_or_else(|| {
            let window_ms = before.window_ms.max(now.window_ms);
            let expiry_ms = self.longest_expiry_ms(before);
            window_ms.max(expiry_ms).unwrap_or(WITHOUT_WINDOW_MS)
        })
    }

    /// How long after limits fell from `before` to `now` a count, or a key that was written before, may be left over, in
    /// milliseconds. An idle bucket keeps its level until its key expires.
    pub fn outlasts_ms(&self, before: &Limits, now: &Limits) -> u64 {
        let expiry_ms = self.longest_expiry_ms(before);
        self.drains_ms(before, now).max(expiry_ms.unwrap_or(0))
    }

    fn longest_expiry_ms(&self, limits: &Limits) -> Option<u64> {
        self.expiry.max.and_then(|max| max.most_ms(limits))
    }
}
