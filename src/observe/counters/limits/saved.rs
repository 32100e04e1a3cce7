//! The form in which remembered limits survive a restart. They are written row by row, so that memory never holds a second copy
//! of all of them.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::own::OwnLimits;
use super::{Fall, LimitMemory, Remembered};
use crate::observation::Limit;

/// A snapshot of the limits, for another task to write. It costs next to nothing unless limits change meanwhile.
#[derive(Debug, Serialize)]
pub(in crate::observe) struct SavedLimits {
    default: Option<Remembered>,
    #[serde(serialize_with = "rows")]
    own: OwnLimits<Limit, Fall>,
    primed: bool,
    names: u64,
}

/// Rows of three numbers: key, limit and window. Further columns follow only where a key has them.
fn rows<S: Serializer>(own: &OwnLimits<Limit, Fall>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut rows = serializer.serialize_seq(Some(own.len()))?;
    for (hash, remembered) in own.iter() {
        let Limit { limit, window_ms } = remembered.limit;
        let (fell, removed) = (remembered.fell, remembered.removed);
        if fell.is_none() && !removed {
            rows.serialize_element(&(hash, limit, window_ms))?;
        } else {
            rows.serialize_element(&(hash, limit, window_ms, fell, removed))?;
        }
    }
    rows.end()
}

impl LimitMemory {
    /// The limits to save, and the number of changes so far. Equal numbers mean equal limits.
    pub(in crate::observe) fn saved(&self) -> (u64, SavedLimits) {
        let saved = SavedLimits {
            default: self.default.clone(),
            own: self.own.snapshot(),
            primed: self.primed,
            names: self.names,
        };
        (self.changes, saved)
    }
}

impl<'de> Deserialize<'de> for LimitMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The file of another kind has none of them.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Read {
            default: Option<Remembered>,
            own: ReadOwn,
            primed: bool,
            names: u64,
        }
        let read = Read::deserialize(deserializer)?;
        Ok(Self {
            default: read.default,
            own: read.own.0,
            primed: read.primed,
            names: read.names,
            // No limit was seen in the pass that begins now.
            odd_pass: true,
            ..Self::default()
        })
    }
}

/// Limits as they are read, row by row.
#[derive(Default)]
struct ReadOwn(OwnLimits<Limit, Fall>);

impl<'de> Deserialize<'de> for ReadOwn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(OwnVisitor)
    }
}

struct OwnVisitor;

impl<'de> Visitor<'de> for OwnVisitor {
    type Value = ReadOwn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits as rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<ReadOwn, A::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum ReadRow {
            Usual(u64, u64, u64),
            Full(u64, u64, u64, Option<Fall>, bool),
        }
        let mut own = OwnLimits::default();
        while let Some(row) = rows.next_element()? {
            let (hash, limit, window_ms, fell, removed) = match row {
                ReadRow::Usual(hash, limit, window_ms) => (hash, limit, window_ms, None, false),
                ReadRow::Full(hash, limit, window_ms, fell, removed) => {
                    (hash, limit, window_ms, fell, removed)
                }
            };
            let limit = Limit { limit, window_ms };
            let remembered = Remembered {
                fell,
                removed,
                ..Remembered::new(limit)
            };
            own.put(hash, remembered);
        }
        Ok(ReadOwn(own))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn limit(limit: u64) -> Limit {
        Limit {
            limit,
            window_ms: 60_000,
        }
    }

    fn written(memory: &LimitMemory) -> String {
        serde_json::to_string(&memory.saved().1).unwrap()
    }

    #[test]
    fn limits_survive_and_a_fall_with_them() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), now);
        memory.learn(b"a", Some(limit(5)), now);
        memory.learn(b"b", Some(limit(50)), now);
        memory.end_pass(now);
        memory.learn(b"b", Some(limit(20)), now);
        memory.learn(b"c", Some(limit(30)), now);
        memory.learn(b"c", None, now);
        let mut again: LimitMemory = serde_json::from_str(&written(&memory)).unwrap();
        for key in [b"a", b"b", b"c", b"d"] {
            assert_eq!(again.current(key, now), memory.current(key, now));
        }
        assert!(again.is_primed() && !again.is_learned(b"a"));
        again.end_pass(now);
        assert_eq!(again.current(b"a", now).unwrap().0, limit(10));
    }

    #[test]
    fn limits_that_did_not_change_have_the_same_number() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut memory = LimitMemory::default();
        memory.set_default(limit(10), now);
        memory.learn(b"a", Some(limit(5)), now);
        memory.end_pass(now);
        let (before, _) = memory.saved();
        for _ in 0..3 {
            memory.set_default(limit(10), now);
            memory.learn(b"a", Some(limit(5)), now);
            memory.current_of_counted(b"a", 3, now);
            memory.end_pass(now);
        }
        assert_eq!(memory.saved().0, before);
        memory.learn(b"a", Some(limit(4)), now);
        assert_ne!(memory.saved().0, before);
    }
}
