//! `check`: one collection for people or scripts, whose exit status says how things stand; or one after the other, as a
//! recording that [`crate::evaluate`] replays.

mod command;
mod explain;
mod line;
mod looks;
mod recorder;
mod table;
mod watch;

pub use command::{Check, Output, check};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use explain::text as explanation;
pub use line::{json, line};
pub use looks::Pace;
pub use recorder::{Recorder, Target};
pub use table::table;

use crate::snapshot::Snapshot;

/// How things stand, as an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All invariants hold.
    Holds,
    /// At least one is violated. A single look cannot wait for grace periods, so pending counts.
    Violated,
    /// None is known to be violated, but something could not be evaluated.
    Unknown,
}

impl Verdict {
    /// The verdict on a collection.
    pub fn of(snapshot: &Snapshot) -> Self {
        let invariants = &snapshot.report.invariants;
        if invariants
            .iter()
            .any(|status| status.violations + status.pending > 0)
        {
            Self::Violated
        } else if invariants.iter().any(|status| !status.evaluable) {
            Self::Unknown
        } else {
            Self::Holds
        }
    }

    /// 0, 1 or 2.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Violated => 1,
            Self::Unknown => 2,
        }
    }
}
