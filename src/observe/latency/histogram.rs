//! The p99 of a node's own histogram: the increases of its buckets over a window, kept between collections. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::elapsed;
use crate::observation::{Bucket, Histogram, LatencyWindow, NewestChecks};

/// If scrapes are further apart than the window, the last sample before the window is used, unless it is older than this. A
/// window that is longer than this needs no such sample.
const LONGEST_GAP: Duration = Duration::from_secs(5 * 60);

/// How many samples of a histogram are kept: one a second fills a window of 60 s. Samples that are closer replace each
/// other.
const MOST_SAMPLES: u32 = 64;

/// A quantile and the bucket that holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::observe) struct Quantile {
    /// Interpolated inside the bucket as `histogram_quantile` does, in seconds.
    pub(in crate::observe) seconds: f64,
    pub(in crate::observe) bucket: Bucket,
}

/// One histogram of one node over time.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct History {
    samples: VecDeque<(Timestamp, Histogram)>,
}

impl History {
    /// Adds the histogram that was read at `now`, and drops the samples that left `window`. Other bucket bounds start the
    /// history anew.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        histogram: Histogram,
        window: LatencyWindow,
    ) {
        let same_layout = self.samples.back().is_none_or(|(_, last)| {
            last.buckets.len() == histogram.buckets.len()
                && last
                    .buckets
                    .iter()
                    .zip(&histogram.buckets)
                    .all(|(a, b)| a.0.to_bits() == b.0.to_bits())
        });
        if !same_layout {
            self.samples.clear();
        }
        if self.samples.back().is_some_and(|(at, _)| *at >= now) {
            return; // a duplicate, or the clock ran backwards
        }
        let span = window.span();
        // Too close to the sample before the last one: the new sample replaces the last one, and no count is lost.
        let crowded = self.samples.len() >= 2
            && elapsed(self.samples[self.samples.len() - 2].0, now) < span / MOST_SAMPLES;
        if crowded {
            self.samples.pop_back();
        }
        self.samples.push_back((now, histogram));
        // One sample from before the window is kept, for scrapes that are further apart than the window is long.
        while self.samples.len() > 2 && elapsed(self.samples[1].0, now) > span {
            self.samples.pop_front();
        }
    }

    /// The increase over `window`, or since the last collection if that is longer ago.
    pub(in crate::observe) fn recent(
        &self,
        now: Timestamp,
        window: LatencyWindow,
    ) -> Option<Histogram> {
        self.since(self.first(now, window)?)
    }

    /// The newest checks of [`Self::recent`], whose quantile is `p99`.
    pub(in crate::observe) fn newest(
        &self,
        now: Timestamp,
        recent: &Histogram,
        p99: Quantile,
        window: LatencyWindow,
    ) -> Option<NewestChecks> {
        let (first, last) = (self.first(now, window)?, self.samples.len().checked_sub(2)?);
        let old_enough =
            |index: &usize| elapsed(self.samples[*index].0, now) >= window.newest() / 2;
        let begins = (first..=last).rev().find(old_enough).unwrap_or(first);
        let seconds = elapsed(self.samples[begins].0, now).as_secs_f64();
        Some(newest(recent, &self.since(begins)?, p99, seconds))
    }

    /// The index of the first recent sample. There is at least one sample after it. Scrapes are never exactly on time, so a
    /// sample that is a little too old still counts.
    fn first(&self, now: Timestamp, window: LatencyWindow) -> Option<usize> {
        let age = |index: usize| elapsed(self.samples[index].0, now);
        let inside = (0..self.samples.len()).find(|index| age(*index) <= window.span())?;
        let before = inside.checked_sub(1);
        if inside + 1 == self.samples.len() {
            return before.filter(|before| age(*before) <= LONGEST_GAP);
        }
        let oldest = window.span() + window.span() / MOST_SAMPLES;
        let late = before.filter(|before| age(*before) <= oldest);
        Some(late.unwrap_or(inside))
    }

    /// The increase since the sample at `first`. `None` if there is no sample after it.
    fn since(&self, first: usize) -> Option<Histogram> {
        let mut sum: Option<Histogram> = None;
        let pairs = self.samples.iter().skip(first);
        for ((_, before), (_, after)) in pairs.clone().zip(pairs.skip(1)) {
            let increase = increases(before, after);
            sum = Some(match sum {
                None => increase,
                Some(sum) => add(sum, &increase),
            });
        }
        sum
    }
}

/// The increase of a counter, as `rate` computes it. A counter that fell was reset, and counts from zero.
pub(in crate::observe) fn increase(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

/// The increase of each bucket. The sum is not needed.
fn increases(before: &Histogram, after: &Histogram) -> Histogram {
    Histogram {
        buckets: before
            .buckets
            .iter()
            .zip(&after.buckets)
            .map(|(b, a)| (a.0, increase(b.1, a.1)))
            .collect(),
        count: increase(before.count, after.count),
        sum: None,
    }
}

fn add(mut sum: Histogram, more: &Histogram) -> Histogram {
    for (bucket, other) in sum.buckets.iter_mut().zip(&more.buckets) {
        bucket.1 += other.1;
    }
    sum.count += more.count;
    sum
}

/// The newest checks of a window whose quantile is `p99`: those of the last `seconds`.
pub(in crate::observe) fn newest(
    window: &Histogram,
    newest: &Histogram,
    p99: Quantile,
    seconds: f64,
) -> NewestChecks {
    let (all, slow) = counts(window, p99.bucket);
    let (checks, slow_now) = counts(newest, p99.bucket);
    NewestChecks {
        seconds,
        p99_ms: None,
        bucket: quantile(newest, 0.99).map(|p99| p99.bucket),
        slow: slow_now,
        slow_expected: checks * slow / all,
    }
}

/// The number of samples, and how many of them are in `bucket` or above.
fn counts(histogram: &Histogram, bucket: Bucket) -> (f64, f64) {
    let (cumulative, total) = cumulative(histogram);
    let below = cumulative.iter().rev();
    let below = below.clone().find(|(bound, _)| *bound <= bucket.lower);
    (total, total - below.map_or(0.0, |(_, count)| *count))
}

/// The counts at or below each bound, and the total. Counts that fall are raised: the reading may have come in the middle
/// of a reset.
fn cumulative(histogram: &Histogram) -> (Vec<(f64, f64)>, f64) {
    let mut cumulative = Vec::with_capacity(histogram.buckets.len());
    let mut most = 0.0_f64;
    for &(bound, count) in &histogram.buckets {
        most = most.max(count);
        cumulative.push((bound, most));
    }
    (cumulative, histogram.count.max(most))
}

/// The `q` quantile of a cumulative histogram. `None` without samples or without finite buckets.
///
/// Interpolates as Prometheus's `histogram_quantile`: linearly inside the bucket, from 0 in the first bucket, and the
/// highest finite bound for the +Inf bucket.
pub(in crate::observe) fn quantile(histogram: &Histogram, q: f64) -> Option<Quantile> {
    let highest = histogram.buckets.last()?.0;
    let (cumulative, total) = cumulative(histogram);
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let Some(index) = cumulative.iter().position(|(_, count)| *count >= rank) else {
        return Some(Quantile {
            seconds: highest,
            bucket: Bucket {
                lower: highest,
                upper: None,
            },
        });
    };
    let (upper, count) = cumulative[index];
    let (lower, below) = match index.checked_sub(1) {
        Some(before) => cumulative[before],
        None => (upper.min(0.0), 0.0),
    };
    let seconds = if index == 0 && upper <= 0.0 {
        upper
    } else {
        lower + (upper - lower) * ((rank - below) / (count - below))
    };
    Some(Quantile {
        seconds,
        bucket: Bucket {
            lower,
            upper: Some(upper),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: LatencyWindow = LatencyWindow::new(Duration::from_secs(60));

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn histogram(counts: &[f64]) -> Histogram {
        let bounds = [0.01, 0.05, 0.1];
        Histogram {
            buckets: bounds.into_iter().zip(counts.iter().copied()).collect(),
            count: *counts.last().unwrap(),
            sum: None,
        }
    }

    fn p99(histogram: &Histogram) -> (f64, f64, Option<f64>) {
        let p99 = quantile(histogram, 0.99).unwrap();
        (p99.seconds, p99.bucket.lower, p99.bucket.upper)
    }

    #[test]
    fn interpolates_as_prometheus_does() {
        let (seconds, lower, upper) = p99(&histogram(&[50.0, 90.0, 100.0, 100.0]));
        assert!((seconds - 0.095).abs() < 1e-9);
        assert_eq!((lower, upper), (0.05, Some(0.1)));
        let (seconds, lower, upper) = p99(&histogram(&[100.0, 100.0, 100.0, 100.0]));
        assert!((seconds - 0.0099).abs() < 1e-9);
        assert_eq!((lower, upper), (0.0, Some(0.01)));
        assert_eq!(p99(&histogram(&[0.0, 0.0, 50.0, 100.0])), (0.1, 0.1, None));
    }

    #[test]
    fn no_samples_is_not_zero() {
        assert_eq!(quantile(&histogram(&[0.0, 0.0, 0.0, 0.0]), 0.99), None);
        assert_eq!(quantile(&Histogram::default(), 0.99), None);
    }

    #[test]
    fn one_collection_has_no_increase() {
        let mut history = History::default();
        history.add(at(0), histogram(&[1.0, 1.0, 1.0, 1.0]), WINDOW);
        assert_eq!(history.recent(at(0), WINDOW), None);
    }

    #[test]
    fn checks_before_the_window_do_not_count() {
        let mut history = History::default();
        for step in 0..10 {
            let slow = if step == 0 { 0.0 } else { 100.0 };
            let fast = f64::from(step) * 10.0;
            let counts = [fast, fast, fast + slow, fast + slow];
            history.add(at(i64::from(step) * 15), histogram(&counts), WINDOW);
            let recent = history.recent(at(i64::from(step) * 15), WINDOW);
            let slow_recent = recent.map(|h| h.buckets[2].1 - h.buckets[1].1);
            match step {
                0 => assert_eq!(slow_recent, None),
                1..=4 => assert_eq!(slow_recent, Some(100.0), "step {step}"),
                _ => assert_eq!(slow_recent, Some(0.0), "step {step}"),
            }
        }
    }

    #[test]
    fn a_restart_counts_from_zero() {
        let mut history = History::default();
        history.add(at(0), histogram(&[100.0, 100.0, 100.0, 100.0]), WINDOW);
        history.add(at(15), histogram(&[5.0, 5.0, 5.0, 5.0]), WINDOW);
        assert_eq!(
            history.recent(at(15), WINDOW).unwrap().count.to_bits(),
            5.0_f64.to_bits()
        );
    }

    #[test]
    fn changed_bucket_bounds_start_the_history_anew() {
        let mut history = History::default();
        history.add(at(0), histogram(&[1.0, 1.0, 1.0, 1.0]), WINDOW);
        let other = Histogram {
            buckets: vec![(0.02, 5.0)],
            count: 5.0,
            sum: None,
        };
        history.add(at(15), other.clone(), WINDOW);
        assert_eq!(history.recent(at(15), WINDOW), None);
        history.add(at(30), other, WINDOW);
        assert!(history.recent(at(30), WINDOW).is_some());
    }

    #[test]
    fn scrapes_that_are_a_little_late_cover_the_whole_window() {
        let mut history = History::default();
        for (number, count) in [(0, 1.0), (1, 3.0), (2, 4.0), (3, 4.0)] {
            let now = at(0) + Duration::from_millis(30_010 * number);
            history.add(now, histogram(&[count; 4]), WINDOW);
            let recent = history.recent(now, WINDOW).map(|recent| recent.count);
            assert_eq!(
                recent,
                [None, Some(2.0), Some(3.0), Some(1.0)][usize::try_from(number).unwrap()]
            );
        }
    }

    #[test]
    fn scrapes_further_apart_than_the_window_use_the_sample_before_it() {
        let mut history = History::default();
        history.add(at(0), histogram(&[1.0, 1.0, 1.0, 1.0]), WINDOW);
        history.add(at(120), histogram(&[3.0, 3.0, 3.0, 3.0]), WINDOW);
        assert_eq!(
            history.recent(at(120), WINDOW).unwrap().count.to_bits(),
            2.0_f64.to_bits()
        );
        history.add(at(120 + 3600), histogram(&[4.0, 4.0, 4.0, 4.0]), WINDOW);
        assert_eq!(history.recent(at(120 + 3600), WINDOW), None);
    }

    #[test]
    fn frequent_scrapes_keep_a_bounded_number_of_samples() {
        let mut history = History::default();
        for step in 0..10_000_i64 {
            let now = at(0) + Duration::from_millis(u64::try_from(step).unwrap() * 50);
            history.add(now, histogram(&[1.0, 1.0, 1.0, 1.0]), WINDOW);
        }
        assert!(
            history.samples.len() <= MOST_SAMPLES as usize * 2 + 2,
            "{}",
            history.samples.len()
        );
    }
}
