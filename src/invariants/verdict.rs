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
