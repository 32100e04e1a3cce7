//! The progress of passes: when one is due, how long a collection works on it, and when a new one must read every key.

use std::time::Duration;

use crate::observe::counters::reader::KeyReader;
use crate::observe::counters::sweep_result::SweepResult;

/// The duration of a pass in the steady state, in which Redis reports writes without it. The alert `RatelimiterCoverageBehind`
/// fires after a quarter of an hour.
const STEADY_PASS: Duration = Duration::from_secs(600);

/// The number of collections for a pass in the steady state, if it does not continue between collections.
const SLICES: u32 = 10;

/// The least time that a collection spends on the pass. It is enough for the whole of a small key space.
const LEAST_SLICE: Duration = Duration::from_millis(50);

/// The most time that a collection spends on the pass, if it continues between collections.
const MOST_SLICE: Duration = Duration::from_secs(1);

/// If more than one in this many keys was written, a whole pass costs little more than reading those.
const STORM: u64 = 4;

/// The cost of the last full pass.
#[derive(Clone, Copy, Debug)]
pub(in crate::observe) struct Steady {
    /// How much of Redis's time it took.
    pub(super) took: Duration,
    /// How many keys of any kind it walked over.
    pub(super) scanned: u64,
}

impl Steady {
    /// Whether so much was written that a whole pass costs little more.
    pub(super) fn is_storm(self, written: u64) -> bool {
        written > self.scanned / STORM
    }
}

/// The most time that a collection spends on the pass.
pub(super) fn slice(
    steady: Option<Steady>,
    goes_on: bool,
    share: f64,
    budget: Duration,
) -> Duration {
    match steady {
        Some(_) if goes_on => LEAST_SLICE,
        Some(last) => (last.took.div_f64(share) / SLICES).max(LEAST_SLICE),
        None if goes_on => MOST_SLICE,
        None => budget,
    }
}

impl KeyReader {
    /// Whether the pass must continue before the next collection. In the steady state, it keeps to its schedule.
    pub(super) fn is_due(&self) -> bool {
        (self.pass.is_some() || self.is_owed)
            && self.steady.is_none_or(|last| {
                let passed = self.pass_begun.elapsed().div_duration_f64(STEADY_PASS);
                self.pass_took < last.took.mul_f64(passed.min(1.0))
            })
    }

    /// Records how far the pass came. `all_report`: whether all servers report writes.
    pub(super) fn passed(&mut self, result: &mut SweepResult, all_report: bool) {
        self.pass_took += std::mem::take(&mut result.pass_took);
        self.passes += u64::from(self.pass.is_none());
        if result.stopped.is_none() {
            // If written keys were left unread, one more full pass reads them.
            let known = all_report && !self.behind;
            self.steady = known.then_some(Steady {
                took: self.pass_took,
                scanned: result.pass_scanned,
            });
            self.behind = false;
            self.pass_took = Duration::ZERO;
        } else if self.pass.is_none() {
            self.begin_anew();
        }
    }

    /// Discards the progress so far: the next pass reads every key.
    pub(super) fn begin_anew(&mut self) {
        self.pass = None;
        self.pass_took = Duration::ZERO;
        self.steady = None;
        self.behind = false;
    }
}
