//! The properties of a counter's keys that its method must know.

use super::ask::Type;
use super::pattern::Pattern;
use super::units::Units;

/// The keys of a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a> {
    /// Their type.
    pub(super) kind: Type,
    /// Their names.
    pub(super) pattern: &'a Pattern,
    /// The units of the groups in the names.
    pub(super) units: &'a Units,
}
