//! What the keys of a counter are, as far as its method has to know.

use super::ask::Type;
use super::pattern::Pattern;
use super::units::Units;

/// What the keys of a counter are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a> {
    /// Their type.
    pub(super) kind: Type,
    /// Their names.
    pub(super) pattern: &'a Pattern,
    /// How the groups of the names are written.
    pub(super) units: &'a Units,
}
