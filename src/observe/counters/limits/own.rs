//! The own limits of keys, in 16 bytes each. A key is stored as its hash and equal limits are stored once. Falls are rare, so a
//! separate map has them. This file does not know what a limit or a fall means.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Flags in [`Packed`], above the index of the limit.
const REMOVED: u32 = 1 << 31;
const SEEN_IN_ODD: u32 = 1 << 30;
const PLACE: u32 = SEEN_IN_ODD - 1;

/// The index of a limit in the table of limits, and the flags.
type Packed = u32;

/// The limit of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::observe) struct Remembered<L, F> {
    pub(in crate::observe) limit: L,
    pub(in crate::observe) fell: Option<F>,
    /// Whether the key has lost its own limit. The entry lives until the fall no longer matters.
    pub(in crate::observe) removed: bool,
    /// Whether an odd pass saw the limit last.
    #[serde(skip)]
    pub(in crate::observe) seen_in_odd: bool,
}

impl<L, F> Remembered<L, F> {
    pub(in crate::observe) fn new(limit: L) -> Self {
        Self {
            limit,
            fell: None,
            removed: false,
            seen_in_odd: false,
        }
    }
}

/// Limits of the type `L` by the hashes of keys, and falls of the type `F`.
#[derive(Debug)]
pub(in crate::observe) struct OwnLimits<L, F> {
    packed: Arc<HashMap<u64, Packed>>,
    falls: Arc<HashMap<u64, F>>,
    limits: Arc<Vec<L>>,
    places: HashMap<L, u32>,
}

impl<L, F> Default for OwnLimits<L, F> {
    fn default() -> Self {
        Self {
            packed: Arc::default(),
            falls: Arc::default(),
            limits: Arc::default(),
            places: HashMap::new(),
        }
    }
}

impl<L: Copy + Eq + Hash, F: Clone + Eq> OwnLimits<L, F> {
    /// A copy for reading. It is cheap, unless the original changes while the copy lives.
    pub(in crate::observe) fn snapshot(&self) -> Self {
        Self {
            packed: Arc::clone(&self.packed),
            falls: Arc::clone(&self.falls),
            limits: Arc::clone(&self.limits),
            places: HashMap::new(),
        }
    }

    pub(in crate::observe) fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    pub(in crate::observe) fn len(&self) -> usize {
        self.packed.len()
    }

    /// The different limits.
    pub(in crate::observe) fn limits(&self) -> impl Iterator<Item = L> {
        self.limits.iter().copied()
    }

    pub(in crate::observe) fn get(&self, hash: u64) -> Option<Remembered<L, F>> {
        Some(self.unpack(hash, *self.packed.get(&hash)?))
    }

    fn unpack(&self, hash: u64, packed: Packed) -> Remembered<L, F> {
        let removed = packed & REMOVED != 0;
        Remembered {
            limit: self.limits[(packed & PLACE) as usize],
            fell: self.falls.get(&hash).cloned(),
            removed,
            seen_in_odd: packed & SEEN_IN_ODD != 0,
        }
    }

    /// Stores what is remembered of a key. Returns whether anything changed except the pass that saw it.
    pub(in crate::observe) fn put(&mut self, hash: u64, remembered: Remembered<L, F>) -> bool {
        let mut packed = self.place(remembered.limit);
        if remembered.removed {
            packed |= REMOVED;
        }
        if remembered.seen_in_odd {
            packed |= SEEN_IN_ODD;
        }
        let news = self.falls.get(&hash) != remembered.fell.as_ref();
        if news {
            let falls = Arc::make_mut(&mut self.falls);
            match remembered.fell {
                Some(fall) => drop(falls.insert(hash, fall)),
                None => drop(falls.remove(&hash)),
            }
        }
        let before = self.packed.get(&hash).copied();
        if before != Some(packed) {
            Arc::make_mut(&mut self.packed).insert(hash, packed);
        }
        news || before.is_none_or(|before| (before ^ packed) & !SEEN_IN_ODD != 0)
    }

    pub(in crate::observe) fn remove(&mut self, hash: u64) {
        Arc::make_mut(&mut self.packed).remove(&hash);
        if self.falls.contains_key(&hash) {
            Arc::make_mut(&mut self.falls).remove(&hash);
        }
    }

    fn place(&mut self, limit: L) -> u32 {
        if let Some(place) = self.places.get(&limit) {
            return *place;
        }
        // There cannot be a billion limits: they would not fit into memory.
        let place = u32::try_from(self.limits.len()).map_or(PLACE, |place| place.min(PLACE));
        Arc::make_mut(&mut self.limits).push(limit);
        self.places.insert(limit, place);
        place
    }

    /// The keys that have a limit, which the last pass of this parity did not see.
    pub(in crate::observe) fn unseen(&self, odd: bool) -> Vec<u64> {
        let unseen = self
            .packed
            .iter()
            .filter(|(_, packed)| *packed & REMOVED == 0 && (*packed & SEEN_IN_ODD != 0) != odd);
        unseen.map(|(hash, _)| *hash).collect()
    }

    /// Drops the limits that no key has any more, once they are the majority.
    pub(in crate::observe) fn tidy(&mut self) {
        if self.limits.len() <= 2 * self.packed.len() + 1000 {
            return;
        }
        let before = std::mem::take(self);
        for (hash, packed) in &*before.packed {
            self.put(*hash, before.unpack(*hash, *packed));
        }
    }

    /// All keys and what is remembered of them.
    pub(in crate::observe) fn iter(&self) -> impl Iterator<Item = (u64, Remembered<L, F>)> {
        let all = self.packed.iter();
        all.map(|(hash, packed)| (*hash, self.unpack(*hash, *packed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Own = OwnLimits<u64, ()>;

    fn own(limit: u64) -> Remembered<u64, ()> {
        Remembered::new(limit)
    }

    #[test]
    fn put_stores_limits_and_reports_only_changes() {
        let mut limits = Own::default();
        assert!(limits.put(1, own(5)));
        assert!(!limits.put(1, own(5)));
        let seen = Remembered {
            seen_in_odd: true,
            ..own(5)
        };
        assert!(!limits.put(1, seen.clone()));
        assert_eq!(limits.get(1), Some(seen));
        let removed = Remembered {
            removed: true,
            ..own(7)
        };
        assert!(limits.put(1, removed.clone()));
        assert_eq!(limits.get(1), Some(removed));
        limits.remove(1);
        assert!(limits.is_empty());
    }

    #[test]
    fn limits_that_change_all_the_time_do_not_pile_up() {
        let mut limits = Own::default();
        for number in 0..5_000 {
            limits.put(1, own(number));
            limits.put(2, own(7));
            limits.tidy();
        }
        assert!(limits.limits.len() < 1_100, "{}", limits.limits.len());
        assert_eq!(limits.get(1), Some(own(4_999)));
        assert_eq!(limits.get(2), Some(own(7)));
    }
}
