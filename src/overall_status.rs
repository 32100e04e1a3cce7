//! The overall verdict after a collection, in one word and in one line. Pure.

use crate::report::{Report, Severity};

/// The overall verdict, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverallStatus {
    /// Something is reported.
    Violated,
    /// Nothing is reported, but something could not be evaluated.
    Unknown,
    /// Something is inside its grace period.
    Pending,
    /// Everything was evaluated, and all invariants hold.
    Holds,
}

impl OverallStatus {
    /// The overall verdict of `report`.
    pub fn of(report: &Report) -> Self {
        let invariants = &report.invariants;
        if invariants.iter().any(|status| status.violations > 0) {
            Self::Violated
        } else if invariants.iter().any(|status| !status.evaluable) {
            Self::Unknown
        } else if invariants.iter().any(|status| status.pending > 0) {
            Self::Pending
        } else {
            Self::Holds
        }
    }

    /// The exit status: 0 all invariants hold, 1 at least one is violated, if only pending, 2 something could not be
    /// evaluated.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Violated | Self::Pending => 1,
            Self::Unknown => 2,
        }
    }

    /// A sign that differs from the others by its shape, not only by color.
    pub fn sign(self) -> char {
        match self {
            Self::Violated => '✕',
            Self::Unknown => '?',
            Self::Pending => '◔',
            Self::Holds => '✓',
        }
    }
}

/// The verdict in one line, with its sign and what is pending.
pub fn headline(report: &Report) -> String {
    let pending = match report.total(|status| status.pending) {
        0 => String::new(),
        some => format!("; {some} pending"),
    };
    let overall = OverallStatus::of(report);
    format!("{} {}{pending}", overall.sign(), summary(report, overall))
}

/// The verdict without its sign and what is pending; `overall` is that of `report`, or worse.
pub fn summary(report: &Report, overall: OverallStatus) -> String {
    let of = report.invariants.len();
    let unseen = report
        .invariants
        .iter()
        .filter(|status| !status.evaluable)
        .count();
    match overall {
        OverallStatus::Violated => {
            let unseen = match unseen {
                0 => String::new(),
                unseen => format!("; {unseen} of {of} invariants not fully evaluated"),
            };
            format!("{}: {}{unseen}", by_severity(report), by_name(report))
        }
        OverallStatus::Unknown => {
            format!("Not known: {unseen} of {of} invariants could not be evaluated")
        }
        OverallStatus::Pending => "No violation".to_owned(),
        OverallStatus::Holds => format!("All {of} invariants hold"),
    }
}

/// `node_down, ghost_allowing ×4`.
fn by_name(report: &Report) -> String {
    let violated = report.invariants.iter();
    let violated = violated.filter(|status| status.violations > 0);
    let names: Vec<String> = violated
        .map(|status| match status.violations {
            1 => status.config.name.to_string(),
            several => format!("{} ×{several}", status.config.name),
        })
        .collect();
    names.join(", ")
}

/// `2 critical, 1 warning`.
fn by_severity(report: &Report) -> String {
    let counts = Severity::ALL.map(|severity| {
        let of_it = report.invariants.iter();
        let of_it = of_it.filter(|status| status.config.severity == severity);
        (of_it.map(|status| status.violations).sum::<u64>(), severity)
    });
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, severity)| format!("{count} {severity}"))
        .collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::invariants::{Checker, CheckerConfig};
    use crate::observation::{Condition, CounterView, Observation};
    use crate::subject::InvariantChecker as _;

    /// The verdict for these counts under a limit of 10.
    fn of(redis_connected: Option<bool>, counts: &[u64]) -> String {
        let mut checker = Checker::new(CheckerConfig::default());
        let at = Moment::from_wall("2026-01-27T02:06:57Z".parse().unwrap());
        let keys: Vec<String> = (0..counts.len()).map(|n| n.to_string()).collect();
        let views = counts.iter().zip(&keys).map(|(count, key)| CounterView {
            key: key.as_bytes(),
            count: *count,
            limit: 10,
            remaining: 0,
            window_ms: None,
            fell_from: None,
            condition: Condition::default(),
        });
        checker.counters(at, &views.collect::<Vec<_>>());
        let observation = Observation {
            redis_connected,
            ..Observation::default()
        };
        headline(&checker.check(at, &observation))
    }

    #[test]
    fn the_worst_is_said_first() {
        assert_eq!(of(Some(true), &[]), "✓ All 5 invariants hold");
        assert_eq!(
            of(None, &[]),
            "? Not known: 1 of 5 invariants could not be evaluated"
        );
        assert_eq!(
            of(Some(false), &[11, 12]),
            "✕ 3 critical: redis_disconnected, ghost_allowing ×2; 1 pending"
        );
        assert_eq!(
            of(None, &[11]),
            "✕ 1 critical: ghost_allowing; 1 of 5 invariants not fully evaluated"
        );
    }
}
