//! The verdict of an invariant on one subject.

use crate::report::Evidence;

/// Four values, not two.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The invariant holds.
    Ok,
    /// The invariant is violated.
    Violated(Evidence),
    /// The data could not be read this time, with the reason. A violation in progress is held.
    Unknown(String),
    /// The data was read and proves neither, with the reason. A violation in progress ends, since nothing proves it any
    /// more.
    Inconclusive(String),
}

impl Verdict {
    /// How bad the verdict is: higher is worse.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Inconclusive(_) => 1,
            Self::Unknown(_) => 2,
            Self::Violated(_) => 3,
        }
    }
}
