//! How far a pass over the key space has come: one part for each server that holds keys. Pure.

use std::collections::BTreeMap;

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

/// An unfinished pass over the key space.
#[derive(Debug, Default)]
pub(in crate::observe) struct Pass {
    /// By the primary's address.
    parts: BTreeMap<String, Part>,
    /// Whether keys may have moved from one part to another meanwhile. Then a key that was not seen may still exist.
    pub(in crate::observe) moved: bool,
    pub(in crate::observe) round: Round,
    /// What it has found so far.
    pub(in crate::observe) totals: Totals,
}

/// One server's part of a pass.
#[derive(Debug)]
pub(in crate::observe) struct Part {
    /// The index of the current SCAN pattern.
    pub(in crate::observe) scan: usize,
    pub(in crate::observe) cursor: Vec<u8>,
    /// How many keys of any kind were scanned.
    pub(in crate::observe) scanned: u64,
    /// How many keys of any kind the server had at the start; 0 if unknown.
    pub(in crate::observe) expected: u64,
    pub(in crate::observe) ended: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            scan: 0,
            cursor: b"0".to_vec(),
            scanned: 0,
            expected: 0,
            ended: false,
        }
    }
}

impl Part {
    /// Records a SCAN for one of `scans` patterns that walked over `names` of any kind and returned `cursor`.
    pub(in crate::observe) fn advance(&mut self, cursor: Vec<u8>, scans: usize, names: usize) {
        // Each pattern scans all names.
        self.scanned += names.div_ceil(scans.max(1)) as u64;
        if cursor == b"0" {
            self.scan += 1;
            self.ended = self.scan >= scans;
        }
        self.cursor = cursor;
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

    /// Whether every part has ended.
    pub(in crate::observe) fn ended(&self) -> bool {
        self.parts.values().all(|part| part.ended)
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
                if part.ended {
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
        pass.part("a").ended = true;
        assert!(!pass.ended());
        pass.part("b").ended = true;
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
            ended: true,
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
            part.advance(cursor.as_bytes().to_vec(), 2, 100);
            ended.push((part.scan, part.ended));
        }
        assert_eq!(ended, [(0, false), (1, false), (1, false), (2, true)]);
        assert_eq!(part.scanned, 200);
    }
}
