//! How far a pass over the key space has come: one part for each server that holds keys. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::observe::counters::totals::Totals;

/// What one round of a pass reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) enum Round {
    /// Stored limits only: the first of two rounds, if the limits are not known yet.
    Limits,
    /// Counters, and the stored limits that the previous round did not read.
    Counters,
    /// Counters and stored limits.
    #[default]
    Both,
}

/// How often in a row a pass gives way in the middle of a step. Redis may be so far away that a step takes longer than the time
/// between two collections.
const MOST_INTERRUPTIONS: u32 = 3;

/// How long a pass keeps a collection waiting at the most, to complete a step or to begin.
pub(in crate::observe) const MOST_HELD: Duration = Duration::from_secs(1);

/// An unfinished pass over the key space.
#[derive(Debug, Default)]
pub(in crate::observe) struct Pass {
    /// By the primary's address.
    parts: BTreeMap<String, Part>,
    /// Whether keys may have moved from one part to another meanwhile. Then a key that was not seen may still exist.
    pub(in crate::observe) moved: bool,
    pub(in crate::observe) round: Round,
    /// How often in a row it gave way before a step was complete.
    pub(in crate::observe) interrupted: u32,
    /// What it has found so far.
    pub(in crate::observe) totals: Totals,
    /// Keys whose limits have changed, and which must be counted under them.
    pub(in crate::observe) changed: Vec<Vec<u8>>,
}

/// One server's part of a pass.
#[derive(Debug)]
pub(in crate::observe) struct Part {
    /// The index of the current SCAN pattern. After the last one, all names were scanned.
    pub(in crate::observe) scan: usize,
    pub(in crate::observe) cursor: Vec<u8>,
    /// The names that SCAN returned and that are not yet read. A pass that is interrupted continues with them.
    pub(in crate::observe) names: Vec<Vec<u8>>,
    /// How many keys of any kind were scanned.
    pub(in crate::observe) scanned: u64,
    /// How many keys of any kind the server had at the start; 0 if unknown.
    pub(in crate::observe) expected: u64,
    /// Whether all names were scanned.
    pub(in crate::observe) scanned_all: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            scan: 0,
            cursor: b"0".to_vec(),
            names: Vec::new(),
            scanned: 0,
            expected: 0,
            scanned_all: false,
        }
    }
}

impl Part {
    /// Records a SCAN for one of `scans` patterns that walked over `walked` names of any kind and returned a cursor and `names`.
    pub(in crate::observe) fn advance(
        &mut self,
        (cursor, names): (Vec<u8>, Vec<Vec<u8>>),
        scans: usize,
        walked: usize,
    ) {
        // Each pattern scans all names.
        self.scanned += walked.div_ceil(scans.max(1)) as u64;
        if cursor == b"0" {
            self.scan += 1;
            self.scanned_all = self.scan >= scans;
        }
        self.cursor = cursor;
        self.names = names;
    }

    /// Whether all names were read.
    pub(in crate::observe) fn ended(&self) -> bool {
        self.scanned_all && self.names.is_empty()
    }
}

impl Pass {
    /// Adapts the parts to the current servers.
    pub(in crate::observe) fn fit<'a>(&mut self, primaries: impl Iterator<Item = &'a str> + Clone) {
        let before = self.parts.len();
        self.parts
            .retain(|primary, _| primaries.clone().any(|now| now == primary));
        self.moved |= self.parts.len() < before;
        for primary in primaries {
            if !self.parts.contains_key(primary) {
                self.parts.insert(primary.to_owned(), Part::default());
            }
        }
    }

    /// The part of `primary`, which [`Self::fit`] has added.
    pub(in crate::observe) fn part(&mut self, primary: &str) -> &mut Part {
        self.parts.entry(primary.to_owned()).or_default()
    }

    /// Starts again at the beginning, to read the counters.
    pub(in crate::observe) fn begin_counters(&mut self) {
        self.round = Round::Counters;
        self.moved = false;
        for part in self.parts.values_mut() {
            *part = Part {
                expected: part.expected,
                ..Part::default()
            };
        }
    }

    /// Whether it gives way to a collection at once.
    pub(in crate::observe) fn gives_way(&self) -> bool {
        self.interrupted < MOST_INTERRUPTIONS
    }

    /// Whether every part has ended.
    pub(in crate::observe) fn ended(&self) -> bool {
        self.parts.values().all(Part::ended)
    }

    /// How many keys of any kind were scanned.
    pub(in crate::observe) fn scanned(&self) -> u64 {
        self.parts.values().map(|part| part.scanned).sum()
    }

    /// The share of the key space whose counters were read, or `None` if it is unknown. A server whose number of keys is
    /// unknown has the weight of an average server.
    pub(in crate::observe) fn coverage(&self) -> Option<f64> {
        if self.round == Round::Limits {
            return Some(0.0);
        }
        let known: Vec<&Part> = self
            .parts
            .values()
            .filter(|part| part.expected > 0)
            .collect();
        let sum: u64 = known.iter().map(|part| part.expected).sum();
        let covered: u64 = known
            .iter()
            .map(|part| {
                if part.ended() {
                    part.expected
                } else {
                    part.scanned.min(part.expected)
                }
            })
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
        let ratio = covered as f64 / sum as f64 * known.len() as f64 / self.parts.len() as f64;
        (sum > 0).then_some(ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_missing_is_missing_from_the_coverage() {
        let mut pass = Pass::default();
        assert_eq!(pass.coverage(), None);
        pass.fit(["a", "b"].into_iter());
        for primary in ["a", "b"] {
            pass.part(primary).expected = 100;
        }
        pass.part("a").scanned = 150;
        pass.part("b").scanned = 50;
        assert_eq!(pass.coverage(), Some(0.75));
        pass.part("a").scanned_all = true;
        assert!(!pass.ended());
        pass.part("b").scanned_all = true;
        assert_eq!(pass.coverage(), Some(1.0));
        assert!(pass.ended() && !pass.moved);

        pass.fit(["a", "b", "c", "d"].into_iter());
        assert!(!pass.ended() && !pass.moved);
        assert_eq!(pass.coverage(), Some(0.5));
        pass.fit(["a"].into_iter());
        assert!(pass.ended() && pass.moved);
    }

    #[test]
    fn stored_limits_alone_are_no_coverage_and_the_counters_come_from_the_start() {
        let mut pass = Pass {
            round: Round::Limits,
            ..Pass::default()
        };
        pass.fit(["a"].into_iter());
        *pass.part("a") = Part {
            cursor: b"7".to_vec(),
            scanned: 100,
            expected: 100,
            scanned_all: true,
            ..Part::default()
        };
        assert_eq!(pass.coverage(), Some(0.0));
        pass.begin_counters();
        assert_eq!((pass.ended(), pass.coverage()), (false, Some(0.0)));
        assert_eq!(pass.part("a").cursor, b"0");
        pass.part("a").scanned = 50;
        assert_eq!(pass.coverage(), Some(0.5));
    }

    #[test]
    fn a_part_ends_when_each_of_its_patterns_was_scanned_for() {
        let mut part = Part::default();
        let mut ended = Vec::new();
        for cursor in ["7", "0", "9", "0"] {
            part.advance((cursor.as_bytes().to_vec(), Vec::new()), 2, 100);
            ended.push((part.scan, part.ended()));
        }
        assert_eq!(ended, [(0, false), (1, false), (1, false), (2, true)]);
        assert_eq!(part.scanned, 200);
        // The names of the last SCAN are not yet read.
        part.names.push(b"k".to_vec());
        assert!(!part.ended());
    }
}
