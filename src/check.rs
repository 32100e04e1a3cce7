//! `check`: one collection for people or scripts, with an exit status; or repeated collections, as tables or as a recording
//! that [`crate::evaluate`] replays. `limiters --check`: what a description finds in Redis.

mod command;
mod explain;
mod kind;
mod line;
mod recorder;
mod schedule;
mod table;
mod watch;

pub use command::{Check, Output, check, print};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use explain::text as explanation;
pub use kind::limiter;
pub use line::{json, line};
pub use recorder::Destination;
pub use schedule::Schedule;
pub use table::table;

use crate::overall_status::OverallStatus;
use crate::report::Report;

/// The exit status of a collection. One collection cannot wait for grace periods, so a pending violation counts.
fn exit_status(report: &Report) -> u8 {
    let pending = report.total(|status| status.pending) > 0;
    match OverallStatus::of(report) {
        OverallStatus::Unknown if pending => OverallStatus::Pending.exit_status(),
        overall => overall.exit_status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::invariants::{Checker, CheckerConfig};
    use crate::observation::{Condition, CounterView, Observation};
    use crate::report::InvariantName;
    use crate::subject::InvariantChecker as _;

    #[test]
    fn a_pending_violation_outweighs_an_unknown_invariant() {
        let mut config = CheckerConfig::default();
        config.of_mut(InvariantName::GhostAllowing).enabled = false;
        let mut checker = Checker::new(config);
        let at = Moment::from_wall("2026-01-27T02:06:57Z".parse().unwrap());
        let mut status = |count| {
            let counter = CounterView {
                key: b"k",
                count,
                limit: 10,
                remaining: 0,
                window_ms: None,
                fell_from: None,
                condition: Condition::default(),
            };
            checker.counters(at, &[counter]);
            // Redis was not asked, so one invariant is unknown.
            exit_status(&checker.check(at, &Observation::default()))
        };
        assert_eq!(status(10), 2);
        assert_eq!(status(12), 1);
    }
}
