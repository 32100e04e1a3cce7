//! The patterns for SCAN: they match every counter and registration of a kind, and as few other names as possible.

use super::description::Description;
use super::pattern::{Pattern, escaped};

/// The most patterns for one pass. SCAN walks over all names of the server for each.
pub const MOST_SCANS: usize = 6;

impl Description {
    /// The patterns of the names that are read: of counters and registrations.
    fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        let counters = self.counters.iter().map(|counter| &counter.key.value);
        counters.chain(self.registry().map(|registry| &registry.key))
    }

    /// At most `most` patterns for SCAN MATCH. No name fits two of them.
    pub fn scans(&self, most: usize) -> Vec<Vec<u8>> {
        let mut beginnings = self.prefixes();
        if beginnings.len() > most {
            let common = beginnings
                .iter()
                .copied()
                .reduce(common)
                .unwrap_or_default();
            beginnings = vec![common];
        }
        let scan = |beginning: &&[u8]| {
            let mut globs = self
                .patterns()
                .filter(|pattern| pattern.prefix().starts_with(beginning))
                .map(Pattern::glob);
            match globs.next() {
                Some(first) if globs.all(|other| other == first) => first.to_vec(),
                _ => [&escaped(beginning)[..], b"*"].concat(),
            }
        };
        beginnings.iter().map(scan).collect()
    }

    /// One pattern for SCAN MATCH if all names have a common beginning, as nearly all names with it are read. Otherwise the usual
    /// patterns: one for all names of the server would return those of other data, too.
    pub fn fewest_scans(&self) -> Vec<Vec<u8>> {
        let one = self.scans(1);
        if one == [b"*"] {
            self.scans(MOST_SCANS)
        } else {
            one
        }
    }

    /// The prefixes of the names that are read, for CLIENT TRACKING. No prefix begins with another one.
    pub fn prefixes(&self) -> Vec<&[u8]> {
        let mut beginnings: Vec<&[u8]> = self.patterns().map(Pattern::prefix).collect();
        beginnings.sort_unstable();
        // In sorted order, a prefix comes right before the longer ones that begin with it.
        beginnings.dedup_by(|next, before| next.starts_with(before));
        beginnings
    }

    /// The first of [`Self::prefixes`].
    pub fn first_prefix(&self) -> &[u8] {
        self.prefixes().first().copied().unwrap_or_default()
    }
}

/// The common beginning of both.
fn common<'a>(one: &'a [u8], other: &[u8]) -> &'a [u8] {
    let pairs = one.iter().zip(other);
    &one[..pairs.take_while(|(a, b)| a == b).count()]
}

#[cfg(test)]
mod tests {
    use super::super::built_in;
    use super::*;

    fn scans(kind: &str) -> Vec<String> {
        at_most(MOST_SCANS, kind)
    }

    fn at_most(most: usize, kind: &str) -> Vec<String> {
        let description = Description::parse(built_in(kind).unwrap()).unwrap();
        let scans = description.scans(most).into_iter();
        scans.map(|scan| String::from_utf8(scan).unwrap()).collect()
    }

    #[test]
    fn every_counter_and_registration_is_scanned_once() {
        assert_eq!(scans("reference"), ["ratelimit:*", "ratelimiter:nodes:*"]);
        let fewest = |text: &str| {
            let scans = Description::parse(text).unwrap().fewest_scans();
            scans
                .into_iter()
                .map(|scan| String::from_utf8(scan).unwrap())
                .collect::<Vec<_>>()
        };
        let reference = built_in("reference").unwrap();
        assert_eq!(fewest(reference), ["ratelimit*"]);
        let apart = reference.replace("ratelimiter:nodes:", "nodes:");
        assert_eq!(fewest(&apart), ["nodes:*", "ratelimit:*"]);
        assert_eq!(scans("express-rate-limit"), ["hrl:*", "rl:*"]);
        assert_eq!(scans("limits"), ["LIMIT*"]);
        assert_eq!(scans("bottleneck"), ["b_*_settings"]);
        assert_eq!(scans("gcra"), ["*"]);
        assert_eq!(scans("upstash"), ["@upstash/ratelimit:*"]);
    }
}
