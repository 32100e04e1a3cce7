//! What an invariant says of one subject.

use crate::report::Evidence;

/// Four values, not two.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The invariant holds.
    Ok,
    /// It does not.
    Violated(Evidence),
    /// The data could not be read this time, with the reason: a violation in progress stays what it is.
    Unknown(String),
    /// The data was read and proves neither, with the reason: what proved a violation is over, so it ends.
    Inconclusive(String),
}

impl Verdict {
    /// The higher, the worse.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Inconclusive(_) => 1,
            Self::Unknown(_) => 2,
            Self::Violated(_) => 3,
        }
    }
}
