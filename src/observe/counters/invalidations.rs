//! Redis reports which keys were written (client-side caching in broadcast mode). A collection need not read the others: a count
//! only falls while no request adds to it. Where Redis does not report writes, every key is read.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};

use redis::{PushInfo, PushKind, Value};

use crate::limiters::{Description, PlainLog};
use crate::lock::lock;
use crate::observe::redis::connector::Connector;
use crate::observe::redis::deployment::Access;
use crate::observe::redis::endpoint::OnPush;
use crate::observe::redis::errors::RedisFailure;

/// The most bytes of memory for names between two collections: enough for some 300,000 names of usual length. With more names,
/// a whole pass costs hardly more.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Bytes for each name besides the name itself: its hash in a table that may be half empty, and the offset of its end.
const BESIDES: usize = 24;

/// Which writes Redis reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::observe) struct Tracked {
    /// The prefixes of the names. No prefix begins with another one. The empty prefix fits every name.
    prefixes: Vec<Vec<u8>>,
    /// The end of names that are written together with their counters, whose names are enough.
    sequence: Option<Vec<u8>>,
}

impl Tracked {
    /// The writes to the counters and registrations of `description`.
    pub(in crate::observe) fn new(description: &Description, log: Option<&PlainLog>) -> Self {
        let prefixes = description.prefixes().into_iter();
        Self {
            prefixes: prefixes.map(<[u8]>::to_vec).collect(),
            sequence: log.and_then(|log| log.sequence.clone()),
        }
    }

    /// The command that makes Redis report them.
    fn command(&self) -> redis::Cmd {
        let mut command = redis::cmd("CLIENT");
        command.arg(&["TRACKING", "ON", "BCAST"]);
        for prefix in self.prefixes.iter().filter(|prefix| !prefix.is_empty()) {
            command.arg("PREFIX").arg(prefix);
        }
        command
    }
}

/// Which keys were written since the last collection.
#[derive(Debug)]
pub(in crate::observe) enum Changes {
    /// Redis does not report writes, and why, if it said so.
    NotReported(Option<RedisFailure>),
    /// Redis reports writes from now on. Earlier writes are not known.
    Unknown,
    /// Exactly these keys were written. The names are full.
    Names(Names),
}

/// Many names in little memory.
#[derive(Debug, Default)]
pub(in crate::observe) struct Names {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Names {
    pub(in crate::observe) fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        // There are never more than `MOST_BYTES`.
        self.ends
            .push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The names, in the order in which they were reported.
    pub(in crate::observe) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        let pairs = begins.zip(&self.ends);
        pairs.filter_map(|(begin, end)| self.bytes.get(*begin as usize..*end as usize))
    }
}

/// Listens for invalidations on a connection of its own.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Invalidations {
    address: String,
    connector: Connector,
    written: Arc<Mutex<WrittenNames>>,
}

#[derive(Debug, Default)]
struct WrittenNames {
    names: Names,
    /// Hashes of the names, with a secret seed. The chance that two names have the same hash is one in billions.
    hashes: HashSet<u64>,
    seed: RandomState,
    /// Whether names were lost: there were too many, or the database was flushed.
    missed: bool,
}

impl WrittenNames {
    /// Adds the names that Redis reports, but not those beside their counters, which end with `sequence`.
    fn take(&mut self, push: PushInfo, sequence: Option<&[u8]>) {
        if push.kind != PushKind::Invalidate {
            return;
        }
        for value in push.data {
            let Value::Array(names) = value else {
                self.missed = true; // nil: the whole database was flushed
                return;
            };
            for name in names {
                if let Value::BulkString(name) = name {
                    self.add(&name, sequence);
                }
            }
        }
    }

    fn add(&mut self, name: &[u8], sequence: Option<&[u8]>) {
        if self.missed {
            return;
        }
        let counter = sequence.and_then(|end| name.strip_suffix(end));
        let is_known = |name: &[u8]| self.hashes.contains(&self.seed.hash_one(name));
        if counter.is_some_and(is_known) || is_known(name) {
            return;
        }
        let taken = self.names.bytes.len() + name.len() + (self.names.len() + 1) * BESIDES;
        if taken > MOST_BYTES {
            // A whole pass follows: these names are not needed.
            *self = Self {
                missed: true,
                ..Self::default()
            };
            return;
        }
        self.hashes.insert(self.seed.hash_one(name));
        self.names.push(name);
    }
}

impl Invalidations {
    pub(in crate::observe) fn new(access: Arc<Access>, address: &str, tracked: &Tracked) -> Self {
        let written = Arc::new(Mutex::new(WrittenNames::default()));
        let receiver = Arc::clone(&written);
        let sequence = tracked.sequence.clone();
        let take: OnPush = Arc::new(move |push| lock(&receiver).take(push, sequence.as_deref()));
        let first = Some(tracked.command());
        Self {
            address: address.to_owned(),
            connector: Connector::with(access, address, first, Some(take)),
            written,
        }
    }

    /// Drops the connection and the names so far. The next call of [`Self::changes`] starts again.
    pub(in crate::observe) fn replace(&self) {
        self.connector.replace();
    }

    /// For a caller that stopped waiting for an answer: checks the connection in the background.
    pub(in crate::observe) fn verify(&self) {
        self.connector.verify();
    }

    /// The keys that were written since the last call. The first call begins to listen.
    pub(in crate::observe) async fn changes(&self) -> Changes {
        // Redis keeps the order: every name that it reported before this answer has arrived.
        let alive = self.connector.ping_once().await;
        let written = std::mem::take(&mut *lock(&self.written));
        let Ok(open) = alive else {
            return Changes::NotReported(None);
        };
        if let Some(error) = &open.refused {
            self.connector.replace();
            let what = format!(
                "CLIENT TRACKING {} (every collection reads all keys)",
                self.address
            );
            return Changes::NotReported(Some(RedisFailure::of(&what, error)));
        }
        if open.is_first_use() || written.missed {
            Changes::Unknown
        } else {
            Changes::Names(written.names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::built_in;

    fn push(names: &[&str]) -> PushInfo {
        let names = names
            .iter()
            .map(|name| Value::BulkString(name.as_bytes().to_vec()));
        PushInfo {
            kind: PushKind::Invalidate,
            data: vec![Value::Array(names.collect())],
        }
    }

    #[test]
    fn a_sequence_beside_its_counter_is_left_out_and_one_alone_is_not() {
        let mut written = WrittenNames::default();
        let reported = ["ratelimit:a", "ratelimit:a:seq", "ratelimit:b:seq"];
        written.take(push(&reported), Some(b":seq"));
        let names: Vec<_> = written.names.iter().collect();
        assert_eq!(names, [&b"ratelimit:a"[..], b"ratelimit:b:seq"]);
        // Another limiter's counter may have such a name.
        let mut written = WrittenNames::default();
        written.take(push(&reported), None);
        assert_eq!(written.names.len(), 3);
    }

    #[test]
    fn tracked_prefixes_follow_from_the_patterns() {
        let packed = |tracked: &Tracked| {
            let command = tracked.command();
            let words = command.args_iter().map(|arg| match arg {
                redis::Arg::Simple(word) => String::from_utf8_lossy(word).into_owned(),
                _ => "?".to_owned(),
            });
            words.collect::<Vec<_>>().join(" ")
        };
        let tracked = |kind: &str| {
            let description = Description::parse(built_in(kind).unwrap()).unwrap();
            Tracked::new(&description, PlainLog::of(&description).as_ref())
        };
        assert_eq!(
            packed(&tracked("reference")),
            "CLIENT TRACKING ON BCAST PREFIX ratelimit: PREFIX ratelimiter:nodes:"
        );
        for (kind, expected) in [
            ("limits", "CLIENT TRACKING ON BCAST PREFIX LIMIT"),
            (
                "express-rate-limit",
                "CLIENT TRACKING ON BCAST PREFIX hrl: PREFIX rl:",
            ),
            // Its names begin with anything.
            ("gcra", "CLIENT TRACKING ON BCAST"),
        ] {
            assert_eq!(packed(&tracked(kind)), expected);
        }
    }

    #[test]
    fn written_names_are_bounded_by_bytes_and_dropped_names_count_as_missed() {
        let mut written = WrittenNames::default();
        let long = "x".repeat(MOST_BYTES / 2 - 1 - BESIDES);
        for _ in 0..3 {
            written.take(push(&[&format!("{long}1"), &format!("{long}2")]), None);
        }
        assert_eq!((written.names.len(), written.missed), (2, false));
        written.take(push(&["x"]), None);
        assert_eq!((written.names.len(), written.missed), (0, true));
    }

    #[test]
    fn a_flush_counts_as_a_write_to_every_key() {
        let mut written = WrittenNames::default();
        let flushed = PushInfo {
            kind: PushKind::Invalidate,
            data: vec![Value::Nil],
        };
        written.take(flushed, None);
        assert!(written.missed);
    }
}
